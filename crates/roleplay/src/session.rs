//! A chat between a person and a character, as `troupe chat` and a server hold it.
//!
//! A [`ChatSession`] holds the dialogue tree and decides what each command does to it:
//! a reply is asked for with [`ChatSession::request_reply`] and comes back through
//! [`ChatSession::accept_reply`]; retries stay as swipes, undo forgets nothing. It
//! prints nothing, opens no file and holds no model. A saved session is the dialogue
//! tree with the scene in its meta. Suggestions are in [`crate::suggest`].

use crate::prompt::{Insertion, Shape, SideSettings, StreamCleaner, View, settings_json};
use crate::scene::{Persona, Scene};
use crate::selfplay::seed;
use crate::suggest::{Suggester, Suggestion};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;
use troupe_dialogue::{
    ChatRequest, DialogueTree, Node, NodeId, Origin, Reply, Side, Speaker, StopReason, TreeError,
};

/// How a chat is held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChatSettings {
    /// The same seed and the same words give the same replies. Default 0.
    pub seed: u64,
    /// How often an empty reply is asked for again before `…` stands for it. Default 3.
    pub max_retries: u32,
    /// How the dialogue is laid out as messages.
    pub shape: Shape,
    /// How the character is played.
    pub npc: SideSettings,
    /// How suggestions for the user are made. Default: shorter turns than the NPC's.
    pub user: SideSettings,
}

impl Default for ChatSettings {
    fn default() -> Self {
        ChatSettings {
            seed: 0,
            max_retries: 3,
            shape: Shape::default(),
            npc: SideSettings::default(),
            user: SideSettings::user(),
        }
    }
}

/// A chat in progress.
#[derive(Debug, Clone)]
pub struct ChatSession {
    scene: Scene,
    settings: ChatSettings,
    tree: DialogueTree,
    npc: View,
    user: View,
    insertions: Vec<Insertion>,
    pending: Option<Pending>,
}

/// A reply that was asked for: what it answers, and how often it came back empty.
#[derive(Debug, Clone, Copy)]
struct Pending {
    parent: Option<NodeId>,
    tries: u32,
}

/// What became of a reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// It was said; this is its node and the new head.
    Kept(NodeId),
    /// It was empty; ask this, with another seed.
    TryAgain(Box<ChatRequest>),
    /// It was empty once too often; `…` stands for it, marked in the meta.
    Fallback(NodeId),
    /// It was cancelled before a word was said; nothing changed.
    Nothing,
}

/// Why a command cannot be followed.
#[derive(Debug, Error)]
pub enum SessionError {
    /// A line without a word.
    #[error("there is nothing to say in an empty line")]
    EmptyLine,
    /// A reply nobody asked for.
    #[error("no reply was asked for")]
    NothingPending,
    /// There is no line of the user on the current path.
    #[error("there is nothing to undo")]
    NothingToUndo,
    /// The last text is not the character's.
    #[error("the last line is not {npc}'s: there is no reply to choose from")]
    NotTheirTurn {
        /// The character's name.
        npc: String,
    },
    /// A swipe that does not exist, or a file that is no dialogue.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A dialogue without a usable scene in its meta.
    #[error("the dialogue's `{field}` cannot be used: {reason}")]
    Meta {
        /// Which part of the meta.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl ChatSession {
    /// Opens a chat. The scene's greetings are the swipes of its first text.
    pub fn new(scene: Scene, settings: ChatSettings) -> Self {
        let mut session = Self::from_tree(DialogueTree::new(), scene, settings);
        let greetings: Vec<String> = session.scene.greetings().map(str::to_owned).collect();
        for text in greetings {
            let greeting = session.npc.node(text, Origin::Author, None);
            let id = session.tree.add(greeting);
            session.tree.set_head(session.tree.head().or(Some(id)));
        }
        session
    }

    /// Goes on with any dialogue, in this scene.
    pub fn from_tree(tree: DialogueTree, scene: Scene, settings: ChatSettings) -> Self {
        let npc = View::new(&scene, Side::Npc, &settings.npc, settings.shape);
        let user = View::new(&scene, Side::User, &settings.user, settings.shape);
        let mut session =
            ChatSession { scene, settings, tree, npc, user, insertions: Vec::new(), pending: None };
        session.write_meta();
        session
    }

    /// Reads what [`ChatSession::save`] wrote; a self-play record works too and goes on
    /// with default settings.
    ///
    /// # Errors
    /// A file that is no dialogue, or has no scene; see [`ChatSession::from_tree`].
    pub fn load(json: &str) -> Result<Self, SessionError> {
        let tree = DialogueTree::from_json(json)?;
        let bad = |field| {
            move |error: serde_json::Error| SessionError::Meta { field, reason: error.to_string() }
        };
        let scene = tree.meta.get("scene").cloned().unwrap_or(Value::Null);
        let scene: Scene = serde_json::from_value(scene).map_err(bad("scene"))?;
        let settings = match tree.meta.get("settings").cloned() {
            Some(settings) => serde_json::from_value(settings).map_err(bad("settings"))?,
            None => ChatSettings::default(),
        };
        Ok(Self::from_tree(tree, scene, settings))
    }

    /// The dialogue tree as JSON, with scene and settings in its meta.
    pub fn save(&self) -> String {
        self.tree.to_json()
    }

    /// The dialogue with all its alternatives.
    pub fn tree(&self) -> &DialogueTree {
        &self.tree
    }

    /// The scene.
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// How the chat is held.
    pub fn settings(&self) -> &ChatSettings {
        &self.settings
    }

    /// Changes how the chat is held from here on.
    pub fn set_settings(&mut self, settings: ChatSettings) {
        let (tree, scene) = (std::mem::take(&mut self.tree), self.scene.clone());
        *self = Self::from_tree(tree, scene, settings);
    }

    /// Changes who the user is from here on.
    pub fn set_user(&mut self, user: Persona) {
        self.scene.user = user;
        self.set_settings(self.settings.clone());
    }

    /// Sets what lorebooks and notes add to the character's next prompts. It is not
    /// saved: set it before each request, from the path as it then is.
    pub fn set_insertions(&mut self, insertions: Vec<Insertion>) {
        self.insertions = insertions;
    }

    /// Whether the character is to speak next: after a line of the user, and at the
    /// start of a scene that it opens. A reply can be asked for at any time all the
    /// same; the character then takes another turn.
    pub fn awaits_reply(&self) -> bool {
        match self.head_node() {
            Some(node) => node.speaker != Speaker::Npc,
            None => self.scene.side_at(0) == Side::Npc,
        }
    }

    /// Says a line for the user, as typed.
    ///
    /// # Errors
    /// [`SessionError::EmptyLine`].
    pub fn say(&mut self, line: &str) -> Result<NodeId, SessionError> {
        let line = line.trim();
        if line.is_empty() {
            return Err(SessionError::EmptyLine);
        }
        Ok(self.append(self.user.node(line.to_owned(), Origin::Human, self.tree.head())))
    }

    /// Says a suggested line for the user; it stays known as the model's.
    pub fn say_suggestion(&mut self, suggestion: Suggestion) -> NodeId {
        let node = self.user.node(suggestion.text, Origin::Model, self.tree.head());
        self.append(Node { sample: Some(suggestion.sample), ..node })
    }

    /// Asks for the character's next words. Nothing changes until they are accepted.
    pub fn request_reply(&mut self) -> ChatRequest {
        self.request_after(self.tree.head())
    }

    /// Asks for the character's last words anew; those before stay as a swipe. After a
    /// line of the user, whose reply never came, it asks for that reply.
    pub fn retry(&mut self) -> ChatRequest {
        let parent = match self.head_node() {
            Some(node) if node.speaker == Speaker::Npc => node.parent,
            _ => self.tree.head(),
        };
        self.request_after(parent)
    }

    /// Takes the reply that was asked for; a cancelled one keeps what was said so far.
    ///
    /// # Errors
    /// [`SessionError::NothingPending`], also when something else was done since.
    pub fn accept_reply(&mut self, reply: &Reply) -> Result<Accepted, SessionError> {
        let mut pending = self.pending.take().ok_or(SessionError::NothingPending)?;
        if let Some(spoken) = self.npc.spoken(reply, self.seed(pending.tries), pending.parent) {
            return Ok(Accepted::Kept(self.append(spoken.node)));
        }
        if reply.stop == StopReason::Cancelled {
            return Ok(Accepted::Nothing);
        }
        let is_greedy = self.settings.npc.sampling.is_greedy(); // again would be the same
        if pending.tries < self.settings.max_retries && !is_greedy {
            pending.tries += 1;
            self.pending = Some(pending);
            self.count("empty_replies");
            let seed = self.seed(pending.tries);
            let request = self.request_with_seed(pending.parent, seed);
            return Ok(Accepted::TryAgain(Box::new(request)));
        }
        let id = self.append(self.npc.fallback(pending.parent));
        let fallbacks = self.tree.meta.entry("fallback_nodes").or_insert_with(|| json!([]));
        if let Value::Array(nodes) = fallbacks {
            nodes.push(json!(id));
        }
        Ok(Accepted::Fallback(id))
    }

    /// Shows the `number`-th alternative (from 1) of the character's last words, or of
    /// its greeting.
    ///
    /// # Errors
    /// When the last line is not the character's, or there is no such alternative.
    pub fn swipe(&mut self, number: usize) -> Result<NodeId, SessionError> {
        self.swipes()?;
        let id = self.tree.select_swipe(number)?;
        self.pending = None;
        Ok(id)
    }

    /// Which alternative of the character's last words is shown (from 1), of how many.
    ///
    /// # Errors
    /// When the last line is not the character's.
    pub fn swipes(&self) -> Result<(usize, usize), SessionError> {
        let npc = || SessionError::NotTheirTurn { npc: self.scene.npc.name.clone() };
        let head = self.tree.head().ok_or_else(npc)?;
        if self.tree.node(head).speaker != Speaker::Npc {
            return Err(npc());
        }
        let swipes = self.tree.swipes(head);
        let shown = swipes.iter().position(|&id| id == head).map_or(0, |i| i + 1);
        Ok((shown, swipes.len()))
    }

    /// Takes back the user's last line and all that followed, so that the user can say
    /// something else. Returns how many texts were taken back; they stay in the tree.
    ///
    /// # Errors
    /// [`SessionError::NothingToUndo`] when the user has said nothing.
    pub fn undo(&mut self) -> Result<usize, SessionError> {
        let path = self.tree.path();
        let is_users = |id: &NodeId| self.tree.node(*id).speaker == Speaker::User;
        let at = path.iter().rposition(is_users).ok_or(SessionError::NothingToUndo)?;
        self.tree.set_head(self.tree.node(path[at]).parent);
        self.pending = None;
        Ok(path.len() - at)
    }

    /// Looks for `wanted` next lines for the user; see [`crate::suggest::suggest`].
    pub fn suggester(&self, wanted: usize) -> Suggester {
        Suggester::new(&self.user, &self.tree, self.tree.head(), self.settings.seed, wanted)
    }

    /// Cleans the character's words while they arrive, for showing them.
    pub fn stream_cleaner(&self) -> StreamCleaner {
        self.npc.stream_cleaner()
    }

    fn head_node(&self) -> Option<&Node> {
        self.tree.head().map(|id| self.tree.node(id))
    }

    fn request_after(&mut self, parent: Option<NodeId>) -> ChatRequest {
        self.pending = Some(Pending { parent, tries: 0 });
        self.request_with_seed(parent, self.seed(0))
    }

    fn request_with_seed(&self, parent: Option<NodeId>, seed: u64) -> ChatRequest {
        self.npc.request_with(&self.tree, parent, seed, &self.insertions)
    }

    /// The tree only grows, so each place in a chat has its own seeds.
    fn seed(&self, tries: u32) -> u64 {
        let numbers = [self.tree.nodes().len() as u64, u64::from(tries)];
        seed::derive(self.settings.seed, "chat", &numbers)
    }

    fn append(&mut self, node: Node) -> NodeId {
        let id = self.tree.add(node);
        self.tree.set_head(Some(id));
        self.pending = None;
        id
    }

    fn count(&mut self, what: &str) {
        let before = self.tree.meta.get(what).and_then(Value::as_u64).unwrap_or_default();
        self.tree.meta.insert(what.to_owned(), json!(before + 1));
    }

    fn write_meta(&mut self) {
        self.tree.meta.insert("kind".into(), json!("chat"));
        self.tree.meta.insert("scene".into(), json!(self.scene));
        self.tree.meta.insert("settings".into(), settings_json(&self.settings));
    }
}
