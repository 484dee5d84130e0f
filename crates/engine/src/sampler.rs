//! Drawing the next token.
//!
//! The chain is: repetition penalty, top-k, top-p, min-p, temperature, draw. Filters work
//! on the distribution before the temperature, as llama.cpp's default order has it. Every
//! request has its own generator, so what else runs does not change its draws: one draw
//! a token, none when greedy. Ties are broken by the lower id.

use rand_core::{RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use troupe_dialogue::Sampling;
use troupe_ops::softmax::{exp_into, log_sum_exp};

/// A drawn token and its log-probabilities in nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// The token.
    pub id: u32,
    /// Under the unmodified logits.
    pub log_prob: f32,
    /// Under the logits divided by the temperature; as `log_prob` when greedy.
    pub tempered_log_prob: f32,
}

/// Draws the tokens of one request.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: Sampling,
    rng: Xoshiro256PlusPlus,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Sampler {
    /// A sampler of checked settings.
    pub fn new(settings: Sampling, seed: u64) -> Self {
        Sampler { settings, rng: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    /// Draws from one row of logits. `context` is prompt and reply so far; `exempt` are
    /// ids that the repetition penalty leaves alone. End-of-turn tokens belong there: they
    /// stand in every prompt of a chat, and penalised they make replies ramble.
    ///
    /// Returns none when the logits hold no finite maximum: a broken model.
    pub fn draw(&mut self, logits: &[f32], context: &[u32], exempt: &[u32]) -> Option<Drawn> {
        let s = self.settings.clone();
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !top.is_finite() || logits.iter().any(|z| z.is_nan()) {
            return None;
        }
        let lse = log_sum_exp(logits, 1.0);
        let penalised = penalise(logits, context, exempt, &s);
        let used = penalised.as_deref().unwrap_or(logits);
        let id = if s.is_greedy() { argmax(used) } else { self.choose(used, &s) };
        let log_prob = logits[id as usize] - lse;
        let tempered_log_prob = if s.is_greedy() || s.temperature == 1.0 {
            log_prob
        } else {
            logits[id as usize] / s.temperature - log_sum_exp(logits, 1.0 / s.temperature)
        };
        Some(Drawn { id, log_prob, tempered_log_prob })
    }

    fn choose(&mut self, logits: &[f32], s: &Sampling) -> u32 {
        let uniform = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64; // [0, 1)
        if s.top_k == 0 && s.top_p >= 1.0 && s.min_p == 0.0 {
            return draw_from_all(logits, s.temperature, uniform);
        }
        let kept = filter(logits, s);
        let top = kept[0].logit;
        let mut weights = vec![0f32; kept.len()];
        let kept_logits: Vec<f32> = kept.iter().map(|c| c.logit).collect();
        exp_into(&kept_logits, 1.0 / s.temperature, top, &mut weights);
        kept[pick(&weights, uniform)].id
    }
}

/// Logits with the penalty on tokens of the context; none when it is off.
fn penalise(logits: &[f32], context: &[u32], exempt: &[u32], s: &Sampling) -> Option<Vec<f32>> {
    if s.repetition_penalty == 1.0 {
        return None;
    }
    let mut logits = logits.to_vec();
    let range = if s.repetition_range == 0 { context.len() } else { s.repetition_range };
    let mut seen: Vec<u32> = context[context.len().saturating_sub(range)..].to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen.into_iter().filter(|id| !exempt.contains(id)) {
        if let Some(z) = logits.get_mut(id as usize) {
            *z = if *z > 0.0 { *z / s.repetition_penalty } else { *z * s.repetition_penalty };
        }
    }
    Some(logits)
}

fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &z) in logits.iter().enumerate() {
        if z > logits[best] {
            best = i;
        }
    }
    best as u32
}

fn draw_from_all(logits: &[f32], temperature: f32, uniform: f64) -> u32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut weights = vec![0f32; logits.len()];
    exp_into(logits, 1.0 / temperature, top, &mut weights);
    pick(&weights, uniform) as u32
}

/// The index at which the running share of the weights passes `uniform`.
fn pick(weights: &[f32], uniform: f64) -> usize {
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let target = uniform * total;
    let mut running = 0.0;
    let mut last = 0;
    for (i, &w) in weights.iter().enumerate() {
        if w > 0.0 {
            running += f64::from(w);
            last = i;
            if running > target {
                return i;
            }
        }
    }
    last
}

/// Top-k, top-p and min-p; the most likely token is always kept and comes first.
fn filter(logits: &[f32], s: &Sampling) -> Vec<Candidate> {
    let order = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id));
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // min-p is a threshold on logits, so it can go first without changing the outcome of
    // top-k; top-p's mass is still that of all tokens that top-k keeps.
    let floor = if s.min_p > 0.0 { top + s.min_p.ln() } else { f32::NEG_INFINITY };
    let candidate = |(id, &logit): (usize, &f32)| Candidate { id: id as u32, logit };
    let all = logits.iter().enumerate().map(candidate);
    let mut kept: Vec<Candidate> = if s.top_p < 1.0 && s.top_k == 0 {
        all.collect()
    } else if s.top_k == 0 {
        all.filter(|c| c.logit >= floor).collect()
    } else {
        let mut kept: Vec<_> = all.collect();
        if s.top_k < kept.len() {
            kept.select_nth_unstable_by(s.top_k - 1, order);
            kept.truncate(s.top_k);
        }
        kept
    };
    if s.top_p < 1.0 {
        kept = nucleus(kept, s.top_p, top, order);
    } else {
        kept.sort_unstable_by(order);
    }
    kept.retain(|c| c.logit >= floor);
    kept
}

/// The fewest most likely candidates whose mass reaches `top_p`, sorted.
fn nucleus(
    mut all: Vec<Candidate>,
    top_p: f32,
    top: f32,
    order: impl Fn(&Candidate, &Candidate) -> std::cmp::Ordering + Copy,
) -> Vec<Candidate> {
    let logits: Vec<f32> = all.iter().map(|c| c.logit).collect();
    let mut weights = vec![0f32; logits.len()];
    exp_into(&logits, 1.0, top, &mut weights);
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let wanted = f64::from(top_p) * total;
    // Sorting everything is slow and rarely needed: take more and more of the best.
    let mut n = 128.min(all.len());
    loop {
        if n < all.len() {
            all.select_nth_unstable_by(n - 1, order);
        }
        all[..n].sort_unstable_by(order);
        let mut mass = 0.0;
        for i in 0..n {
            mass += f64::from((all[i].logit - top).exp());
            if mass >= wanted {
                all.truncate(i + 1);
                return all;
            }
        }
        if n == all.len() {
            return all;
        }
        n = (n * 8).min(all.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws often and returns each token's share.
    fn shares(logits: &[f32], settings: Sampling, context: &[u32]) -> Vec<f64> {
        let n = 100_000;
        let mut sampler = Sampler::new(settings, 7);
        let mut counts = vec![0usize; logits.len()];
        for _ in 0..n {
            counts[sampler.draw(logits, context, &[]).unwrap().id as usize] += 1;
        }
        counts.into_iter().map(|c| c as f64 / n as f64).collect()
    }

    /// Four standard errors of a share of 10^5 draws are below 0.0064.
    fn close(got: &[f64], want: &[f64]) {
        for (a, b) in got.iter().zip(want) {
            assert!((a - b).abs() < 0.0065, "{got:?} is not {want:?}");
        }
    }

    /// Probabilities 0.5, 0.25, 0.15, 0.1.
    fn logits() -> Vec<f32> {
        [0.5f32, 0.25, 0.15, 0.1].iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn draws_follow_the_distribution() {
        close(&shares(&logits(), Sampling::default(), &[]), &[0.5, 0.25, 0.15, 0.1]);
        // Temperature 1/2 squares: 0.25, 0.0625, 0.0225, 0.01 of 0.345.
        let cold = Sampling { temperature: 0.5, ..Sampling::default() };
        let want = [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345];
        close(&shares(&logits(), cold, &[]), &want);
    }

    #[test]
    fn filters_keep_what_they_should() {
        let with = |f: fn(&mut Sampling)| {
            let mut s = Sampling::default();
            f(&mut s);
            shares(&logits(), s, &[])
        };
        close(&with(|s| s.top_k = 2), &[2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        // 0.5 + 0.25 reaches 0.7; 0.5 reaches 0.5.
        close(&with(|s| s.top_p = 0.7), &[2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        close(&with(|s| s.top_p = 0.4), &[1.0, 0.0, 0.0, 0.0]);
        // At least 0.25 * 0.5 = 0.125.
        close(&with(|s| s.min_p = 0.25), &[0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0.0]);
        // Top-p counts the mass of what top-k kept: 0.5 of 0.75 reaches 0.6.
        close(&with(|s| (s.top_k, s.top_p) = (2, 0.6)), &[1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn repetition_penalty_divides_positive_and_multiplies_negative_logits() {
        let s = Sampling { repetition_penalty: 2.0, ..Sampling::greedy() };
        let draw = |logits: &[f32], context: &[u32], s: &Sampling| {
            Sampler::new(s.clone(), 0).draw(logits, context, &[]).unwrap().id
        };
        assert_eq!(draw(&[3.0, 2.0], &[0], &s), 1); // 1.5 against 2
        assert_eq!(draw(&[-1.0, -1.5], &[0, 0], &s), 1); // -2 once, against -1.5
        let ends = Sampler::new(s.clone(), 0).draw(&[3.0, 2.0], &[0], &[0]).unwrap();
        assert_eq!(ends.id, 0); // exempt
        let near = Sampling { repetition_range: 1, ..s };
        assert_eq!(draw(&[3.0, 2.0], &[0, 5], &near), 0); // out of range
    }

    #[test]
    fn log_probs_are_of_the_model_not_of_the_filters() {
        let s = Sampling { temperature: 0.5, top_k: 1, ..Sampling::default() };
        let drawn = Sampler::new(s, 0).draw(&logits(), &[], &[]).unwrap();
        assert!((drawn.log_prob - 0.5f32.ln()).abs() < 1e-6);
        assert!((drawn.tempered_log_prob - (0.25f32 / 0.345).ln()).abs() < 1e-6);
    }

    #[test]
    fn nucleus_of_a_flat_distribution_grows_past_its_first_guess() {
        let flat = vec![0f32; 1000];
        let s = Sampling { top_p: 0.5, ..Sampling::default() };
        assert_eq!(filter(&flat, &s).len(), 500);
        assert_eq!(filter(&flat, &s)[0].id, 0);
    }

    #[test]
    fn broken_logits_give_nothing() {
        let mut sampler = Sampler::new(Sampling::default(), 0);
        assert!(sampler.draw(&[f32::NAN, 0.0], &[], &[]).is_none());
        assert!(sampler.draw(&[f32::NEG_INFINITY; 2], &[], &[]).is_none());
        assert!(sampler.draw(&[f32::INFINITY, 0.0], &[], &[]).is_none());
        assert_eq!(sampler.draw(&[f32::NEG_INFINITY, 0.0], &[], &[]).unwrap().id, 1);
    }
}
