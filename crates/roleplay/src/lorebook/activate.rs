//! Which entries a prompt gets: SillyTavern's tests in SillyTavern's order, with the
//! decorators of V3 and the settings that a book brings along.
//!
//! One scan is a series of passes. A pass tests every entry that is neither active nor
//! out of the race, settles groups and chance, and serves the winners until the tokens
//! run out; the texts of its winners feed the next, recursive pass.
//!
//! Differences from SillyTavern, each for the sake of the card specifications: a book's
//! own `scan_depth`, `token_budget` and `recursive_scanning` hold for its entries, and
//! `priority` goes before order when tokens are short.
//!
//! Source: SillyTavern, `checkWorldInfo` in `world-info.js`; character card V3.

use super::candidate::{Budget, Candidate, prepare};
use super::groups::{self, Contender};
use super::haystack::{Haystack, MatchTexts};
use super::keys::{KeyMatcher, MatchRules, Searched};
use super::outcome::Activation;
use super::timed::{Timed, TimedState};
use super::{CharacterFilter, Entry, Lorebook, SelectiveLogic};
use crate::macros::{Expansion, unit_interval};
use rand_core::RngCore;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use troupe_dialogue::{Message, Role};

/// A book whose entries wake each other one by one could make one pass per entry, each
/// over all the others; real chains are a few entries long.
const MAX_PASSES: u32 = 100;

/// How books are searched, where neither book nor entry says it.
#[derive(Debug, Clone, PartialEq)]
pub struct ScanSettings {
    /// How many of the newest messages are searched; 0 matches nothing by key.
    pub scan_depth: u32,
    /// Most tokens of all books together; the entry that reaches it is dropped.
    pub budget_tokens: usize,
    /// Whether active entries' texts are searched too.
    pub recursive: bool,
    /// Most passes of a scan; 0 for as many as it takes, up to 100.
    pub max_passes: u32,
    /// Deepens the search message by message until so many entries are active.
    pub min_activations: usize,
    /// How deep that may go; 0 for the whole chat.
    pub min_activations_depth: u32,
    /// Whether keys must match in case.
    pub case_sensitive: bool,
    /// Whether keys of one word must stand alone.
    pub match_whole_words: bool,
    /// Whether more matching keys win an inclusion group.
    pub group_scoring: bool,
    /// Whether speakers' names are part of the searched text.
    pub include_names: bool,
    /// Whether entries of all books are served by order alone; else book by book.
    pub mix_books: bool,
}

impl ScanSettings {
    /// SillyTavern's defaults, with a quarter of the context as budget.
    pub fn for_context(context_tokens: usize) -> Self {
        ScanSettings {
            scan_depth: 2,
            budget_tokens: (context_tokens.saturating_add(2) / 4).max(1),
            recursive: false,
            max_passes: 0,
            min_activations: 0,
            min_activations_depth: 0,
            case_sensitive: false,
            match_whole_words: false,
            group_scoring: false,
            include_names: true,
            mix_books: false,
        }
    }
}

/// What is searched, and what the entries' conditions ask about.
pub struct Scan<'a> {
    /// The chat, oldest first, as the character sees it: its words are `assistant`.
    pub messages: &'a [Message],
    /// Prompts that are searched with the chat, such as an author's note.
    pub prompts: &'a [&'a str],
    /// Texts that only some entries want searched.
    pub texts: MatchTexts<'a>,
    /// The character's name, for filters.
    pub character: &'a str,
    /// The character's tags, for filters.
    pub tags: &'a [String],
    /// What is being generated: `normal`, `continue`, `swipe` and so on.
    pub trigger: &'a str,
    /// The index of the chat's greeting, if it is known.
    pub greeting: Option<u32>,
    /// The name of the user's icon, if there is one.
    pub user_icon: Option<&'a str>,
    /// Whether the context is full already.
    pub context_full: bool,
    /// The settings.
    pub settings: &'a ScanSettings,
    /// How many tokens a text has.
    pub count_tokens: &'a dyn Fn(&str) -> usize,
}

impl<'a> Scan<'a> {
    /// A scan of a chat, with nothing known beside it; set the other fields as needed.
    pub fn new(
        messages: &'a [Message],
        settings: &'a ScanSettings,
        count_tokens: &'a dyn Fn(&str) -> usize,
    ) -> Self {
        Scan {
            messages,
            prompts: &[],
            texts: MatchTexts::default(),
            character: "",
            tags: &[],
            trigger: "normal",
            greeting: None,
            user_icon: None,
            context_full: false,
            settings,
            count_tokens,
        }
    }
}

/// Finds the entries of several books that belong in a prompt, and updates what they
/// remember. Earlier books are served first.
///
/// Chance (group draws, probabilities) is taken from `random`; `expand` replaces macros
/// in keys and texts, as [`crate::macros::Expander`] does.
pub fn activate(
    books: &[&Lorebook],
    scan: &Scan<'_>,
    state: &mut TimedState,
    random: &mut dyn RngCore,
    expand: &mut dyn FnMut(&str) -> Expansion,
) -> Activation {
    let settings = scan.settings;
    let entries = prepare(books, settings);
    let messages = scan.messages.len();
    let timed: Vec<Timed> = entries.iter().map(Candidate::timed).collect();
    let running = state.begin(&timed, messages);
    let mut levels: Vec<u32> = entries.iter().map(|e| e.entry.delay_until_recursion).collect();
    levels.retain(|&level| level > 0);
    levels.sort_unstable_by_key(|&level| Reverse(level));
    levels.dedup(); // the lowest is at the end
    let replies = scan.messages.iter().filter(|m| m.role == Role::Assistant).count();
    let mut search = Search {
        scan,
        books,
        haystack: Haystack::new(scan.messages, settings.include_names, scan.prompts, scan.texts),
        matcher: KeyMatcher::new(expand),
        replies,
        level: levels.pop().unwrap_or(0),
        deeper: 0,
        pass: Pass::First,
    };
    let mut race = Race { out: vec![false; entries.len()], active: Vec::new() };
    let mut result = Activation::default();
    let mut budget = Budget::new(books, settings);
    let max_passes = if settings.max_passes == 0 { MAX_PASSES } else { settings.max_passes };
    for _ in 0..max_passes.min(MAX_PASSES) {
        let mut due: Vec<usize> = Vec::new();
        for (i, candidate) in entries.iter().enumerate() {
            if race.out[i] {
                continue;
            }
            let sticky = running.sticky.contains(&candidate.key);
            let cooling = running.cooldown.contains(&candidate.key);
            if search.is_due(candidate, sticky, cooling, state) {
                due.push(i);
            }
        }
        let is_sticky = |i: &usize| running.sticky.contains(&entries[*i].key);
        due.sort_by_key(|i| (Reverse(is_sticky(i)), entries[*i].served_after()));
        let lost = search.group_losers(&entries, &due, &race.active, &is_sticky, random);
        due.retain(|i| !lost.contains(i));
        let mut woken = false;
        for i in due {
            let candidate = &entries[i];
            race.out[i] = true; // active, unlucky or dropped: not tested again
            let sticky = is_sticky(&i);
            let probability = candidate.entry.probability;
            if !sticky && probability < 100.0 && unit_interval(random) * 100.0 >= probability {
                continue;
            }
            let expansion = search.matcher.expand(candidate.body);
            let text = expansion.text.trim();
            let tokens = if text.is_empty() { 0 } else { (scan.count_tokens)(text) };
            if !budget.admits(candidate, tokens) {
                result.dropped.push(candidate.dropped());
                continue;
            }
            race.active.push(i);
            if !candidate.entry.prevent_recursion {
                woken = true;
                search.haystack.add_recursion(text.to_owned());
                for hidden in &expansion.hidden_keys {
                    search.haystack.add_recursion(hidden.clone());
                }
            }
            result.disabled_prompts.extend(candidate.decorators.disable_ui_prompt);
            if !text.is_empty() {
                result.tokens += tokens;
                result.entries.push(candidate.active(text.to_owned(), tokens, messages));
            }
        }
        let enough = race.active.len() >= settings.min_activations;
        if budget.overflowed || !search.next_pass(woken, &mut levels, enough) {
            break;
        }
    }
    for &i in &race.active {
        state.activated(&timed[i], messages);
        let decorators = &entries[i].decorators;
        if decorators.keep_activate_after_match || decorators.dont_activate_after_match {
            state.matched.entry(entries[i].key.clone()).or_insert(messages);
        }
    }
    result.problems = std::mem::take(&mut search.matcher.problems);
    result.entries.sort_by_key(|e| (e.order, e.book, e.entry));
    result
}

/// Who is out of the race, and who has made it, in that order of events.
struct Race {
    out: Vec<bool>,
    active: Vec<usize>,
}

/// Which kind of pass this is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    First,
    /// Texts of active entries are searched as well.
    Recursive,
    /// Too few were active: older messages are searched.
    Deeper,
}

/// The tests of one scan.
struct Search<'a> {
    scan: &'a Scan<'a>,
    books: &'a [&'a Lorebook],
    haystack: Haystack<'a>,
    matcher: KeyMatcher<'a>,
    /// Messages of the character so far.
    replies: usize,
    /// Entries that wait for recursion are open up to this level.
    level: u32,
    /// How many messages deeper than set.
    deeper: u32,
    pass: Pass,
}

impl Search<'_> {
    /// The tests of one entry, in SillyTavern's order.
    fn is_due(
        &mut self,
        candidate: &Candidate<'_>,
        sticky: bool,
        cooling: bool,
        state: &TimedState,
    ) -> bool {
        let (entry, decorators) = (candidate.entry, &candidate.decorators);
        if !entry.enabled || !self.is_meant(candidate) {
            return false;
        }
        if self.scan.messages.len() < entry.delay as usize || cooling && !sticky {
            return false;
        }
        if self.pass == Pass::Recursive {
            let closed = entry.delay_until_recursion > self.level || entry.exclude_recursion;
            if (closed || !self.is_recursive(candidate.book)) && !sticky {
                return false;
            }
        } else if entry.delay_until_recursion > 0 && !sticky {
            return false;
        }
        if decorators.activate || decorators.dont_activate {
            return decorators.activate;
        }
        if state.matched.contains_key(&candidate.key) {
            if decorators.dont_activate_after_match {
                return false;
            }
            if decorators.keep_activate_after_match {
                return true;
            }
        }
        let replies = self.replies;
        let early = decorators.activate_only_after.is_some_and(|n| replies < n as usize);
        let off_beat =
            decorators.activate_only_every.is_some_and(|n| !replies.is_multiple_of(n as usize));
        if early || off_beat || decorators.ignore_on_max_context && self.scan.context_full {
            return false;
        }
        entry.constant || sticky || self.keys_match(candidate)
    }

    /// Whether the entry is for this character, greeting, icon and kind of generation.
    fn is_meant(&self, candidate: &Candidate<'_>) -> bool {
        let (entry, decorators) = (candidate.entry, &candidate.decorators);
        let differs = |wanted: Option<u32>, is: Option<u32>| {
            wanted.zip(is).is_some_and(|(wanted, is)| wanted != is)
        };
        let icon = decorators.is_user_icon.as_deref().zip(self.scan.user_icon);
        let trigger = self.scan.trigger;
        !differs(decorators.is_greeting, self.scan.greeting)
            && icon.is_none_or(|(wanted, is)| wanted == is)
            && (entry.triggers.is_empty() || entry.triggers.iter().any(|t| t == trigger))
            && entry.character_filter.as_ref().is_none_or(|filter| self.passes(filter))
    }

    fn passes(&self, filter: &CharacterFilter) -> bool {
        let named = filter.names.iter().any(|name| name == self.scan.character);
        let tagged = filter.tags.iter().any(|tag| self.scan.tags.contains(tag));
        (filter.names.is_empty() || named != filter.exclude)
            && (filter.tags.is_empty() || tagged != filter.exclude)
    }

    fn is_recursive(&self, book: usize) -> bool {
        self.books[book].recursive_scanning.unwrap_or(self.scan.settings.recursive)
    }

    fn keys_match(&mut self, candidate: &Candidate<'_>) -> bool {
        let entry = candidate.entry;
        if entry.keys.is_empty() {
            return false;
        }
        let (searched, rules) = self.searched(candidate);
        let matcher = &mut self.matcher;
        let mut matches = |key: &String| matcher.matches(key, &searched, rules);
        let decorators = &candidate.decorators;
        entry.keys.iter().any(&mut matches)
            && secondary_keys_match(entry, &mut matches)
            && decorators.additional_keys.iter().all(|keys| keys.iter().any(&mut matches))
            && !decorators.exclude_keys.iter().any(&mut matches)
    }

    fn searched(&mut self, candidate: &Candidate<'_>) -> (std::rc::Rc<Searched>, MatchRules) {
        let (entry, settings) = (candidate.entry, self.scan.settings);
        let general = self.books[candidate.book].scan_depth.unwrap_or(settings.scan_depth);
        let depth = candidate.decorators.scan_depth.or(entry.scan_depth);
        let depth = depth.unwrap_or(general.saturating_add(self.deeper));
        let recursive = self.pass == Pass::Recursive;
        let rules = MatchRules {
            case_sensitive: entry.case_sensitive.unwrap_or(settings.case_sensitive),
            whole_words: entry.match_whole_words.unwrap_or(settings.match_whole_words),
        };
        (self.haystack.text(depth as usize, entry.match_in, recursive), rules)
    }

    /// Those of the due entries that lose their inclusion groups.
    fn group_losers(
        &mut self,
        entries: &[Candidate<'_>],
        due: &[usize],
        active: &[usize],
        is_sticky: &dyn Fn(&usize) -> bool,
        random: &mut dyn RngCore,
    ) -> BTreeSet<usize> {
        let mut contenders = Vec::new();
        for &id in due {
            let candidate = &entries[id];
            let entry = candidate.entry;
            if entry.groups.is_empty() {
                continue;
            }
            let scored = entry.use_group_scoring.unwrap_or(self.scan.settings.group_scoring);
            contenders.push(Contender {
                id,
                groups: &entry.groups,
                sticky: is_sticky(&id),
                score: scored.then(|| self.score(candidate)),
                wins_by_order: entry.group_override,
                order: entry.order,
                weight: entry.group_weight,
            });
        }
        let taken = active.iter().flat_map(|&i| &entries[i].entry.groups);
        groups::losers(&contenders, &taken.map(String::as_str).collect(), random)
    }

    /// How many keys match; secondary ones where they can add to a match.
    fn score(&mut self, candidate: &Candidate<'_>) -> usize {
        let entry = candidate.entry;
        let (searched, rules) = self.searched(candidate);
        let matcher = &mut self.matcher;
        let mut count = |keys: &[String]| {
            keys.iter().filter(|key| matcher.matches(key, &searched, rules)).count()
        };
        let primary = count(&entry.keys);
        let secondary = if entry.selective { count(&entry.secondary_keys) } else { 0 };
        match entry.logic {
            SelectiveLogic::AndAny => primary + secondary,
            SelectiveLogic::AndAll if secondary == entry.secondary_keys.len() => {
                primary + secondary
            }
            _ => primary,
        }
    }

    /// Prepares the next pass; false when the scan is over.
    fn next_pass(&mut self, woken: bool, levels: &mut Vec<u32>, enough: bool) -> bool {
        let recursive = (0..self.books.len()).any(|book| self.is_recursive(book));
        if recursive && woken {
            self.pass = Pass::Recursive;
            return true;
        }
        if recursive && let Some(level) = levels.pop() {
            self.level = level;
            self.pass = Pass::Recursive;
            return true;
        }
        let settings = self.scan.settings;
        let limit = match settings.min_activations_depth {
            0 => u32::MAX,
            limit => limit,
        };
        let depth = settings.scan_depth.saturating_add(self.deeper);
        if enough || depth >= limit || depth as usize >= self.scan.messages.len() {
            return false;
        }
        self.deeper += 1;
        self.pass = Pass::Deeper;
        true
    }
}

fn secondary_keys_match(entry: &Entry, matches: &mut dyn FnMut(&String) -> bool) -> bool {
    let keys = &entry.secondary_keys;
    if !entry.selective || keys.is_empty() {
        return true;
    }
    match entry.logic {
        SelectiveLogic::AndAny => keys.iter().any(matches),
        SelectiveLogic::NotAll => !keys.iter().all(matches),
        SelectiveLogic::NotAny => !keys.iter().any(matches),
        SelectiveLogic::AndAll => keys.iter().all(matches),
    }
}
