//! What entries remember from one message to the next: sticky, cooldown, matched once.
//!
//! The state is a plain value beside the chat. Effects are counted in messages, and one
//! is dropped if the chat has not grown past the message at which it began, so that a
//! swipe or a deletion takes it back. A cooldown that follows a sticky time is kept
//! even then.
//!
//! Source: SillyTavern, timed effects of `world-info.js`.

use super::Entry;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The running effects of a chat, by entry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TimedState {
    /// Entries that stay active.
    pub sticky: BTreeMap<String, TimedEffect>,
    /// Entries that cannot become active again yet.
    pub cooldown: BTreeMap<String, TimedEffect>,
    /// Entries with a decorator that asks whether they were ever active: the number of
    /// messages at which they first were.
    pub matched: BTreeMap<String, usize>,
}

/// One running effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedEffect {
    /// Tells whether the entry was edited since; then the effect is void.
    pub hash: u64,
    /// Messages in the chat when it began.
    pub start: usize,
    /// Messages in the chat when it ends.
    pub end: usize,
    /// Holds even if the chat does not grow.
    #[serde(default)]
    pub protected: bool,
}

/// An entry as this state knows it.
pub(super) struct Timed<'a> {
    pub(super) key: &'a str,
    pub(super) hash: u64,
    pub(super) sticky: u32,
    pub(super) cooldown: u32,
}

/// The keys of entries that are sticky and on cooldown now.
pub(super) struct Running {
    pub(super) sticky: BTreeSet<String>,
    pub(super) cooldown: BTreeSet<String>,
}

impl TimedState {
    /// Ends what has run out, starts the cooldowns that follow, and tells what runs.
    pub(super) fn begin(&mut self, entries: &[Timed<'_>], messages: usize) -> Running {
        self.matched.retain(|_, start| messages > *start);
        let known: BTreeMap<&str, &Timed> = entries.iter().map(|e| (e.key, e)).collect();
        let mut ended = Vec::new();
        self.sticky.retain(|key, effect| {
            let entry = known.get(key.as_str()).copied();
            let stays = effect.stays(entry, messages) && entry.is_none_or(|e| e.sticky > 0);
            if stays && messages >= effect.end {
                ended.extend(entry);
            }
            stays && messages < effect.end
        });
        for entry in ended {
            if entry.cooldown > 0 {
                let effect = TimedEffect::new(entry, messages, entry.cooldown, true);
                self.cooldown.insert(entry.key.to_owned(), effect);
            }
        }
        self.cooldown.retain(|key, effect| {
            let entry = known.get(key.as_str()).copied();
            let stays = effect.stays(entry, messages) && entry.is_none_or(|e| e.cooldown > 0);
            stays && messages < effect.end
        });
        let running = |effects: &BTreeMap<String, TimedEffect>| {
            effects.keys().filter(|key| known.contains_key(key.as_str())).cloned().collect()
        };
        Running { sticky: running(&self.sticky), cooldown: running(&self.cooldown) }
    }

    /// Starts the effects of an entry that has become active.
    pub(super) fn activated(&mut self, entry: &Timed<'_>, messages: usize) {
        for (effects, duration) in
            [(&mut self.sticky, entry.sticky), (&mut self.cooldown, entry.cooldown)]
        {
            if duration > 0 && !effects.contains_key(entry.key) {
                let effect = TimedEffect::new(entry, messages, duration, false);
                effects.insert(entry.key.to_owned(), effect);
            }
        }
    }
}

impl TimedEffect {
    fn new(entry: &Timed<'_>, messages: usize, duration: u32, protected: bool) -> Self {
        let end = messages.saturating_add(duration as usize);
        TimedEffect { hash: entry.hash, start: messages, end, protected }
    }

    fn stays(&self, entry: Option<&Timed<'_>>, messages: usize) -> bool {
        let edited = entry.is_some_and(|e| e.hash != self.hash);
        !edited && (self.protected || messages > self.start)
    }
}

/// A hash of what an entry says and when: 64-bit FNV-1a.
pub(super) fn hash_of(entry: &Entry) -> u64 {
    let texts = entry.keys.iter().chain(&entry.secondary_keys).chain([&entry.content]);
    texts.fold(crate::macros::fnv1a(&[]), |hash, text| {
        crate::macros::fnv1a_continue(hash, &[text.as_bytes(), b"\0"].concat())
    })
}
