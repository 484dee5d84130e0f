//! Rotary position embedding, with a position for every token.
//!
//! The rotation pairs element `i` with element `i + head_dim / 2` (the half-split layout
//! of transformers). Frequencies and their scaling belong to the model's config; this op
//! takes the angles.

use crate::rows::{Shared, as_f32, dtype_of, from_f32, split};
use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, bail};

/// Cosines and sines of every token's angles, `(tokens, head_dim / 2)` in f32.
#[derive(Debug, Clone)]
pub struct RopeAngles {
    /// Cosines, times the attention factor of the scaling.
    pub cos: Tensor,
    /// Sines, times the attention factor of the scaling.
    pub sin: Tensor,
}

impl RopeAngles {
    /// Angles of `positions` for inverse frequencies in radians per token.
    ///
    /// `factor` multiplies cosines and sines (YaRN's attention factor; 1 elsewhere). The
    /// product of position and frequency is rounded to f32 first, as transformers does,
    /// so that far positions agree to the last bit.
    ///
    /// # Errors
    /// Those of candle.
    pub fn new(
        positions: &[u32],
        inverse_frequencies: &[f32],
        factor: f32,
        device: &Device,
    ) -> Result<Self> {
        let shape = (positions.len(), inverse_frequencies.len());
        let angles = positions
            .iter()
            .flat_map(|&p| inverse_frequencies.iter().map(move |&f| f64::from(p as f32 * f)));
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            angles.map(|a| (a.cos() as f32 * factor, a.sin() as f32 * factor)).unzip();
        Ok(RopeAngles {
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
        })
    }
}

/// Rotates every head of every token by the token's angles.
///
/// # Shapes
/// `x`: `(tokens, heads, head_dim)`; `angles`: `(tokens, head_dim / 2)` -> as `x`.
/// # Source
/// Su et al. 2021, arXiv:2104.09864.
/// # Errors
/// Shapes that do not fit, or a dtype that has no kernel.
pub fn rope(x: &Tensor, angles: &RopeAngles) -> Result<Tensor> {
    let (tokens, _, head_dim) = x.dims3()?;
    if angles.cos.dims() != [tokens, head_dim / 2] || head_dim % 2 != 0 {
        bail!("rope: x is {:?}, the angles are {:?}", x.dims(), angles.cos.dims())
    }
    if !x.device().is_cpu() {
        return rope_ref(x, angles);
    }
    x.contiguous()?.apply_op3(&angles.cos, &angles.sin, Rope { head_dim })
}

/// The plain twin of [`rope`]; computes in f32.
///
/// # Errors
/// Those of candle.
pub fn rope_ref(x: &Tensor, angles: &RopeAngles) -> Result<Tensor> {
    let (_, _, head_dim) = x.dims3()?;
    let wide = x.to_dtype(DType::F32)?;
    let first = wide.narrow(2, 0, head_dim / 2)?;
    let second = wide.narrow(2, head_dim / 2, head_dim / 2)?;
    let (cos, sin) = (angles.cos.unsqueeze(1)?, angles.sin.unsqueeze(1)?); // (tokens, 1, half)
    let rotated_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let rotated_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    Tensor::cat(&[rotated_first, rotated_second], 2)?.to_dtype(x.dtype())
}

struct Rope {
    head_dim: usize,
}

impl CustomOp3 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        cos: &CpuStorage,
        cos_layout: &Layout,
        sin: &CpuStorage,
        sin_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let values = as_f32(self.name(), x, x_layout)?;
        let cos = as_f32(self.name(), cos, cos_layout)?;
        let sin = as_f32(self.name(), sin, sin_layout)?;
        let (tokens, heads, head_dim) = x_layout.shape().dims3()?;
        let half = self.head_dim / 2;
        let mut out = vec![0f32; values.len()];
        let to = Shared(out.as_mut_ptr());
        split(tokens, 1, values.len() * 3, |start, end| {
            for token in start..end {
                let (cos, sin) = (&cos[token * half..][..half], &sin[token * half..][..half]);
                for head in 0..heads {
                    let at = (token * heads + head) * head_dim;
                    let (first, second) = values[at..at + head_dim].split_at(half);
                    // SAFETY: each token's heads are written by one thread.
                    let out = unsafe { std::slice::from_raw_parts_mut(to.at(at), head_dim) };
                    let (out_first, out_second) = out.split_at_mut(half);
                    for i in 0..half {
                        out_first[i] = first[i] * cos[i] - second[i] * sin[i];
                        out_second[i] = second[i] * cos[i] + first[i] * sin[i];
                    }
                }
            }
        });
        Ok((from_f32(self.name(), out, dtype_of(x))?, x_layout.shape().clone()))
    }
}
