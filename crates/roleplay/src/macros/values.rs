//! What each macro becomes.

use super::syntax::{Source, Tag};
use super::{MAX_DEPTH, Run, Value, Variables, chance, time};
use std::ops::Range;

/// `{{newline::n}}` and `{{space::n}}` go no further than this.
const MAX_REPEAT: usize = 100;
/// More hidden keys or banned words than this are not collected from one text.
const MAX_COLLECTED: usize = 1000;

/// What takes arguments, beside the variables and what is handled one by one.
const WITH_ARGUMENTS: &[&str] = &[
    "roll",
    "hidden_key",
    "banned",
    "reverse",
    "trim",
    "newline",
    "space",
    "time",
    "datetimeformat",
    "outlet",
];

impl Run<'_> {
    /// The value of a macro.
    pub(super) fn value(
        &mut self,
        source: &Source<'_>,
        tag: &Tag,
        scope: Option<Range<usize>>,
        depth: usize,
    ) -> Value {
        let known = |value: Option<String>| value.map_or(Value::Refused, Value::Text);
        match tag.name.as_str() {
            _ if tag.closing => return Value::Unknown,
            "//" | "comment" => return Value::Text(String::new()),
            "if" => return known(self.condition(source, tag, scope, depth)),
            "random" | "pick" => return Value::Text(self.choice(source, tag, scope, depth)),
            name if tag.arguments.is_empty() && scope.is_none() => {
                return self.plain_value(name, depth);
            }
            // Arguments may have effects, so they are not expanded for nothing.
            name if !WITH_ARGUMENTS.contains(&name) && !Variables::has_macro(name) => {
                return Value::Unknown;
            }
            _ => {}
        }
        let mut arguments = Vec::with_capacity(tag.arguments.len() + 1);
        for range in &tag.arguments {
            arguments.push(self.range(source, range.clone(), depth + 1));
        }
        if let Some(scope) = scope {
            let content = self.range(source, scope, depth + 1);
            arguments.push(if tag.keep_space { content } else { dedent(&content) });
        }
        known(self.call(&tag.name, &arguments))
    }

    /// Names, for the forms in angle brackets too.
    pub(super) fn name_value(&self, name: &str) -> String {
        match name {
            "user" => self.context.user.clone(),
            "group" | "charifnotgroup" if !self.context.group.is_empty() => {
                self.context.group.join(", ")
            }
            _ => self.context.character.clone(),
        }
    }

    /// Macros without arguments.
    fn plain_value(&mut self, name: &str, depth: usize) -> Value {
        let context = self.context;
        let number = |n: Option<usize>| n.map(|n| n.to_string()).unwrap_or_default();
        let now = |pattern: &str| time::format(&context.now, pattern);
        Value::Text(match name {
            "char" | "user" | "group" | "charifnotgroup" => self.name_value(name),
            "description" => return self.field("description", &context.description, depth),
            "personality" => return self.field("personality", &context.personality, depth),
            "scenario" => return self.field("scenario", &context.scenario, depth),
            "persona" => return self.field("persona", &context.persona, depth),
            "mesexamples" => return self.field("mesexamples", &context.message_examples, depth),
            "original" if self.overriding => match self.original.take() {
                Some(original) => return self.field("original", original, depth),
                None => String::new(),
            },
            "lastmessage" => context.last_message.clone(),
            "lastusermessage" => context.last_user_message.clone(),
            "lastcharmessage" => context.last_character_message.clone(),
            "lastmessageid" => number(context.last_message_id),
            "currentswipeid" => number(context.current_swipe_id),
            "lastswipeid" => number(context.last_swipe_id),
            "input" => context.input.clone(),
            "model" => context.model.clone(),
            "maxprompt" => number(context.max_prompt),
            "time" => now("LT"),
            "date" => now("LL"),
            "weekday" => now("dddd"),
            "isotime" => now("HH:mm"),
            "isodate" => now("YYYY-MM-DD"),
            "idle_duration" | "idleduration" => time::humanize(context.idle),
            "newline" => "\n".to_owned(),
            "space" => " ".to_owned(),
            "noop" => String::new(),
            _ => {
                let offset = name.strip_prefix("time_utc");
                match offset.and_then(|offset| time::at_offset(&context.now, offset)) {
                    Some(then) => time::format(&then, "LT"),
                    None => return Value::Unknown,
                }
            }
        })
    }

    /// Macros with arguments.
    fn call(&mut self, name: &str, arguments: &[String]) -> Option<String> {
        let context = self.context;
        let first = arguments.first()?.as_str();
        let repeat = |text: &str| Some(text.repeat(first.parse::<usize>().ok()?.min(MAX_REPEAT)));
        match name {
            "roll" => chance::roll(first, self.random),
            "hidden_key" => {
                collect(&mut self.found.hidden_keys, first);
                Some(String::new())
            }
            "banned" => {
                collect(&mut self.found.banned, first.trim_matches('"'));
                Some(String::new())
            }
            "reverse" => Some(first.chars().rev().collect()),
            "trim" => Some(first.trim().to_owned()),
            "newline" => repeat("\n"),
            "space" => repeat(" "),
            "time" => {
                let offset = first.to_ascii_lowercase();
                let then = time::at_offset(&context.now, offset.strip_prefix("utc")?)?;
                Some(time::format(&then, "LT"))
            }
            "datetimeformat" => Some(time::format(&context.now, first)),
            "outlet" => Some(context.outlets.get(first).cloned().unwrap_or_default()),
            _ => {
                let (value, limited) = self.variables.call(name, first, arguments.get(1))?;
                self.found.limited |= limited;
                Some(value)
            }
        }
    }

    /// A text of the context that may hold macros, but not the macro for itself. It is
    /// paid for before it is read, whatever comes of it.
    fn field(&mut self, name: &'static str, text: &str, depth: usize) -> Value {
        let entered = self.open_fields.contains(&name) || depth + 1 >= MAX_DEPTH;
        if entered || text.len() > self.bytes_left {
            self.found.limited = true;
            return Value::Refused;
        }
        self.bytes_left -= text.len();
        self.open_fields.push(name);
        let value = self.source(text, depth + 1);
        self.open_fields.pop();
        Value::Text(value)
    }

    /// `{{random::a::b}}`, `{{pick:a,b}}`: only the chosen one is expanded.
    fn choice(
        &mut self,
        source: &Source<'_>,
        tag: &Tag,
        scope: Option<Range<usize>>,
        depth: usize,
    ) -> String {
        let mut options = tag.arguments.clone();
        options.extend(scope);
        if let [only] = options.as_slice() {
            options = source.split(only.clone(), ",");
        }
        let options: Vec<_> = options.into_iter().map(|option| source.trimmed(option)).collect();
        if options.is_empty() {
            return String::new();
        }
        let index = if tag.name == "pick" {
            let (text, place) = (source.hash().to_le_bytes(), tag.span.start.to_le_bytes());
            let parts = [self.context.chat_id.as_bytes(), &text, &place];
            chance::fixed_index(&parts, options.len())
        } else {
            chance::index(self.random, options.len())
        };
        self.range(source, options[index].clone(), depth + 1).replace(r"\,", ",")
    }

    /// `{{if condition}}...{{else}}...{{/if}}`, or `{{if::condition::then::else}}`.
    fn condition(
        &mut self,
        source: &Source<'_>,
        tag: &Tag,
        scope: Option<Range<usize>>,
        depth: usize,
    ) -> Option<String> {
        let (condition, inline) = tag.arguments.split_first()?;
        let (then, otherwise) = match (scope, inline) {
            (Some(scope), _) => {
                let tags = source.tags(scope.clone());
                let mut i = 0;
                while let Some(tag) = tags.get(i).filter(|tag| !tag.is_bare("else")) {
                    i = tag.closer.map_or(i + 1, |closer| closer + 1);
                }
                match tags.get(i) {
                    Some(tag) => (scope.start..tag.span.start, Some(tag.span.end..scope.end)),
                    None => (scope, None),
                }
            }
            (None, [then, rest @ ..]) => (then.clone(), rest.first().cloned()),
            (None, []) => return None,
        };
        let holds = self.holds(source, condition.clone(), depth);
        let Some(chosen) = (if holds { Some(then) } else { otherwise }) else {
            return Some(String::new());
        };
        let text = self.range(source, chosen, depth + 1);
        Some(if tag.keep_space { text } else { dedent(&text) })
    }

    /// Empty, `false`, `0`, `off` and `no` do not hold; `!` turns it round. A bare name
    /// of a macro stands for its value.
    fn holds(&mut self, source: &Source<'_>, range: Range<usize>, depth: usize) -> bool {
        let text = &source.text[range.clone()];
        let inverted = text.starts_with('!');
        let start = range.start + usize::from(inverted);
        let range = source.trimmed(start..range.end);
        let name = source.text[range.clone()].to_lowercase();
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let value = match is_name.then(|| self.plain_value(&name, depth)) {
            Some(Value::Text(value)) => value,
            _ => self.range(source, range, depth + 1),
        };
        let value = value.trim().to_lowercase();
        !matches!(value.as_str(), "" | "false" | "0" | "off" | "no") != inverted
    }
}

fn collect(words: &mut Vec<String>, word: &str) {
    if !word.is_empty() && words.len() < MAX_COLLECTED {
        words.push(word.to_owned());
    }
}

/// Without the white space around it, and without the first line's indentation on any.
fn dedent(text: &str) -> String {
    let Some(first) = text.lines().find(|line| !line.trim().is_empty()) else {
        return String::new();
    };
    let indent = &first[..first.len() - first.trim_start().len()];
    let lines = text.lines().map(|line| line.strip_prefix(indent).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}
