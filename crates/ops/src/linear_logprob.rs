//! The one head for every loss and score: log-probabilities of chosen rows only.
//!
//! The logits of a batch never exist: rows are taken in chunks, and a chunk's logits are
//! reduced to three numbers a row before the next chunk begins.

use crate::linear::multiply;
use crate::rows::{as_f32, split};
use crate::simd::{Simd, dispatch, exp};
use crate::weight::Weight;
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, bail};

/// What [`linear_logprob`] gives for each row, `(rows,)` in f32, in nats.
#[derive(Debug, Clone)]
pub struct LogProbs {
    /// Log-probability of the target.
    pub log_prob: Tensor,
    /// Log of the sum of the exponentials of the logits over the temperature.
    pub log_sum_exp: Tensor,
    /// Entropy of the row's distribution.
    pub entropy: Tensor,
}

/// Log-probability of a target, log-sum-exp and entropy for each row.
///
/// With logits `z = hidden W^T / temperature`: `z[target] - lse(z)`, `lse(z)` and
/// `-sum softmax(z) log softmax(z)`.
///
/// # Shapes
/// `hidden`: `(rows, hidden)`; `weight`: `(vocab, hidden)`; `targets`: one a row.
/// # Errors
/// A target outside the vocabulary, a temperature that is not positive, shapes that do
/// not fit.
pub fn linear_logprob(
    hidden: &Tensor,
    weight: &Weight,
    targets: &[u32],
    temperature: f32,
) -> Result<LogProbs> {
    check(hidden, weight, targets, temperature)?;
    if !hidden.device().is_cpu() {
        return linear_logprob_ref(hidden, weight, targets, temperature);
    }
    let op = LinearLogProb { weight: weight.clone(), targets: targets.to_vec(), temperature };
    let out = hidden.contiguous()?.apply_op1(op)?; // (3, rows)
    Ok(LogProbs { log_prob: out.get(0)?, log_sum_exp: out.get(1)?, entropy: out.get(2)? })
}

/// The plain twin of [`linear_logprob`]: all logits at once.
///
/// # Errors
/// As [`linear_logprob`].
pub fn linear_logprob_ref(
    hidden: &Tensor,
    weight: &Weight,
    targets: &[u32],
    temperature: f32,
) -> Result<LogProbs> {
    check(hidden, weight, targets, temperature)?;
    let hidden = hidden.to_dtype(DType::F32)?;
    let logits = hidden.matmul(&weight.to_dense(DType::F32)?.t()?)?; // (rows, vocab)
    let logits = (logits / f64::from(temperature))?;
    let log_sum_exp = logits.log_sum_exp(D::Minus1)?; // (rows,)
    let targets = Tensor::new(targets, hidden.device())?.unsqueeze(1)?; // (rows, 1)
    let log_prob = (logits.gather(&targets, 1)?.squeeze(1)? - &log_sum_exp)?;
    let log_probs = logits.broadcast_sub(&log_sum_exp.unsqueeze(1)?)?; // (rows, vocab)
    let entropy = (log_probs.exp()? * &log_probs)?.sum(D::Minus1)?.neg()?;
    Ok(LogProbs { log_prob, log_sum_exp, entropy })
}

fn check(hidden: &Tensor, weight: &Weight, targets: &[u32], temperature: f32) -> Result<()> {
    let (rows, width) = hidden.dims2()?;
    let (vocab, input) = weight.shape();
    if width != input || rows != targets.len() {
        let given = hidden.dims();
        bail!("linear_logprob: {given:?}, weight ({vocab}, {input}), {} targets", targets.len())
    }
    if let Some(id) = targets.iter().find(|&&id| id as usize >= vocab) {
        bail!("linear_logprob: target {id}, the vocabulary has {vocab}")
    }
    if temperature.is_nan() || temperature <= 0.0 {
        bail!("linear_logprob: temperature {temperature} is not positive")
    }
    Ok(())
}

/// Rows whose logits exist at a time.
const CHUNK_ROWS: usize = 32;

struct LinearLogProb {
    weight: Weight,
    targets: Vec<u32>,
    temperature: f32,
}

impl CustomOp1 for LinearLogProb {
    fn name(&self) -> &'static str {
        "linear_logprob"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let hidden = as_f32(self.name(), storage, layout)?;
        let (vocab, width) = self.weight.shape();
        let rows = self.targets.len();
        let mut out = vec![0f32; 3 * rows];
        let mut logits = vec![0f32; CHUNK_ROWS.min(rows) * vocab];
        self.weight.with_rows(|weight| {
            for start in (0..rows).step_by(CHUNK_ROWS) {
                let n = CHUNK_ROWS.min(rows - start);
                let logits = &mut logits[..n * vocab];
                let hidden = &hidden[start * width..(start + n) * width];
                multiply(hidden, n, width, weight, vocab, None, logits);
                let to = crate::rows::Shared(out.as_mut_ptr());
                let scale = 1.0 / self.temperature;
                split(n, 1, n * vocab * 16, |first, last| {
                    for row in first..last {
                        let mut reduced = [0f32; 3];
                        let logits = &logits[row * vocab..(row + 1) * vocab];
                        let target = self.targets[start + row] as usize;
                        reduce(logits, target, scale, &mut reduced);
                        for (i, value) in reduced.into_iter().enumerate() {
                            // SAFETY: each row's three numbers are written by one thread.
                            unsafe { *to.at(i * rows + start + row) = value };
                        }
                    }
                });
            }
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), Shape::from((3, rows))))
    }
}

/// Log-probability of the target, log-sum-exp and entropy of one row of logits.
#[inline(always)]
unsafe fn reduce_kernel<S: Simd>(logits: &[f32], target: usize, scale: f32, out: &mut [f32; 3]) {
    let mut tops = [f32::NEG_INFINITY; 16];
    let chunks = logits.chunks_exact(16);
    for chunk in chunks.clone() {
        for i in 0..16 {
            tops[i] = if chunk[i] > tops[i] { chunk[i] } else { tops[i] };
        }
    }
    let top = tops.iter().chain(chunks.remainder()).fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let top = top * scale;
    let (mut sums, mut means) = ([0f32; 16], [0f32; 16]);
    let chunks = logits.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..16 {
            let shifted = chunk[i] * scale - top;
            let e = exp(shifted);
            sums[i] += e;
            // A logit of minus infinity has no mass; its product would not be a number.
            means[i] += if e > 0.0 { e * shifted } else { 0.0 };
        }
    }
    for (i, &z) in rest.iter().enumerate() {
        let shifted = z * scale - top;
        let e = exp(shifted);
        sums[i] += e;
        means[i] += if e > 0.0 { e * shifted } else { 0.0 };
    }
    let fold = |lanes: [f32; 16]| lanes.iter().map(|&x| f64::from(x)).sum::<f64>();
    let (sum, mean) = (fold(sums), fold(means));
    let log_sum = sum.ln();
    let target = f64::from(logits[target] * scale - top);
    out[0] = (target - log_sum) as f32;
    out[1] = (f64::from(top) + log_sum) as f32;
    out[2] = (log_sum - mean / sum) as f32;
}

dispatch! {
    fn reduce = reduce_kernel(logits: &[f32], target: usize, scale: f32, out: &mut [f32; 3])
}
