//! Entries on their way into a prompt, and the tokens that they compete for.

use super::activate::ScanSettings;
use super::decorators::Decorators;
use super::outcome::{ActiveEntry, DroppedEntry};
use super::timed::{Timed, hash_of};
use super::{Entry, Lorebook, Position};
use std::cmp::Reverse;
use troupe_dialogue::Role;

/// An entry, ready to be tested.
pub(super) struct Candidate<'a> {
    pub(super) book: usize,
    pub(super) index: usize,
    pub(super) entry: &'a Entry,
    pub(super) decorators: Decorators,
    pub(super) body: &'a str,
    /// Names the entry in the [`TimedState`].
    pub(super) key: String,
    pub(super) hash: u64,
}

/// The entries of all books in the order in which they are tested: highest first.
pub(super) fn prepare<'a>(books: &[&'a Lorebook], settings: &ScanSettings) -> Vec<Candidate<'a>> {
    let mut entries = Vec::new();
    for (b, book) in books.iter().enumerate() {
        for (index, entry) in book.entries.iter().enumerate() {
            let (decorators, body) = entry.decorated();
            let id = entry.id.as_ref().map_or_else(|| format!("#{index}"), ToString::to_string);
            let key = format!("{}.{id}", book.name);
            let hash = hash_of(entry);
            entries.push(Candidate { book: b, index, entry, decorators, body, key, hash });
        }
    }
    if settings.mix_books {
        entries.sort_by_key(|e| Reverse(e.entry.order));
    } else {
        entries.sort_by_key(|e| (e.book, Reverse(e.entry.order)));
    }
    entries
}

impl Candidate<'_> {
    pub(super) fn timed(&self) -> Timed<'_> {
        let Entry { sticky, cooldown, .. } = *self.entry;
        Timed { key: &self.key, hash: self.hash, sticky, cooldown }
    }

    /// Sorts those that are dropped first to the end; equals keep their order.
    pub(super) fn served_after(&self) -> (bool, Reverse<i64>) {
        let priority = self.entry.priority.unwrap_or(0);
        (self.decorators.ignore_on_max_context, Reverse(priority))
    }

    pub(super) fn dropped(&self) -> DroppedEntry {
        DroppedEntry { book: self.book, entry: self.index, label: self.entry.label() }
    }

    pub(super) fn active(&self, text: String, tokens: usize, messages: usize) -> ActiveEntry {
        let (position, order) = (self.position(messages), self.entry.order);
        ActiveEntry { book: self.book, entry: self.index, text, position, order, tokens }
    }

    /// Decorators win over the fields; a position wins over depths.
    fn position(&self, messages: usize) -> Position {
        let decorators = &self.decorators;
        let from_oldest = |n: u32| u32::try_from(messages).unwrap_or(u32::MAX).saturating_sub(n);
        let (own_depth, own_role) = match self.entry.position {
            Position::AtDepth { depth, role } => (Some(depth), role),
            _ => (None, Role::System),
        };
        let depth = decorators.depth.or(decorators.reverse_depth.map(from_oldest)).or(own_depth);
        match (&decorators.position, depth) {
            (Some(position), _) => position.clone(),
            (None, Some(depth)) => {
                Position::AtDepth { depth, role: decorators.role.unwrap_or(own_role) }
            }
            (None, None) => self.entry.position.clone(),
        }
    }
}

/// Tokens that are left, for all and for each book.
pub(super) struct Budget {
    left: usize,
    books: Vec<Option<usize>>,
    /// The budget of all was reached: nothing more is searched.
    pub(super) overflowed: bool,
}

impl Budget {
    pub(super) fn new(books: &[&Lorebook], settings: &ScanSettings) -> Self {
        let books = books.iter().map(|b| b.token_budget.map(|tokens| tokens as usize)).collect();
        Budget { left: settings.budget_tokens, books, overflowed: false }
    }

    /// Takes an entry's tokens if they are there. Once one was refused, so are all
    /// after it: they matter less.
    pub(super) fn admits(&mut self, candidate: &Candidate<'_>, tokens: usize) -> bool {
        if candidate.entry.ignore_budget || tokens == 0 {
            return true;
        }
        let book = &mut self.books[candidate.book];
        if book.is_some_and(|left| tokens > left) {
            *book = Some(0);
            return false;
        }
        if self.overflowed || tokens >= self.left {
            self.overflowed = true;
            return false;
        }
        self.left -= tokens;
        *book = book.map(|left| left - tokens);
        true
    }
}
