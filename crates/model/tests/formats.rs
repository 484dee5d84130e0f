//! The same weights from every container and number format that can be loaded.

use candle_core::Device;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use troupe_model::gguf::{Array, GgmlType, GgufWriter, TextArray, Value};
use troupe_model::names::{gguf_name, is_interleaved_in_gguf};
use troupe_model::{Model, WeightDtype};
use troupe_ops::TreeLayout;

fn golden_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

fn tensors(name: &str) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(golden_dir(name).join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let read = |view: TensorView<'_>| Tensor {
        shape: view.shape().to_vec(),
        values: view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect(),
    };
    file.iter().map(|(name, view)| (name.to_string(), read(view))).collect()
}

fn json(name: &str, file: &str) -> Json {
    serde_json::from_str(&std::fs::read_to_string(golden_dir(name).join(file)).unwrap()).unwrap()
}

fn logits(path: &Path, dtype: WeightDtype) -> Vec<Vec<f32>> {
    let model = Model::load(path, dtype, &Device::Cpu).unwrap();
    let ids: Vec<u32> = (0..24).map(|i| i * 97 % 320).collect();
    let layout = TreeLayout::sequences(&[ids.len()]).unwrap();
    let hidden = model.transformer.hidden_states(&ids, &layout, None).unwrap();
    model.transformer.logits(&hidden).unwrap().to_vec2().unwrap()
}

fn worst(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn shards_and_sixteen_bit_files_are_read() {
    let name = "tiny-qwen2";
    let want = logits(&golden_dir(name), WeightDtype::F32);
    for (dtype, tolerance) in [(Dtype::F32, 0.0), (Dtype::BF16, 0.6), (Dtype::F16, 0.06)] {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(golden_dir(name).join(file), dir.path().join(file)).unwrap();
        }
        let all = tensors(name);
        let encode = |t: &Tensor| -> Vec<u8> {
            let values = t.values.iter();
            match dtype {
                Dtype::BF16 => values.flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
                Dtype::F16 => values.flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
                _ => values.flat_map(|x| x.to_le_bytes()).collect(),
            }
        };
        let encoded: Vec<_> =
            all.iter().map(|(name, t)| (name.clone(), t.shape.clone(), encode(t))).collect();
        let mut map = serde_json::Map::new();
        for (i, part) in encoded.chunks(encoded.len().div_ceil(3)).enumerate() {
            let file = format!("model-{i:05}-of-00003.safetensors");
            let views = part.iter().map(|(name, shape, bytes)| {
                map.insert(name.clone(), file.clone().into());
                (name.clone(), TensorView::new(dtype, shape.clone(), bytes).unwrap())
            });
            let views: Vec<_> = views.collect();
            safetensors::serialize_to_file(views, None, &dir.path().join(&file)).unwrap();
        }
        let index = serde_json::json!({ "metadata": {}, "weight_map": map });
        std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        let got = logits(dir.path(), WeightDtype::Keep);
        assert!(worst(&got, &want) <= tolerance, "{dtype:?}: {}", worst(&got, &want));
        // Widened in memory or kept in 16 bits and widened by the kernel: the same numbers.
        assert_eq!(got, logits(dir.path(), WeightDtype::F32), "{dtype:?}");
    }
}

/// One row of blocks, quantised the plain way: scale by the largest value.
fn quantise(kind: GgmlType, row: &[f32]) -> Vec<u8> {
    let mut out = Vec::new();
    for block in row.chunks_exact(32) {
        let largest = block.iter().fold(0f32, |a, x| a.max(x.abs()));
        let (low, high) = block.iter().fold((0f32, 0f32), |(l, h), &x| (l.min(x), h.max(x)));
        let nibbles = |out: &mut Vec<u8>, q: &dyn Fn(f32) -> u8| {
            out.extend((0..16).map(|j| q(block[j]) | q(block[j + 16]) << 4));
        };
        match kind {
            GgmlType::Q8_0 => {
                let d = f16::from_f32(largest / 127.0);
                out.extend(d.to_le_bytes());
                out.extend(block.iter().map(|x| (x / d.to_f32()).round() as i8 as u8));
            }
            GgmlType::Q4_0 => {
                let d = f16::from_f32(largest / 7.0);
                out.extend(d.to_le_bytes());
                nibbles(&mut out, &|x| (x / d.to_f32() + 8.0).round().clamp(0.0, 15.0) as u8);
            }
            GgmlType::Q4_1 => {
                let (d, m) = (f16::from_f32((high - low) / 15.0), f16::from_f32(low));
                out.extend(d.to_le_bytes());
                out.extend(m.to_le_bytes());
                let q = |x: f32| ((x - m.to_f32()) / d.to_f32()).round().clamp(0.0, 15.0) as u8;
                nibbles(&mut out, &q);
            }
            other => panic!("no quantiser for {other}"),
        }
    }
    out
}

/// The tiny model as llama.cpp's converter would write it.
fn write_gguf(name: &str, arch: &str, kind: GgmlType, path: &Path) {
    let config = json(name, "config.json");
    let number = |key: &str| config[key].as_u64().unwrap() as u32;
    let mut encoded: Vec<(String, Vec<u64>, GgmlType, Vec<u8>)> = Vec::new();
    for (hf, tensor) in tensors(name) {
        let cols = *tensor.shape.last().unwrap();
        let mut rows: Vec<&[f32]> = tensor.values.chunks_exact(cols).collect();
        if tensor.shape.len() == 1 {
            rows = vec![&tensor.values];
        }
        let mut moved = Vec::new();
        if arch == "llama" && is_interleaved_in_gguf(&hf) && tensor.shape.len() == 2 {
            let head_dim = number("head_dim") as usize;
            let half = head_dim / 2;
            for head in 0..rows.len() / head_dim {
                for i in 0..half {
                    moved.push(rows[head * head_dim + i]);
                    moved.push(rows[head * head_dim + half + i]);
                }
            }
            rows = moved;
        }
        let kind = if tensor.shape.len() == 1 { GgmlType::F32 } else { kind };
        let bytes: Vec<u8> = rows
            .iter()
            .flat_map(|row| match kind {
                GgmlType::F32 => row.iter().flat_map(|x| x.to_le_bytes()).collect(),
                GgmlType::F16 => row.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
                GgmlType::BF16 => {
                    row.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
                }
                quantised => quantise(quantised, row),
            })
            .collect();
        let dims = tensor.shape.iter().rev().map(|&d| d as u64).collect();
        encoded.push((gguf_name(&hf).unwrap(), dims, kind, bytes));
    }
    let mut file = GgufWriter::new();
    file.set("general.architecture", Value::Text(arch.into()));
    let mut set = |key: &str, value: Value| {
        file.set(format!("{arch}.{key}"), value);
    };
    set("block_count", Value::U32(number("num_hidden_layers")));
    set("context_length", Value::U32(number("max_position_embeddings")));
    set("embedding_length", Value::U32(number("hidden_size")));
    set("feed_forward_length", Value::U32(number("intermediate_size")));
    set("attention.head_count", Value::U32(number("num_attention_heads")));
    set("attention.head_count_kv", Value::U32(number("num_key_value_heads")));
    set(
        "attention.layer_norm_rms_epsilon",
        Value::F32(config["rms_norm_eps"].as_f64().unwrap() as f32),
    );
    set(
        "rope.freq_base",
        Value::F32(config["rope_parameters"]["rope_theta"].as_f64().unwrap() as f32),
    );
    if let Some(head_dim) = config["head_dim"].as_u64() {
        set("attention.key_length", Value::U32(head_dim as u32));
        set("attention.value_length", Value::U32(head_dim as u32));
    }
    let tokenizer = json(name, "tokenizer.json");
    let mut tokens: Vec<(u64, String)> = tokenizer["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (id.as_u64().unwrap(), token.clone()))
        .collect();
    let added = tokenizer["added_tokens"].as_array().unwrap().iter();
    tokens.extend(
        added.map(|t| (t["id"].as_u64().unwrap(), t["content"].as_str().unwrap().to_string())),
    );
    tokens.extend((tokens.len() as u64..320).map(|id| (id, format!("[PAD{id}]"))));
    tokens.sort();
    let mut texts = TextArray::default();
    tokens.iter().for_each(|(_, token)| texts.push(token));
    let kinds = tokens.iter().map(|(id, _)| match id {
        0..256 => 1,
        256..259 => 3,
        _ => 5,
    });
    file.set("tokenizer.ggml.model", Value::Text("gpt2".into()));
    file.set("tokenizer.ggml.pre", Value::Text("gpt-2".into()));
    file.set("tokenizer.ggml.tokens", Value::Array(Array::Texts(texts)));
    file.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds.collect())));
    file.set("tokenizer.ggml.merges", Value::Array(Array::Texts(TextArray::default())));
    file.set("tokenizer.ggml.eos_token_id", Value::U32(258));
    for (name, dims, kind, bytes) in &encoded {
        file.tensor(name, dims, *kind, bytes).unwrap();
    }
    file.save(path).unwrap();
}

#[test]
fn every_gguf_format_gives_the_weights_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    for (name, arch) in [("tiny-llama", "llama"), ("tiny-qwen2", "qwen2"), ("tiny-qwen3", "qwen3")]
    {
        let want = logits(&golden_dir(name), WeightDtype::F32);
        for (kind, tolerance) in [
            (GgmlType::F32, 1e-4),
            (GgmlType::F16, 0.06),
            (GgmlType::BF16, 0.6),
            (GgmlType::Q8_0, 0.6),
            (GgmlType::Q4_1, 8.0),
            (GgmlType::Q4_0, 8.0),
        ] {
            let path = dir.path().join(format!("{name}-{kind}.gguf"));
            write_gguf(name, arch, kind, &path);
            let dense = logits(&path, WeightDtype::F32);
            let off = worst(&dense, &want);
            assert!(off <= tolerance, "{name} {kind}: off by {off}");
            // Blocks that stay quantised are the same numbers as dequantised ones.
            assert_eq!(logits(&path, WeightDtype::Keep), dense, "{name} {kind}: keep");
            let kept = Model::load(&path, WeightDtype::Keep, &Device::Cpu).unwrap();
            let format = kept.transformer.weight_format();
            assert!(format.eq_ignore_ascii_case(kind.name()), "{format} for {kind}");
        }
    }
}

#[test]
fn what_cannot_be_loaded_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| match Model::load(path, WeightDtype::Keep, &Device::Cpu) {
        Ok(_) => panic!("{} was loaded", path.display()),
        Err(error) => error.to_string(),
    };
    assert!(error(&dir.path().join("none")).contains("no file or folder"));
    let text = dir.path().join("notes.txt");
    std::fs::write(&text, "hello").unwrap();
    assert!(error(&text).contains("neither a model folder nor a .gguf file"));
    assert!(error(dir.path()).contains("config.json"));
    let gguf = dir.path().join("m.gguf");
    write_gguf("tiny-llama", "llama", GgmlType::F32, &gguf);
    let whole = std::fs::read(&gguf).unwrap();
    std::fs::write(&gguf, &whole[..whole.len() / 2]).unwrap();
    assert!(error(&gguf).contains("not a usable gguf file"), "{}", error(&gguf));
}
