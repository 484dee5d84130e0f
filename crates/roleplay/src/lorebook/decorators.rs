//! Decorators: V3's rules written as `@@name value` lines at the head of a content.
//!
//! A line `@@@name` below one is its fallback: it counts if all above it in the chain
//! are unknown or have a bad value. The first of a repeated name wins, but for
//! `additional_keys`, which add up. All decorators leave the text, known or not.
//!
//! Ours is a chat, so the `instruct_` ones, which count tokens of plain text, are
//! passed over in favour of their fallbacks, as the specification wants.
//! Source: character card V3, "Decorators".

use super::Position;
use crate::card::fields::split_words;
use troupe_dialogue::Role;

/// The decorators of one entry.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decorators {
    /// Not before the character has spoken so often.
    pub activate_only_after: Option<u32>,
    /// Only when the number of the character's messages is a multiple of this.
    pub activate_only_every: Option<u32>,
    /// Once active, always active.
    pub keep_activate_after_match: bool,
    /// Once active, never again.
    pub dont_activate_after_match: bool,
    /// Goes into the chat, before so many of the newest messages.
    pub depth: Option<u32>,
    /// Goes into the chat, after so many of the oldest messages.
    pub reverse_depth: Option<u32>,
    /// In whose voice it goes into the chat.
    pub role: Option<Role>,
    /// How many of the newest messages are searched.
    pub scan_depth: Option<u32>,
    /// Only in chats with the greeting of this index; 0 is `first_mes`.
    pub is_greeting: Option<u32>,
    /// Where the text goes; wins over the depths.
    pub position: Option<Position>,
    /// Left out when the context is full, and dropped first when tokens are short.
    pub ignore_on_max_context: bool,
    /// Lists of keys; of each list at least one must match as well.
    pub additional_keys: Vec<Vec<String>>,
    /// Keys of which none may match.
    pub exclude_keys: Vec<String>,
    /// Only with the user's icon of this name.
    pub is_user_icon: Option<String>,
    /// Always active; wins over `dont_activate`.
    pub activate: bool,
    /// Never active.
    pub dont_activate: bool,
    /// Leaves out one of the user's prompts while the entry is active.
    pub disable_ui_prompt: Option<UiPrompt>,
    /// Names that nobody here knows, or whose value made no sense.
    pub unknown: Vec<String>,
}

/// A prompt of the user's own that an entry can switch off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UiPrompt {
    /// `system_prompt`.
    SystemPrompt,
    /// `post_history_instructions`.
    PostHistoryInstructions,
}

/// Splits a content into its decorators and the text after them. A content without
/// decorators comes back whole.
pub(super) fn parse(content: &str) -> (Decorators, &str) {
    let mut decorators = Decorators::default();
    let mut seen: Vec<String> = Vec::new();
    let mut rest = content;
    let mut settled = true; // whether the present chain of fallbacks has found its man
    let mut any = false;
    loop {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        if line.trim().is_empty() && !after.is_empty() {
            rest = after;
            continue;
        }
        let Some((fallback, name, value)) = decorator_line(line) else { break };
        any = true;
        rest = after;
        if !fallback || !settled {
            let known = seen.iter().any(|s| s == name) || decorators.apply(name, value);
            settled = known;
            if known && name != "additional_keys" {
                seen.push(name.to_owned());
            } else if !known {
                decorators.unknown.push(name.to_owned());
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    if any { (decorators, rest.trim()) } else { (decorators, content) }
}

/// `@@name value` or `@@@name value`: whether it is a fallback, the name, the value.
fn decorator_line(line: &str) -> Option<(bool, &str, &str)> {
    let line = line.trim();
    let body = line.strip_prefix("@@")?;
    let (fallback, body) = match body.strip_prefix('@') {
        Some(body) => (true, body),
        None => (false, body),
    };
    let end = body.find(char::is_whitespace).unwrap_or(body.len());
    let (name, value) = body.split_at(end);
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_name.then(|| (fallback, name, value.trim()))
}

impl Decorators {
    /// Takes one decorator over; false if it is unknown or its value makes no sense.
    fn apply(&mut self, name: &str, value: &str) -> bool {
        fn set<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
            let given = value.is_some();
            *slot = value.or(slot.take());
            given
        }
        let number = value.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
        let number = number.map(|n| n.round() as u32); // `as` saturates
        match name {
            "activate_only_after" => set(&mut self.activate_only_after, number),
            "activate_only_every" => set(&mut self.activate_only_every, number.filter(|&n| n > 0)),
            "keep_activate_after_match" => switch(&mut self.keep_activate_after_match, value),
            "dont_activate_after_match" => switch(&mut self.dont_activate_after_match, value),
            "depth" => set(&mut self.depth, number),
            "reverse_depth" => set(&mut self.reverse_depth, number),
            "role" => set(
                &mut self.role,
                match value {
                    "assistant" => Some(Role::Assistant),
                    "system" => Some(Role::System),
                    "user" => Some(Role::User),
                    _ => None,
                },
            ),
            "scan_depth" => set(&mut self.scan_depth, number),
            "is_greeting" => set(&mut self.is_greeting, number),
            "position" => set(
                &mut self.position,
                match value {
                    "before_desc" => Some(Position::BeforeCharacter),
                    "after_desc" => Some(Position::AfterCharacter),
                    "personality" => Some(Position::Personality),
                    "scenario" => Some(Position::Scenario),
                    _ => None,
                },
            ),
            "ignore_on_max_context" => switch(&mut self.ignore_on_max_context, value),
            "additional_keys" => {
                let keys = split_words(value);
                let given = !keys.is_empty();
                if given {
                    self.additional_keys.push(keys);
                }
                given
            }
            "exclude_keys" => {
                self.exclude_keys = split_words(value);
                !self.exclude_keys.is_empty()
            }
            "is_user_icon" => {
                set(&mut self.is_user_icon, (!value.is_empty()).then(|| value.to_owned()))
            }
            "activate" => switch(&mut self.activate, value),
            "dont_activate" => switch(&mut self.dont_activate, value),
            "disable_ui_prompt" => set(
                &mut self.disable_ui_prompt,
                match value {
                    "system_prompt" => Some(UiPrompt::SystemPrompt),
                    "post_history_instructions" => Some(UiPrompt::PostHistoryInstructions),
                    _ => None,
                },
            ),
            _ => false,
        }
    }
}

/// Decorators without a value; some authors write `true` all the same, or `false`.
fn switch(slot: &mut bool, value: &str) -> bool {
    *slot = !value.eq_ignore_ascii_case("false");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_content_comes_back_whole() {
        let content = "\n @@ not one\ntext\n";
        assert_eq!(parse(content), (Decorators::default(), content));
        assert_eq!(parse("").1, "");
    }

    #[test]
    fn fallbacks_are_tried_in_order_until_one_is_known() {
        let (found, text) = parse(
            "@@depth 3\n@@vendor 1\n@@@other 2\n@@@scan_depth 6\n@@@role user\n\n\nThe text.\n",
        );
        assert_eq!((found.depth, found.scan_depth, found.role), (Some(3), Some(6), None));
        assert_eq!(found.unknown, ["vendor", "other"]);
        assert_eq!(text, "The text.");
    }

    #[test]
    fn a_bad_value_or_an_instruct_decorator_gives_way_to_its_fallback() {
        let (found, text) = parse("@@depth deep\n@@@depth 2\n@@instruct_depth 9\n@@@role system");
        assert_eq!((found.depth, found.role), (Some(2), Some(Role::System)));
        assert_eq!(text, "");
    }

    #[test]
    fn the_first_of_a_name_wins_but_additional_keys_add_up() {
        let (found, _) = parse(
            "@@scan_depth 1\n@@scan_depth 2\n@@additional_keys a, b\n@@additional_keys 灯，塔\nx",
        );
        assert_eq!(found.scan_depth, Some(1));
        assert_eq!(found.additional_keys, [["a", "b"], ["灯", "塔"]]);
    }

    #[test]
    fn windows_line_ends_and_blank_lines_between() {
        let (found, text) = parse("\r\n@@activate\r\n\r\n@@position scenario\r\n\r\nText\r\nmore");
        assert!(found.activate);
        assert_eq!(found.position, Some(Position::Scenario));
        assert_eq!(text, "Text\r\nmore");
    }
}
