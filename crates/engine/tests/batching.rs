//! A reply depends on its own request alone: together, apart, shared, preempted, cancelled.

use candle_core::Device;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use troupe_dialogue::{
    ChatError, ChatModel, ChatRequest, Prompt, Reply, RequestId, Sampling, StopReason, complete,
    complete_all,
};
use troupe_engine::{EngineConfig, LocalEngine, Model, ScoreRow, WeightDtype, score_rows};

fn golden_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn real_model() -> PathBuf {
    let folder = std::env::var_os("TROUPE_TEST_MODELS")
        .expect("set TROUPE_TEST_MODELS to a folder made by scripts/fetch_test_models.sh");
    Path::new(&folder).join("smollm2-135m-instruct.Q4_1.gguf")
}

fn engine(path: &Path, config: EngineConfig) -> LocalEngine {
    let model = Model::load(path, WeightDtype::F32, &Device::Cpu).unwrap();
    LocalEngine::new(model, config).unwrap()
}

/// Sixteen requests of different lengths and settings; the odd ones share a prefix.
fn requests(vocab: u32, prefix: usize, longest: usize, new: usize) -> Vec<ChatRequest> {
    let token = |seed: u32, i: u32| (seed.wrapping_mul(7919) + i * 104_729) % vocab;
    let shared: Vec<u32> = (0..prefix as u32).map(|i| token(1, i)).collect();
    (0..16u32)
        .map(|r| {
            let own = 1 + (r as usize * 37) % longest;
            let mut ids = if r % 2 == 1 { shared.clone() } else { Vec::new() };
            ids.extend((0..own as u32).map(|i| token(r + 2, i)));
            let mut request = ChatRequest::new(Prompt::Ids(ids));
            request.max_new_tokens = new + (r as usize % 5);
            request.ignore_eos = true;
            request.seed = u64::from(r);
            request.sampling = match r % 4 {
                0 => Sampling::greedy(),
                1 => Sampling { temperature: 0.8, top_p: 0.9, ..Sampling::default() },
                2 => Sampling { min_p: 0.05, repetition_penalty: 1.2, ..Sampling::default() },
                _ => Sampling { top_k: 40, ..Sampling::default() },
            };
            request
        })
        .collect()
}

/// What must not depend on company: everything but what the cache happened to hold.
fn essence(reply: &Reply) -> (&str, &[u32], &[f32], &[f32], StopReason) {
    (&reply.text, &reply.ids, &reply.log_probs, &reply.tempered_log_probs, reply.stop)
}

fn alone(path: &Path, config: &EngineConfig, requests: &[ChatRequest]) -> Vec<Reply> {
    let each = |request: &ChatRequest| {
        complete(&mut engine(path, config.clone()), request.clone()).unwrap()
    };
    requests.iter().map(each).collect()
}

#[test]
fn sixteen_ragged_requests_together_are_bitwise_themselves_alone() {
    let config = EngineConfig { prefill_tokens: 48, ..EngineConfig::default() };
    for name in ["tiny-llama", "tiny-llama3rope", "tiny-mistral-swa", "tiny-qwen2", "tiny-qwen3"] {
        let path = golden_dir(name);
        let requests = requests(320, 50, 90, 12);
        let want = alone(&path, &config, &requests);
        let mut together = engine(&path, config.clone());
        let got = complete_all(&mut together, requests.clone()).unwrap();
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(essence(got), essence(want), "{name}: request {i}");
        }
        assert_eq!((together.pending(), together.pages_in_use()), (0, 0), "{name}");
        // Eight requests share 50 tokens: 3 full pages, computed once.
        let prompts: usize = want.iter().map(|r| r.prompt_tokens).sum();
        assert!(together.stats().prefill_tokens <= prompts - 7 * 48, "{name}: prefix not shared");
        // A second round finds whole prompts in the cache, and says the same.
        let again = complete_all(&mut together, requests).unwrap();
        for (got, want) in again.iter().zip(&want) {
            assert_eq!(essence(got), essence(want), "{name}: second round");
        }
        assert!(again[1].cached_tokens >= 48, "{name}: nothing was cached");
    }
}

#[test]
fn requests_that_join_late_are_cancelled_or_preempted_change_nothing() {
    let path = golden_dir("tiny-qwen3");
    let config = EngineConfig {
        context_tokens: Some(192),
        max_batch: 5,
        prefill_tokens: 32,
        // Room for about two contexts: requests must give way to one another.
        cache_bytes: 400 * 2 * 2 * 2 * 32 * 4,
    };
    let requests = requests(320, 40, 70, 30);
    let want = alone(&path, &config, &requests);
    let mut together = engine(&path, config);
    let mut ids: HashMap<RequestId, usize> = HashMap::new();
    let mut replies: Vec<Option<Reply>> = vec![None; 16];
    let mut left = requests.into_iter().enumerate();
    for round in 0.. {
        if round % 3 == 0 {
            for (i, request) in left.by_ref().take(2) {
                ids.insert(together.submit(request, None).unwrap(), i);
            }
        }
        if round == 20 {
            let (&id, _) = ids.iter().find(|(_, i)| **i == 5).unwrap();
            together.cancel(id);
        }
        for done in together.poll().unwrap() {
            replies[ids[&done.id]] = Some(done.reply.unwrap());
        }
        if together.pending() == 0 && ids.len() == 16 {
            break;
        }
        assert!(round < 5000, "the engine does not come to an end");
    }
    for (i, (got, want)) in replies.iter().zip(&want).enumerate() {
        let got = got.as_ref().unwrap();
        if got.stop == StopReason::Cancelled {
            assert_eq!(i, 5);
            assert_eq!(got.ids[..], want.ids[..got.ids.len()]);
        } else {
            assert_eq!(essence(got), essence(want), "request {i}");
        }
    }
    assert!(together.stats().preemptions > 0, "nothing had to give way: {:?}", together.stats());
    assert_eq!(together.pages_in_use(), 0);
}

#[test]
#[ignore = "needs TROUPE_TEST_MODELS"]
fn sixteen_ragged_requests_on_smollm2() {
    let path = real_model();
    let config = EngineConfig::default();
    let requests = requests(49_152, 120, 150, 8);
    let mut one = engine(&path, config.clone());
    let want: Vec<Reply> = requests
        .iter()
        .map(|request| {
            one.forget_prefixes();
            complete(&mut one, request.clone()).unwrap()
        })
        .collect();
    let mut together = engine(&path, config);
    let got = complete_all(&mut together, requests).unwrap();
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(essence(got), essence(want), "request {i}");
    }
}

#[test]
fn scoring_a_tree_is_what_sampling_reported() {
    let path = golden_dir("tiny-qwen2");
    let mut engine = engine(&path, EngineConfig::default());
    let requests = requests(320, 50, 90, 12);
    let replies = complete_all(&mut engine, requests.clone()).unwrap();
    let rows: Vec<ScoreRow> = requests
        .iter()
        .zip(&replies)
        .flat_map(|(request, reply)| {
            let Prompt::Ids(prompt) = &request.prompt else { unreachable!() };
            // Each prompt twice: the second completion shares the first one's trunk.
            let row = |completion: &[u32]| ScoreRow {
                prompt_ids: prompt.clone(),
                completion_ids: completion.to_vec(),
            };
            [row(&reply.ids), row(&reply.ids[..reply.ids.len() / 2])]
        })
        .collect();
    let scores = score_rows(engine.model(), &rows).unwrap();
    for (pair, reply) in scores.chunks(2).zip(&replies) {
        assert_eq!(pair[0].len(), reply.ids.len());
        for (a, b) in pair[0].iter().zip(&reply.log_probs) {
            assert!((a - b).abs() < 1e-5, "scored {a}, sampled {b}");
        }
        assert_eq!(pair[0][..pair[1].len()], pair[1][..]);
    }
    let empty = ScoreRow { prompt_ids: vec![], completion_ids: vec![1] };
    let error = score_rows(engine.model(), &[empty]).unwrap_err().to_string();
    assert!(error.contains("row 0: `prompt_ids` is empty"), "{error}");
    let outside = ScoreRow { prompt_ids: vec![1], completion_ids: vec![999] };
    assert!(score_rows(engine.model(), &[outside]).is_err());
}

#[test]
fn limits_and_bad_requests() {
    let path = golden_dir("tiny-llama");
    let config = EngineConfig { context_tokens: Some(40), ..EngineConfig::default() };
    let mut engine = engine(&path, config);
    let ids = |n: u32| Prompt::Ids((0..n).collect());
    let mut request = ChatRequest::new(ids(30));
    request.ignore_eos = true;
    let reply = complete(&mut engine, request.clone()).unwrap();
    assert_eq!((reply.stop, reply.ids.len()), (StopReason::ContextFull, 10));
    request.max_new_tokens = 3;
    let reply = complete(&mut engine, request.clone()).unwrap();
    assert_eq!((reply.stop, reply.ids.len()), (StopReason::Length, 3));
    let error = |request: ChatRequest| {
        complete(
            &mut LocalEngine::new(
                Model::load(&golden_dir("tiny-llama"), WeightDtype::F32, &Device::Cpu).unwrap(),
                EngineConfig { context_tokens: Some(40), ..EngineConfig::default() },
            )
            .unwrap(),
            request,
        )
        .unwrap_err()
    };
    let long = ChatError::ContextTooLong { prompt: 40, context: 40 };
    assert_eq!(error(ChatRequest::new(ids(40))), long);
    assert!(matches!(error(ChatRequest::new(ids(0))), ChatError::BadRequest(_)));
    assert!(matches!(error(ChatRequest::new(Prompt::Ids(vec![320]))), ChatError::BadRequest(_)));
    let hot = Sampling { temperature: -1.0, ..Sampling::default() };
    let bad = ChatRequest { sampling: hot, ..ChatRequest::new(ids(3)) };
    assert!(matches!(error(bad), ChatError::BadRequest(_)));
    let none = ChatRequest { max_new_tokens: 0, ..ChatRequest::new(ids(3)) };
    assert!(matches!(error(none), ChatError::BadRequest(_)));
    let model = Model::load(&path, WeightDtype::F32, &Device::Cpu).unwrap();
    let config = EngineConfig { context_tokens: Some(513), ..EngineConfig::default() };
    assert!(LocalEngine::new(model, config).is_err());
}

#[test]
fn stop_strings_cut_the_text_and_streams_add_up_to_it() {
    let path = golden_dir("tiny-llama");
    let mut engine = engine(&path, EngineConfig::default());
    let mut request = ChatRequest::new(Prompt::Text("Hello there".into()));
    request.max_new_tokens = 60;
    request.ignore_eos = true;
    let whole = complete(&mut engine, request.clone()).unwrap();
    let characters: Vec<char> = whole.text.chars().collect();
    let stop: String = characters[20..22].iter().collect();
    let cut = whole.text.find(&stop).unwrap();
    request.stop = vec!["never said".into(), stop];
    let (sender, pieces) = std::sync::mpsc::channel();
    let sink = move |chunk: troupe_dialogue::TokenChunk| sender.send(chunk.text).unwrap();
    let id = engine.submit(request, Some(Box::new(sink))).unwrap();
    let reply = loop {
        let mut done = engine.poll().unwrap();
        if let Some(done) = done.pop() {
            assert_eq!(done.id, id);
            break done.reply.unwrap();
        }
    };
    assert_eq!((reply.stop, reply.text.as_str()), (StopReason::StopString, &whole.text[..cut]));
    assert_eq!(pieces.iter().collect::<String>(), reply.text);
    assert_eq!(reply.ids[..], whole.ids[..reply.ids.len()]);
}
