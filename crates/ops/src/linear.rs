//! `y = x W^T + b` with a frozen weight in any stored format.
//!
//! On the CPU a thread takes a range of output features and walks it in blocks that stay
//! in its second-level cache: a block of `W` is widened to f32 once and used for all rows
//! of `x`. Every output is one dot product in a fixed order ([`crate::simd`]), so a row's
//! result is bitwise the same alone and in any batch, at any number of threads.

use crate::rows::{Shared, as_f32, dtype_of, from_f32, split};
use crate::simd::{Gemm, gemm_rows};
use crate::weight::{Rows, Weight};
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

/// `y = x W^T + b`.
///
/// # Shapes
/// `x`: `(rows, in)`; `weight`: `(out, in)`; `bias`: `(out,)` in f32 -> `(rows, out)` in
/// the dtype of `x`.
/// # Errors
/// Widths that differ, or a dtype that has no kernel.
pub fn linear(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    let (_, width) = x.dims2()?;
    let (out, input) = weight.shape();
    if width != input {
        bail!("linear: x has width {width}, the weight is ({out}, {input})")
    }
    if let Some(bias) = bias
        && bias.dims() != [out]
    {
        bail!("linear: bias has shape {:?}, the weight is ({out}, {input})", bias.dims())
    }
    if !x.device().is_cpu() {
        return linear_ref(x, weight, bias);
    }
    let bias = bias.map(|b| b.to_dtype(DType::F32)?.to_vec1::<f32>()).transpose()?;
    x.contiguous()?.apply_op1(Linear { weight: weight.clone(), bias })
}

/// The plain twin of [`linear`]: the weight in full, candle's matmul.
///
/// # Errors
/// Those of candle.
pub fn linear_ref(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&weight.to_dense(x.dtype())?.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.to_dtype(x.dtype())?),
        None => Ok(y),
    }
}

struct Linear {
    weight: Weight,
    bias: Option<Vec<f32>>,
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = as_f32(self.name(), storage, layout)?;
        let (out, width) = self.weight.shape();
        let m = x.len().checked_div(width).unwrap_or(0);
        let mut y = vec![0f32; m * out];
        self.weight.with_rows(|rows| {
            multiply(&x, m, width, rows, out, self.bias.as_deref(), &mut y);
            Ok(())
        })?;
        Ok((from_f32(self.name(), y, dtype_of(storage))?, Shape::from((m, out))))
    }
}

/// Bytes of `W`, in f32, that a thread works on at a time.
const BLOCK_BYTES: usize = 384 << 10;

/// `y = x W^T + b` on slices: `x` is `m` rows of `width`, `y` is `m` rows of `out`.
pub(crate) fn multiply(
    x: &[f32],
    m: usize,
    width: usize,
    rows: Rows<'_>,
    out: usize,
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    assert_eq!((x.len(), y.len()), (m * width, m * out), "linear: sizes of x and y");
    if m == 0 || out == 0 {
        return;
    }
    // Widened blocks are read again from the first-level cache when there are few rows.
    let bytes = if m < 6 && !matches!(rows, Rows::F32(_)) { 16 << 10 } else { BLOCK_BYTES };
    let block = (bytes / (width * 4).max(1)).max(4).next_multiple_of(4);
    let to = Shared(y.as_mut_ptr());
    split(out, 4, 2 * m * width * out, |start, end| {
        let mut scratch = Vec::new();
        let mut at = start;
        while at < end {
            let n = block.min(end - at);
            let w = rows.get(at, at + n, width, &mut scratch);
            // SAFETY: `at + n <= out`, and each thread writes its own columns of `y`.
            unsafe {
                gemm_rows(Gemm {
                    x: x.as_ptr(),
                    x_stride: width,
                    m,
                    w: w.as_ptr(),
                    n,
                    k: width,
                    y: to.at(at),
                    y_stride: out,
                });
            }
            at += n;
        }
        if let Some(bias) = bias {
            for row in 0..m {
                for (col, b) in bias.iter().enumerate().take(end).skip(start) {
                    // SAFETY: inside row `row` and this thread's columns.
                    unsafe { *to.at(row * out + col) += b };
                }
            }
        }
    });
}
