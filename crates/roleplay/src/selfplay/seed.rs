//! Seeds that depend on what is sampled, never on when.
//!
//! [`derive()`] hashes a run's seed, a name and numbers, so that a reply is the same
//! whether its dialogue ran alone or beside others, first or after a resume. It is a
//! fixed function: changing it would change every recorded run.

use crate::macros::{fnv1a, fnv1a_continue};

/// A seed from the run's seed, a name (a scene's id, `chat`, `suggest`) and numbers
/// (repeat, turn, retry).
///
/// FNV-1a (64 bits) over the run's seed, the byte length of the name, the name, and
/// each number, all integers as 8 bytes little-endian; then the finaliser of splitmix64
/// (Steele, Lea and Flood 2014), which spreads each bit over all others.
pub fn derive(run_seed: u64, name: &str, numbers: &[u64]) -> u64 {
    let mut hash = fnv1a(&run_seed.to_le_bytes());
    hash = fnv1a_continue(hash, &(name.len() as u64).to_le_bytes());
    hash = fnv1a_continue(hash, name.as_bytes());
    for number in numbers {
        hash = fnv1a_continue(hash, &number.to_le_bytes());
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn recorded_runs_keep_their_seeds() {
        // Computed from the description by another program.
        assert_eq!(derive(7, "gull-point", &[0, 1, 0]), 0x8648_32b0_8abb_b854);
    }

    #[test]
    fn all_turns_of_a_large_run_differ() {
        let mut seen = HashSet::new();
        for scene in ["a", "b", "ab"] {
            for repeat in 0..10 {
                for turn in 0..100 {
                    for retry in 0..3 {
                        assert!(seen.insert(derive(1, scene, &[repeat, turn, retry])));
                    }
                }
            }
        }
    }
}
