//! A dialogue is a tree: one trunk, and at many turns several alternative replies
//! ("swipes"), one of which was kept and continued.
//!
//! Nodes are only ever added; what is current is the `head`, a leaf or an inner node.
//! Undo moves the head up, a swipe moves it to a sibling, so nothing that was said is
//! lost. The same structure holds self-play branches, best-of-n candidates and
//! preference pairs. Saved files are JSON; [`DialogueTree::from_json`] trusts nothing.

use crate::{Message, Role, StopReason};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

/// The format name in saved trees.
pub const FORMAT: &str = "troupe-dialogue";
/// The newest format version that this code reads and the one that it writes.
pub const VERSION: u32 = 1;

/// Names a node of one tree: its place in [`DialogueTree::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u32);

/// One of the two parties that a model can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The character.
    Npc,
    /// The person who talks to the character.
    User,
}

impl Side {
    /// The opposite side.
    pub fn other(self) -> Side {
        match self {
            Side::Npc => Side::User,
            Side::User => Side::Npc,
        }
    }
}

/// Who speaks a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// The character.
    Npc,
    /// The person.
    User,
    /// Scene text that belongs to neither side; a system message in both views.
    Narrator,
}

impl From<Side> for Speaker {
    fn from(side: Side) -> Speaker {
        match side {
            Side::Npc => Speaker::Npc,
            Side::User => Speaker::User,
        }
    }
}

/// Where a text comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Typed by a person.
    Human,
    /// Written by a scene's or card's author: greetings, examples.
    Author,
    /// Sampled from a model.
    Model,
    /// Taken over from a file whose origin is not known.
    Imported,
}

/// How a sampled text came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleInfo {
    /// The request's seed.
    pub seed: u64,
    /// Tokens sampled.
    pub n_tokens: usize,
    /// Sum of log-probabilities under the unmodified model, in nats.
    pub log_prob_sum: f64,
    /// Why the text ended.
    pub stop: StopReason,
    /// Messages that no longer fitted the context and were left out of the prompt.
    pub dropped_messages: usize,
}

/// One text of a dialogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The text that this one answers; none for the opening.
    pub parent: Option<NodeId>,
    /// Who speaks.
    pub speaker: Speaker,
    /// The speaker's display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is said.
    pub text: String,
    /// Where the text comes from.
    pub origin: Origin,
    /// How it was sampled, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<SampleInfo>,
}

/// A dialogue with all its alternatives.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DialogueTree {
    nodes: Vec<Node>,
    head: Option<NodeId>,
    /// What the dialogue is about: scene, model, settings. Kept as it is.
    pub meta: Map<String, Value>,
}

/// Why a saved tree cannot be used, or a move in it cannot be made.
#[derive(Debug, Error)]
pub enum TreeError {
    /// The file is no JSON of this shape.
    #[error("not a saved dialogue: {0}")]
    Json(#[from] serde_json::Error),
    /// Another kind of file.
    #[error("`format` is `{0}`; expected `{FORMAT}`")]
    Format(String),
    /// Written by a newer program.
    #[error("version {0} is newer than the newest known, {VERSION}")]
    Version(u32),
    /// A node that does not come after its parent.
    #[error("node {node}: parent {parent} does not come before it")]
    Parent {
        /// The node's index.
        node: usize,
        /// Its parent's index.
        parent: u32,
    },
    /// A head that is no node.
    #[error("head {head} is not one of the {nodes} nodes")]
    Head {
        /// The head's index.
        head: u32,
        /// How many nodes there are.
        nodes: usize,
    },
    /// A swipe that does not exist.
    #[error("there is no swipe {wanted}: this turn has {available}")]
    NoSwipe {
        /// The number asked for, counted from 1.
        wanted: usize,
        /// How many there are.
        available: usize,
    },
}

#[derive(Serialize, Deserialize)]
struct Saved {
    format: String,
    version: u32,
    #[serde(default)]
    meta: Map<String, Value>,
    head: Option<NodeId>,
    nodes: Vec<Node>,
}

impl DialogueTree {
    /// An empty dialogue.
    pub fn new() -> Self {
        Self::default()
    }

    /// All nodes, parents before children.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The last text of the current path; none in an empty dialogue or when
    /// everything was undone.
    pub fn head(&self) -> Option<NodeId> {
        self.head
    }

    /// The node with this id.
    ///
    /// # Panics
    /// When the id is not of this tree.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Adds a text after the head and makes it the head.
    pub fn say(&mut self, speaker: Speaker, text: impl Into<String>, origin: Origin) -> NodeId {
        let node = Node {
            parent: self.head,
            speaker,
            name: None,
            text: text.into(),
            origin,
            sample: None,
        };
        let id = self.add(node);
        self.head = Some(id);
        id
    }

    /// Adds a node without moving the head.
    ///
    /// # Panics
    /// When its parent is not of this tree.
    pub fn add(&mut self, node: Node) -> NodeId {
        if let Some(NodeId(parent)) = node.parent {
            assert!((parent as usize) < self.nodes.len(), "parent {parent} is not in the tree");
        }
        let id = NodeId(u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes"));
        self.nodes.push(node);
        id
    }

    /// Moves the head to a node of this tree, or before the opening.
    ///
    /// # Panics
    /// When the id is not of this tree.
    pub fn set_head(&mut self, head: Option<NodeId>) {
        if let Some(NodeId(id)) = head {
            assert!((id as usize) < self.nodes.len(), "node {id} is not in the tree");
        }
        self.head = head;
    }

    /// Takes the last text of the path back; it stays in the tree.
    /// Returns what was taken back.
    pub fn undo(&mut self) -> Option<NodeId> {
        let undone = self.head?;
        self.head = self.node(undone).parent;
        Some(undone)
    }

    /// The alternatives of a node, itself among them, in the order of their making:
    /// same parent, same speaker.
    pub fn swipes(&self, id: NodeId) -> Vec<NodeId> {
        let node = self.node(id);
        self.children(node.parent)
            .into_iter()
            .filter(|&c| self.node(c).speaker == node.speaker)
            .collect()
    }

    /// The nodes that answer `parent` (`None`: the openings).
    pub fn children(&self, parent: Option<NodeId>) -> Vec<NodeId> {
        (0..self.nodes.len())
            .filter(|&i| self.nodes[i].parent == parent)
            .map(|i| NodeId(i as u32))
            .collect()
    }

    /// Makes the `number`-th alternative (from 1) of the head the head.
    ///
    /// # Errors
    /// [`TreeError::NoSwipe`] when there is none of that number.
    pub fn select_swipe(&mut self, number: usize) -> Result<NodeId, TreeError> {
        let swipes = self.head.map(|h| self.swipes(h)).unwrap_or_default();
        let chosen = number.checked_sub(1).and_then(|i| swipes.get(i)).copied();
        let chosen =
            chosen.ok_or(TreeError::NoSwipe { wanted: number, available: swipes.len() })?;
        self.head = Some(chosen);
        Ok(chosen)
    }

    /// The texts from the opening to `end`.
    pub fn path_to(&self, end: Option<NodeId>) -> Vec<NodeId> {
        let mut path = Vec::new();
        let mut at = end;
        while let Some(id) = at {
            path.push(id);
            at = self.node(id).parent;
        }
        path.reverse();
        path
    }

    /// The current path, from the opening to the head.
    pub fn path(&self) -> Vec<NodeId> {
        self.path_to(self.head)
    }

    /// The path to `end` as one side sees it: its own words are `assistant`, the
    /// other's `user`, the narrator's `system`.
    pub fn view(&self, side: Side, end: Option<NodeId>) -> Vec<Message> {
        self.path_to(end)
            .into_iter()
            .map(|id| {
                let node = self.node(id);
                let role = match node.speaker {
                    Speaker::Narrator => Role::System,
                    speaker if speaker == Speaker::from(side) => Role::Assistant,
                    _ => Role::User,
                };
                Message { role, content: node.text.clone(), name: node.name.clone() }
            })
            .collect()
    }

    /// The tree as JSON, one line.
    pub fn to_json(&self) -> String {
        let saved = Saved {
            format: FORMAT.into(),
            version: VERSION,
            meta: self.meta.clone(),
            head: self.head,
            nodes: self.nodes.clone(),
        };
        serde_json::to_string(&saved).expect("a dialogue has only string keys and finite numbers")
    }

    /// Reads what [`DialogueTree::to_json`] wrote.
    ///
    /// # Errors
    /// What is wrong with the file, and at which node.
    pub fn from_json(json: &str) -> Result<Self, TreeError> {
        let saved: Saved = serde_json::from_str(json)?;
        if saved.format != FORMAT {
            return Err(TreeError::Format(saved.format));
        }
        if saved.version > VERSION {
            return Err(TreeError::Version(saved.version));
        }
        for (i, node) in saved.nodes.iter().enumerate() {
            if let Some(NodeId(parent)) = node.parent
                && parent as usize >= i
            {
                return Err(TreeError::Parent { node: i, parent });
            }
        }
        if let Some(NodeId(head)) = saved.head
            && head as usize >= saved.nodes.len()
        {
            return Err(TreeError::Head { head, nodes: saved.nodes.len() });
        }
        Ok(DialogueTree { nodes: saved.nodes, head: saved.head, meta: saved.meta })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn small() -> DialogueTree {
        let mut tree = DialogueTree::new();
        tree.say(Speaker::Npc, "hello", Origin::Author);
        tree.say(Speaker::User, "who are you?", Origin::Human);
        tree.say(Speaker::Npc, "nobody", Origin::Model);
        tree.undo();
        tree.say(Speaker::Npc, "the keeper", Origin::Model);
        tree
    }

    #[test]
    fn a_swipe_keeps_the_earlier_reply() {
        let mut tree = small();
        let head = tree.head().unwrap();
        assert_eq!(tree.swipes(head), [NodeId(2), NodeId(3)]);
        tree.select_swipe(1).unwrap();
        assert_eq!(tree.node(tree.head().unwrap()).text, "nobody");
        let error = tree.select_swipe(3).unwrap_err().to_string();
        assert_eq!(error, "there is no swipe 3: this turn has 2");
        assert!(tree.select_swipe(0).is_err());
    }

    #[test]
    fn each_side_sees_its_own_words_as_assistant() {
        let tree = small();
        let roles = |side| {
            let view = tree.view(side, tree.head());
            view.iter().map(|m| m.role).collect::<Vec<_>>()
        };
        assert_eq!(roles(Side::Npc), [Role::Assistant, Role::User, Role::Assistant]);
        assert_eq!(roles(Side::User), [Role::User, Role::Assistant, Role::User]);
    }

    #[test]
    fn undo_reaches_the_empty_dialogue_and_stops() {
        let mut tree = small();
        for _ in 0..3 {
            assert!(tree.undo().is_some());
        }
        assert_eq!((tree.undo(), tree.head(), tree.path().len()), (None, None, 0));
        assert_eq!(tree.nodes().len(), 4);
        assert!(tree.select_swipe(1).is_err());
    }

    #[test]
    fn damaged_files_are_refused_by_place() {
        let error = |json: &str| DialogueTree::from_json(json).unwrap_err().to_string();
        let file = |head: &str, parent: &str| {
            format!(
                r#"{{"format":"troupe-dialogue","version":1,"head":{head},"nodes":[
                {{"parent":{parent},"speaker":"npc","text":"a","origin":"model"}}]}}"#
            )
        };
        assert!(DialogueTree::from_json(&file("0", "null")).is_ok());
        assert_eq!(error(&file("1", "null")), "head 1 is not one of the 1 nodes");
        assert_eq!(error(&file("0", "0")), "node 0: parent 0 does not come before it");
        assert!(error("[]").starts_with("not a saved dialogue"));
        let newer = file("0", "null").replace("\"version\":1", "\"version\":9");
        assert!(error(&newer).contains("newer"));
    }

    proptest! {
        #[test]
        fn saved_trees_come_back_the_same(
            parents in proptest::collection::vec(0usize..20, 0..20),
            texts in proptest::collection::vec(".*", 20),
        ) {
            let mut tree = DialogueTree::new();
            for (i, &p) in parents.iter().enumerate() {
                let parent = (p < i).then_some(NodeId(p as u32));
                tree.set_head(parent);
                let speaker = [Speaker::Npc, Speaker::User, Speaker::Narrator][p % 3];
                tree.say(speaker, texts[i].clone(), Origin::Imported);
            }
            prop_assert_eq!(DialogueTree::from_json(&tree.to_json()).unwrap(), tree);
        }
    }
}
