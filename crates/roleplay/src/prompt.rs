//! What a model is shown when it plays one side of a scene.
//!
//! A [`View`] is one side's eyes: its system text, the dialogue in which its own words
//! are the assistant's and the other's the user's, the stop strings that keep it from
//! speaking for the other, and the cleaning of what it answers. It holds no dialogue
//! and sends nothing. The wording is in `prompt/wording.rs`, the cleaning in
//! `prompt/clean.rs`; [`crate::selfplay`] and [`crate::session`] drive it.

mod wording;
mod clean;

pub use clean::{StreamCleaner, clean_reply, shorten};

use crate::lorebook::{Activation, Position};
use crate::scene::{Lang, Scene};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use troupe_dialogue::{
    ChatRequest, DialogueTree, Message, Node, NodeId, Origin, Prompt, Reply, Role, SampleInfo,
    Sampling, Side, Speaker,
};
use wording::Part;

/// Stands where a side said nothing, again and again; recorded with
/// [`Origin::Author`], because no model said it.
pub const FALLBACK_TEXT: &str = "…";

/// How one side is played.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SideSettings {
    /// How tokens are drawn. Default: temperature 0.9, min-p 0.05, and a light
    /// repetition penalty, because long self-play of small models falls into loops.
    pub sampling: Sampling,
    /// A turn ends after this many tokens. Default 200: two to four sentences have
    /// room in Chinese too.
    pub max_new_tokens: usize,
    /// The length that the system text asks for.
    pub reply_length: ReplyLength,
}

impl Default for SideSettings {
    fn default() -> Self {
        let sampling = Sampling {
            temperature: 0.9,
            min_p: 0.05,
            repetition_penalty: 1.05,
            repetition_range: 256,
            ..Sampling::default()
        };
        SideSettings { sampling, max_new_tokens: 200, reply_length: ReplyLength::Medium }
    }
}

impl SideSettings {
    /// The default for the user's side: shorter turns, as people type.
    pub fn user() -> Self {
        SideSettings { reply_length: ReplyLength::Short, ..Self::default() }
    }
}

/// How long a turn should be, in the words of the system text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplyLength {
    /// One or two short sentences.
    Short,
    /// Two to four sentences.
    #[default]
    Medium,
    /// One or two paragraphs.
    Long,
}

/// How a dialogue is laid out as messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// User and assistant alternate strictly, user first, with one system message: the
    /// form that every chat template takes. The other side's consecutive turns and the
    /// narrator's become one user message; a side that opens, or speaks again after
    /// itself, is asked to by a short cue in the user's place.
    #[default]
    Alternating,
    /// Each text is one message and nothing is added; narration and closing
    /// instructions are system messages. Strict templates refuse some of these.
    Plain,
}

/// A text that enters one prompt and is no part of the dialogue: an entry of a
/// lorebook, a card's note at a depth. Given anew for each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insertion {
    /// Where it goes.
    pub place: Place,
    /// What it says, macros already expanded.
    pub text: String,
}

/// Where an [`Insertion`] goes. Those of one place keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the system text, before what the side is told about itself.
    BeforePersona,
    /// In the system text, after what the side is told about itself.
    AfterPersona,
    /// In the system text, before the examples.
    BeforeExamples,
    /// In the system text, after the examples and before the rules.
    AfterExamples,
    /// In the dialogue, as narration, before its newest so many texts; 0 is the end.
    Depth(usize),
}

impl Insertion {
    /// The texts of active lorebook entries. Those that belong to the personality or
    /// the scenario stand next to them, those around an author's note at its usual
    /// depth of 4, and all speak as narration; outlets are for macros and left out.
    pub fn from_activation(activation: &Activation) -> Vec<Insertion> {
        let insertions = activation.entries.iter().filter_map(|entry| {
            let place = match &entry.position {
                Position::BeforeCharacter => Place::BeforePersona,
                Position::AfterCharacter | Position::Personality => Place::AfterPersona,
                Position::Scenario | Position::BeforeExamples => Place::BeforeExamples,
                Position::AfterExamples => Place::AfterExamples,
                Position::NoteTop | Position::NoteBottom => Place::Depth(4),
                Position::AtDepth { depth, .. } => Place::Depth(*depth as usize),
                Position::Outlet(_) => return None,
            };
            Some(Insertion { place, text: entry.text.clone() })
        });
        insertions.collect()
    }
}

/// One side's view of a scene.
#[derive(Debug, Clone)]
pub struct View {
    side: Side,
    lang: Lang,
    shape: Shape,
    system: Vec<(Part, String)>,
    post_history: String,
    own_names: Vec<String>,
    other_names: Vec<String>,
    stop: Vec<String>,
    max_characters: Option<usize>,
    settings: SideSettings,
}

/// A reply made into a node of the dialogue.
#[derive(Debug, Clone, PartialEq)]
pub struct Spoken {
    /// The node, not yet in a tree.
    pub node: Node,
    /// Whether the text was longer than the scene allows and was cut.
    pub shortened: bool,
}

impl View {
    /// The view of one side.
    pub fn new(scene: &Scene, side: Side, settings: &SideSettings, shape: Shape) -> View {
        let names_of = |side: Side| {
            let name = scene.display_name(side);
            // What models call the user whatever its name is.
            let generic: &[&str] = if side == Side::User { &["User", "用户"] } else { &[] };
            let others = generic.iter().copied().filter(|&other| other != name);
            std::iter::once(name).chain(others).map(str::to_owned).collect::<Vec<_>>()
        };
        let own_names = names_of(side);
        let mut other_names = names_of(side.other());
        let is_own = |name: &String| own_names.iter().any(|own| own.eq_ignore_ascii_case(name));
        other_names.retain(|name| !is_own(name)); // namesakes cannot be told apart
        let labels = other_names.iter().flat_map(|n| [format!("\n{n}:"), format!("\n{n}：")]);
        let stop = labels.collect();
        let post_history = match side {
            Side::Npc => scene.post_history.clone(),
            Side::User => String::new(),
        };
        View {
            side,
            lang: scene.lang,
            shape,
            system: wording::system_parts(scene, side, settings.reply_length),
            post_history,
            own_names,
            other_names,
            stop,
            max_characters: scene.turns.max_characters,
            settings: settings.clone(),
        }
    }

    /// Whose view this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The first message: who the side is, what it knows, how it is to answer.
    pub fn system_text(&self) -> String {
        self.system_text_with(&[])
    }

    /// How the side is played.
    pub fn settings(&self) -> &SideSettings {
        &self.settings
    }

    /// Where a reply must end: the other side's names at the start of a line, followed
    /// by an ASCII or a full-width colon.
    pub fn stop_strings(&self) -> &[String] {
        &self.stop
    }

    /// The messages after which this side speaks next: the system text, then the path
    /// to `end`. What this side was shown at one turn comes first at its next one,
    /// closing instructions aside, so that an engine can keep what it has computed.
    pub fn messages(&self, tree: &DialogueTree, end: Option<NodeId>) -> Vec<Message> {
        self.messages_with(tree, end, &[])
    }

    /// As [`View::messages`], with texts that are no part of the dialogue.
    pub fn messages_with(
        &self,
        tree: &DialogueTree,
        end: Option<NodeId>,
        insertions: &[Insertion],
    ) -> Vec<Message> {
        let mut messages = vec![Message::system(self.system_text_with(insertions))];
        let path = tree.path_to(end);
        for (i, &id) in path.iter().enumerate() {
            self.narrate(&mut messages, insertions, |depth| {
                depth.min(path.len()) == path.len() - i
            });
            let node = tree.node(id);
            match (self.shape, node.speaker) {
                (_, Speaker::Narrator) => self.add_narration(&mut messages, &node.text),
                (Shape::Plain, speaker) if speaker == Speaker::from(self.side) => {
                    messages.push(Message::assistant(&*node.text));
                }
                (Shape::Plain, _) => messages.push(Message::user(&*node.text)),
                (Shape::Alternating, speaker) if speaker == Speaker::from(self.side) => {
                    self.ask_if_needed(&mut messages);
                    messages.push(Message::assistant(&*node.text));
                }
                (Shape::Alternating, _) => add_user_text(&mut messages, &node.text),
            }
        }
        self.narrate(&mut messages, insertions, |depth| depth.min(path.len()) == 0);
        if self.shape == Shape::Alternating {
            self.ask_if_needed(&mut messages);
        }
        if !self.post_history.is_empty() {
            self.add_narration(&mut messages, &self.post_history);
        }
        messages
    }

    /// The request for this side's next words after `end`.
    pub fn request(&self, tree: &DialogueTree, end: Option<NodeId>, seed: u64) -> ChatRequest {
        self.request_with(tree, end, seed, &[])
    }

    /// As [`View::request`], with texts that are no part of the dialogue.
    pub fn request_with(
        &self,
        tree: &DialogueTree,
        end: Option<NodeId>,
        seed: u64,
        insertions: &[Insertion],
    ) -> ChatRequest {
        ChatRequest {
            prompt: Prompt::Messages(self.messages_with(tree, end, insertions)),
            sampling: self.settings.sampling.clone(),
            max_new_tokens: self.settings.max_new_tokens,
            stop: self.stop.clone(),
            seed,
            ignore_eos: false,
        }
    }

    /// The reply as this side's words after `parent`; `None` when nothing is left after
    /// cleaning, which is for the caller to handle.
    #[must_use]
    pub fn spoken(&self, reply: &Reply, seed: u64, parent: Option<NodeId>) -> Option<Spoken> {
        let text = self.clean(&reply.text)?;
        let short = self.max_characters.and_then(|max| shorten(&text, max));
        let shortened = short.is_some();
        let sample = SampleInfo {
            seed,
            n_tokens: reply.ids.len(),
            log_prob_sum: reply.log_prob_sum(),
            stop: reply.stop,
            dropped_messages: reply.dropped_messages,
        };
        let text = short.unwrap_or(text);
        let node = Node { sample: Some(sample), ..self.node(text, Origin::Model, parent) };
        Some(Spoken { node, shortened })
    }

    /// The visible stand-in for a side that said nothing.
    pub fn fallback(&self, parent: Option<NodeId>) -> Node {
        self.node(FALLBACK_TEXT.to_owned(), Origin::Author, parent)
    }

    /// Words of this side that were not sampled: a greeting, a typed line.
    pub fn node(&self, text: String, origin: Origin, parent: Option<NodeId>) -> Node {
        let name = self.own_names.first().cloned();
        Node { parent, speaker: self.side.into(), name, text, origin, sample: None }
    }

    /// The text without this side's label and without the other side's part; see
    /// [`clean_reply`].
    #[must_use]
    pub fn clean(&self, text: &str) -> Option<String> {
        clean_reply(text, &self.own_names, &self.other_names)
    }

    /// Cleans this side's reply while it arrives.
    pub fn stream_cleaner(&self) -> StreamCleaner {
        StreamCleaner::new(self.own_names.iter().cloned())
    }

    fn system_text_with(&self, insertions: &[Insertion]) -> String {
        let part = |place| match place {
            Place::BeforePersona => Some((Part::About, 0)),
            Place::AfterPersona => Some((Part::About, 2)),
            Place::BeforeExamples => Some((Part::Example, 0)),
            Place::AfterExamples => Some((Part::Example, 2)),
            Place::Depth(_) => None,
        };
        let own = self.system.iter().map(|(part, text)| ((*part, 1), text));
        let inserted = insertions.iter().filter_map(|i| Some((part(i.place)?, &i.text)));
        let mut parts: Vec<_> = own.chain(inserted).collect();
        parts.sort_by_key(|&(place, _)| place); // stable
        parts.into_iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n\n")
    }

    fn narrate(
        &self,
        messages: &mut Vec<Message>,
        insertions: &[Insertion],
        is_here: impl Fn(usize) -> bool,
    ) {
        for insertion in insertions {
            if matches!(insertion.place, Place::Depth(depth) if is_here(depth)) {
                self.add_narration(messages, &insertion.text);
            }
        }
    }

    fn add_narration(&self, messages: &mut Vec<Message>, text: &str) {
        match self.shape {
            Shape::Plain => messages.push(Message::system(text)),
            Shape::Alternating => add_user_text(messages, &wording::narration(self.lang, text)),
        }
    }

    /// Puts a cue where this side is about to speak and nobody has spoken to it.
    fn ask_if_needed(&self, messages: &mut Vec<Message>) {
        let cue = match messages.last().map(|message| message.role) {
            Some(Role::User) => return,
            Some(Role::Assistant) => wording::continue_cue(self.lang),
            _ => wording::opening_cue(self.lang),
        };
        messages.push(Message::user(cue));
    }
}

/// Settings as JSON with the numbers as they were written: 0.9, not 0.8999999761581421.
pub(crate) fn settings_json(settings: &impl Serialize) -> Value {
    let json = serde_json::to_string(settings).expect("settings are plain data");
    serde_json::from_str(&json).expect("what was just written")
}

/// Adds to the user message at the end, or begins one.
fn add_user_text(messages: &mut Vec<Message>, text: &str) {
    match messages.last_mut() {
        Some(last) if last.role == Role::User => {
            last.content.push_str("\n\n");
            last.content.push_str(text);
        }
        _ => messages.push(Message::user(text)),
    }
}
