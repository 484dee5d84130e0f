//! What a model wrote, made into what a side said.
//!
//! Small models write a name before their line, go on with the other side's part, or
//! write nothing. Here labels are removed and the other's part is cut off; an empty
//! rest is `None`, never an empty text, so that every caller must decide about it.
//! Words are not changed otherwise. [`StreamCleaner`] does the same for text that is
//! shown while it arrives, as far as that can be known early.

/// The text without `own` names before its lines, ended before the first line that
/// begins with an `other` name; `None` when nothing is left. A label is a name, in any
/// case and perhaps in emphasis (`**Name:**`), then an ASCII or a full-width colon.
#[must_use]
pub fn clean_reply<S: AsRef<str>>(text: &str, own: &[S], other: &[S]) -> Option<String> {
    let mut kept = Vec::new();
    for line in text.lines() {
        if other.iter().any(|name| strip_label(line, name.as_ref()).is_some()) {
            break;
        }
        kept.push(without_labels(line, own));
    }
    let text = kept.join("\n");
    Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The text cut to at most `max_characters` (at least 1), at the last end of a sentence if there is
/// one in the second half, else at the last space there, else where it must be.
/// `None` when it is short enough as it is.
pub fn shorten(text: &str, max_characters: usize) -> Option<String> {
    let (end, _) = text.char_indices().nth(max_characters.max(1))?;
    let cut = &text[..end];
    let half = cut.char_indices().nth(max_characters / 2).map_or(0, |(at, _)| at);
    let after = |is_end: fn(char) -> bool| {
        let mut ends = cut.char_indices().filter(|&(at, c)| at >= half && is_end(c));
        ends.next_back().map(|(at, c)| at + c.len_utf8())
    };
    let ends_sentence = |c| matches!(c, '.' | '!' | '?' | '。' | '！' | '？' | '…' | '\n');
    let closes = |c: &char| matches!(c, '"' | '”' | '’' | '」' | '*' | '）' | ')');
    let at = match after(ends_sentence) {
        Some(at) => at + cut[at..].chars().take_while(closes).map(char::len_utf8).sum::<usize>(),
        None => after(char::is_whitespace).unwrap_or(end),
    };
    Some(cut[..at].trim_end().to_owned())
}

/// Cleans a reply while it arrives: keeps back what may be the speaker's own label at
/// the start, and white space until something follows it. What it lets through is the
/// start of the final text in all but odd cases (labels inside the reply, shortening):
/// the final text comes from the finished reply.
#[derive(Debug, Clone, Default)]
pub struct StreamCleaner {
    own: Vec<String>,
    held: String,
    started: bool,
}

impl StreamCleaner {
    /// A cleaner for a speaker with these names.
    pub fn new(own: impl IntoIterator<Item = String>) -> Self {
        StreamCleaner { own: own.into_iter().collect(), ..Self::default() }
    }

    /// Takes a piece and returns what can be shown now.
    pub fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        if !self.started {
            let start = without_labels(&self.held, &self.own).trim_start();
            if self.own.iter().any(|name| may_become_label(start, name)) {
                return String::new();
            }
            self.started = true;
            self.held = start.to_owned();
        }
        let rest = self.held.split_off(self.held.trim_end().len());
        std::mem::replace(&mut self.held, rest)
    }

    /// Returns what was kept back and is no label after all.
    pub fn finish(mut self) -> String {
        if self.started {
            self.held.clear(); // only white space is kept back once text has begun
        }
        clean_reply(&self.held, &self.own, &[]).unwrap_or_default()
    }
}

fn is_emphasis(c: char) -> bool {
    matches!(c, '*' | '_' | '[' | ']' | '【' | '】')
}

/// The line after all labels at its start.
fn without_labels<'a, S: AsRef<str>>(mut line: &'a str, own: &[S]) -> &'a str {
    while let Some(rest) = own.iter().find_map(|name| strip_label(line, name.as_ref())) {
        line = rest;
    }
    line
}

/// What follows `name` and a colon at the start of the line.
pub(crate) fn strip_label<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let line = line.trim_start();
    let unmarked = line.trim_start_matches(is_emphasis);
    let opened = line.len() > unmarked.len();
    let after = strip_prefix_any_case(unmarked, name)?;
    let closed = after.trim_start_matches(is_emphasis);
    let is_open = opened && closed.len() == after.len();
    let rest = closed.trim_start().strip_prefix([':', '：'])?;
    // `**Name:** text` closes after the colon, `Name: *acts*` opens there.
    let rest = if is_open { rest.trim_start_matches(is_emphasis) } else { rest };
    Some(rest.trim_start())
}

fn strip_prefix_any_case<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = text.chars();
    for wanted in name.chars() {
        let got = rest.next()?;
        if got != wanted && !got.to_lowercase().eq(wanted.to_lowercase()) {
            return None;
        }
    }
    Some(rest.as_str()).filter(|_| !name.is_empty())
}

/// Whether more text could make `start`, which has no label, begin with one of `name`.
fn may_become_label(start: &str, name: &str) -> bool {
    let start = start.trim_start_matches(is_emphasis);
    match strip_prefix_any_case(start, name) {
        Some(rest) => rest.trim_start_matches(is_emphasis).trim_start().is_empty(),
        None => {
            let n_start = start.chars().count();
            n_start < name.chars().count() && {
                let head: String = name.chars().take(n_start).collect();
                strip_prefix_any_case(start, &head).is_some() || start.is_empty()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: Option<&str>) {
        let cleaned = clean_reply(text, &["Marrow", "沈砚"], &["Ines", "User", "用户"]);
        assert_eq!(cleaned.as_deref(), expected, "{text:?}");
    }

    #[test]
    fn labels_go_and_the_other_side_is_cut_off() {
        check("  Marrow: Mind the step.\n", Some("Mind the step."));
        check("沈砚：书不卖。", Some("书不卖。"));
        check("**MARROW:** *turns away* No.", Some("*turns away* No."));
        check("**Marrow**: No.", Some("No."));
        check("Marrow: *turns away* No.", Some("*turns away* No."));
        check("Aye.\nInes: And then?", Some("Aye."));
        check("好。\n用户： 然后呢？\n沈砚：没了。", Some("好。"));
        check("Marrow: One.\nMarrow: Two.", Some("One.\nTwo."));
        check("Marrow said: go.", Some("Marrow said: go."));
        check("Inestimable: that lamp.", Some("Inestimable: that lamp."));
    }

    #[test]
    fn nothing_left_is_none() {
        check("", None);
        check(" \n\t", None);
        check("Marrow:", None);
        check("Ines: I will do it.", None);
        check("**用户：**我来。", None);
    }

    #[test]
    fn shortening_ends_a_sentence_where_it_can() {
        assert_eq!(shorten("Short.", 6), None);
        assert_eq!(shorten("One two. Three four.", 12).as_deref(), Some("One two."));
        assert_eq!(shorten("She said \"no!\" and left", 15).as_deref(), Some("She said \"no!\""));
        assert_eq!(shorten("one two three four", 12).as_deref(), Some("one two"));
        assert_eq!(shorten("灯塔不能没有人。我不走。", 9).as_deref(), Some("灯塔不能没有人。"));
        assert_eq!(shorten("没有标点的一长串字", 4).as_deref(), Some("没有标点"));
    }

    fn stream(pieces: &[&str]) -> String {
        let mut cleaner = StreamCleaner::new(["Marrow".to_owned(), "沈砚".to_owned()]);
        let mut shown: String = pieces.iter().map(|piece| cleaner.push(piece)).collect();
        shown.push_str(&cleaner.finish());
        shown
    }

    #[test]
    fn a_stream_shows_no_label() {
        assert_eq!(stream(&["Mar", "row", ":", " Aye, ", "I do. ", "\n"]), "Aye, I do.");
        assert_eq!(stream(&["**Marrow", ":*", "* Aye"]), "Aye");
        assert_eq!(stream(&["沈", "砚：", "不卖"]), "不卖");
        assert_eq!(stream(&["Mar", "ble is cold"]), "Marble is cold");
        assert_eq!(stream(&[" Mar"]), "Mar");
        assert_eq!(stream(&["Marrow", ":"]), "");
        assert_eq!(stream(&["*", "turns* No."]), "*turns* No.");
    }

    proptest! {
        #[test]
        fn cleaning_is_idempotent_and_never_empty(text in "(Marrow|Ines|沈砚)?[:：]?[ a-z*\n：:]{0,20}") {
            if let Some(cleaned) = clean_reply(&text, &["Marrow", "沈砚"], &["Ines"]) {
                prop_assert!(!cleaned.is_empty());
                prop_assert_eq!(cleaned.trim(), &cleaned);
            }
        }

        #[test]
        fn a_stream_cut_anywhere_shows_the_cleaned_line(
            text in "(\\*\\*)?(Marrow|Ma|沈)?(\\*\\*)?[:：]?(\\*\\*)? ?[ a-z灯]{0,12}",
            cuts in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let mut cleaner = StreamCleaner::new(["Marrow".to_owned()]);
            let (mut shown, mut piece) = (String::new(), String::new());
            for (c, cut) in text.chars().zip(cuts) {
                piece.push(c);
                if cut {
                    shown.push_str(&cleaner.push(&std::mem::take(&mut piece)));
                }
            }
            shown.push_str(&cleaner.push(&piece));
            shown.push_str(&cleaner.finish());
            prop_assert_eq!(shown, clean_reply(&text, &["Marrow"], &[]).unwrap_or_default());
        }

        #[test]
        fn shortened_text_is_a_start_of_the_text(text in "\\PC{0,40}", max in 1usize..40) {
            if let Some(short) = shorten(&text, max) {
                prop_assert!(text.starts_with(&short) && short.chars().count() <= max);
            }
        }
    }
}
