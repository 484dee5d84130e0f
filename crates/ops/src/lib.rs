//! The transformer's operations, fused and with a plain twin each.
//!
//! Every op is a function on candle tensors with a `_ref` twin made of differentiable
//! candle ops; the twins say what an op means, the tests hold the op to its twin. On
//! the CPU an op runs the kernels of [`simd`], whose sums have one fixed order: a row's
//! result does not depend on which other rows are computed with it, nor on the number
//! of threads. A device without a kernel runs the twin, on that same device. Activations
//! are f32 on the CPU; bf16 and f16 inputs are widened, computed in f32 and narrowed.
//!
//! This crate refuses to know what a model, a token or a file is. Read [`layout`] for
//! the tree, [`mod@tree_attention`] for the one attention, [`weight`] for storage formats.

pub mod device;
pub mod simd;
mod rows;
pub mod layout;
pub mod weight;
pub mod quant;
pub mod linear;
pub mod embedding;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;
pub mod residual_add;
pub mod tree_attention;
pub mod kv_write;
pub mod linear_logprob;
pub mod softmax;

pub use device::{DeviceChoice, DeviceError};
pub use embedding::embedding;
pub use kv_write::kv_write;
pub use layout::{LayoutError, Segment, TreeLayout};
pub use linear::{linear, linear_ref};
pub use linear_logprob::{LogProbs, linear_logprob, linear_logprob_ref};
pub use quant::QuantType;
pub use residual_add::{residual_add, residual_add_ref};
pub use rms_norm::{rms_norm, rms_norm_ref};
pub use rope::{RopeAngles, rope, rope_ref};
pub use swiglu::{swiglu, swiglu_ref};
pub use tree_attention::{AttentionConfig, tree_attention, tree_attention_ref};
pub use weight::Weight;

/// Sizes the pool of threads that kernels use; possible once, before the first kernel.
///
/// # Errors
/// When the pool is in use already.
pub fn set_threads(threads: usize) -> Result<(), rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()
}

/// Threads that kernels use.
pub fn threads() -> usize {
    rayon::current_num_threads()
}
