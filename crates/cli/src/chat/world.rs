//! What a chat's prompts get beside the dialogue: lorebook entries and the card's note.
//!
//! A [`World`] keeps the card and the books of a chat and what their entries remember
//! (sticky, cooldown, variables). It goes along in the saved file, so that a chat goes on
//! without the files that it began with.

use chrono::Local;
use rand_core::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use troupe_dialogue::{ChatModel, NodeId, Side, Speaker};
use troupe_roleplay::card::Card;
use troupe_roleplay::lorebook::{
    Activation, Lorebook, MatchTexts, Scan, ScanSettings, TimedState, activate,
};
use troupe_roleplay::macros::{Expander, MacroContext, Variables};
use troupe_roleplay::prompt::{Insertion, Place};
use troupe_roleplay::selfplay::seed::derive;
use troupe_roleplay::session::ChatSession;

/// The key of the saved file's meta.
pub const META: &str = "world";

/// The books of a chat.
#[derive(Default)]
pub struct World {
    card: Option<Card>,
    /// Earlier ones are served first.
    books: Vec<Lorebook>,
    timed: TimedState,
    variables: Variables,
    active: Vec<String>,
    left_out: Vec<String>,
    told: BTreeSet<String>,
}

/// A world as it is saved.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct SavedWorld {
    card: Option<Value>,
    lorebooks: Vec<Value>,
    timed: TimedState,
    variables: Variables,
}

/// What is about to be asked for.
pub struct Moment<'a> {
    /// The chat.
    pub session: &'a ChatSession,
    /// The text after which the character speaks.
    pub end: Option<NodeId>,
    /// SillyTavern's word for it: `normal`, `swipe` or `continue`.
    pub trigger: &'static str,
    /// Who counts tokens.
    pub model: &'a dyn ChatModel,
    /// What the model is called.
    pub model_name: &'a str,
}

impl World {
    /// The world of a card and further books. `variables` are those that the card's texts
    /// have set.
    pub fn new(card: Option<Card>, books: Vec<Lorebook>, variables: Variables) -> Self {
        let mut world = World { variables, ..World::default() };
        if let Some(mut card) = card {
            if let Some(mut book) = card.character_book.take() {
                if book.name.is_empty() {
                    book.name.clone_from(&card.name);
                }
                world.books.push(book);
            }
            card.assets.clear(); // pictures, which no prompt reads
            world.card = Some(card);
        }
        world.books.extend(books);
        world
    }

    /// The world in a saved chat; an empty one where there is none. The error says what
    /// cannot be read.
    pub fn from_meta(meta: Option<&Value>) -> Result<Self, String> {
        let Some(meta) = meta else { return Ok(World::default()) };
        let saved = SavedWorld::deserialize(meta).map_err(|error| error.to_string())?;
        let card = match saved.card {
            Some(card) => Some(Card::from_json(&card.to_string()).map_err(|e| e.to_string())?.0),
            None => None,
        };
        let books = saved.lorebooks.iter().map(|book| {
            Lorebook::from_json(&book.to_string()).map(|(book, _)| book).map_err(|e| e.to_string())
        });
        let books = books.collect::<Result<_, _>>()?;
        let (timed, variables) = (saved.timed, saved.variables);
        Ok(World { card, books, timed, variables, ..World::default() })
    }

    /// The world for a saved chat's meta; none when there is nothing to keep.
    pub fn to_meta(&self) -> Option<Value> {
        if self.card.is_none() && self.books.is_empty() {
            return None;
        }
        let saved = SavedWorld {
            card: self.card.as_ref().map(Card::to_v3_json),
            lorebooks: self.books.iter().map(Lorebook::to_v3_json).collect(),
            timed: self.timed.clone(),
            variables: self.variables.clone(),
        };
        serde_json::to_value(saved).ok()
    }

    /// Adds books to those that are there.
    pub fn add_books(&mut self, books: Vec<Lorebook>) {
        for book in books {
            // The same book given again is its newer edition.
            self.books.retain(|old| old.name != book.name);
            self.books.push(book);
        }
    }

    /// How many entries the books have.
    pub fn entries(&self) -> usize {
        self.books.iter().map(|book| book.entries.len()).sum()
    }

    /// The entries in the last prompt, by name.
    pub fn active(&self) -> &[String] {
        &self.active
    }

    /// The entries that the last prompt had no room for.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// What the next prompt gets. New problems of the books' keys go to `note`, once.
    pub fn insertions(
        &mut self,
        moment: &Moment<'_>,
        note: &mut dyn FnMut(&str),
    ) -> Vec<Insertion> {
        if self.card.is_none() && self.books.is_empty() {
            return Vec::new();
        }
        let context = self.macro_context(moment);
        let numbers = [moment.session.tree().nodes().len() as u64];
        let random = |name| {
            let seed = derive(moment.session.settings().seed, name, &numbers);
            Xoshiro256PlusPlus::seed_from_u64(seed)
        };
        let (mut chance, mut macro_chance) = (random("lorebook"), random("macros"));
        let mut expander = Expander::new(&context, &mut self.variables, &mut macro_chance);
        let activation = scan(
            moment,
            self.card.as_ref(),
            &self.books,
            &mut self.timed,
            &mut chance,
            &mut expander,
        );
        let mut insertions = Insertion::from_activation(&activation);
        if let Some(depth_note) = self.card.as_ref().and_then(Card::depth_prompt) {
            let text = expander.expand(&depth_note.prompt).text;
            insertions.push(Insertion { place: Place::Depth(depth_note.depth as usize), text });
        }
        let label = |book: usize, entry: usize| self.books[book].entries[entry].label();
        self.active = activation.entries.iter().map(|e| label(e.book, e.entry)).collect();
        self.left_out = activation.dropped.iter().map(|entry| entry.label.clone()).collect();
        for problem in activation.problems {
            if self.told.insert(problem.clone()) {
                note(&format!("lorebook: {problem}"));
            }
        }
        insertions
    }

    fn macro_context(&self, moment: &Moment<'_>) -> MacroContext {
        let scene = moment.session.scene();
        let tree = moment.session.tree();
        let user = scene.display_name(Side::User);
        let now = Local::now().fixed_offset();
        let mut context = match &self.card {
            Some(card) => MacroContext::for_card(card, user, now),
            None => MacroContext {
                description: scene.npc.persona.clone(),
                scenario: scene.context.clone(),
                message_examples: scene.npc.example.clone(),
                ..MacroContext::new(&*scene.npc.name, user, now)
            },
        };
        let path = tree.path_to(moment.end);
        let last_of = |speaker: Option<Speaker>| {
            let mut newest = path.iter().rev().map(|&id| tree.node(id));
            let found = newest.find(|node| speaker.is_none_or(|wanted| node.speaker == wanted));
            found.map(|node| node.text.clone()).unwrap_or_default()
        };
        context.persona.clone_from(&scene.user.visible);
        context.last_message = last_of(None);
        context.last_user_message = last_of(Some(Speaker::User));
        context.last_character_message = last_of(Some(Speaker::Npc));
        context.last_message_id = path.len().checked_sub(1);
        context.model = moment.model_name.to_owned();
        context.max_prompt = Some(moment.model.context_tokens());
        context.chat_id = moment.session.settings().seed.to_string();
        context
    }
}

/// Looks for the entries that belong in the prompt.
fn scan(
    moment: &Moment<'_>,
    card: Option<&Card>,
    books: &[Lorebook],
    timed: &mut TimedState,
    chance: &mut Xoshiro256PlusPlus,
    expander: &mut Expander<'_>,
) -> Activation {
    let (session, scene) = (moment.session, moment.session.scene());
    let tree = session.tree();
    let messages = tree.view(Side::Npc, moment.end);
    let settings = ScanSettings::for_context(moment.model.context_tokens());
    // What cannot be counted is taken to be long.
    let count = |text: &str| moment.model.count_tokens(text).unwrap_or(text.len());
    let depth_prompt = card.and_then(Card::depth_prompt).map(|n| n.prompt).unwrap_or_default();
    let texts = MatchTexts {
        persona: &scene.user.visible,
        description: card.map_or(&scene.npc.persona, |card| &card.description),
        personality: card.map_or("", |card| &card.personality),
        depth_prompt: &depth_prompt,
        scenario: &scene.context,
        creator_notes: card.map_or("", |card| &card.creator_notes),
    };
    let path = tree.path_to(moment.end);
    let last_sample = path.iter().rev().find_map(|&id| tree.node(id).sample.as_ref());
    let scan = Scan {
        texts,
        character: card.map_or(&scene.npc.name, |card| &card.name),
        tags: card.map_or(&[], |card| &card.tags),
        trigger: moment.trigger,
        greeting: path.first().and_then(|&opening| greeting_index(session, card, opening)),
        context_full: last_sample.is_some_and(|sample| sample.dropped_messages > 0),
        ..Scan::new(&messages, &settings, &count)
    };
    let books: Vec<&Lorebook> = books.iter().collect();
    activate(&books, &scan, timed, chance, &mut |text| expander.expand(text))
}

/// Which of the card's greetings opened the chat; 0 is `first_mes`.
fn greeting_index(session: &ChatSession, card: Option<&Card>, opening: NodeId) -> Option<u32> {
    let swipes = session.tree().swipes(opening);
    let shown = swipes.iter().position(|&id| id == opening)?;
    if shown >= session.scene().greetings().count() {
        return None; // made by the model
    }
    // Empty greetings are no texts of the tree.
    let numbers: Vec<usize> = match card {
        Some(card) => {
            let greetings = card.greetings().into_iter().enumerate();
            greetings.filter(|(_, text)| !text.trim().is_empty()).map(|(i, _)| i).collect()
        }
        None => (0..=shown).collect(),
    };
    numbers.get(shown).and_then(|&number| u32::try_from(number).ok())
}
