//! Inclusion groups: of the entries that share a group, one becomes active.
//!
//! Sticky entries win, then those with most matching keys if the group counts them,
//! then the entry of highest order among those that ask for it, else a weighted draw.

use crate::macros::unit_interval;
use rand_core::RngCore;
use std::collections::{BTreeMap, BTreeSet};

/// An entry that wants to become active.
pub(super) struct Contender<'a> {
    /// Which entry; the caller's number.
    pub(super) id: usize,
    pub(super) groups: &'a [String],
    pub(super) sticky: bool,
    /// How many keys match, if that counts for this entry.
    pub(super) score: Option<usize>,
    pub(super) wins_by_order: bool,
    pub(super) order: i64,
    pub(super) weight: u32,
}

/// The ids of those that lose. `taken` are groups that have an active entry already.
pub(super) fn losers(
    contenders: &[Contender<'_>],
    taken: &BTreeSet<&str>,
    random: &mut dyn RngCore,
) -> BTreeSet<usize> {
    let mut groups: BTreeMap<&str, Vec<&Contender>> = BTreeMap::new();
    for contender in contenders {
        for group in contender.groups {
            groups.entry(group).or_default().push(contender);
        }
    }
    let mut out = BTreeSet::new();
    for members in groups.values() {
        if members.iter().any(|m| m.sticky) {
            out.extend(members.iter().filter(|m| !m.sticky).map(|m| m.id));
        }
    }
    for members in groups.values() {
        let left = members.iter().filter(|m| !out.contains(&m.id));
        let scored: Vec<(usize, usize)> = left.filter_map(|m| Some((m.id, m.score?))).collect();
        let best = scored.iter().map(|&(_, score)| score).max();
        out.extend(scored.iter().filter(|(_, s)| Some(*s) < best).map(|&(id, _)| id));
    }
    for (group, members) in &groups {
        let left: Vec<&&Contender> = members.iter().filter(|m| !out.contains(&m.id)).collect();
        if left.iter().any(|m| m.sticky) {
            continue;
        }
        let winner = if taken.contains(group) { None } else { winner(&left, random) };
        out.extend(left.iter().map(|m| m.id).filter(|&id| Some(id) != winner));
    }
    out
}

fn winner(members: &[&&Contender<'_>], random: &mut dyn RngCore) -> Option<usize> {
    if members.len() < 2 {
        return members.first().map(|m| m.id);
    }
    let mut by_order: Vec<_> = members.iter().filter(|m| m.wins_by_order).collect();
    by_order.sort_by_key(|m| std::cmp::Reverse(m.order)); // stable: the first of equals
    if let Some(first) = by_order.first() {
        return Some(first.id);
    }
    let total: f64 = members.iter().map(|m| f64::from(m.weight)).sum();
    let mut left = unit_interval(random) * total;
    for member in members {
        left -= f64::from(member.weight);
        if left < 0.0 {
            return Some(member.id);
        }
    }
    members.first().map(|m| m.id) // all weights are 0
}
