//! Root-mean-square normalisation of rows.

use crate::rows::{Shared, as_f32, dtype_of, from_f32, split};
use crate::simd::{Simd, dispatch};
use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor, bail};

/// `x / sqrt(mean(x^2) + eps) * weight`, row by row.
///
/// # Shapes
/// `x`: `(..., width)`; `weight`: `(width,)` in f32 -> the shape and dtype of `x`.
/// # Source
/// Zhang and Sennrich 2019, arXiv:1910.07467.
/// # Errors
/// Widths that differ, or a dtype that has no kernel.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if weight.dims() != [width] {
        bail!("rms_norm: x has width {width}, the weight has shape {:?}", weight.dims())
    }
    if !x.device().is_cpu() {
        return rms_norm_ref(x, weight, eps);
    }
    x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps: eps as f32 })
}

/// The plain twin of [`rms_norm`]; computes in f32.
///
/// # Errors
/// Those of candle.
pub fn rms_norm_ref(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let scale = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    wide.broadcast_div(&scale)?.broadcast_mul(&weight.to_dtype(DType::F32)?)?.to_dtype(x.dtype())
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let values = as_f32(self.name(), x, x_layout)?;
        let weight = as_f32(self.name(), weight, weight_layout)?;
        let width = weight.len();
        let mut out = vec![0f32; values.len()];
        let to = Shared(out.as_mut_ptr());
        let rows = values.len().checked_div(width).unwrap_or(0);
        split(rows, 1, values.len() * 4, |start, end| {
            for row in start..end {
                // SAFETY: each row is written by one thread.
                let out = unsafe { std::slice::from_raw_parts_mut(to.at(row * width), width) };
                normalise(&values[row * width..(row + 1) * width], &weight, self.eps, out);
            }
        });
        Ok((from_f32(self.name(), out, dtype_of(x))?, x_layout.shape().clone()))
    }
}

#[inline(always)]
unsafe fn normalise_kernel<S: Simd>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = [0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] += chunk[i] * chunk[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x * x;
    }
    let sum: f32 = lanes.iter().sum();
    let scale = 1.0 / (sum / x.len() as f32 + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * w;
    }
}

dispatch! {
    fn normalise = normalise_kernel(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32])
}
