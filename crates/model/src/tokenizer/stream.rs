//! Decoding token by token, for streaming.
//!
//! The pieces always add up to what decoding all ids at once gives, so a character
//! whose bytes are spread over tokens is held back until it is whole. Each token costs
//! the same however long the text has become.

use super::{Tokenizer, TokenizerError};

/// The state of one text that is decoded token by token.
///
/// It holds no reference to its tokenizer; always pass the same one.
#[derive(Debug, Clone)]
pub struct DecodeStream {
    skip_special: bool,
    /// Byte-level tokenizers: bytes of a character that is not complete yet.
    bytes: Vec<u8>,
    /// Others: the tokens of the last piece and those after it. What they decode to
    /// depends on what is before them (a space at the very start is dropped, say), so the
    /// last piece stays as context.
    window: Vec<u32>,
    /// How many of the window's tokens have been given out, and as which text.
    given: usize,
    given_text: String,
}

impl DecodeStream {
    /// A stream at the start of a text; `skip_special` leaves out special tokens.
    pub fn new(skip_special: bool) -> Self {
        DecodeStream {
            skip_special,
            bytes: Vec::new(),
            window: Vec::new(),
            given: 0,
            given_text: String::new(),
        }
    }

    /// Takes the next token; gives the text that it completes, if any.
    ///
    /// An id outside the vocabulary adds nothing, as in [`Tokenizer::decode`].
    pub fn push(
        &mut self,
        tokenizer: &Tokenizer,
        id: u32,
    ) -> Result<Option<String>, TokenizerError> {
        let Some(token) = tokenizer.id_to_token(id) else { return Ok(None) };
        if self.skip_special && tokenizer.is_special(id) {
            return Ok(None);
        }
        if tokenizer.is_byte_level() {
            push_token_bytes(&token, &mut self.bytes);
            return Ok(non_empty(take_complete(&mut self.bytes)));
        }
        self.window.push(id);
        // A run of byte tokens is judged as a whole by the decoder: valid UTF-8 becomes
        // text, otherwise every byte a replacement character. So it waits for its end.
        if is_byte_token(&token) { Ok(None) } else { self.give(tokenizer) }
    }

    /// The text that was still held back; an unfinished character becomes `U+FFFD`.
    pub fn finish(mut self, tokenizer: &Tokenizer) -> Result<Option<String>, TokenizerError> {
        if tokenizer.is_byte_level() {
            return Ok(non_empty(String::from_utf8_lossy(&self.bytes).into_owned()));
        }
        self.give(tokenizer)
    }

    fn give(&mut self, tokenizer: &Tokenizer) -> Result<Option<String>, TokenizerError> {
        let text = tokenizer.decode(&self.window, self.skip_special)?;
        let Some(piece) =
            text.strip_prefix(&self.given_text).and_then(|piece| non_empty(piece.into()))
        else {
            return Ok(None);
        };
        self.window.drain(..self.given);
        self.given = self.window.len();
        self.given_text = tokenizer.decode(&self.window, self.skip_special)?;
        Ok(Some(piece))
    }
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Takes the text off the front that cannot change any more. Invalid bytes become
/// `U+FFFD` as in `String::from_utf8_lossy`, which decodes the whole.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    loop {
        let (valid, invalid) = match std::str::from_utf8(bytes) {
            Ok(all) => {
                text.push_str(all);
                bytes.clear();
                return text;
            }
            Err(error) => (error.valid_up_to(), error.error_len()),
        };
        text.push_str(&String::from_utf8_lossy(&bytes[..valid]));
        bytes.drain(..valid + invalid.unwrap_or(0));
        match invalid {
            Some(_) => text.push(char::REPLACEMENT_CHARACTER),
            None => return text,
        }
    }
}

/// The bytes that a byte-level token stands for. A token with any character outside
/// GPT-2's byte alphabet is text as it stands (added tokens with spaces, say).
fn push_token_bytes(token: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for character in token.chars() {
        match alphabet_byte(character) {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(start);
                bytes.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// The byte that a character of GPT-2's byte alphabet stands for: printable Latin-1
/// stands for itself, the 68 other bytes are `U+0100` and up in their order.
fn alphabet_byte(character: char) -> Option<u8> {
    Some(match character {
        '!'..='~' | '¡'..='¬' | '®'..='ÿ' => character as u32 as u8,
        '\u{100}'..='\u{120}' => (character as u32 - 0x100) as u8,
        '\u{121}'..='\u{142}' => (character as u32 - 0x121) as u8 + 0x7f,
        '\u{143}' => 0xad,
        _ => return None,
    })
}

/// Whether a token is SentencePiece's `<0x41>` form of one byte.
fn is_byte_token(token: &str) -> bool {
    token.len() == 6
        && token
            .strip_prefix("<0x")
            .and_then(|rest| rest.strip_suffix('>'))
            .is_some_and(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_the_tokenizers_one() {
        use tokenizers::pre_tokenizers::byte_level::ByteLevel;
        let mut bytes: Vec<u8> = ByteLevel::alphabet()
            .into_iter()
            .map(|character| alphabet_byte(character).unwrap())
            .collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!((alphabet_byte('Ġ'), alphabet_byte('Ċ')), (Some(b' '), Some(b'\n')));
        assert_eq!((alphabet_byte('Ń'), alphabet_byte(' ')), (Some(0xad), None));
    }

    #[test]
    fn complete_text_is_what_lossy_decoding_gives() {
        let cases: [&[u8]; 6] = [
            b"abc",
            "é日🌧".as_bytes(),
            b"\xff",
            b"a\xe4\xbda",
            b"\xf0\x9f\x8c",
            b"\xc3\xc3\xa9\x80",
        ];
        for case in cases {
            let (mut text, mut held) = (String::new(), Vec::new());
            for byte in case {
                held.push(*byte);
                text.push_str(&take_complete(&mut held));
            }
            text.push_str(&String::from_utf8_lossy(&held));
            assert_eq!(text, String::from_utf8_lossy(case));
        }
    }
}
