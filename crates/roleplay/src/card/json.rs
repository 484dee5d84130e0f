//! Bytes to a JSON value, within limits.

use super::MAX_JSON_BYTES;
use super::error::CardError;
use serde_json::Value;
use std::ops::RangeInclusive;

const HIGH_SURROGATES: RangeInclusive<u16> = 0xd800..=0xdbff;
const LOW_SURROGATES: RangeInclusive<u16> = 0xdc00..=0xdfff;

/// Parses a file, or the part of it that `place` names in an error message. A byte
/// order mark and zeros at the end are allowed; nesting is limited by the parser, to
/// 128 levels.
pub(crate) fn parse_json(bytes: &[u8], place: &str) -> Result<Value, CardError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(CardError::Empty);
    }
    if bytes.len() > MAX_JSON_BYTES {
        let (bytes, limit) = (bytes.len() as u64, MAX_JSON_BYTES as u64);
        return Err(CardError::TooLarge { what: "the JSON text", bytes, limit });
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|e| CardError::NotUtf8 { place: place.to_owned(), offset: e.valid_up_to() })?;
    let text = text.trim_end_matches('\0');
    serde_json::from_str(text)
        .or_else(|problem| {
            serde_json::from_str(&without_lone_surrogates(text)).map_err(|_| problem)
        })
        .map_err(|source| CardError::Json { place: place.to_owned(), source })
}

/// JavaScript programs that cut a text in the middle of an emoji write half of it as an
/// escape, which is no Unicode text. Each half becomes the replacement character.
fn without_lone_surrogates(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let unit = escaped_unit(rest);
        let next = rest.get(6..).and_then(escaped_unit);
        let pair = next.is_some_and(|next| LOW_SURROGATES.contains(&next));
        let length = match unit {
            Some(unit) if HIGH_SURROGATES.contains(&unit) && pair => 12,
            Some(unit) if HIGH_SURROGATES.contains(&unit) || LOW_SURROGATES.contains(&unit) => {
                out.push('\u{fffd}');
                rest = &rest[6..];
                continue;
            }
            Some(_) => 6,
            None => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// The number of an escape `\uXXXX` at the beginning of a text.
fn escaped_unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix(r"\u")?.get(..4)?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_emoji_does_not_cost_the_card() {
        let read =
            |text: &str| parse_json(text.as_bytes(), "x").unwrap().as_str().unwrap().to_owned();
        assert_eq!(read(r#""a\ud83d""#), "a\u{fffd}");
        assert_eq!(read(r#""\udc00\ud83d\ude00灯\n\\ud83d""#), "\u{fffd}😀灯\n\\ud83d");
        assert_eq!(read(r#""\ud83d\ud83d\ude00""#), "\u{fffd}😀");
        assert!(parse_json(br#""\ud83"#, "x").is_err());
        assert!(parse_json(br#"["\"#, "x").is_err());
    }
}
