//! The program from outside: tokenize, generate, score, doctor, quickstart, and failures.

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn tiny(name: &str) -> String {
    root().join("tests/golden").join(name).display().to_string()
}

fn real_model() -> String {
    let folder = std::env::var_os("TROUPE_TEST_MODELS")
        .expect("set TROUPE_TEST_MODELS to a folder made by scripts/fetch_test_models.sh");
    Path::new(&folder).join("smollm2-135m-instruct.Q4_1.gguf").display().to_string()
}

fn troupe(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_troupe"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that fails early may not read what it is given.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "failed: {err}\n{out}");
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn golden(name: &str) -> Value {
    let path = root().join("tests/golden").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Fails with one line of error and one of hint, and with exit code 1.
fn fails(args: &[&str], stdin: &str, error: &str, hint: &str) {
    let output = troupe(args, stdin);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
    let line =
        |start: &str| message.lines().find(|l| l.starts_with(start)).unwrap_or("").to_string();
    assert!(line("error: ").contains(error), "{args:?}: {message}");
    assert!(line("hint: ").contains(hint), "{args:?}: {message}");
}

#[test]
fn greedy_generation_is_that_of_transformers() {
    for name in ["tiny-llama", "tiny-llama3rope", "tiny-mistral-swa", "tiny-qwen2", "tiny-qwen3"] {
        let golden = golden(&format!("{name}/golden.json"));
        let n = golden["greedy_prompt_len"].as_u64().unwrap() as usize;
        let prompt: Vec<String> =
            golden["input_ids"].as_array().unwrap()[..n].iter().map(Value::to_string).collect();
        let model = tiny(name);
        let prompt = prompt.join(",");
        let args = [
            "generate",
            "--model",
            &model,
            "--prompt-ids",
            &prompt,
            "--temperature",
            "0",
            "--max-tokens",
            "24",
            "--ignore-eos",
            "--json",
        ];
        let reply = json_lines(&out(&troupe(&args, ""))).remove(0);
        assert_eq!(reply["ids"], golden["greedy24_ids"], "{name}");
    }
}

#[test]
fn scores_agree_with_generation_and_bad_rows_are_reported_in_place() {
    let model = tiny("tiny-qwen3");
    let args = [
        "generate",
        "--model",
        &model,
        "--prompt",
        "Hello",
        "--max-tokens",
        "9",
        "--n",
        "3",
        "--ignore-eos",
        "--json",
    ];
    let replies = json_lines(&out(&troupe(&args, "")));
    assert_eq!(replies.len(), 3);
    assert_ne!(replies[0]["ids"], replies[1]["ids"], "seeds must differ");
    let prompt: Vec<u32> = golden_ids("Hello");
    let mut rows = String::new();
    for reply in &replies {
        let row = serde_json::json!({ "prompt_ids": prompt, "completion_ids": reply["ids"] });
        rows.push_str(&format!("{row}\n"));
    }
    rows.push_str("{\"prompt_ids\": [1], \"completion_ids\": [99999]}\nnot json\n");
    let output = troupe(&["score", "--model", &model, "--input", "-"], &rows);
    assert_eq!(output.status.code(), Some(1));
    let scores = json_lines(&text(&output.stdout));
    assert_eq!(scores.len(), 5);
    for (score, reply) in scores.iter().zip(&replies) {
        let (a, b) = (score["log_prob_sum"].as_f64().unwrap(), reply["log_prob_sum"].as_f64());
        assert!((a - b.unwrap()).abs() < 1e-4);
    }
    assert!(scores[3]["error"].as_str().unwrap().contains("99999"));
    assert!(scores[4]["error"].as_str().unwrap().contains("not JSON"));
}

/// The byte-level ids of the tiny models' tokenizer.
fn golden_ids(text: &str) -> Vec<u32> {
    let model = tiny("tiny-qwen3");
    let output = troupe(&["tokenize", "--model", &model, "--text", "-", "--json"], text);
    serde_json::from_value(json_lines(&out(&output))[0]["ids"].clone()).unwrap()
}

#[test]
fn tokenize_gives_text_ids_and_segments() {
    let model = tiny("tiny-llama");
    let messages = r#"[{"role": "system", "content": "s"}, {"role": "user", "content": "hi 你"},
        {"role": "assistant", "content": "yo"}]"#;
    let args = ["tokenize", "--model", &model, "--messages", "-", "--json"];
    let chat = json_lines(&out(&troupe(&args, messages))).remove(0);
    let want = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nhi 你<|im_end|>\n\
        <|im_start|>assistant\nyo<|im_end|>\n";
    assert_eq!(chat["text"], want);
    let segments = chat["segments"].as_array().unwrap();
    assert_eq!(segments.len(), 3);
    let joined: Vec<Value> =
        segments.iter().flat_map(|s| s["ids"].as_array().unwrap().clone()).collect();
    assert_eq!(Value::Array(joined), chat["ids"]);
    assert_eq!(segments[2]["reply"]["text"], "yo<|im_end|>");
    // Asked for a reply, the conversation ends with the assistant's header.
    let question = r#"{"messages": [{"role": "user", "content": "hi"}]}"#;
    let chat = json_lines(&out(&troupe(&args, question))).remove(0);
    assert!(chat["text"].as_str().unwrap().ends_with("<|im_start|>assistant\n"));
    assert_eq!(chat["segments"][1]["kind"], "generation_prompt");
}

#[test]
fn failures_are_one_line_with_a_hint() {
    let model = tiny("tiny-llama");
    fails(&["generate", "--model", "/none", "--prompt", "x"], "", "no file or folder", "--model");
    fails(
        &["generate", "--model", &model, "--prompt", "x", "--device", "cuda:7"],
        "",
        "cuda:7",
        "--device cpu",
    );
    fails(&["tokenize", "--model", &model, "--messages", "-"], "{", "not JSON", "role");
    fails(
        &["generate", "--model", &model, "--prompt", "x", "--context", "100000"],
        "",
        "100000",
        "--context",
    );
    let wrong = troupe(&["generate", "--model", &model, "--prompt", "x", "--device", "gpu"], "");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("`gpu` is no device"));
}

#[test]
fn quickstart_plays_both_roles_and_says_that_the_model_is_random() {
    let said = out(&troupe(&["quickstart"], ""));
    assert!(
        said.contains("random") && said.contains("Marrow: ") && said.contains("Wren: "),
        "{said}"
    );
    assert_eq!(said, out(&troupe(&["quickstart"], "")), "the same seed gives the same scene");
}

#[test]
fn doctor_checks_the_kernels() {
    let report = json_lines(&out(&troupe(&["doctor", "--json"], ""))).remove(0);
    assert_eq!(report["devices"][0]["device"], "cpu");
    assert!(report["devices"][0]["self_test"]["tree_attention"].as_f64().unwrap() < 1e-4);
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in
        ["quickstart", "chat", "play", "generate", "tokenize", "score", "bench", "doctor"]
    {
        let help = out(&troupe(&[command, "--help"], ""));
        assert!(help.contains("Example") && help.contains(&format!("troupe {command}")), "{help}");
    }
}

#[test]
#[ignore = "needs TROUPE_TEST_MODELS"]
fn smollm2_from_its_gguf_tokenizes_scores_and_speaks_as_transformers_does() {
    let model = real_model();
    let golden = golden("smollm2_logits.json");
    let (mut rows, mut inputs) = (String::new(), String::new());
    for case in golden["cases"].as_array().unwrap() {
        if case["messages"].is_array() {
            let args = ["tokenize", "--model", &model, "--messages", "-", "--json"];
            let chat = json_lines(&out(&troupe(&args, &case["messages"].to_string()))).remove(0);
            assert_eq!(chat["text"], case["text"], "{}", case["name"]);
            assert_eq!(chat["ids"], case["ids"], "{}", case["name"]);
            let row = serde_json::json!({
                "messages": case["messages"], "completion": case["completion"]
            });
            rows.push_str(&format!("{row}\n"));
            inputs.push_str(&format!("{}\n", serde_json::json!({"messages": case["messages"]})));
        } else {
            let row = serde_json::json!({
                "prompt": case["text"], "completion": case["completion"]
            });
            rows.push_str(&format!("{row}\n"));
            inputs.push_str(&format!("{}\n", serde_json::json!({"prompt": case["text"]})));
        }
    }
    let args = ["score", "--model", &model, "--dtype", "f32", "--input", "-"];
    let scores = json_lines(&out(&troupe(&args, &rows)));
    let args = [
        "generate",
        "--model",
        &model,
        "--dtype",
        "f32",
        "--input",
        "-",
        "--temperature",
        "0",
        "--max-tokens",
        "48",
        "--ignore-eos",
    ];
    let replies = json_lines(&out(&troupe(&args, &inputs)));
    for ((case, score), reply) in
        golden["cases"].as_array().unwrap().iter().zip(&scores).zip(&replies)
    {
        assert_eq!(score["completion_ids"], case["completion_ids"], "{}", case["name"]);
        let got = score["log_probs"].as_array().unwrap();
        for (a, b) in got.iter().zip(case["completion_logprobs"].as_array().unwrap()) {
            assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-3, "{}", case["name"]);
        }
        assert_eq!(reply["ids"], case["greedy48_ids"], "{}", case["name"]);
    }
}
