//! Self-play: one model speaks for both sides of many scenes at once.
//!
//! [`play`] keeps a number of dialogues in flight and submits each one's next turn when
//! its last one is done; nothing waits for the slowest. What a dialogue says depends on
//! the run's seed and its own name only (see [`seed`]), never on the scheduling, as
//! long as the model answers the same request the same way. Finished dialogues are
//! handed out and forgotten. It opens no file: the caller writes, and asks [`resume`]
//! what is there already. Read [`dialogue`] for one dialogue's course.

pub mod dialogue;
pub mod seed;
pub mod resume;

pub use dialogue::{PlayedDialogue, SideCounts};
pub use resume::{Progress, read_progress};

use crate::macros::fnv1a;
use crate::prompt::{Shape, SideSettings};
use crate::scene::Scene;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;
use troupe_dialogue::{
    ChatError, ChatModel, DialogueTree, Reply, RequestId, SamplingError, StopReason,
};

/// What the meta of a self-play record has as its `kind`.
pub const RECORD_KIND: &str = "self-play";

/// The settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlaySettings {
    /// Texts of one dialogue, the greeting counted. Default 20.
    pub turns: usize,
    /// How often each scene is played. Default 1.
    pub repeats: u32,
    /// The same seed gives the same dialogues. Default 0.
    pub seed: u64,
    /// Dialogues in flight at most; changes the speed only. Default 8.
    pub parallel: usize,
    /// How often an empty reply is asked for again before `…` stands for it. Default 3.
    pub max_retries: u32,
    /// How dialogues are laid out as messages.
    pub shape: Shape,
    /// How the NPC is played.
    pub npc: SideSettings,
    /// How the user is played. Default: shorter turns than the NPC's.
    pub user: SideSettings,
}

impl Default for PlaySettings {
    fn default() -> Self {
        PlaySettings {
            turns: 20,
            repeats: 1,
            seed: 0,
            parallel: 8,
            max_retries: 3,
            shape: Shape::default(),
            npc: SideSettings::default(),
            user: SideSettings::user(),
        }
    }
}

/// Names one dialogue of a run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialogueKey {
    /// The scene's id.
    pub scene: String,
    /// Which repeat, from 0.
    pub repeat: u32,
}

/// What [`play`] tells its caller.
#[derive(Debug)]
pub enum PlayEvent {
    /// Something moved on.
    Progress(PlayProgress),
    /// A dialogue ended; it is not kept.
    Finished(Box<FinishedDialogue>),
}

/// How far a run is. Counts are of this call, without what was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlayProgress {
    /// Dialogues to be played.
    pub dialogues_total: usize,
    /// Dialogues that are complete.
    pub dialogues_complete: usize,
    /// Dialogues that could not be played to the end.
    pub dialogues_failed: usize,
    /// Texts to be had when nothing fails.
    pub turns_total: usize,
    /// Texts so far, greetings counted.
    pub turns: usize,
    /// Tokens sampled, those of empty replies counted.
    pub tokens: usize,
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// Of those, how many the model had in its cache.
    pub cached_tokens: usize,
}

/// A dialogue that ended.
#[derive(Debug)]
pub struct FinishedDialogue {
    /// Which one.
    pub key: DialogueKey,
    /// What was said, with its record in the meta.
    pub tree: DialogueTree,
    /// Why it ended early, if it did; then the tree holds what was said before.
    pub failure: Option<ChatError>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaySummary {
    /// The last state of the counts.
    pub progress: PlayProgress,
    /// Whether the caller stopped it; dialogues in flight were then given up.
    pub stopped: bool,
}

/// Why a run could not go on.
#[derive(Debug, PartialEq, Error)]
pub enum PlayError {
    /// A count that must be at least one.
    #[error("`{0}` is 0; expected at least 1")]
    Zero(&'static str),
    /// Sampling settings out of range.
    #[error("sampling of the {side}: {source}")]
    Sampling {
        /// `npc` or `user`.
        side: &'static str,
        /// What is wrong.
        source: SamplingError,
    },
    /// Two scenes with one id; their records could not be told apart.
    #[error("two scenes have the id `{0}`")]
    SameId(String),
    /// The model as a whole failed.
    #[error(transparent)]
    Model(#[from] ChatError),
    /// The model has nothing pending, but did not answer everything.
    #[error("the model lost {0} requests")]
    Lost(usize),
}

impl PlaySettings {
    /// Checks every field.
    ///
    /// # Errors
    /// The first one that is out of range.
    pub fn validate(&self) -> Result<(), PlayError> {
        let counts = [
            ("turns", self.turns),
            ("repeats", self.repeats as usize),
            ("parallel", self.parallel),
            ("npc.max_new_tokens", self.npc.max_new_tokens),
            ("user.max_new_tokens", self.user.max_new_tokens),
        ];
        if let Some((name, _)) = counts.into_iter().find(|&(_, count)| count == 0) {
            return Err(PlayError::Zero(name));
        }
        for (side, settings) in [("npc", &self.npc), ("user", &self.user)] {
            let check = settings.sampling.validate();
            check.map_err(|source| PlayError::Sampling { side, source })?;
        }
        Ok(())
    }

    /// A short hash of everything that decides what is said: all but `repeats` and
    /// `parallel`. Records carry it, so that a file is not resumed with other settings
    /// unnoticed.
    pub fn fingerprint(&self) -> String {
        let deciding = PlaySettings { repeats: 0, parallel: 0, ..self.clone() };
        let json = serde_json::to_string(&deciding).expect("settings are plain data");
        format!("{:016x}", fnv1a(json.as_bytes()))
    }
}

/// Plays every scene `repeats` times, except the dialogues in `done`: all scenes once,
/// then all again. Blocks until the end; `stop` ends it early and cleanly. Use a model
/// that nobody else polls: answers to requests of others are dropped.
///
/// # Errors
/// Bad settings, and failures of the model as a whole. A dialogue that fails is
/// handed out with its failure, and the others go on.
pub fn play(
    model: &mut dyn ChatModel,
    scenes: &[Scene],
    settings: &PlaySettings,
    done: &HashSet<DialogueKey>,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(PlayEvent),
) -> Result<PlaySummary, PlayError> {
    settings.validate()?;
    let mut ids = HashSet::new();
    if let Some(scene) = scenes.iter().find(|scene| !ids.insert(&scene.id)) {
        return Err(PlayError::SameId(scene.id.clone()));
    }
    let jobs = (0..settings.repeats).flat_map(|repeat| scenes.iter().map(move |s| (s, repeat)));
    let mut jobs = jobs.filter(|(scene, repeat)| {
        !done.contains(&DialogueKey { scene: scene.id.clone(), repeat: *repeat })
    });
    let dialogues_total = jobs.clone().count();
    let progress = PlayProgress {
        dialogues_total,
        turns_total: dialogues_total * settings.turns,
        ..PlayProgress::default()
    };
    let mut stage = Stage { model, in_flight: HashMap::new(), progress, on_event };
    let stopped = loop {
        if stop.load(Ordering::Relaxed) {
            stage.give_up()?;
            break true;
        }
        while stage.in_flight.len() < settings.parallel
            && let Some((scene, repeat)) = jobs.next()
        {
            stage.begin(PlayedDialogue::new(scene, repeat, settings));
        }
        if stage.in_flight.is_empty() {
            break false;
        }
        stage.step()?;
    };
    Ok(PlaySummary { progress: stage.progress, stopped })
}

/// The dialogues in flight and the model that they wait for.
struct Stage<'a, 'b> {
    model: &'a mut dyn ChatModel,
    in_flight: HashMap<RequestId, PlayedDialogue<'b>>,
    progress: PlayProgress,
    on_event: &'a mut dyn FnMut(PlayEvent),
}

impl<'b> Stage<'_, 'b> {
    fn begin(&mut self, dialogue: PlayedDialogue<'b>) {
        self.progress.turns += dialogue.turns();
        self.go_on(dialogue);
    }

    /// Asks for a dialogue's next turn, or ends it.
    fn go_on(&mut self, dialogue: PlayedDialogue<'b>) {
        if dialogue.is_complete() {
            return self.end(dialogue, None);
        }
        match self.model.submit(dialogue.next_request(), None) {
            Ok(id) => {
                self.in_flight.insert(id, dialogue);
            }
            Err(failure) => self.end(dialogue, Some(failure)),
        }
    }

    fn end(&mut self, dialogue: PlayedDialogue<'b>, failure: Option<ChatError>) {
        let key = dialogue.key().clone();
        let outcome = match &failure {
            None => {
                self.progress.dialogues_complete += 1;
                "complete".to_owned()
            }
            Some(failure) => {
                self.progress.dialogues_failed += 1;
                failure.to_string()
            }
        };
        let tree = dialogue.into_tree(&outcome);
        let finished = FinishedDialogue { key, tree, failure };
        (self.on_event)(PlayEvent::Finished(Box::new(finished)));
        (self.on_event)(PlayEvent::Progress(self.progress));
    }

    /// One poll of the model, and the next turns of the dialogues that it answered.
    fn step(&mut self) -> Result<(), PlayError> {
        let finished = self.model.poll()?;
        if finished.is_empty() && self.model.pending() == 0 {
            return Err(PlayError::Lost(self.in_flight.len()));
        }
        for answer in finished {
            let Some(dialogue) = self.in_flight.remove(&answer.id) else { continue };
            match answer.reply {
                Ok(reply) => self.accept(dialogue, &reply),
                Err(failure) => self.end(dialogue, Some(failure)),
            }
        }
        Ok(())
    }

    fn accept(&mut self, mut dialogue: PlayedDialogue<'b>, reply: &Reply) {
        if reply.stop == StopReason::Cancelled {
            let failure = ChatError::Model("a request was cancelled by another".into());
            return self.end(dialogue, Some(failure));
        }
        let turns_before = dialogue.turns();
        dialogue.accept(reply);
        self.progress.turns += dialogue.turns() - turns_before;
        self.progress.tokens += reply.ids.len();
        self.progress.prompt_tokens += reply.prompt_tokens;
        self.progress.cached_tokens += reply.cached_tokens;
        (self.on_event)(PlayEvent::Progress(self.progress));
        self.go_on(dialogue);
    }

    /// Cancels everything in flight and waits until the model has let go of it.
    fn give_up(&mut self) -> Result<(), PlayError> {
        for &id in self.in_flight.keys() {
            self.model.cancel(id);
        }
        while !self.in_flight.is_empty() && self.model.pending() > 0 {
            for answer in self.model.poll()? {
                self.in_flight.remove(&answer.id);
            }
        }
        Ok(())
    }
}
