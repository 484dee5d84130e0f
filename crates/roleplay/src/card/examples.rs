//! Example dialogues: the `mes_example` field taken apart.
//!
//! Blocks are split at `<START>` in any case (a missing first one is implied). A line
//! that begins with `{{user}}:` or `{{char}}:` opens a turn, with an ASCII or a
//! full-width colon; lines without a speaker go on with the turn before them. What
//! stands before the first speaker of a block is narration. The text is the author's:
//! a model of style, never a sample. Macros in it are left for
//! [`crate::macros`] to expand.

use troupe_dialogue::Speaker;

/// One `<START>` block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExampleDialogue {
    /// The turns in order; never empty.
    pub lines: Vec<ExampleLine>,
}

/// One turn of an example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExampleLine {
    /// Who speaks.
    pub speaker: Speaker,
    /// What is said, without the speaker's name; may have several lines.
    pub text: String,
}

/// Takes an example text apart. `characters` and `users` are names which, at the start
/// of a line and before a colon, count like the placeholders; empty ones are ignored.
pub fn parse_examples(text: &str, characters: &[&str], users: &[&str]) -> Vec<ExampleDialogue> {
    let blocks = split_blocks(text).into_iter();
    blocks.filter_map(|block| parse_block(block, characters, users)).collect()
}

fn split_blocks(text: &str) -> Vec<&str> {
    const MARK: &[u8] = b"<start>";
    let mut blocks = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while let Some(window) = text.as_bytes().get(at..at + MARK.len()) {
        if window.eq_ignore_ascii_case(MARK) {
            blocks.push(&text[start..at]); // the mark is ASCII, so both ends are boundaries
            at += MARK.len();
            start = at;
        } else {
            at += 1;
        }
    }
    blocks.push(&text[start..]);
    blocks
}

fn parse_block(block: &str, characters: &[&str], users: &[&str]) -> Option<ExampleDialogue> {
    let mut lines: Vec<ExampleLine> = Vec::new();
    for line in block.lines() {
        let spoken = after_speaker(line, &["{{char}}", "<char>", "<bot>"], characters)
            .map(|text| (Speaker::Npc, text))
            .or_else(|| {
                let text = after_speaker(line, &["{{user}}", "<user>"], users)?;
                Some((Speaker::User, text))
            });
        match (spoken, lines.last_mut()) {
            (Some((speaker, text)), _) => lines.push(ExampleLine { speaker, text: text.into() }),
            (None, Some(turn)) => {
                turn.text.push('\n');
                turn.text.push_str(line);
            }
            (None, None) if line.trim().is_empty() => {}
            (None, None) => {
                lines.push(ExampleLine { speaker: Speaker::Narrator, text: line.to_owned() });
            }
        }
    }
    for line in &mut lines {
        line.text.truncate(line.text.trim_end().len());
    }
    lines.retain(|line| !line.text.is_empty());
    (!lines.is_empty()).then_some(ExampleDialogue { lines })
}

/// The rest of a line that begins with a speaker and a colon.
fn after_speaker<'a>(line: &'a str, placeholders: &[&str], names: &[&str]) -> Option<&'a str> {
    let line = line.trim_start();
    let placeholders = placeholders.iter().filter_map(|p| strip_placeholder(line, p));
    let names = names.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
    let names = names.filter_map(|name| line.strip_prefix(name));
    // Any of them may fit, as with the names `Ann` and `Ann Lee`: the colon decides.
    placeholders.chain(names).find_map(|rest| {
        let said = rest.trim_start().strip_prefix([':', '：'])?;
        Some(said.trim_start())
    })
}

/// Strips a placeholder in any case, with spaces allowed inside its braces.
fn strip_placeholder<'a>(line: &'a str, placeholder: &str) -> Option<&'a str> {
    let (open, close) = if placeholder.starts_with('<') { ("<", ">") } else { ("{{", "}}") };
    let name = placeholder.trim_start_matches(open).trim_end_matches(close);
    let inner = line.strip_prefix(open)?.trim_start();
    let (word, rest) = inner.split_at_checked(name.len())?;
    let rest = rest.trim_start().strip_prefix(close)?;
    word.eq_ignore_ascii_case(name).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(text: &str) -> Vec<Vec<(Speaker, String)>> {
        let dialogues = parse_examples(text, &["Marrow"], &[""]);
        let turns = |d: ExampleDialogue| d.lines.into_iter().map(|l| (l.speaker, l.text)).collect();
        dialogues.into_iter().map(turns).collect()
    }

    fn npc(text: &str) -> (Speaker, String) {
        (Speaker::Npc, text.to_owned())
    }

    fn user(text: &str) -> (Speaker, String) {
        (Speaker::User, text.to_owned())
    }

    #[test]
    fn blocks_speakers_and_continuation_lines() {
        let text = "{{user}}: hi\n{{char}}: well\nnow\n\n<start>\n{{ CHAR }} : again\n<START>\n";
        assert_eq!(turns(text), [vec![user("hi"), npc("well\nnow")], vec![npc("again")]]);
    }

    #[test]
    fn full_width_colons_names_and_narration() {
        let text = "<Start>夜里。\n{{user}}：多少钱？\nMarrow: no\n<BOT>：不卖。";
        let narration = (Speaker::Narrator, "夜里。".to_owned());
        let expected = vec![narration, user("多少钱？"), npc("no"), npc("不卖。")];
        assert_eq!(turns(text), [expected]);
    }

    #[test]
    fn nothing_comes_of_nothing() {
        assert!(turns("").is_empty());
        assert!(turns("<START>\n\n<START>\n{{user}}:\n").is_empty());
        assert_eq!(turns("just style").len(), 1);
    }
}
