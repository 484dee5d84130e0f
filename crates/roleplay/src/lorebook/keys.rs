//! Does a key occur in a text? Plain keys, whole words and patterns.
//!
//! A [`KeyMatcher`] lives for one scan: it expands and compiles each key once, and
//! gives up on patterns that cost too much, saying so in its list of problems.

use super::script_regex::{self, Pattern};
use crate::macros::Expansion;
use std::collections::HashMap;

/// After so many patterns that ran out of steps, no more are tried in this scan.
const MAX_EXHAUSTED: usize = 8;
/// More patterns than this are not compiled in one scan: a nasty one takes 25 ms.
const MAX_PATTERNS: usize = 500;
/// Bytes that all searches of one scan may look at, at worst; some seconds. A large book
/// of plain keys over a long chat needs a thousandth of this.
const MAX_WORK: u64 = 1 << 32;
/// More problems than this are not listed.
const MAX_PROBLEMS: usize = 100;
/// A plain key is found this much faster than a pattern.
const PLAIN_SPEED: u64 = 16;

/// A text that is searched for keys.
pub(super) struct Searched {
    text: String,
    lower: String,
}

impl Searched {
    pub(super) fn new(text: String) -> Self {
        let lower = text.to_lowercase();
        Searched { text, lower }
    }
}

/// How plain keys match; patterns have flags of their own.
#[derive(Debug, Clone, Copy)]
pub(super) struct MatchRules {
    pub(super) case_sensitive: bool,
    pub(super) whole_words: bool,
}

enum Key {
    Text { exact: String, lower: String },
    Pattern(Pattern),
    Never,
}

/// Matches keys and remembers what it has made of them.
pub(super) struct KeyMatcher<'a> {
    expand: &'a mut dyn FnMut(&str) -> Expansion,
    keys: HashMap<String, Key>,
    patterns: usize,
    exhausted: usize,
    work_left: u64,
    gave_up: bool,
    /// Keys that cannot work, and why; one sentence each.
    pub(super) problems: Vec<String>,
}

impl<'a> KeyMatcher<'a> {
    pub(super) fn new(expand: &'a mut dyn FnMut(&str) -> Expansion) -> Self {
        KeyMatcher {
            expand,
            keys: HashMap::new(),
            patterns: 0,
            exhausted: 0,
            work_left: MAX_WORK,
            gave_up: false,
            problems: Vec::new(),
        }
    }

    /// Replaces the macros of an entry's text.
    pub(super) fn expand(&mut self, text: &str) -> Expansion {
        (self.expand)(text)
    }

    /// Whether the key occurs in the text. An empty key never does.
    pub(super) fn matches(&mut self, key: &str, searched: &Searched, rules: MatchRules) -> bool {
        if !self.keys.contains_key(key) {
            let compiled = self.compile(key);
            self.keys.insert(key.to_owned(), compiled);
        }
        let compiled = &self.keys[key];
        let (text, work) = match compiled {
            Key::Never => return false,
            Key::Text { .. } => (searched.text.as_str(), searched.text.len() as u64 / PLAIN_SPEED),
            Key::Pattern(pattern) => {
                let text = head(&searched.text, pattern.max_text_bytes());
                (text, pattern.work(text.len()))
            }
        };
        if work > self.work_left {
            if !self.gave_up {
                self.problems.push("the keys cost too much to search for; some were not".into());
            }
            self.gave_up = true;
            return false;
        }
        self.work_left -= work;
        match compiled {
            Key::Never => false,
            Key::Text { exact, .. } if rules.case_sensitive => {
                contains(&searched.text, exact, rules.whole_words)
            }
            Key::Text { lower, .. } => contains(&searched.lower, lower, rules.whole_words),
            Key::Pattern(_) if self.exhausted >= MAX_EXHAUSTED => false,
            Key::Pattern(pattern) => match pattern.regex.is_match(text) {
                Ok(found) => found,
                Err(problem) => {
                    self.exhausted += 1;
                    self.problems.push(format!("key `{}`: {problem}", short(key)));
                    self.keys.insert(key.to_owned(), Key::Never);
                    false
                }
            },
        }
    }

    fn compile(&mut self, key: &str) -> Key {
        let expanded = (self.expand)(key).text;
        let exact = expanded.trim();
        if exact.is_empty() {
            return Key::Never;
        }
        let Some((pattern, flags)) = script_regex::split_literal(exact) else {
            return Key::Text { exact: exact.to_owned(), lower: exact.to_lowercase() };
        };
        self.patterns += 1;
        let compiled = if self.gave_up {
            return Key::Never;
        } else if self.patterns > MAX_PATTERNS {
            Err(format!("more than {MAX_PATTERNS} patterns"))
        } else {
            script_regex::compile(pattern, flags)
        };
        match compiled {
            Ok(pattern) => Key::Pattern(pattern),
            Err(problem) => {
                if self.problems.len() < MAX_PROBLEMS {
                    self.problems.push(format!("key `{}`: {problem}", short(key)));
                }
                Key::Never
            }
        }
    }
}

/// Whether the text contains the key. As a whole word, it must not touch an ASCII
/// letter, digit or underscore; Han characters do not count as such, so whole words do
/// not restrict Chinese keys. Keys of several words are searched as they are.
fn contains(text: &str, key: &str, whole_words: bool) -> bool {
    if !whole_words || key.contains(char::is_whitespace) {
        return text.contains(key);
    }
    let is_word = |b: Option<&u8>| b.is_some_and(|&b| b.is_ascii_alphanumeric() || b == b'_');
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(found) = text[from..].find(key) {
        let (start, end) = (from + found, from + found + key.len());
        let before = start.checked_sub(1).and_then(|i| bytes.get(i));
        if !is_word(before) && !is_word(bytes.get(end)) {
            return true;
        }
        from = start + text[start..].chars().next().map_or(1, char::len_utf8);
    }
    false
}

/// The newest part of a text.
fn head(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

fn short(key: &str) -> String {
    key.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, text: &str, case_sensitive: bool, whole_words: bool) -> bool {
        let mut expand = |text: &str| Expansion::literal(text);
        let mut matcher = KeyMatcher::new(&mut expand);
        let rules = MatchRules { case_sensitive, whole_words };
        matcher.matches(key, &Searched::new(text.to_owned()), rules)
    }

    #[test]
    fn plain_keys_ignore_case_unless_told() {
        assert!(check("LAMP", "the Lamp", false, false));
        assert!(!check("LAMP", "the Lamp", true, false));
        assert!(check("Éa", "éA", false, false));
        assert!(!check(" ", "a b", false, false));
    }

    #[test]
    fn whole_words_bind_ascii_words_only() {
        assert!(!check("cat", "concatenate", false, true));
        assert!(check("cat", "concat cat", false, true));
        assert!(check("cat", "一只cat！", false, true));
        assert!(!check("cat", "cat_1", false, true));
        assert!(check("灯塔", "老灯塔守", false, true));
        assert!(check("on the", "upon theirs", false, true));
    }

    #[test]
    fn the_work_of_a_scan_is_limited() {
        let mut expand = |text: &str| Expansion::literal(text);
        let mut matcher = KeyMatcher::new(&mut expand);
        let rules = MatchRules { case_sensitive: false, whole_words: false };
        matcher.work_left = 20_000_000;
        let text = Searched::new(format!("a{}", "b".repeat(4000)));
        assert!(matcher.matches("/(?=.*b)a/", &text, rules)); // 16 million
        assert!(!matcher.matches("/(?=a)a/", &text, rules));
        assert!(matcher.matches("a", &text, rules));
        assert_eq!(matcher.problems, ["the keys cost too much to search for; some were not"]);
    }

    #[test]
    fn a_costly_pattern_is_given_up_and_named() {
        let mut expand = |text: &str| Expansion::literal(text);
        let mut matcher = KeyMatcher::new(&mut expand);
        let rules = MatchRules { case_sensitive: false, whole_words: false };
        let text = Searched::new(format!("{}灯", "a".repeat(300)));
        assert!(!matcher.matches(r"/(a+)+\b$/", &text, rules));
        assert!(!matcher.matches(r"/(a+)+\b$/", &text, rules));
        assert!(!matcher.matches("/(/", &text, rules));
        assert_eq!(matcher.problems.len(), 2);
        assert!(matcher.problems[0].starts_with(r"key `/(a+)+\b$/`: "));
    }
}
