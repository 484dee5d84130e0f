//! One dialogue of a self-play run, between its replies.
//!
//! A [`PlayedDialogue`] knows what to ask next and what to do with the answer; it never
//! touches the model, so that a hundred of them can wait side by side. It grows one
//! node a turn and keeps nothing else. What it records is described at [`SideCounts`]
//! and in [`PlayedDialogue::into_tree`].

use super::{DialogueKey, PlaySettings, seed};
use crate::prompt::{View, settings_json};
use crate::scene::Scene;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use troupe_dialogue::{ChatRequest, DialogueTree, NodeId, Origin, Reply, Side, StopReason};

/// What happened to one side in one dialogue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SideCounts {
    /// Texts of this side, greeting and fallbacks among them.
    pub turns: usize,
    /// Tokens sampled, those of empty replies among them.
    pub tokens: usize,
    /// Empty replies that were asked for again with another seed.
    pub retries: usize,
    /// Turns at which every reply was empty and `…` stands instead.
    pub fallbacks: usize,
    /// Turns that were longer than the scene allows.
    pub shortened: usize,
    /// Most messages that were left out of one of this side's prompts, because its
    /// view no longer fitted the context.
    pub dropped_messages: usize,
    /// How the kept replies ended, by [`StopReason`] as it is written in JSON.
    pub stops: BTreeMap<String, usize>,
}

/// A dialogue that is being played.
pub struct PlayedDialogue<'a> {
    scene: &'a Scene,
    settings: &'a PlaySettings,
    key: DialogueKey,
    views: [View; 2],
    counts: [SideCounts; 2],
    tree: DialogueTree,
    fallback_nodes: Vec<NodeId>,
    retry: u32,
}

impl<'a> PlayedDialogue<'a> {
    /// Opens the scene; repeat `r` begins with greeting `r` modulo their number.
    pub fn new(scene: &'a Scene, repeat: u32, settings: &'a PlaySettings) -> Self {
        let npc = View::new(scene, Side::Npc, &settings.npc, settings.shape);
        let user = View::new(scene, Side::User, &settings.user, settings.shape);
        let mut dialogue = PlayedDialogue {
            scene,
            settings,
            key: DialogueKey { scene: scene.id.clone(), repeat },
            views: [npc, user],
            counts: Default::default(),
            tree: DialogueTree::new(),
            fallback_nodes: Vec::new(),
            retry: 0,
        };
        let greetings: Vec<&str> = scene.greetings().collect();
        if !greetings.is_empty() {
            let text = greetings[repeat as usize % greetings.len()].to_owned();
            let greeting = dialogue.views[0].node(text, Origin::Author, None);
            let id = dialogue.tree.add(greeting);
            dialogue.tree.set_head(Some(id));
            dialogue.counts[0].turns += 1;
        }
        dialogue
    }

    /// Which dialogue this is.
    pub fn key(&self) -> &DialogueKey {
        &self.key
    }

    /// Texts so far.
    pub fn turns(&self) -> usize {
        self.tree.nodes().len()
    }

    /// Whether every turn was played.
    pub fn is_complete(&self) -> bool {
        self.turns() >= self.settings.turns
    }

    /// The request for the next text.
    pub fn next_request(&self) -> ChatRequest {
        self.view().request(&self.tree, self.tree.head(), self.seed())
    }

    /// Takes the answer to [`PlayedDialogue::next_request`]. An empty one leaves the
    /// turn open for another try with another seed, until the tries are used up.
    pub fn accept(&mut self, reply: &Reply) {
        let spoken = self.view().spoken(reply, self.seed(), self.tree.head());
        let is_greedy = self.view().settings().sampling.is_greedy(); // again would be the same
        let side = self.side_index();
        let counts = &mut self.counts[side];
        counts.tokens += reply.ids.len();
        counts.dropped_messages = counts.dropped_messages.max(reply.dropped_messages);
        let node = match spoken {
            Some(spoken) => {
                counts.shortened += usize::from(spoken.shortened);
                *counts.stops.entry(stop_name(reply.stop)).or_default() += 1;
                spoken.node
            }
            None if self.retry < self.settings.max_retries && !is_greedy => {
                counts.retries += 1;
                self.retry += 1;
                return;
            }
            None => {
                counts.fallbacks += 1;
                self.fallback_nodes.push(NodeId(self.tree.nodes().len() as u32));
                self.views[side].fallback(self.tree.head())
            }
        };
        self.counts[side].turns += 1;
        let id = self.tree.add(node);
        self.tree.set_head(Some(id));
        self.retry = 0;
    }

    /// The dialogue as it is kept, with what it was made of in its meta: `kind`
    /// (`self-play`), `outcome`, the whole `scene`, `repeat`, `seed`, `turns`, `run`
    /// ([`PlaySettings::fingerprint`]), `shape`, `sides` (per side: name, system text,
    /// sampling, counts), and `fallback_nodes` if there are any.
    pub fn into_tree(mut self, outcome: &str) -> DialogueTree {
        let mut sides = Map::new();
        for (view, counts) in self.views.iter().zip(&self.counts) {
            let side = json!(view.side());
            let mut record = settings_json(view.settings());
            record["name"] = json!(self.scene.display_name(view.side()));
            record["system"] = json!(view.system_text());
            record["counts"] = json!(counts);
            sides.insert(side.as_str().unwrap_or_default().to_owned(), record);
        }
        let meta = &mut self.tree.meta;
        meta.insert("kind".into(), json!(super::RECORD_KIND));
        meta.insert("outcome".into(), json!(outcome));
        meta.insert("scene".into(), json!(self.scene));
        meta.insert("repeat".into(), json!(self.key.repeat));
        meta.insert("seed".into(), json!(self.settings.seed));
        meta.insert("turns".into(), json!(self.settings.turns));
        meta.insert("run".into(), json!(self.settings.fingerprint()));
        meta.insert("shape".into(), json!(self.settings.shape));
        meta.insert("sides".into(), Value::Object(sides));
        if !self.fallback_nodes.is_empty() {
            meta.insert("fallback_nodes".into(), json!(self.fallback_nodes));
        }
        self.tree
    }

    fn side_index(&self) -> usize {
        match self.scene.side_at(self.turns()) {
            Side::Npc => 0,
            Side::User => 1,
        }
    }

    fn view(&self) -> &View {
        &self.views[self.side_index()]
    }

    fn seed(&self) -> u64 {
        let numbers = [u64::from(self.key.repeat), self.turns() as u64, u64::from(self.retry)];
        seed::derive(self.settings.seed, &self.key.scene, &numbers)
    }
}

fn stop_name(stop: StopReason) -> String {
    json!(stop).as_str().unwrap_or_default().to_owned()
}
