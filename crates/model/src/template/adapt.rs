//! What a template accepts, and how a conversation is made acceptable.
//!
//! Role-play conversations begin with a character's greeting, carry notes in the midst and
//! let one side speak twice; many templates allow none of that. What a template does with
//! such things is found by rendering small conversations of marker words. Nothing is
//! adapted behind the caller's back: every change is reported.

use std::fmt;

use troupe_dialogue::{Message, Role};

use super::{ChatTemplate, Run, TemplateError, message_values};

/// What a template accepts and does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traits {
    /// A system message before all others is rendered.
    pub accepts_system: bool,
    /// A system message after others is rendered, and in its place.
    pub accepts_late_system: bool,
    /// A tool's answer is rendered.
    pub accepts_tool: bool,
    /// Two messages of one role in a row are refused or lost.
    pub requires_alternation: bool,
    /// A conversation that an assistant's message opens is refused or loses it.
    pub requires_user_first: bool,
    /// The `name` of a message is rendered.
    pub renders_name: bool,
    /// Asking for a reply adds text.
    pub has_generation_prompt: bool,
    /// White space around a message's content is removed.
    pub trims_content: bool,
    /// Thinking in an earlier reply, or a system message, is written anew when messages
    /// are added; see [`super::Rendered::rewrites_history`] for one conversation.
    pub rewrites_history: bool,
    /// What ends a conversation that nobody is asked to continue.
    pub closing: Option<String>,
}

/// A conversation made acceptable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapted {
    /// The messages to render.
    pub messages: Vec<Message>,
    /// Of which original messages each is made, by index; none for an added one.
    pub origins: Vec<Vec<usize>>,
    /// What was changed, in the order in which it was done; empty when nothing was.
    pub changes: Vec<Adaptation>,
}

/// One change to a conversation. Indexes are those of the original messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adaptation {
    /// A tool's answer became a user's message.
    ToolToUser {
        /// The message.
        message: usize,
    },
    /// A system message became (part of) a user's.
    SystemToUser {
        /// The message.
        message: usize,
    },
    /// A message was joined to the one before it, with a blank line between.
    Joined {
        /// The later message.
        message: usize,
    },
    /// [`OPENING_LINE`] was put before the first assistant's message as a user's.
    OpeningAdded,
}

/// The user's line that opens a conversation where a template insists on one: it belongs to
/// no language and asks for nothing.
pub const OPENING_LINE: &str = "...";

impl fmt::Display for Adaptation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Adaptation::ToolToUser { message } => {
                write!(f, "tool message {message} became a user message")
            }
            Adaptation::SystemToUser { message } => {
                write!(f, "system message {message} became a user message")
            }
            Adaptation::Joined { message } => {
                write!(f, "message {message} was joined to the one before it")
            }
            Adaptation::OpeningAdded => {
                write!(f, "a user line `{OPENING_LINE}` was added in front")
            }
        }
    }
}

impl ChatTemplate {
    /// Makes a conversation acceptable to this template.
    ///
    /// Tool and system messages that it does not take become user messages; a system
    /// message then joins the user's message after it or, where there is none, before it.
    /// Where roles must alternate, neighbours of one role are joined by a blank line; where
    /// a user must open, [`OPENING_LINE`] does. The rest is left as it is.
    pub fn adapt(&self, messages: &[Message]) -> Adapted {
        let traits = self.traits();
        let mut adapted = Adapted {
            messages: messages.to_vec(),
            origins: (0..messages.len()).map(|message| vec![message]).collect(),
            changes: Vec::new(),
        };
        for (idx, message) in adapted.messages.iter_mut().enumerate() {
            let leading = messages[..idx].iter().all(|message| message.role == Role::System);
            let (accepted, change) = match message.role {
                Role::Tool => (traits.accepts_tool, Adaptation::ToolToUser { message: idx }),
                Role::System if leading => {
                    (traits.accepts_system, Adaptation::SystemToUser { message: idx })
                }
                Role::System => {
                    (traits.accepts_late_system, Adaptation::SystemToUser { message: idx })
                }
                Role::User | Role::Assistant => continue,
            };
            if !accepted {
                message.role = Role::User;
                adapted.changes.push(change);
            }
        }
        adapted.join(traits);
        adapted.open_with_user(traits);
        adapted
    }
}

impl Adapted {
    /// Joins neighbours of one role where the template asks for it. Besides, a folded
    /// system message goes with the user's message beside it, and a second leading system
    /// message with the first, where it would count as a late one.
    fn join(&mut self, traits: &Traits) {
        let mut idx = 1;
        while idx < self.messages.len() {
            let (before, here) = (&self.messages[idx - 1], &self.messages[idx]);
            let next_is_user =
                self.messages.get(idx + 1).is_some_and(|next| next.role == Role::User);
            let fold = self.is_folded(idx - 1) || (self.is_folded(idx) && !next_is_user);
            let system = here.role == Role::System && !traits.accepts_late_system;
            if before.role != here.role || !(traits.requires_alternation || fold || system) {
                idx += 1;
                continue;
            }
            let message = self.messages.remove(idx);
            let origins = self.origins.remove(idx);
            self.changes.extend(origins.first().map(|&message| Adaptation::Joined { message }));
            let joined = &mut self.messages[idx - 1];
            if !joined.content.is_empty() && !message.content.is_empty() {
                joined.content.push_str("\n\n");
            }
            joined.content.push_str(&message.content);
            joined.name = joined.name.take().or(message.name);
            self.origins[idx - 1].extend(origins);
        }
    }

    /// Whether a message is made of nothing but system messages that became a user's.
    fn is_folded(&self, idx: usize) -> bool {
        self.origins[idx]
            .iter()
            .all(|&message| self.changes.contains(&Adaptation::SystemToUser { message }))
    }

    fn open_with_user(&mut self, traits: &Traits) {
        let first = self.messages.iter().position(|message| message.role != Role::System);
        if let Some(first) = first
            && traits.requires_user_first
            && self.messages[first].role == Role::Assistant
        {
            self.messages.insert(first, Message::user(OPENING_LINE));
            self.origins.insert(first, Vec::new());
            self.changes.push(Adaptation::OpeningAdded);
        }
    }
}

/// Words that no template writes or looks for.
const MARKS: [&str; 5] = ["Qvazu", "Wexli", "Zormb", "Jyptu", "Kfreh"];

impl Traits {
    pub(super) fn probe(template: &ChatTemplate) -> Self {
        let probe = template.run(|run| Ok(Probe { run }.traits()));
        // No memory for a stack: claim nothing. Rendering will fail for the same reason.
        probe.unwrap_or(Traits {
            accepts_system: false,
            accepts_late_system: false,
            accepts_tool: false,
            requires_alternation: true,
            requires_user_first: true,
            renders_name: false,
            has_generation_prompt: false,
            trims_content: false,
            rewrites_history: true,
            closing: None,
        })
    }
}

fn marked(roles: &[Role]) -> Vec<Message> {
    roles.iter().zip(MARKS).map(|(&role, mark)| Message::new(role, mark)).collect()
}

struct Probe<'a> {
    run: &'a Run<'a>,
}

impl Probe<'_> {
    fn traits(&self) -> Traits {
        use Role::{Assistant, System, Tool, User};
        let accepts_system = self.keeps(&[System, User]);
        let assistant_first = self.keeps(&[Assistant, User])
            && (!accepts_system || self.keeps(&[System, Assistant, User]));
        let named = Message { name: Some(MARKS[4].into()), ..Message::user(MARKS[0]) };
        let spaced = format!("  {}  ", MARKS[0]);
        let render = |messages: &[Message], generate| self.render(messages, generate);
        let user = [Message::user(MARKS[0])];
        let (closed, asked) = (render(&user, false).ok(), render(&user, true).ok());
        Traits {
            accepts_system,
            accepts_late_system: self.keeps(&[User, Assistant, System, User])
                && self.keeps(&[User, System, Assistant, User]),
            accepts_tool: self.keeps(&[User, Assistant, Tool, Assistant]),
            requires_alternation: !self.keeps(&[User, User, Assistant])
                || !self.keeps(&[User, Assistant, Assistant, User]),
            requires_user_first: !assistant_first,
            renders_name: render(&[named], false).is_ok_and(|text| text.contains(MARKS[4])),
            has_generation_prompt: asked.is_some() && asked != closed,
            trims_content: render(&[Message::user(&spaced)], false)
                .is_ok_and(|text| !text.contains(&spaced)),
            rewrites_history: self.rewrites(accepts_system),
            closing: self.closing(&[User]).or_else(|| self.closing(&[User, Assistant])),
        }
    }

    fn render(&self, messages: &[Message], generate: bool) -> Result<String, TemplateError> {
        self.run.render(&message_values(messages), generate)
    }

    /// Whether messages of these roles are all rendered, in their order.
    fn keeps(&self, roles: &[Role]) -> bool {
        let messages = marked(roles);
        let Ok(text) = self.render(&messages, true) else { return false };
        let places: Option<Vec<usize>> =
            messages.iter().map(|message| text.find(&message.content)).collect();
        places.is_some_and(|places| places.is_sorted())
    }

    /// Whether a reply with thinking, or a system message, changes when the talk goes on.
    fn rewrites(&self, system: bool) -> bool {
        let thinking = format!("<think>\n{}\n</think>\n\n{}", MARKS[3], MARKS[1]);
        let mut messages = Vec::new();
        messages.extend(system.then(|| Message::system(MARKS[4])));
        messages.push(Message::user(MARKS[0]));
        let first = messages.len();
        messages.extend([Message::assistant(thinking), Message::user(MARKS[2])]);
        let Ok(whole) = self.render(&messages, true) else { return false };
        (first..messages.len()).any(|count| {
            // Asked for a reply, so that what only closes a conversation is not in the way.
            let before = self.render(&messages[..count], false);
            let prompted = self.render(&messages[..count], true);
            match (before, prompted) {
                (Ok(before), Ok(prompted)) => {
                    let common = before.bytes().zip(prompted.bytes()).take_while(|(a, b)| a == b);
                    !whole.as_bytes().starts_with(&before.as_bytes()[..common.count()])
                }
                _ => false,
            }
        })
    }

    /// The EOS token, where messages of these roles end with it unless a reply is asked for.
    fn closing(&self, roles: &[Role]) -> Option<String> {
        let messages = marked(roles);
        let closed = self.render(&messages, false).ok()?;
        let asked = self.render(&messages, true).ok()?;
        let eos = self.run.template.eos_token.as_deref().filter(|eos| !eos.is_empty())?;
        let open = closed.strip_suffix(eos)?;
        let only_closes = !asked.starts_with(&closed) && asked.starts_with(open);
        only_closes.then(|| eos.to_owned())
    }
}
