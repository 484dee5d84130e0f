//! SmolLM2-135M-Instruct from its GGUF against transformers: logits, log-probabilities,
//! greedy text, and what quantised weights cost.

use candle_core::Device;
use serde_json::Value;
use std::path::{Path, PathBuf};
use troupe_model::gguf::GgufFile;
use troupe_model::{KvCache, KvPool, ModelConfig, Transformer, WeightDtype, WeightSource};
use troupe_ops::{Segment, TreeLayout};

fn model_file() -> PathBuf {
    let folder = std::env::var_os("TROUPE_TEST_MODELS")
        .expect("set TROUPE_TEST_MODELS to a folder made by scripts/fetch_test_models.sh");
    Path::new(&folder).join("smollm2-135m-instruct.Q4_1.gguf")
}

fn load(dtype: WeightDtype) -> Transformer {
    let file = GgufFile::open(model_file()).unwrap();
    let config = ModelConfig::from_gguf(&file).unwrap();
    let source = WeightSource::Gguf { file: &file, interleaved: true };
    Transformer::load(config, &source, dtype, &Device::Cpu).unwrap()
}

fn cases() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = path.join("../../tests/golden/smollm2_logits.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    golden["cases"].as_array().unwrap().clone()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn logits(model: &Transformer, ids: &[u32]) -> Vec<Vec<f32>> {
    let layout = TreeLayout::sequences(&[ids.len()]).unwrap();
    let hidden = model.hidden_states(ids, &layout, None).unwrap();
    model.logits(&hidden).unwrap().to_vec2().unwrap()
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&z| f64::from(z - top).exp()).sum();
    row.iter().map(|&z| f64::from(z - top) - sum.ln()).collect()
}

#[test]
#[ignore = "needs TROUPE_TEST_MODELS"]
fn logits_and_log_probs_are_those_of_transformers() {
    let model = load(WeightDtype::F32);
    let (mut worst_logit, mut worst_log_prob) = (0f64, 0f64);
    for case in cases() {
        let (prompt, completion) = (ids(&case["ids"]), ids(&case["completion_ids"]));
        let row = logits(&model, &prompt).pop().unwrap();
        for (id, want) in ids(&case["top50_ids"]).iter().zip(floats(&case["top50_logits"])) {
            worst_logit = worst_logit.max((f64::from(row[*id as usize]) - want).abs());
        }
        let lse = f64::from(row[0]) - log_softmax(&row)[0];
        let want = case["logsumexp"].as_f64().unwrap();
        assert!((lse - want).abs() < 2e-3, "{}: log-sum-exp {lse}, {want}", case["name"]);
        let all: Vec<u32> = prompt.iter().chain(&completion).copied().collect();
        let layout = TreeLayout::sequences(&[all.len()]).unwrap();
        let hidden = model.hidden_states(&all, &layout, None).unwrap();
        let rows = hidden.narrow(0, prompt.len() - 1, completion.len()).unwrap();
        let scored = model.log_probs(&rows, &completion, 1.0).unwrap().log_prob;
        let scored = scored.to_vec1::<f32>().unwrap();
        for (got, want) in scored.iter().zip(floats(&case["completion_logprobs"])) {
            worst_log_prob = worst_log_prob.max((f64::from(*got) - want).abs());
        }
    }
    println!("worst logit {worst_logit:.2e}, worst log-prob {worst_log_prob:.2e}");
    assert!(worst_logit < 2e-3, "logits differ by {worst_logit}");
    assert!(worst_log_prob < 1e-3, "log-probs differ by {worst_log_prob}");
}

#[test]
#[ignore = "needs TROUPE_TEST_MODELS"]
fn greedy_text_is_that_of_transformers() {
    let model = load(WeightDtype::F32);
    for case in cases() {
        let mut tokens = ids(&case["ids"]);
        let prompt = tokens.len();
        let slots = prompt + 48;
        let pool = KvPool::new(model.config(), slots, model.compute_dtype(), &Device::Cpu).unwrap();
        let mut done = 0;
        for _ in 0..48 {
            let queries = tokens.len() - done;
            let whole = Segment { parent: None, key_start: 0, len: tokens.len(), queries };
            let layout = TreeLayout::new(vec![whole]).unwrap();
            let slots: Vec<u32> = (done..tokens.len()).map(|s| s as u32).collect();
            let cache = KvCache { pool: &pool, slots: &slots };
            let hidden = model.hidden_states(&tokens[done..], &layout, Some(cache)).unwrap();
            done = tokens.len();
            let last = hidden.narrow(0, queries - 1, 1).unwrap();
            let row = model.logits(&last).unwrap().get(0).unwrap().to_vec1::<f32>().unwrap();
            let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            tokens.push(best as u32);
        }
        assert_eq!(tokens[prompt..], ids(&case["greedy48_ids"]), "{}", case["name"]);
    }
}

#[test]
#[ignore = "needs TROUPE_TEST_MODELS"]
fn kept_blocks_give_the_distribution_of_dequantised_weights() {
    let (kept, wide) = (load(WeightDtype::Keep), load(WeightDtype::F32));
    assert_eq!((kept.weight_format(), wide.weight_format()), ("Q4_1", "f32"));
    assert!(kept.weight_bytes() * 5 < wide.weight_bytes());
    let (mut kl, mut n) = (0f64, 0);
    for case in cases() {
        let prompt = ids(&case["ids"]);
        for (a, b) in logits(&wide, &prompt).iter().zip(logits(&kept, &prompt)) {
            let (p, q) = (log_softmax(a), log_softmax(&b));
            kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            n += 1;
        }
    }
    let kl = kl / f64::from(n);
    println!("mean KL of kept blocks to dequantised weights: {kl:.2e} nats");
    assert!(kl.abs() < 1e-3, "mean KL {kl}");
}
