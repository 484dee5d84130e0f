//! A few different next lines for the user.
//!
//! Lines are sampled from the user's view with distinct seeds; one that says nothing,
//! or nearly what another or the user already said, is thrown away and asked for again
//! with a new seed, a bounded number of times. It returns fewer rather than repeat
//! itself. [`Suggester`] holds no model, so that a server can run it beside chats;
//! [`suggest`] drives it to the end.

use crate::prompt::View;
use crate::scene::is_han;
use crate::selfplay::seed;
use std::collections::HashMap;
use troupe_dialogue::{
    ChatError, ChatModel, ChatRequest, DialogueTree, NodeId, Reply, SampleInfo, Speaker,
    complete_all,
};

/// Two lines that share this much of their word or character pairs are one suggestion.
pub const MAX_OVERLAP: f64 = 0.6;
/// Requests per wanted line, at most.
pub const REQUESTS_PER_LINE: usize = 4;

/// One next line.
#[derive(Debug, Clone, PartialEq)]
pub struct Suggestion {
    /// What the user could say.
    pub text: String,
    /// How it was sampled.
    pub sample: SampleInfo,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Suggestions {
    /// The lines, all different; fewer than wanted when the model repeats itself.
    pub lines: Vec<Suggestion>,
    /// Requests made.
    pub asked: usize,
    /// Replies thrown away because they were nearly said already.
    pub duplicates: usize,
    /// Replies without a word in them.
    pub empty: usize,
}

/// Collects lines, wave by wave.
#[derive(Debug, Clone)]
pub struct Suggester {
    view: View,
    request: ChatRequest,
    parent: Option<NodeId>,
    run_seed: u64,
    turn: u64,
    wanted: usize,
    waiting: Vec<u64>,
    said: Vec<Pairs>,
    found: Suggestions,
}

/// Runs a suggester to its end. Use a model that nobody else polls meanwhile.
///
/// # Errors
/// The first failure of the model; its other requests are then cancelled.
pub fn suggest(
    model: &mut dyn ChatModel,
    mut suggester: Suggester,
) -> Result<Suggestions, ChatError> {
    loop {
        let wave = suggester.next_wave();
        if wave.is_empty() {
            return Ok(suggester.finish());
        }
        let replies = complete_all(model, wave)?;
        suggester.offer(&replies);
    }
}

/// Whether two lines say nearly the same: equal but for case, spaces and punctuation,
/// or sharing at least [`MAX_OVERLAP`] of their pairs of neighbours (Dice). Neighbours
/// are words, and single characters where the writing is Chinese.
pub fn near_duplicate(a: &str, b: &str) -> bool {
    Pairs::of(a).is_near(&Pairs::of(b))
}

impl Suggester {
    /// Will look for `wanted` lines that follow `end` in the user's view; `run_seed` and
    /// the number of texts in the tree decide the seeds.
    pub fn new(
        view: &View,
        tree: &DialogueTree,
        end: Option<NodeId>,
        run_seed: u64,
        wanted: usize,
    ) -> Self {
        let own = Speaker::from(view.side());
        let said = tree.path_to(end).into_iter().map(|id| tree.node(id));
        let said = said.filter(|node| node.speaker == own).map(|node| Pairs::of(&node.text));
        Suggester {
            view: view.clone(),
            request: view.request(tree, end, 0),
            parent: end,
            run_seed,
            turn: tree.nodes().len() as u64,
            wanted,
            waiting: Vec::new(),
            said: said.collect(),
            found: Suggestions::default(),
        }
    }

    /// The requests to be answered next; none when enough was found or asked. A wave
    /// that was not answered is given again.
    pub fn next_wave(&mut self) -> Vec<ChatRequest> {
        if self.waiting.is_empty() {
            let missing = self.wanted.saturating_sub(self.found.lines.len());
            let most = self.wanted.saturating_mul(REQUESTS_PER_LINE);
            let first = self.found.asked;
            let count = missing.min(most.saturating_sub(first));
            let numbers = (first..first + count).map(|n| [self.turn, n as u64]);
            let seeds = numbers.map(|numbers| seed::derive(self.run_seed, "suggest", &numbers));
            self.waiting = seeds.collect();
            self.found.asked += count;
        }
        let requests = self.waiting.iter();
        requests.map(|&seed| ChatRequest { seed, ..self.request.clone() }).collect()
    }

    /// Takes the answers to the last wave, in its order.
    pub fn offer(&mut self, replies: &[Reply]) {
        for (seed, reply) in std::mem::take(&mut self.waiting).into_iter().zip(replies) {
            let spoken = self.view.spoken(reply, seed, self.parent);
            let line = spoken.and_then(|s| Some((s.node.text, s.node.sample?)));
            let Some((text, sample)) = line else {
                self.found.empty += 1;
                continue;
            };
            let pairs = Pairs::of(&text);
            if pairs.plain.is_empty() {
                self.found.empty += 1;
            } else if self.said.iter().any(|said| said.is_near(&pairs)) {
                self.found.duplicates += 1;
            } else {
                self.said.push(pairs);
                self.found.lines.push(Suggestion { text, sample });
            }
        }
    }

    /// What was found.
    pub fn finish(self) -> Suggestions {
        self.found
    }
}

/// A line without case, spaces and punctuation, and its pairs of neighbours, counted.
#[derive(Debug, Clone)]
struct Pairs {
    plain: String,
    counts: HashMap<(String, String), usize>,
    total: usize,
}

impl Pairs {
    fn of(text: &str) -> Pairs {
        let words = words(text);
        let mut counts = HashMap::new();
        for pair in words.windows(2) {
            *counts.entry((pair[0].clone(), pair[1].clone())).or_default() += 1;
        }
        Pairs { plain: words.concat(), counts, total: words.len().saturating_sub(1) }
    }

    fn is_near(&self, other: &Pairs) -> bool {
        if self.plain == other.plain {
            return true;
        }
        let both = self
            .counts
            .iter()
            .map(|(pair, &n)| n.min(other.counts.get(pair).copied().unwrap_or_default()));
        let total = (self.total + other.total) as f64;
        total > 0.0 && 2.0 * both.sum::<usize>() as f64 / total >= MAX_OVERLAP
    }
}

/// Lower-case words; a Han character is a word.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        if is_han(c) {
            words.extend([std::mem::take(&mut word), c.to_string()]);
        } else if c.is_alphanumeric() {
            word.push(c);
        } else if c != '\'' && c != '’' {
            words.push(std::mem::take(&mut word));
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn near_duplicates_by_hand() {
        assert!(near_duplicate("I don't know!", "i don’t know"));
        // 5 pairs each, 3 shared: 2 x 3 / 10 = 0.6.
        assert!(near_duplicate("I don't know what you mean", "I don't know what that means"));
        assert!(!near_duplicate("Who are you?", "Who is there?"));
        assert!(!near_duplicate("Where is the lamp?", "Tell me about your brother."));
        // 4 and 5 pairs, 4 shared: 8 / 9.
        assert!(near_duplicate("这本书多少钱？", "那这本书多少钱"));
        // 4 and 5 pairs, none shared.
        assert!(!near_duplicate("你还记得我", "这箱书还能救吗"));
    }

    proptest! {
        #[test]
        fn near_is_reflexive_and_symmetric(a in "[a-d 灯塔书]{0,12}", b in "[a-d 灯塔书]{0,12}") {
            prop_assert!(near_duplicate(&a, &a));
            prop_assert_eq!(near_duplicate(&a, &b), near_duplicate(&b, &a));
        }
    }
}
