//! Reads the metadata of a GGUF file.

use super::rope::yarn_attention_factor;
use super::{ConfigError, Family, MAX_SIZE, ModelConfig, RopeConfig, RopeScaling};
use crate::gguf::GgufFile;

impl ModelConfig {
    /// Reads a GGUF file's metadata; biases, norms and a tied head show in its tensors.
    ///
    /// # Errors
    /// An architecture or a setting that is not supported, or sizes that do not fit.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, ConfigError> {
        let arch: &str = file.get("general.architecture")?;
        let family = match arch {
            "llama" => Family::Llama,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            other => {
                let expected = "`llama`, `qwen2` or `qwen3`";
                return Err(ConfigError::unsupported("general.architecture", other, expected));
            }
        };
        let key = |name: &str| format!("{arch}.{name}");
        let size = |name: &str| -> Result<usize, ConfigError> {
            Ok(file.get::<u32>(&key(name))? as usize)
        };
        let hidden = size("embedding_length")?;
        let heads = size("attention.head_count")?;
        let layers = size("block_count")?;
        if layers > MAX_SIZE {
            return Err(ConfigError::unsupported(key("block_count"), layers, "fewer"));
        }
        let head_dim = match file.find::<u32>(&key("attention.key_length"))? {
            Some(length) => length as usize,
            None => hidden.checked_div(heads).unwrap_or(0),
        };
        if let Some(length) = file.find::<u32>(&key("attention.value_length"))?
            && length as usize != head_dim
        {
            let expected = format!("the keys' {head_dim}");
            return Err(ConfigError::unsupported(key("attention.value_length"), length, expected));
        }
        if let Some(rotated) = file.find::<u32>(&key("rope.dimension_count"))?
            && rotated as usize != head_dim
        {
            let expected = format!("the whole head, {head_dim}");
            return Err(ConfigError::unsupported(key("rope.dimension_count"), rotated, expected));
        }
        let embedding = file.tensor("token_embd.weight")?;
        let vocab = embedding.dims.get(1).copied().unwrap_or(0);
        let vocab = usize::try_from(vocab).unwrap_or(usize::MAX);
        let has = |name: &str| file.find_tensor(name).is_some();
        let window = file.find::<u32>(&key("attention.sliding_window"))?;
        let window = window.filter(|&w| w > 0).map(|w| w as usize);
        let kv_heads = file.find::<u32>(&key("attention.head_count_kv"))?;
        let max_positions = size("context_length")?;
        let config = ModelConfig {
            family,
            vocab,
            hidden,
            intermediate: size("feed_forward_length")?,
            layers,
            heads,
            kv_heads: kv_heads.map_or(heads, |n| n as usize),
            head_dim,
            rms_norm_eps: f64::from(file.get::<f32>(&key("attention.layer_norm_rms_epsilon"))?),
            tied_head: !has("output.weight"),
            qkv_bias: has("blk.0.attn_q.bias"),
            output_bias: has("blk.0.attn_output.bias"),
            mlp_bias: has("blk.0.ffn_gate.bias"),
            qk_norm: family == Family::Qwen3,
            windows: vec![window; layers],
            rope: rope(file, arch, max_positions, head_dim)?,
            max_positions,
        };
        config.validate()?;
        Ok(config)
    }
}

fn rope(
    file: &GgufFile,
    arch: &str,
    max_positions: usize,
    head_dim: usize,
) -> Result<RopeConfig, ConfigError> {
    let key = |name: &str| format!("{arch}.rope.{name}");
    let theta = file.find::<f32>(&key("freq_base"))?.map_or(10_000.0, f64::from);
    if let Some(tensor) = file.find_tensor("rope_freqs.weight") {
        let bytes = file.bytes_of(tensor);
        if tensor.kind != crate::gguf::GgmlType::F32 || bytes.len() != head_dim / 2 * 4 {
            let expected = format!("{} values of F32", head_dim / 2);
            let value = format!("{} bytes of {}", bytes.len(), tensor.kind);
            return Err(ConfigError::unsupported("rope_freqs.weight", value, expected));
        }
        let factors =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        return Ok(RopeConfig { theta, scaling: RopeScaling::Factors(factors) });
    }
    let kind: Option<&str> = file.find(&key("scaling.type"))?;
    let number = |name: &str| -> Result<Option<f64>, ConfigError> {
        Ok(file.find::<f32>(&key(name))?.map(f64::from))
    };
    let factor = number("scaling.factor")?.unwrap_or(1.0);
    let scaling = match kind {
        None | Some("none") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor },
        Some("yarn") => RopeScaling::Yarn {
            factor,
            beta_fast: number("scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: number("scaling.yarn_beta_slow")?.unwrap_or(1.0),
            original_max_positions: file
                .find::<u32>(&key("scaling.original_context_length"))?
                .map_or(max_positions as f64, f64::from),
            attention_factor: number("scaling.attn_factor")?
                .unwrap_or_else(|| yarn_attention_factor(factor)),
        },
        Some(other) => {
            let expected = "`none`, `linear` or `yarn`";
            return Err(ConfigError::unsupported(key("scaling.type"), other, expected));
        }
    };
    Ok(RopeConfig { theta, scaling })
}
