//! Names of weights in HF folders and in GGUF files.
//!
//! The rest of the crate speaks HF names; a GGUF file is asked through this map.

/// The GGUF name of an HF weight; none for a weight that GGUF files do not have.
pub fn gguf_name(hf: &str) -> Option<String> {
    let whole = match hf {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(name) = whole {
        return Some(name.to_string());
    }
    let (layer, rest) = hf.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let module = match module {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{module}.{kind}"))
}

/// Whether llama.cpp's converter reorders the rows of this weight: it interleaves the two
/// halves of every head of queries and keys for the `llama` architecture.
pub fn is_interleaved_in_gguf(hf: &str) -> bool {
    hf.contains(".self_attn.q_proj.") || hf.contains(".self_attn.k_proj.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_both_inside_and_outside_layers() {
        assert_eq!(gguf_name("lm_head.weight").as_deref(), Some("output.weight"));
        let name = gguf_name("model.layers.12.self_attn.q_proj.bias");
        assert_eq!(name.as_deref(), Some("blk.12.attn_q.bias"));
        assert_eq!(gguf_name("model.layers.0.mlp.experts.0.up_proj.weight"), None);
    }
}
