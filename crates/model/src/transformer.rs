//! The one transformer: every family, for play and for learning.
//!
//! All hot maths goes through `troupe-ops`; this file only says in which order. Tokens
//! come packed, without a batch axis: who sees whom and at which position is the
//! [`TreeLayout`]'s business. It owns no thread, no clock and no random number.

use crate::config::ModelConfig;
use crate::kv::KvPool;
use crate::source::{SourceError, WeightDtype, WeightSource};
use candle_core::{DType, Device, Result, Tensor, bail};
use std::collections::BTreeSet;
use troupe_ops::{
    AttentionConfig, LogProbs, RopeAngles, TreeLayout, Weight, embedding, kv_write, linear,
    linear_logprob, residual_add, rms_norm, rope, swiglu, tree_attention,
};

/// A decoder-only transformer with its weights.
#[derive(Debug)]
pub struct Transformer {
    config: ModelConfig,
    embedding: Weight,
    layers: Vec<Layer>,
    final_norm: Tensor,
    head: Option<Weight>,
    inverse_frequencies: Vec<f32>,
    rope_factor: f32,
    compute: DType,
    device: Device,
}

/// A projection with an optional bias.
#[derive(Debug)]
struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.weight, self.bias.as_ref())
    }
}

#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    q_norm: Option<Tensor>,
    k_norm: Option<Tensor>,
    mlp_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
    attention: AttentionConfig,
}

/// Keys and values that outlive a pass: the pool, and the slot of each new token.
#[derive(Debug, Clone, Copy)]
pub struct KvCache<'a> {
    /// Where earlier tokens' keys and values are, and new ones go.
    pub pool: &'a KvPool,
    /// A slot for each token of the pass.
    pub slots: &'a [u32],
}

impl Transformer {
    /// Reads every weight from a checkpoint.
    ///
    /// On the CPU activations are f32 whatever `dtype` is; on a GPU they have the dtype
    /// of dense weights, bf16 beside quantised ones.
    ///
    /// # Errors
    /// A missing, misshapen or unsupported weight, by name; a weight in the file that
    /// would have changed the output and is not used.
    pub fn load(
        config: ModelConfig,
        source: &WeightSource<'_>,
        dtype: WeightDtype,
        device: &Device,
    ) -> std::result::Result<Self, SourceError> {
        let mut used = BTreeSet::new();
        let mut load = Loader { source, dtype, device, used: &mut used };
        let c = &config;
        let (hidden, head_dim) = (c.hidden, c.head_dim);
        let embedding = load.matrix("model.embed_tokens.weight", (c.vocab, hidden), 1)?;
        let mut layers = Vec::with_capacity(c.layers);
        for i in 0..c.layers {
            let at = |name: &str| format!("model.layers.{i}.{name}");
            let (q, kv) = (c.heads * head_dim, c.kv_heads * head_dim);
            let (qkv, out, mlp) = (c.qkv_bias, c.output_bias, c.mlp_bias);
            let wide = c.intermediate;
            let qk_norm = |load: &mut Loader<'_>, name: &str| {
                c.qk_norm.then(|| load.vector(&at(name), head_dim, 1)).transpose()
            };
            layers.push(Layer {
                attention_norm: load.vector(&at("input_layernorm.weight"), hidden, 1)?,
                q: load.linear(&at("self_attn.q_proj"), (q, hidden), c.heads, qkv)?,
                k: load.linear(&at("self_attn.k_proj"), (kv, hidden), c.kv_heads, qkv)?,
                v: load.linear(&at("self_attn.v_proj"), (kv, hidden), c.kv_heads, qkv)?,
                o: load.linear(&at("self_attn.o_proj"), (hidden, q), 1, out)?,
                q_norm: qk_norm(&mut load, "self_attn.q_norm.weight")?,
                k_norm: qk_norm(&mut load, "self_attn.k_norm.weight")?,
                mlp_norm: load.vector(&at("post_attention_layernorm.weight"), hidden, 1)?,
                gate: load.linear(&at("mlp.gate_proj"), (wide, hidden), 1, mlp)?,
                up: load.linear(&at("mlp.up_proj"), (wide, hidden), 1, mlp)?,
                down: load.linear(&at("mlp.down_proj"), (hidden, wide), 1, mlp)?,
                attention: AttentionConfig {
                    scale: 1.0 / (head_dim as f32).sqrt(),
                    window: c.windows[i],
                    softcap: None,
                },
            });
        }
        let final_norm = load.vector("model.norm.weight", hidden, 1)?;
        let head = if c.tied_head {
            None
        } else {
            Some(load.matrix("lm_head.weight", (c.vocab, hidden), 1)?)
        };
        source.refuse_unused(&used)?;
        let compute = match (&embedding, device) {
            (_, Device::Cpu) => DType::F32,
            (Weight::Dense(t), _) => t.dtype(),
            (Weight::Quant(_), _) => DType::BF16,
        };
        let (inverse_frequencies, rope_factor) = config.rope.inverse_frequencies(head_dim);
        Ok(Transformer {
            config,
            embedding,
            layers,
            final_norm,
            head,
            inverse_frequencies,
            rope_factor,
            compute,
            device: device.clone(),
        })
    }

    /// The sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The dtype of activations, keys and values.
    pub fn compute_dtype(&self) -> DType {
        self.compute
    }

    /// Bytes that all weights take.
    pub fn weight_bytes(&self) -> usize {
        let layer = |l: &Layer| {
            let projections = [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down];
            projections.iter().map(|p| p.weight.size_bytes()).sum::<usize>()
        };
        let head = self.head.as_ref().map_or(0, Weight::size_bytes);
        self.embedding.size_bytes() + head + self.layers.iter().map(layer).sum::<usize>()
    }

    /// The format of most weights: `f32`, `bf16`, `Q4_1`, ...
    pub fn weight_format(&self) -> &'static str {
        self.layers.first().map_or(self.embedding.format(), |l| l.gate.weight.format())
    }

    /// Hidden states of `ids` after the final norm.
    ///
    /// Without a cache the keys are those of `ids`, so the layout's key rows count
    /// packed tokens. With one they are slots of the pool; the new tokens' keys and
    /// values are written to `slots` first, and the layout must name them there.
    ///
    /// # Shapes
    /// `ids`: one for each query of the layout -> `(ids, hidden)` in the compute dtype.
    /// # Errors
    /// An id outside the vocabulary; a layout that does not fit.
    pub fn hidden_states(
        &self,
        ids: &[u32],
        layout: &TreeLayout,
        cache: Option<KvCache<'_>>,
    ) -> Result<Tensor> {
        if layout.n_queries() != ids.len() {
            bail!("{} ids for a layout of {} queries", ids.len(), layout.n_queries())
        }
        let c = &self.config;
        let tokens = ids.len();
        let positions = layout.positions();
        let frequencies = &self.inverse_frequencies;
        let angles = RopeAngles::new(&positions, frequencies, self.rope_factor, &self.device)?;
        let mut x = embedding(&self.embedding, ids, self.compute)?; // (tokens, hidden)
        for (i, layer) in self.layers.iter().enumerate() {
            let h = rms_norm(&x, &layer.attention_norm, c.rms_norm_eps)?;
            let by_head = |x: Tensor, heads| x.reshape((tokens, heads, c.head_dim));
            let mut q = by_head(layer.q.forward(&h)?, c.heads)?;
            let mut k = by_head(layer.k.forward(&h)?, c.kv_heads)?;
            let v = by_head(layer.v.forward(&h)?, c.kv_heads)?;
            if let (Some(q_norm), Some(k_norm)) = (&layer.q_norm, &layer.k_norm) {
                q = rms_norm(&q, q_norm, c.rms_norm_eps)?;
                k = rms_norm(&k, k_norm, c.rms_norm_eps)?;
            }
            let (q, k) = (rope(&q, &angles)?, rope(&k, &angles)?);
            let h = match cache {
                None => tree_attention(&q, &k, &v, layout, layer.attention)?,
                Some(KvCache { pool, slots }) => {
                    let (keys, values) = pool.layer(i);
                    kv_write(keys, &k, slots)?;
                    kv_write(values, &v, slots)?;
                    tree_attention(&q, keys, values, layout, layer.attention)?
                }
            };
            let h = layer.o.forward(&h.reshape((tokens, c.heads * c.head_dim))?)?;
            x = residual_add(&x, &h)?;
            let h = rms_norm(&x, &layer.mlp_norm, c.rms_norm_eps)?;
            let h = swiglu(&layer.gate.forward(&h)?, &layer.up.forward(&h)?)?;
            x = residual_add(&x, &layer.down.forward(&h)?)?;
        }
        rms_norm(&x, &self.final_norm, c.rms_norm_eps)
    }

    /// Logits of hidden states: `(rows, hidden)` -> `(rows, vocab)` in f32.
    ///
    /// # Errors
    /// Those of candle.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        linear(hidden, self.head(), None)?.to_dtype(DType::F32)
    }

    /// Log-probability of a target for each hidden state, at `temperature`.
    ///
    /// # Shapes
    /// `hidden`: `(rows, hidden)`, `targets`: one a row -> `(rows,)` each.
    /// # Errors
    /// See [`linear_logprob()`].
    pub fn log_probs(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        temperature: f32,
    ) -> Result<LogProbs> {
        linear_logprob(hidden, self.head(), targets, temperature)
    }

    fn head(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

/// Reads weights and remembers which.
struct Loader<'a> {
    source: &'a WeightSource<'a>,
    dtype: WeightDtype,
    device: &'a Device,
    used: &'a mut BTreeSet<String>,
}

impl Loader<'_> {
    fn matrix(
        &mut self,
        name: &str,
        shape: (usize, usize),
        heads: usize,
    ) -> std::result::Result<Weight, SourceError> {
        self.used.insert(name.into());
        self.source.matrix(name, shape, heads, self.dtype, self.device)
    }

    fn vector(
        &mut self,
        name: &str,
        len: usize,
        heads: usize,
    ) -> std::result::Result<Tensor, SourceError> {
        self.used.insert(name.into());
        self.source.vector(name, len, heads, self.device)
    }

    fn linear(
        &mut self,
        name: &str,
        shape: (usize, usize),
        heads: usize,
        bias: bool,
    ) -> std::result::Result<Linear, SourceError> {
        let weight = self.matrix(&format!("{name}.weight"), shape, heads)?;
        let bias =
            bias.then(|| self.vector(&format!("{name}.bias"), shape.0, heads)).transpose()?;
        Ok(Linear { weight, bias })
    }
}
