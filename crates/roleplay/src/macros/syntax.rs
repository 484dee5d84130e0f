//! What counts as a macro: `{{`, a name, arguments, `}}`.
//!
//! `{{name}}`, `{{name::a::b}}`, `{{name:a}}` and `{{name a}}`, with spaces allowed
//! around each part. Arguments may hold macros. `{{name}}...{{/name}}` gives what stands
//! between as the last argument; a `#` before the name keeps its white space.
//!
//! Braces are matched once for a whole text, so that a text of unclosed ones costs no
//! more than any other. An unmatched `{{` is plain text.

use super::fnv1a;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::Range;

/// More tags of one range are plain text: enough for all macros and their closing tags.
pub(super) const MAX_TAGS: usize = 2 * super::MAX_MACROS + 1;

/// A text with the places of its macros.
pub(super) struct Source<'t> {
    pub(super) text: &'t str,
    /// From the first brace to after the last, by start; nested ones too.
    spans: Vec<Range<usize>>,
    hash: OnceCell<u64>,
}

/// One macro of a text.
#[derive(Debug)]
pub(super) struct Tag {
    /// With its braces.
    pub(super) span: Range<usize>,
    /// Lower case; `//` for comments.
    pub(super) name: String,
    /// `{{/name}}`.
    pub(super) closing: bool,
    /// `{{#name}}`.
    pub(super) keep_space: bool,
    /// The arguments, without the white space around them.
    pub(super) arguments: Vec<Range<usize>>,
    /// The tag, by index in its list, that ends the scope of this one.
    pub(super) closer: Option<usize>,
}

impl Tag {
    /// What stands between the braces.
    pub(super) fn inner(&self) -> Range<usize> {
        self.span.start + 2..self.span.end - 2
    }

    /// Whether this is `{{name}}` with nothing else.
    pub(super) fn is_bare(&self, name: &str) -> bool {
        !self.closing && self.arguments.is_empty() && self.name == name
    }
}

impl<'t> Source<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let bytes = text.as_bytes();
        let mut spans = Vec::new();
        let mut open = Vec::new();
        let mut at = 0;
        while at + 1 < bytes.len() {
            match &bytes[at..at + 2] {
                b"{{" if bytes.get(at + 2) == Some(&b'{') => at += 1, // the innermost two count
                b"{{" => {
                    open.push(at);
                    at += 2;
                }
                b"}}" => {
                    if let Some(start) = open.pop() {
                        spans.push(start..at + 2);
                    }
                    at += 2;
                }
                _ => at += 1,
            }
        }
        spans.sort_by_key(|span: &Range<usize>| span.start);
        Source { text, spans, hash: OnceCell::new() }
    }

    /// A hash of the whole text, made once.
    pub(super) fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| fnv1a(self.text.as_bytes()))
    }

    /// The macros of a range that are not inside others, each with its closing tag.
    pub(super) fn tags(&self, range: Range<usize>) -> Vec<Tag> {
        let mut tags: Vec<Tag> =
            self.outer_spans(range).take(MAX_TAGS).map(|span| self.tag(span)).collect();
        let mut open: HashMap<String, Vec<usize>> = HashMap::new();
        for i in 0..tags.len() {
            if !tags[i].closing {
                open.entry(tags[i].name.clone()).or_default().push(i);
            } else if let Some(opener) = open.get_mut(&tags[i].name).and_then(Vec::pop) {
                tags[opener].closer = Some(i);
            }
        }
        tags
    }

    /// Splits a range at a separator, but not inside macros.
    pub(super) fn split(&self, range: Range<usize>, separator: &str) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let mut start = range.start;
        let mut at = range.start;
        let mut inner = self.outer_spans(range.clone()).peekable();
        while at < range.end {
            if let Some(span) = inner.next_if(|span| span.start <= at) {
                at = at.max(span.end);
            } else if self.text[at..range.end].starts_with(separator) && !self.escaped(at) {
                parts.push(start..at);
                at += separator.len();
                start = at;
            } else {
                at += self.text[at..].chars().next().map_or(1, char::len_utf8);
            }
        }
        parts.push(start..range.end);
        parts
    }

    /// The range without the white space at its ends.
    pub(super) fn trimmed(&self, range: Range<usize>) -> Range<usize> {
        let text = &self.text[range.clone()];
        let start = range.start + text.len() - text.trim_start().len();
        start..start + text.trim().len()
    }

    fn escaped(&self, at: usize) -> bool {
        self.text[..at].ends_with('\\')
    }

    fn outer_spans(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let first = self.spans.partition_point(|span| span.start < range.start);
        let mut end = range.start;
        let inside = self.spans[first..].iter().take_while(move |span| span.start < range.end);
        inside.filter_map(move |span| {
            let outer = span.start >= end && span.end <= range.end;
            if outer {
                end = span.end;
            }
            outer.then(|| span.clone())
        })
    }

    fn tag(&self, span: Range<usize>) -> Tag {
        let inner = self.trimmed(span.start + 2..span.end - 2);
        let content = &self.text[inner.clone()];
        let (mut closing, mut keep_space) = (false, false);
        let mut rest = content;
        loop {
            let comment = rest.starts_with("//") && !rest.starts_with("///");
            match rest.chars().next() {
                Some('/') if !closing && !comment => closing = true,
                Some('#') if !keep_space => keep_space = true,
                _ => break,
            }
            rest = rest[1..].trim_start();
        }
        let comment = rest.starts_with("//");
        let name_end = if comment { 2 } else { name_end(rest) };
        let name = rest[..name_end].to_lowercase();
        let after = inner.end - (rest.len() - name_end);
        let arguments = if comment { Vec::new() } else { self.arguments(after..inner.end) };
        Tag { span, name, closing, keep_space, arguments, closer: None }
    }

    fn arguments(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let range = self.trimmed(range);
        let text = &self.text[range.clone()];
        let parts = if let Some(old_form) = text.strip_prefix(':').filter(|t| !t.starts_with(':')) {
            let start = range.end - old_form.len();
            return Vec::from([self.trimmed(start..range.end)]); // it has one argument
        } else if text.starts_with("::") {
            self.split(range.start + 2..range.end, "::")
        } else if text.is_empty() {
            Vec::new()
        } else {
            self.split(range, "::")
        };
        parts.into_iter().map(|part| self.trimmed(part)).collect()
    }
}

/// `<USER>`, `<BOT>` and their like, in any case: the macro's name and the rest.
pub(super) fn angle_name(text: &str) -> Option<(&'static str, &str)> {
    const NAMES: &[(&str, &str)] = &[
        ("<user>", "user"),
        ("<bot>", "char"),
        ("<char>", "char"),
        ("<group>", "group"),
        ("<charifnotgroup>", "charifnotgroup"),
    ];
    NAMES.iter().find_map(|&(written, name)| {
        let (head, rest) = text.split_at_checked(written.len())?;
        head.eq_ignore_ascii_case(written).then_some((name, rest))
    })
}

fn name_end(text: &str) -> usize {
    text.find(|c: char| c.is_whitespace() || c == ':' || c == '{').unwrap_or(text.len())
}
