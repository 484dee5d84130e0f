//! The residual connection: one sum, without waking a second pool of threads.
//!
//! candle's own addition runs on threads of its own that wait for one another between
//! calls and compete with ours for the same cores.

use crate::rows::{Shared, as_f32, dtype_of, from_f32, split};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// `x + h`, element by element.
///
/// # Shapes
/// `x`, `h`: the same shape and dtype -> that shape and dtype.
/// # Errors
/// Shapes that differ, or a dtype that has no kernel.
pub fn residual_add(x: &Tensor, h: &Tensor) -> Result<Tensor> {
    if x.shape() != h.shape() || x.dtype() != h.dtype() {
        bail!("residual_add: {:?} and {:?}", x.shape(), h.shape())
    }
    if !x.device().is_cpu() {
        return residual_add_ref(x, h);
    }
    x.contiguous()?.apply_op2(&h.contiguous()?, ResidualAdd)
}

/// The plain twin of [`residual_add()`].
///
/// # Errors
/// Those of candle.
pub fn residual_add_ref(x: &Tensor, h: &Tensor) -> Result<Tensor> {
    x + h
}

struct ResidualAdd;

impl CustomOp2 for ResidualAdd {
    fn name(&self) -> &'static str {
        "residual_add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        h: &CpuStorage,
        h_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let a = as_f32(self.name(), x, x_layout)?;
        let b = as_f32(self.name(), h, h_layout)?;
        let mut out = vec![0f32; a.len()];
        let to = Shared(out.as_mut_ptr());
        split(a.len(), 64, a.len(), |start, end| {
            // SAFETY: each range is written by one thread.
            let out = unsafe { std::slice::from_raw_parts_mut(to.at(start), end - start) };
            for ((out, a), b) in out.iter_mut().zip(&a[start..end]).zip(&b[start..end]) {
                *out = a + b;
            }
        });
        Ok((from_f32(self.name(), out, dtype_of(x))?, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        _h: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(grad.clone())))
    }
}
