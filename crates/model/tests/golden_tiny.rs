//! Tiny random models of every family against transformers: logits, loss, greedy text.

use candle_core::Device;
use serde_json::Value;
use std::path::{Path, PathBuf};
use troupe_model::source::Folder;
use troupe_model::{KvCache, KvPool, ModelConfig, Transformer, WeightDtype, WeightSource};
use troupe_ops::{Segment, TreeLayout};

const MODELS: [&str; 5] =
    ["tiny-llama", "tiny-llama3rope", "tiny-mistral-swa", "tiny-qwen2", "tiny-qwen3"];

fn golden_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn load(name: &str, dtype: WeightDtype) -> (Transformer, Value) {
    let dir = golden_dir(name);
    let text = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
    let config = ModelConfig::from_hf_json(&text("config.json")).unwrap();
    let source = WeightSource::Folder(Folder::open(&dir).unwrap());
    let model = Transformer::load(config, &source, dtype, &Device::Cpu).unwrap();
    (model, serde_json::from_str(&text("golden.json")).unwrap())
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn logits(model: &Transformer, ids: &[u32], layout: &TreeLayout) -> Vec<Vec<f32>> {
    let hidden = model.hidden_states(ids, layout, None).unwrap();
    model.logits(&hidden).unwrap().to_vec2().unwrap()
}

fn argmax(row: &[f32]) -> u32 {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32
}

#[test]
fn logits_and_loss_are_those_of_transformers() {
    for name in MODELS {
        let (model, golden) = load(name, WeightDtype::F32);
        let ids = ids(&golden["input_ids"]);
        let layout = TreeLayout::sequences(&[ids.len()]).unwrap();
        let got = logits(&model, &ids, &layout);
        let mut worst = 0f64;
        for (row, want) in got.iter().zip(golden["logits"].as_array().unwrap()) {
            for (a, b) in row.iter().zip(want.as_array().unwrap()) {
                worst = worst.max((f64::from(*a) - b.as_f64().unwrap()).abs());
            }
        }
        assert!(worst < 1e-4, "{name}: logits differ by {worst}");
        let hidden = model.hidden_states(&ids, &layout, None).unwrap();
        let n = ids.len() - 1;
        let log_probs = model.log_probs(&hidden.narrow(0, 0, n).unwrap(), &ids[1..], 1.0).unwrap();
        let loss = -log_probs.log_prob.mean_all().unwrap().to_scalar::<f32>().unwrap();
        let want = golden["next_token_ce_loss_mean"].as_f64().unwrap();
        assert!((f64::from(loss) - want).abs() < 1e-5, "{name}: loss {loss}, expected {want}");
    }
}

#[test]
fn cached_greedy_decoding_is_that_of_transformers() {
    for name in MODELS {
        let (model, golden) = load(name, WeightDtype::F32);
        let mut ids_so_far = ids(&golden["input_ids"]);
        ids_so_far.truncate(golden["greedy_prompt_len"].as_u64().unwrap() as usize);
        let prompt = ids_so_far.len();
        let pool = KvPool::new(model.config(), 64, model.compute_dtype(), &Device::Cpu).unwrap();
        let mut done = 0;
        for _ in 0..24 {
            let segment = Segment {
                parent: None,
                key_start: 0,
                len: ids_so_far.len(),
                queries: ids_so_far.len() - done,
            };
            let layout = TreeLayout::new(vec![segment]).unwrap();
            let slots: Vec<u32> = (done..ids_so_far.len()).map(|s| s as u32).collect();
            let cache = KvCache { pool: &pool, slots: &slots };
            let hidden = model.hidden_states(&ids_so_far[done..], &layout, Some(cache)).unwrap();
            done = ids_so_far.len();
            let last = hidden.narrow(0, hidden.dims()[0] - 1, 1).unwrap();
            let row = model.logits(&last).unwrap().get(0).unwrap().to_vec1::<f32>().unwrap();
            ids_so_far.push(argmax(&row));
        }
        assert_eq!(ids_so_far[prompt..], ids(&golden["greedy24_ids"]), "{name}");
    }
}

#[test]
fn a_tree_gives_the_logits_of_its_flattened_paths() {
    for name in MODELS {
        let (model, golden) = load(name, WeightDtype::F32);
        let ids = ids(&golden["input_ids"]);
        // A trunk of 9, two replies of 6 and 5, the first one continued by 4.
        let (trunk, first, second, more) = (&ids[..9], &ids[9..15], &ids[15..20], &ids[20..]);
        let s = |parent, key_start, len| Segment { parent, key_start, len, queries: len };
        let tree = TreeLayout::new(vec![
            s(None, 0, 9),
            s(Some(0), 9, 6),
            s(Some(0), 15, 5),
            s(Some(1), 20, 4),
        ])
        .unwrap();
        let together = logits(&model, &ids, &tree);
        for (path, rows) in [
            ([trunk, first, more].concat(), [0..9, 9..15, 20..24]),
            ([trunk, second].concat(), [0..9, 15..20, 0..0]),
        ] {
            let alone = logits(&model, &path, &TreeLayout::sequences(&[path.len()]).unwrap());
            let rows = rows.into_iter().flatten();
            for (i, row) in rows.enumerate() {
                assert_eq!(alone[i], together[row], "{name}: token {i} of a path");
            }
        }
    }
}

#[test]
fn sixteen_bit_weights_stay_close_and_keep_keeps() {
    for (dtype, format, tolerance) in
        [(WeightDtype::Bf16, "bf16", 0.6), (WeightDtype::F16, "f16", 0.06)]
    {
        let (model, golden) = load("tiny-llama", dtype);
        assert_eq!(model.weight_format(), format);
        let ids = ids(&golden["input_ids"]);
        let layout = TreeLayout::sequences(&[ids.len()]).unwrap();
        let got = logits(&model, &ids, &layout);
        let want = golden["logits"][23].as_array().unwrap();
        for (a, b) in got[23].iter().zip(want) {
            assert!((f64::from(*a) - b.as_f64().unwrap()).abs() < tolerance);
        }
    }
    assert_eq!(load("tiny-llama", WeightDtype::Keep).0.weight_format(), "f32");
}

#[test]
fn a_config_that_disagrees_with_the_weights_is_refused_by_name() {
    let dir = golden_dir("tiny-qwen2");
    let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
    let load = |text: &str| {
        let config = ModelConfig::from_hf_json(text).unwrap();
        let source = WeightSource::Folder(Folder::open(&dir).unwrap());
        Transformer::load(config, &source, WeightDtype::Keep, &Device::Cpu).unwrap_err().to_string()
    };
    let as_llama = load(&text.replace("\"model_type\": \"qwen2\"", "\"model_type\": \"llama\""));
    assert!(as_llama.contains("does not account for"), "{as_llama}");
    assert!(as_llama.contains("self_attn.k_proj.bias"), "{as_llama}");
    let wide = load(&text.replace("\"hidden_size\": 64", "\"hidden_size\": 128"));
    assert!(wide.contains("has shape [320, 64]; the config says [320, 128]"), "{wide}");
    let untied =
        load(&text.replace("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false"));
    assert!(untied.contains("no tensor `lm_head.weight`"), "{untied}");
}
