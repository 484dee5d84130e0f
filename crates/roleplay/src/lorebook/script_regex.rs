//! Regular expressions as card authors write them: `/pattern/flags`, in the dialect of
//! ECMAScript, brought into the dialect of the engine here.
//!
//! The difference that matters: there, `\b`, `\w` and `\d` know ASCII only, so that in
//! `lamp灯` a word ends after `lamp`. Patterns come from strangers: their length, their
//! compiled size and their backtracking are limited, and one that does not compile
//! never matches.
//!
//! Source: ECMA-262, section 22.2 and annex B.1.2.

use fancy_regex::{Regex, RegexBuilder};
use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

/// Longer patterns are not compiled; keys are words, rarely more than a line.
const MAX_PATTERN_BYTES: usize = 4096;
/// How large a compiled part of a pattern may become.
const MAX_COMPILED_BYTES: usize = 256 << 10;
/// Steps back that a search may take: some hundredths of a second.
const MAX_BACKTRACKS: usize = 200_000;

/// Pattern and flags of a key in the form `/pattern/flags`; none for plain keys.
pub(super) fn split_literal(key: &str) -> Option<(&str, &str)> {
    let body = key.strip_prefix('/')?;
    let (pattern, flags) = body.rsplit_once('/')?;
    let flags_fit = flags.bytes().all(|b| b"dgimsuvy".contains(&b));
    (!pattern.is_empty() && flags_fit && !has_bare_slash(pattern)).then_some((pattern, flags))
}

/// A compiled pattern, and what a search with it can cost.
pub(super) struct Pattern {
    pub(super) regex: Regex,
    /// Whether the engine walks the text step by step, and may walk back.
    backtracks: bool,
    /// Parts that may look at the whole rest of the text at each place.
    far_looks: u64,
}

impl Pattern {
    /// Bytes of a text that are worth searching: the steps must suffice for all of it.
    pub(super) fn max_text_bytes(&self) -> usize {
        if self.backtracks { 16 << 10 } else { 1 << 20 }
    }

    /// An upper bound for the work of searching so many bytes, in bytes looked at.
    pub(super) fn work(&self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        let steps = if self.backtracks { 16 } else { 1 };
        bytes.saturating_mul(steps.max(bytes.saturating_mul(self.far_looks)))
    }
}

/// Compiles a pattern of that dialect.
///
/// # Errors
/// What is wrong with it, for a message.
pub(super) fn compile(pattern: &str, flags: &str) -> Result<Pattern, String> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(format!(
            "the pattern has {} bytes; at most {MAX_PATTERN_BYTES}",
            pattern.len()
        ));
    }
    let translated = translate(pattern).ok_or("the pattern ends too early")?;
    let regex = RegexBuilder::new(&translated)
        .case_insensitive(flags.contains('i'))
        .multi_line(flags.contains('m'))
        .dot_matches_new_line(flags.contains('s'))
        .backtrack_limit(MAX_BACKTRACKS)
        .delegate_size_limit(MAX_COMPILED_BYTES)
        .delegate_dfa_size_limit(MAX_COMPILED_BYTES)
        .build()
        .map_err(|e| e.to_string().to_lowercase())?;
    let count = |parts: &[&str]| -> u64 {
        parts.iter().map(|part| pattern.matches(part).count() as u64).sum()
    };
    let back_references = pattern.as_bytes().windows(2);
    let back_references = back_references
        .filter(|w| w[0] == b'\\' && (w[1] == b'k' || w[1].is_ascii_digit()))
        .count() as u64;
    let far_looks = count(&["(?=", "(?!", "(?<=", "(?<!", "(?>", "(?("]) + back_references;
    let backtracks = far_looks > 0 || count(&[r"\b", r"\B"]) > 0;
    Ok(Pattern { regex, backtracks, far_looks })
}

/// A slash that is not escaped ends a literal, so such a text is none.
fn has_bare_slash(pattern: &str) -> bool {
    let mut escaped = false;
    pattern.chars().any(|c| {
        let bare = c == '/' && !escaped;
        escaped = c == '\\' && !escaped;
        bare
    })
}

const WORD: &str = "0-9A-Za-z_";

/// Rewrites what the two dialects read differently; none if something is left open.
fn translate(pattern: &str) -> Option<String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next()? {
                'b' => push_word_boundary(&mut out, false),
                'B' => push_word_boundary(&mut out, true),
                escaped => push_escape(&mut out, escaped, &mut rest, false),
            },
            '[' => push_class(&mut out, &mut rest)?,
            '{' if !starts_quantifier(rest.clone()) => out.push_str(r"\{"),
            '{' => {
                out.push('{');
                out.extend(rest.by_ref().take_while(|&c| c != '}'));
                out.push('}');
            }
            '}' | ']' => push_literal(&mut out, c),
            _ => out.push(c),
        }
    }
    Some(out)
}

/// The engine's own boundary knows all scripts; ASCII's is spelled out.
fn push_word_boundary(out: &mut String, negated: bool) {
    let (same, other) = if negated { ("(?=", "(?!") } else { ("(?!", "(?=") };
    let _ = write!(out, "(?:(?<=[{WORD}]){same}[{WORD}])|(?<![{WORD}]){other}[{WORD}]))");
}

fn push_escape(out: &mut String, c: char, rest: &mut Peekable<Chars>, in_class: bool) {
    let class = |out: &mut String, body: &str, negated: bool| match (in_class, negated) {
        (true, false) => out.push_str(body),
        (_, true) => _ = write!(out, "[^{body}]"),
        (false, false) => _ = write!(out, "[{body}]"),
    };
    match c {
        'd' => class(out, "0-9", false),
        'D' => class(out, "0-9", true),
        'w' => class(out, WORD, false),
        'W' => class(out, WORD, true),
        'b' => out.push_str(r"\x08"), // inside a class
        '0' => out.push_str(r"\x00"),
        'c' => {
            let control = rest.next_if(char::is_ascii_alphabetic);
            let _ = write!(out, r"\x{:02x}", control.map_or(b'c', |c| c as u8 & 31));
        }
        's' | 'S' | 'n' | 'r' | 't' | 'f' | 'v' | 'x' | 'u' | 'p' | 'P' => {
            out.push('\\');
            out.push(c);
            if matches!(c, 'x' | 'u' | 'p' | 'P') && rest.peek() == Some(&'{') {
                out.extend(rest.by_ref().take_while(|&c| c != '}'));
                out.push('}');
            }
        }
        'k' | '1'..='9' if !in_class => {
            out.push('\\');
            out.push(c);
        }
        _ => push_literal(out, c),
    }
}

fn push_class(out: &mut String, rest: &mut Peekable<Chars>) -> Option<()> {
    let negated = rest.next_if_eq(&'^').is_some();
    if rest.next_if_eq(&']').is_some() {
        out.push_str(if negated { r"[\s\S]" } else { r"[^\s\S]" });
        return Some(());
    }
    out.push_str(if negated { "[^" } else { "[" });
    loop {
        match rest.next()? {
            ']' => break,
            '\\' => {
                let escaped = rest.next()?;
                push_escape(out, escaped, rest, true);
            }
            '-' if rest.peek() != Some(&'-') => out.push('-'),
            c => push_literal(out, c),
        }
    }
    out.push(']');
    Some(())
}

/// Whether `{` begins `{2}`, `{2,}` or `{2,5}`; elsewhere it stands for itself.
fn starts_quantifier(rest: Peekable<Chars>) -> bool {
    let mut digits = 0;
    let mut commas = 0;
    for c in rest {
        match c {
            '0'..='9' => digits += 1,
            ',' if digits > 0 && commas == 0 => commas += 1,
            '}' => return digits > 0,
            _ => return false,
        }
    }
    false
}

fn push_literal(out: &mut String, c: char) {
    if c.is_ascii_punctuation() && c != '_' && c != '/' && c != '<' && c != '>' {
        out.push('\\');
    }
    out.push(c);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(literal: &str, text: &str) -> bool {
        let (pattern, flags) = split_literal(literal).unwrap();
        compile(pattern, flags).unwrap().regex.is_match(text).unwrap()
    }

    #[test]
    fn only_whole_literals_are_patterns() {
        assert_eq!(split_literal("/a|b/i"), Some(("a|b", "i")));
        assert_eq!(split_literal(r"/a\/b/"), Some((r"a\/b", "")));
        for plain in ["lamp", "/", "//", "/a", "a/b/", "/a/b/", "and/or", "/usr/local"] {
            assert_eq!(split_literal(plain), None, "{plain}");
        }
    }

    #[test]
    fn ascii_word_boundaries_beside_chinese() {
        assert!(matches(r"/\bstorms?\b/i", "两场Storms来了"));
        assert!(!matches(r"/\bstorms?\b/i", "brainstorms"));
        assert!(matches(r"/\Btorm/", "storm"));
        assert!(!matches(r"/\bé/", " é")); // no boundary there between two non-words
        assert!(matches(r"/^[\w-]+$/", "Ansel-2"));
        assert!(!matches(r"/\w/", "灯"));
        assert!(matches(r"/[^\W\d]/", "1a"));
        assert!(!matches(r"/[^\W\d]/", "1灯"));
    }

    #[test]
    fn the_small_print_of_the_other_dialect() {
        assert!(matches(r"/灯{2}/", "灯灯"));
        assert!(matches("/{{x}}/", "{{x}}"));
        assert!(matches(r"/a[[]b/", "a[b"));
        assert!(matches(r"/a[&&]b/", "a&b"));
        assert!(matches(r"/[^]/", "\n"));
        assert!(!matches(r"/[]/", "x"));
        assert!(matches(r"/\/\-\@/", "/-@"));
        assert!(matches(r"/\u706f/", "灯"));
        assert!(matches(r"/(?<!no )lamp/", "the lamp"));
        assert!(matches(r"/(?<w>a)\k<w>/", "aa"));
        assert!(matches(r"/(a|b)\1/", "bb"));
        assert!(matches(r"/a.b/s", "a\nb"));
        assert!(matches(r"/^b/m", "a\nb"));
        assert!(matches(r"/\A\z/", "Az"));
        assert!(matches(r"/\x01Ansel:/", "\u{1}Ansel: hi"));
    }

    #[test]
    fn broken_and_huge_patterns_are_refused() {
        for bad in ["(", "[a", "a\\", "*", &"a".repeat(5000), "(((a{999}){999}){999})"] {
            assert!(compile(bad, "").is_err(), "{bad}");
        }
    }

    #[test]
    fn catastrophic_backtracking_ends_with_an_error() {
        let pattern = compile(r"(a+)+\b$", "").unwrap();
        assert!(pattern.regex.is_match(&format!("{}灯", "a".repeat(200))).is_err());
    }

    #[test]
    fn what_may_cost_more_is_searched_less() {
        let work = |pattern: &str| compile(pattern, "").unwrap().work(1000);
        assert_eq!(work("a+灯"), 1000);
        assert_eq!(work(r"\ba"), 16_000);
        assert_eq!(work(r"(?=.*a)(?!.*b)c"), 2_000_000);
        assert_eq!(work(r"(.*)\1"), 1_000_000);
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_panics(pieces in proptest::collection::vec(proptest::sample::select(vec![
            "a", "灯", "é", "\\b", "\\B", "\\w", "\\W", "\\d", "\\1", "\\k<n>", "(?<n>", "(", ")", "[", "]",
            "[^", "-", "|", "*", "+", "?", "{2}", "{1,3}", "{", "}", "(?=", "(?!", "(?<=", "(?<!",
            "(?:", "(?>", "^", "$", ".", "\\", "\\u706f", "\\x", "\\p{L}", "\\c", "&&", "(?i)", "\\G",
        ]), 0..12), flags in "[imsgu]{0,2}") {
            if let Ok(pattern) = compile(&pieces.concat(), &flags) {
                let _ = pattern.regex.is_match("a灯aéa 灯a");
            }
        }
    }
}
