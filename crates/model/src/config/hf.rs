//! Reads `config.json` as transformers does, old and new spellings alike.

use super::rope::yarn_attention_factor;
use super::{ConfigError, Family, ModelConfig, RopeConfig, RopeScaling};
use serde_json::{Map, Value};

impl ModelConfig {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// A family or a setting that is not supported, or sizes that do not fit together.
    pub fn from_hf_json(text: &str) -> Result<Self, ConfigError> {
        let root: Value = serde_json::from_str(text)?;
        let Value::Object(root) = root else {
            return Err(ConfigError::unsupported("config.json", "no object", "an object"));
        };
        let json = Fields { map: &root, prefix: "" };
        let family = family(&json)?;
        let hidden = json.size("hidden_size")?;
        let layers = json.size("num_hidden_layers")?;
        let heads = json.size("num_attention_heads")?;
        let activation = json.text("hidden_act")?.unwrap_or("silu");
        if activation != "silu" {
            return Err(ConfigError::unsupported("hidden_act", activation, "`silu`"));
        }
        if layers > super::MAX_SIZE {
            let expected = format!("at most {}", super::MAX_SIZE);
            return Err(ConfigError::unsupported("num_hidden_layers", layers, expected));
        }
        let attention_bias = json.flag("attention_bias")?.unwrap_or(false);
        let (qkv_bias, output_bias) = match family {
            Family::Qwen2 => (true, false),
            Family::Llama | Family::Qwen3 => (attention_bias, attention_bias),
            Family::Mistral => (false, false),
        };
        let max_positions = json.find_size("max_position_embeddings")?.unwrap_or(2048);
        let head_dim = match json.find_size("head_dim")? {
            Some(head_dim) => head_dim,
            None if family == Family::Qwen3 => 128,
            None => hidden.checked_div(heads).unwrap_or(0),
        };
        let config = ModelConfig {
            family,
            vocab: json.size("vocab_size")?,
            hidden,
            intermediate: json.size("intermediate_size")?,
            layers,
            heads,
            kv_heads: json.find_size("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            rms_norm_eps: json.number("rms_norm_eps")?.unwrap_or(1e-6),
            tied_head: json.flag("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias,
            output_bias,
            mlp_bias: family == Family::Llama && json.flag("mlp_bias")?.unwrap_or(false),
            qk_norm: family == Family::Qwen3,
            windows: windows(&json, family, layers)?,
            rope: rope(&json, max_positions)?,
            max_positions,
        };
        config.validate()?;
        Ok(config)
    }
}

fn family(json: &Fields<'_>) -> Result<Family, ConfigError> {
    let name = json.text("model_type")?.ok_or(ConfigError::Missing("model_type".into()))?;
    let families = [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3];
    families.into_iter().find(|f| f.name() == name).ok_or_else(|| {
        ConfigError::unsupported("model_type", name, "`llama`, `mistral`, `qwen2` or `qwen3`")
    })
}

/// Mistral applies its window to every layer, and means 4096 where the key is absent;
/// Qwen applies it to the layers that `layer_types` names, or from `max_window_layers` on.
fn windows(
    json: &Fields<'_>,
    family: Family,
    layers: usize,
) -> Result<Vec<Option<usize>>, ConfigError> {
    let width = json.find_size("sliding_window")?;
    match family {
        Family::Llama => Ok(vec![None; layers]),
        Family::Mistral => {
            let width = if json.map.contains_key("sliding_window") { width } else { Some(4096) };
            Ok(vec![width; layers])
        }
        Family::Qwen2 | Family::Qwen3 => {
            if !json.flag("use_sliding_window")?.unwrap_or(false) || width.is_none() {
                return Ok(vec![None; layers]);
            }
            let Some(types) = json.map.get("layer_types").filter(|v| !v.is_null()) else {
                let first = json.find_size("max_window_layers")?.unwrap_or(28);
                return Ok((0..layers).map(|i| width.filter(|_| i >= first)).collect());
            };
            let types = types.as_array().map(Vec::as_slice).unwrap_or_default();
            types
                .iter()
                .map(|t| match t.as_str() {
                    Some("full_attention") => Ok(None),
                    Some("sliding_attention") => Ok(width),
                    _ => Err(ConfigError::unsupported(
                        "layer_types",
                        t,
                        "`full_attention` or `sliding_attention`",
                    )),
                })
                .collect()
        }
    }
}

/// `rope_theta` and `rope_scaling` before transformers 5, `rope_parameters` since.
fn rope(json: &Fields<'_>, max_positions: usize) -> Result<RopeConfig, ConfigError> {
    let new = json.object("rope_parameters")?;
    let old = json.object("rope_scaling")?;
    let theta = match &new {
        Some(new) => new.number("rope_theta")?,
        None => None,
    };
    let theta = theta.or(json.number("rope_theta")?).unwrap_or(10_000.0);
    if json.number("partial_rotary_factor")?.is_some_and(|f| f != 1.0) {
        return Err(ConfigError::unsupported("partial_rotary_factor", "not 1", "1"));
    }
    let Some(scaling) = new.or(old) else {
        return Ok(RopeConfig { theta, scaling: RopeScaling::None });
    };
    let kind = scaling.text("rope_type")?.or(scaling.text("type")?).unwrap_or("default");
    let original = scaling
        .number("original_max_position_embeddings")?
        .or(json.number("original_max_position_embeddings")?);
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: scaling.needed("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: scaling.needed("factor")?,
            low_freq_factor: scaling.needed("low_freq_factor")?,
            high_freq_factor: scaling.needed("high_freq_factor")?,
            original_max_positions: original.ok_or_else(|| {
                ConfigError::Missing("rope_scaling.original_max_position_embeddings".into())
            })?,
        },
        "yarn" => {
            for key in ["mscale", "mscale_all_dim"] {
                if let Some(value) = scaling.number(key)? {
                    let field = format!("rope_scaling.{key}");
                    return Err(ConfigError::unsupported(field, value, "no such field"));
                }
            }
            let factor = scaling.needed("factor")?;
            RopeScaling::Yarn {
                factor,
                beta_fast: scaling.number("beta_fast")?.unwrap_or(32.0),
                beta_slow: scaling.number("beta_slow")?.unwrap_or(1.0),
                original_max_positions: original.unwrap_or(max_positions as f64),
                attention_factor: scaling
                    .number("attention_factor")?
                    .unwrap_or_else(|| yarn_attention_factor(factor)),
            }
        }
        other => {
            let expected = "`default`, `linear`, `llama3` or `yarn`";
            return Err(ConfigError::unsupported("rope_scaling.rope_type", other, expected));
        }
    };
    Ok(RopeConfig { theta, scaling })
}

/// An object of the config and where it stands.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    prefix: &'static str,
}

impl<'a> Fields<'a> {
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> ConfigError {
        ConfigError::unsupported(format!("{}{key}", self.prefix), value, expected)
    }

    fn find_size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let read = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
        self.value(key)
            .map(|v| read(v).ok_or_else(|| self.wrong(key, v, "a whole number")))
            .transpose()
    }

    fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.find_size(key)?.ok_or_else(|| ConfigError::Missing(key.into()))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.value(key)
            .map(|v| v.as_f64().ok_or_else(|| self.wrong(key, v, "a number")))
            .transpose()
    }

    fn needed(&self, key: &str) -> Result<f64, ConfigError> {
        let missing = || ConfigError::Missing(format!("{}{key}", self.prefix));
        self.number(key)?.ok_or_else(missing)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.value(key)
            .map(|v| v.as_bool().ok_or_else(|| self.wrong(key, v, "true or false")))
            .transpose()
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        self.value(key)
            .map(|v| v.as_str().ok_or_else(|| self.wrong(key, v, "a string")))
            .transpose()
    }

    fn object(&self, key: &'static str) -> Result<Option<Fields<'a>>, ConfigError> {
        let prefix = if key == "rope_parameters" { "rope_parameters." } else { "rope_scaling." };
        self.value(key)
            .map(|v| match v {
                Value::Object(map) => Ok(Fields { map, prefix }),
                _ => Err(self.wrong(key, v, "an object")),
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(extra: &str) -> Result<ModelConfig, ConfigError> {
        ModelConfig::from_hf_json(&format!(
            r#"{{"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128,
                "num_hidden_layers": 2, "num_attention_heads": 4 {extra}}}"#
        ))
    }

    #[test]
    fn families_differ_where_they_should() {
        let llama = read(r#", "model_type": "llama", "attention_bias": true, "mlp_bias": true"#);
        let llama = llama.unwrap();
        assert!(llama.qkv_bias && llama.output_bias && llama.mlp_bias && !llama.qk_norm);
        assert_eq!((llama.head_dim, llama.kv_heads, llama.rope.theta), (16, 4, 10_000.0));
        let qwen2 = read(r#", "model_type": "qwen2", "num_key_value_heads": 2"#).unwrap();
        assert!(qwen2.qkv_bias && !qwen2.output_bias && !qwen2.tied_head);
        let qwen3 = read(r#", "model_type": "qwen3""#).unwrap();
        assert!(qwen3.qk_norm && !qwen3.qkv_bias);
        assert_eq!(qwen3.head_dim, 128);
    }

    #[test]
    fn windows_follow_each_family() {
        let mistral = |extra: &str| {
            read(&format!(r#", "model_type": "mistral" {extra}"#)).unwrap().windows[0]
        };
        assert_eq!(mistral(""), Some(4096));
        assert_eq!(mistral(r#", "sliding_window": null"#), None);
        assert_eq!(mistral(r#", "sliding_window": 8"#), Some(8));
        let qwen = |extra: &str| {
            read(&format!(r#", "model_type": "qwen2", "sliding_window": 8 {extra}"#))
                .unwrap()
                .windows
        };
        assert_eq!(qwen(""), [None, None]);
        let on = r#", "use_sliding_window": true, "max_window_layers": 1"#;
        assert_eq!(qwen(on), [None, Some(8)]);
        let named = r#", "use_sliding_window": true,
            "layer_types": ["sliding_attention", "full_attention"]"#;
        assert_eq!(qwen(named), [Some(8), None]);
    }

    #[test]
    fn both_spellings_of_rope_are_read() {
        let old = read(
            r#", "model_type": "llama", "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3",
            "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
            "original_max_position_embeddings": 64}"#,
        );
        let new = read(
            r#", "model_type": "llama", "rope_parameters": {"rope_type": "llama3",
            "rope_theta": 5e5, "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
            "original_max_position_embeddings": 64}"#,
        );
        assert_eq!(old.unwrap().rope, new.unwrap().rope);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let error = |extra: &str| read(extra).unwrap_err().to_string();
        assert_eq!(error(""), "`model_type` is missing from the model's config");
        assert!(error(r#", "model_type": "gpt2""#).contains("`model_type` is gpt2"));
        let gelu = r#", "model_type": "llama", "hidden_act": "gelu""#;
        assert!(error(gelu).contains("`hidden_act` is gelu"));
        let heads = r#", "model_type": "llama", "num_key_value_heads": 3"#;
        assert!(error(heads).contains("divisor of the 4"));
        let heads = r#", "model_type": "llama", "num_key_value_heads": 0"#;
        assert!(error(heads).contains("`num_key_value_heads` is 0"));
        let rope = r#", "model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2}"#;
        assert!(error(rope).contains("dynamic"));
        let huge = r#", "model_type": "llama", "max_position_embeddings": 1e30"#;
        assert!(error(huge).contains("max_position_embeddings"));
    }
}
