//! The memory of keys and values that generation reads and writes.

use crate::config::ModelConfig;
use candle_core::{DType, Device, Result, Tensor};

/// Keys and values of every layer, `(slots, kv_heads, head_dim)` each; in memory a head's
/// slots lie together, because attention reads one head at a time. Who owns which slot is
/// the engine's business.
#[derive(Debug)]
pub struct KvPool {
    layers: Vec<(Tensor, Tensor)>,
    slots: usize,
}

impl KvPool {
    /// Room for `slots` tokens.
    ///
    /// # Errors
    /// Those of candle, lack of memory among them.
    pub fn new(config: &ModelConfig, slots: usize, dtype: DType, device: &Device) -> Result<Self> {
        let shape = (config.kv_heads, slots, config.head_dim);
        let pool = || Tensor::zeros(shape, dtype, device)?.transpose(0, 1);
        let layers = (0..config.layers).map(|_| Ok((pool()?, pool()?))).collect::<Result<_>>()?;
        Ok(KvPool { layers, slots })
    }

    /// How many tokens fit.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Keys and values of a layer.
    pub(crate) fn layer(&self, layer: usize) -> (&Tensor, &Tensor) {
        let (keys, values) = &self.layers[layer];
        (keys, values)
    }
}
