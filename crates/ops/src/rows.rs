//! Reading candle's CPU storage as `f32` rows, and sharing rows among threads.

use candle_core::{CpuStorage, DType, Layout, Result, bail};
use half::{bf16, f16};
use rayon::prelude::*;
use std::borrow::Cow;

/// The elements of a contiguous operand, widened to `f32` where they are not.
///
/// # Errors
/// An operand that is not contiguous, or not of a floating type.
pub(crate) fn as_f32<'a>(
    op: &str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<Cow<'a, [f32]>> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("{op}: operand of shape {:?} is not contiguous", layout.shape())
    };
    Ok(match storage {
        CpuStorage::F32(v) => Cow::Borrowed(&v[start..end]),
        CpuStorage::BF16(v) => Cow::Owned(v[start..end].iter().map(|x| x.to_f32()).collect()),
        CpuStorage::F16(v) => Cow::Owned(v[start..end].iter().map(|x| x.to_f32()).collect()),
        other => bail!("{op}: no kernel for this dtype: {:?}", dtype_of(other)),
    })
}

/// Narrows a result to `dtype`.
///
/// # Errors
/// A dtype that is not a floating type of the ops.
pub(crate) fn from_f32(op: &str, values: Vec<f32>, dtype: DType) -> Result<CpuStorage> {
    Ok(match dtype {
        DType::F32 => CpuStorage::F32(values),
        DType::BF16 => CpuStorage::BF16(values.into_iter().map(bf16::from_f32).collect()),
        DType::F16 => CpuStorage::F16(values.into_iter().map(f16::from_f32).collect()),
        other => bail!("{op}: no kernel for dtype {other:?}"),
    })
}

/// The dtype of a storage.
pub(crate) fn dtype_of(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

/// Work below this many floating-point operations is not worth a second thread: waking
/// one costs some microseconds.
const SERIAL_FLOPS: usize = 1 << 17;

/// Runs `work(start, end)` over `0..n` in even parts, one for each thread, with parts
/// starting at multiples of `grain`.
pub(crate) fn split(n: usize, grain: usize, flops: usize, work: impl Fn(usize, usize) + Sync) {
    let threads = rayon::current_num_threads();
    if threads == 1 || flops < SERIAL_FLOPS || n <= grain {
        return work(0, n);
    }
    let grains = n.div_ceil(grain);
    let parts = threads.min(grains);
    (0..parts).into_par_iter().with_max_len(1).for_each(|part| {
        let start = (grains * part / parts) * grain;
        let end = ((grains * (part + 1) / parts) * grain).min(n);
        if start < end {
            work(start, end);
        }
    });
}

/// A pointer that threads may share because each writes its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub(crate) *mut T);

// SAFETY: users write disjoint parts and join before anyone reads.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The pointer `offset` elements on.
    ///
    /// # Safety
    /// As for [`pointer::add`].
    pub(crate) unsafe fn at(&self, offset: usize) -> *mut T {
        // SAFETY: vouched for by the caller.
        unsafe { self.0.add(offset) }
    }
}
