//! Dice and draws. The generator is an argument; choices that must stay the same are
//! drawn from a hash of what they depend on.

use rand_core::{RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// More dice than this are not rolled one by one.
const MAX_DICE: u64 = 1000;
/// A die with more sides is no die.
const MAX_SIDES: u64 = 1_000_000_000;

/// A number from 0 up to, not including, `length`; `length` must not be 0.
pub(super) fn index(random: &mut dyn RngCore, length: usize) -> usize {
    // The high half of a 128-bit product: even to 2^-64 for any length.
    ((u128::from(random.next_u64()) * length as u128) >> 64) as usize
}

/// A number below `length` that is the same whenever `parts` are.
pub(super) fn fixed_index(parts: &[&[u8]], length: usize) -> usize {
    let mut hash = fnv1a(&[]);
    for part in parts {
        hash = fnv1a_continue(hash, &(part.len() as u64).to_le_bytes());
        hash = fnv1a_continue(hash, part);
    }
    index(&mut Xoshiro256PlusPlus::seed_from_u64(hash), length)
}

/// A number from 0 up to, not including, 1, in steps of 2^-53.
pub(crate) fn unit_interval(random: &mut dyn RngCore) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The sum of a roll such as `d6`, `2d6+1`, `1d20-2` or `6` (one die of six sides).
/// None if it is no such formula.
pub(super) fn roll(formula: &str, random: &mut dyn RngCore) -> Option<String> {
    let formula: String = formula.chars().filter(|c| !c.is_whitespace()).collect();
    let formula = formula.to_ascii_lowercase();
    let (dice, bonus) = match formula.find(['+', '-']) {
        Some(at) => (&formula[..at], formula[at..].parse::<i64>().ok()?),
        None => (formula.as_str(), 0),
    };
    let (count, sides) = match dice.split_once('d') {
        Some(("", sides)) => (1, sides.parse::<u64>().ok()?),
        Some((count, sides)) => (count.parse().ok()?, sides.parse().ok()?),
        None => (1, dice.parse().ok()?),
    };
    if !(1..=MAX_DICE).contains(&count) || !(1..=MAX_SIDES).contains(&sides) {
        return None;
    }
    let total: i64 = (0..count).map(|_| index(random, sides as usize) as i64 + 1).sum();
    Some(total.checked_add(bonus)?.to_string())
}

/// The 64-bit FNV-1a hash.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_continue(0xcbf2_9ce4_8422_2325, bytes)
}

/// Goes on with a hash.
pub(crate) fn fnv1a_continue(hash: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn rolls_stay_on_the_dice() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut seen = [false; 7];
        for _ in 0..200 {
            let value: usize = roll("d6", &mut random).unwrap().parse().unwrap();
            seen[value] = true;
        }
        assert_eq!(seen, [false, true, true, true, true, true, true]);
        assert_eq!(roll("3d1 + 4", &mut random).as_deref(), Some("7"));
        assert_eq!(roll("D1-4", &mut random).as_deref(), Some("-3"));
        assert_eq!(roll("1", &mut random).as_deref(), Some("1"));
        for bad in ["", "d", "x", "0d6", "1d0", "9999d6", "2d6+", "1d6+99999999999999999999"] {
            assert_eq!(roll(bad, &mut random), None, "{bad}");
        }
    }

    #[test]
    fn draws_cover_the_range_evenly() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(2);
        let mut counts = [0u32; 3];
        for _ in 0..3000 {
            counts[index(&mut random, 3)] += 1;
        }
        assert!(counts.iter().all(|&n| (900..1100).contains(&n)), "{counts:?}");
        assert!((0..1000).all(|_| (0.0..1.0).contains(&unit_interval(&mut random))));
    }
}
