//! The gated activation of the feed-forward block.

use crate::rows::{Shared, as_f32, dtype_of, from_f32, split};
use crate::simd::{Simd, dispatch, exp};
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};

/// `silu(gate) * up`, element by element, with `silu(g) = g / (1 + e^-g)`.
///
/// # Shapes
/// `gate`, `up`: the same shape and dtype -> that shape and dtype.
/// # Source
/// Shazeer 2020, arXiv:2002.05202.
/// # Errors
/// Shapes that differ, or a dtype that has no kernel.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.shape() != up.shape() || gate.dtype() != up.dtype() {
        bail!("swiglu: gate is {:?}, up is {:?}", gate.shape(), up.shape())
    }
    if !gate.device().is_cpu() {
        return swiglu_ref(gate, up);
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

/// The plain twin of [`swiglu`]; computes in f32.
///
/// # Errors
/// Those of candle.
pub fn swiglu_ref(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    (gate.to_dtype(DType::F32)?.silu()? * up.to_dtype(DType::F32)?)?.to_dtype(gate.dtype())
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let g = as_f32(self.name(), gate, gate_layout)?;
        let u = as_f32(self.name(), up, up_layout)?;
        let mut out = vec![0f32; g.len()];
        let to = Shared(out.as_mut_ptr());
        split(g.len(), 64, g.len() * 12, |start, end| {
            // SAFETY: each range is written by one thread.
            let out = unsafe { std::slice::from_raw_parts_mut(to.at(start), end - start) };
            activate(&g[start..end], &u[start..end], out);
        });
        Ok((from_f32(self.name(), out, dtype_of(gate))?, gate_layout.shape().clone()))
    }
}

#[inline(always)]
unsafe fn activate_kernel<S: Simd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        *out = g / (1.0 + exp(-g)) * u;
    }
}

dispatch! { fn activate = activate_kernel(gate: &[f32], up: &[f32], out: &mut [f32]) }
