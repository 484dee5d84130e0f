//! Rows of the token embedding, in any stored format.

use crate::weight::Weight;
use candle_core::{DType, Result, Tensor, bail};

/// The embedding rows of `ids`.
///
/// # Shapes
/// `weight`: `(vocab, hidden)`; `ids`: any number -> `(ids, hidden)` in `dtype`.
/// # Errors
/// An id that is not below `vocab`.
pub fn embedding(weight: &Weight, ids: &[u32], dtype: DType) -> Result<Tensor> {
    let (vocab, hidden) = weight.shape();
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        bail!("embedding: token id {id}, the vocabulary has {vocab}")
    }
    let device = weight.device();
    if !device.is_cpu() {
        let ids = Tensor::new(ids, device)?;
        return weight.to_dense(dtype)?.index_select(&ids, 0);
    }
    let mut out = vec![0f32; ids.len() * hidden];
    weight.with_rows(|rows| {
        let mut scratch = Vec::new();
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(hidden.max(1))) {
            let id = id as usize;
            out.copy_from_slice(rows.get(id, id + 1, hidden, &mut scratch));
        }
        Ok(())
    })?;
    Tensor::from_vec(out, (ids.len(), hidden), device)?.to_dtype(dtype)
}
