//! Tokenizers: GGUF against Hugging Face over awkward strings, the files of a Hugging
//! Face folder, decoding token by token, and refusals by file and field.
//!
//! The reference pipelines are in `data/pre_tokenizers.json`, the ids of the real SmolLM2
//! in `data/smollm2_*.json`.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, PreTokenizerWrapper, Tokenizer as Reference};
use troupe_model::gguf::{Array, GgufFile, GgufWriter, Value};
use troupe_model::tokenizer::{DecodeStream, Tokenizer, TokenizerError};

// Shared by the sequences of a server.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
    shared::<DecodeStream>();
};

const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const USER_DEFINED: [&str; 2] = ["<think>", "   "];

const TRAINING: [&str; 6] = [
    "The lighthouse keeper's daughter didn't wait; she'd LEFT at 12:45, they're sure we'll see.",
    "const VALUE_OF_x99 = fooBar(1234, 56.78) // HTTPServer camelCase snake_case  \n\n\treturn;",
    "灯塔看守人的女儿没有等待，她在十二点离开了。こんにちは世界、カタカナ。안녕하세요 세계",
    "Привет, мир! Добрый вечер. مرحبا بالعالم हिन्दी में नमस्ते",
    "naïve café — “quotes”… it's   spaced    out.\r\n\r\nNEW line\n \n  end",
    "the the the and and and ing ing tion tion 000 111 2222 33333 x x x y y y",
];

const AWKWARD: &[&str] = &[
    "",
    " ",
    "  ",
    "    \t  ",
    "\n",
    " \n \n\n  \r\n",
    "Hello world",
    "don't can't I'LL we've IT'S 'S ’s 'ſ",
    "0 12 345 6789 1234567890 ½ ² ٣٤٥ Ⅻ x²y 3.14159 1,000",
    "naïve café — “quotes”…",
    "e\u{301} é ﬁ Å \u{212B} \u{1E9B}\u{323} ½",
    "こんにちは世界 カタカナ 漢字かな交じり文。",
    "你好，世界！灯塔 123 的女儿",
    "안녕하세요 세계",
    "Привет, мир",
    "مرحبا بالعالم ١٢٣",
    "हिन्दी में नमस्ते ก็ไทย",
    "🌧️👩‍👩‍👧‍👦🏳️‍🌈 é",
    "\u{0}\u{7}\u{1b}[0m\u{200b}\u{feff}\u{2028}",
    "CamelCaseIdentifier_with_snake99 HTTPServer fooBAR",
    "a/b\\c `code` $x+y<=z^~|# @user !!! ... ?!\n//\n",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "x<|endoftext|>y <|im_end|><|im_end|> <|im_",
    "a <think>b</think>   c      d",
    "\u{a0}\u{3000} ideographic\u{3000}space",
    "end with spaces   ",
];

/// A byte-level BPE over the training lines with this pipeline, trained in the same way
/// on every machine.
fn trained(normalizer: &Json, pre_tokenizer: &Json, ignore_merges: bool) -> Reference {
    let mut reference = Reference::new(BPE::default());
    let pre: PreTokenizerWrapper = serde_json::from_value(pre_tokenizer.clone()).unwrap();
    reference.with_pre_tokenizer(Some(pre));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(700)
        .min_frequency(1)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    reference.train(&mut trainer, TRAINING.iter().copied()).unwrap();
    let mut whole: Json = serde_json::from_str(&reference.to_string(false).unwrap()).unwrap();
    whole["normalizer"] = normalizer.clone();
    whole["model"]["ignore_merges"] = ignore_merges.into();
    whole["decoder"] = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
        "use_regex": true});
    let mut reference: Reference = serde_json::from_value(whole).unwrap();
    let specials = SPECIALS.map(|text| AddedToken::from(text, true));
    let others = USER_DEFINED.map(|text| AddedToken::from(text, false).normalized(false));
    reference.add_tokens(specials.into_iter().chain(others)).unwrap();
    reference
}

/// The metadata that llama.cpp's converter would write for a reference tokenizer.
fn metadata(reference: &Reference, pre: &str) -> GgufWriter<'static> {
    let whole: Json = serde_json::from_str(&reference.to_string(false).unwrap()).unwrap();
    let mut tokens: Vec<(u32, String)> =
        reference.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
    tokens.sort_unstable();
    let kind = |token: &str| match token {
        _ if SPECIALS.contains(&token) => 3,
        _ if USER_DEFINED.contains(&token) => 4,
        _ => 1,
    };
    let mut types: Vec<i32> = tokens.iter().map(|(_, token)| kind(token)).collect();
    let mut texts: Vec<String> = tokens.into_iter().map(|(_, token)| token).collect();
    texts.push("[PAD99]".into());
    types.push(5);
    let merges = whole["model"]["merges"].as_array().unwrap();
    let merges = merges.iter().map(|pair| {
        let part = |idx: usize| pair[idx].as_str().unwrap();
        format!("{} {}", part(0), part(1))
    });
    let id = |token: &str| Value::U32(reference.token_to_id(token).unwrap());
    let mut writer = GgufWriter::new();
    writer
        .set("tokenizer.ggml.model", Value::Text("gpt2".into()))
        .set("tokenizer.ggml.pre", Value::Text(pre.into()))
        .set("tokenizer.ggml.tokens", Value::Array(Array::Texts(texts.iter().collect())))
        .set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)))
        .set("tokenizer.ggml.merges", Value::Array(Array::Texts(merges.collect())))
        .set("tokenizer.ggml.bos_token_id", id("<|im_start|>"))
        .set("tokenizer.ggml.eos_token_id", id("<|endoftext|>"));
    writer
}

fn open(writer: &GgufWriter) -> GgufFile {
    let dir = tempfile::tempdir().unwrap();
    writer.save(dir.path().join("model.gguf")).unwrap();
    GgufFile::open(dir.path().join("model.gguf")).unwrap()
}

/// What a stream gives for these ids, pieces joined.
fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = DecodeStream::new(skip_special);
    let mut text = String::new();
    for &id in ids {
        text.extend(stream.push(tokenizer, id).unwrap());
    }
    text.extend(stream.finish(tokenizer).unwrap());
    text
}

fn pipelines() -> Vec<Json> {
    let data: Json = serde_json::from_str(include_str!("data/pre_tokenizers.json")).unwrap();
    data["rows"].as_array().unwrap().clone()
}

#[test]
fn gguf_gives_the_ids_of_hugging_face() {
    for row in pipelines() {
        let pre = row["pre"].as_str().unwrap();
        let ignore_merges = row["ignore_merges"].as_bool().unwrap();
        let reference = trained(&row["normalizer"], &row["pre_tokenizer"], ignore_merges);
        let mut writer = metadata(&reference, pre);
        writer.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
        let ours = Tokenizer::from_gguf(&open(&writer)).unwrap();
        for text in AWKWARD.iter().chain(&TRAINING) {
            let expected = reference.encode(*text, false).unwrap();
            let ids = ours.encode(text, false).unwrap();
            assert_eq!(ids, expected.get_ids(), "{pre}: {text:?}");
            assert_eq!(ours.encode(text, true).unwrap(), ids);
            for skip in [false, true] {
                let decoded = reference.decode(&ids, skip).unwrap();
                assert_eq!(ours.decode(&ids, skip).unwrap(), decoded, "{pre}: {text:?}");
                assert_eq!(streamed(&ours, &ids, skip), decoded, "{pre}: {text:?}");
            }
        }
        assert_eq!(ours.vocab_size(), reference.get_vocab_size(true) + 1);
        assert_eq!(ours.note(), None);
    }
}

#[test]
fn roles_of_gguf_tokens() {
    let row = pipelines().into_iter().find(|row| row["pre"] == "llama-bpe").unwrap();
    let reference = trained(&row["normalizer"], &row["pre_tokenizer"], true);
    let id = |token: &str| reference.token_to_id(token).unwrap();
    let mut writer = metadata(&reference, "llama-bpe");
    let ours = Tokenizer::from_gguf(&open(&writer)).unwrap();
    // `llama-bpe` adds BOS where the file does not say otherwise.
    assert!(ours.adds_bos());
    assert_eq!(ours.bos_id(), Some(id("<|im_start|>")));
    assert_eq!(ours.encode("", true).unwrap(), [id("<|im_start|>")]);
    // Declared first, then the known one that is special here.
    assert_eq!(ours.eos_ids(), [id("<|endoftext|>"), id("<|im_end|>")]);
    assert_eq!(ours.named_tokens()["eos_token"], "<|endoftext|>");
    assert!(ours.is_special(id("<|im_end|>")) && !ours.is_special(id("<think>")));
    assert_eq!(ours.id_to_token(id("<think>")).as_deref(), Some("<think>"));
    // The unused row is no token: nothing in, nothing out.
    let unused = ours.vocab_size() as u32 - 1;
    assert_eq!(ours.token_to_id("[PAD99]"), None);
    assert_eq!(ours.decode(&[unused, 1_000_000], false).unwrap(), "");

    writer
        .set("tokenizer.ggml.add_bos_token", Value::Bool(false))
        .set("tokenizer.ggml.add_eos_token", Value::Bool(true))
        .set("tokenizer.ggml.eot_token_id", Value::U32(id("<|im_end|>")))
        .set("tokenizer.ggml.padding_token_id", Value::U32(id("<|endoftext|>")));
    let ours = Tokenizer::from_gguf(&open(&writer)).unwrap();
    assert!(!ours.adds_bos());
    assert_eq!(ours.encode("", true).unwrap(), [id("<|endoftext|>")]);
    assert_eq!(ours.pad_id(), Some(id("<|endoftext|>")));

    let note = Tokenizer::from_gguf(&open(&metadata(&reference, "default"))).unwrap().note();
    assert!(note.unwrap().contains("`default`"));
}

#[test]
fn unusable_gguf_metadata_is_refused_by_field() {
    let reference = trained(&Json::Null, &pipelines()[0]["pre_tokenizer"], false);
    let count = reference.get_vocab_size(true) + 1;
    let check = |change: &dyn Fn(&mut GgufWriter), expected: &str| {
        let mut writer = metadata(&reference, "gpt-2");
        change(&mut writer);
        let message = Tokenizer::from_gguf(&open(&writer)).unwrap_err().to_string();
        assert!(message.contains("model.gguf"), "no file in: {message}");
        assert!(message.contains(expected), "expected `{expected}` in: {message}");
    };
    let texts = |list: &[&str]| Value::Array(Array::Texts(list.iter().collect()));
    let text = |text: &str| Value::Text(text.into());
    check(&|w| _ = w.set("tokenizer.ggml.model", text("llama")), "holds a `llama` tokenizer");
    check(&|w| _ = w.set("tokenizer.ggml.model", text("bert")), "come with a later version");
    check(&|w| _ = w.set("tokenizer.ggml.pre", text("odd")), "unknown pre-tokenizer `odd`");
    check(&|w| _ = w.set("tokenizer.ggml.tokens", texts(&[])), "`tokenizer.ggml.tokens`: 0 tokens");
    check(
        &|w| _ = w.set("tokenizer.ggml.tokens", texts(&["a", "b"])),
        &format!("`tokenizer.ggml.token_type`: {count} entries for the 2 of"),
    );
    check(
        &|w| {
            w.set("tokenizer.ggml.tokens", texts(&["a", "b", "a"]));
            w.set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1; 3])));
        },
        "`tokenizer.ggml.tokens[2]`: `a` is also token 0",
    );
    check(
        &|w| _ = w.set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![7; count]))),
        "`tokenizer.ggml.token_type[0]`: 7 is no token type",
    );
    check(
        &|w| _ = w.set("tokenizer.ggml.token_type", Value::Array(Array::F32(vec![1.0; count]))),
        "`tokenizer.ggml.token_type`: expected an array of integers",
    );
    check(
        &|w| _ = w.set("tokenizer.ggml.merges", texts(&["i n", "qqq zzz"])),
        "`tokenizer.ggml.merges[1]`: `qqq` is not in `tokenizer.ggml.tokens`",
    );
    check(
        &|w| _ = w.set("tokenizer.ggml.merges", texts(&["th"])),
        "`tokenizer.ggml.merges[0]`: `th` is not two tokens",
    );
    check(
        &|w| _ = w.set("tokenizer.ggml.merges", texts(&["i n", "i n"])),
        "`tokenizer.ggml.merges[1]`: it repeats merge 0",
    );
    check(
        &|w| _ = w.set("tokenizer.ggml.merges", Value::U32(3)),
        "`tokenizer.ggml.merges` should be an array of strings, got u32 3",
    );
    check(
        &|w| _ = w.set("tokenizer.ggml.eos_token_id", Value::U32(count as u32)),
        &format!("`tokenizer.ggml.eos_token_id`: {count} is outside the {count} tokens"),
    );
    check(
        &|w| _ = w.set("tokenizer.ggml.eos_token_id", Value::I32(-1)),
        "`tokenizer.ggml.eos_token_id` should be an integer that fits in u32, got i32 -1",
    );
    check(
        &|w| _ = w.set("tokenizer.ggml.add_bos_token", Value::U32(1)),
        "`tokenizer.ggml.add_bos_token` should be a bool",
    );

    let mut bare = GgufWriter::new();
    let message = Tokenizer::from_gguf(&open(&bare)).unwrap_err().to_string();
    assert!(message.ends_with("has no metadata key `tokenizer.ggml.model`"), "{message}");
    bare.set("tokenizer.ggml.model", text("gpt2"));
    let message = Tokenizer::from_gguf(&open(&bare)).unwrap_err().to_string();
    assert!(message.ends_with("has no metadata key `tokenizer.ggml.pre`"), "{message}");
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny")
}

/// A copy of the tiny folder with these files replaced or (`Null`) removed.
fn tiny_with(files: &[(&str, Json)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(tiny()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    for (name, content) in files {
        let path = dir.path().join(name);
        match content {
            Json::Null => std::fs::remove_file(path).unwrap(),
            content => std::fs::write(path, content.to_string()).unwrap(),
        }
    }
    dir
}

#[test]
fn a_hugging_face_folder() {
    let tokenizer = Tokenizer::from_hf_dir(tiny()).unwrap();
    let text = "<|im_start|>user\nHi, 世界 🌧<|im_end|>";
    let reference = Reference::from_file(tiny().join("tokenizer.json")).unwrap();
    let ids = tokenizer.encode(text, false).unwrap();
    assert_eq!(ids, reference.encode(text, false).unwrap().get_ids());
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "user\nHi, 世界 🌧");
    assert_eq!((tokenizer.eos_ids(), tokenizer.pad_id()), ([258, 256].as_slice(), Some(256)));
    assert_eq!((tokenizer.bos_id(), tokenizer.adds_bos()), (None, false));

    // Roles as objects, an added token that only the config has, BOS by the config's word.
    let config = json!({
        "bos_token": {"content": "<s>", "lstrip": false},
        "eos_token": "<|im_end|>",
        "unk_token": "<nowhere>",
        "add_bos_token": true,
        "added_tokens_decoder": {"259": {"content": "<s>", "special": true, "normalized": false}},
    });
    let dir = tiny_with(&[
        ("tokenizer_config.json", config),
        ("generation_config.json", json!({"eos_token_id": [257, 258]})),
    ]);
    let vocab_size = tokenizer.vocab_size() as u32;
    assert_eq!(vocab_size, 259);
    let tokenizer = Tokenizer::from_hf_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.bos_id(), Some(vocab_size));
    assert_eq!(tokenizer.encode("a", true).unwrap()[0], vocab_size);
    assert_eq!(tokenizer.encode("<s>", false).unwrap(), [vocab_size]);
    assert_eq!((tokenizer.eos_ids(), tokenizer.unk_id()), ([258, 257, 256].as_slice(), None));
    assert_eq!(tokenizer.named_tokens()["bos_token"], "<s>");

    // Only tokenizer.json, with the ends from config.json.
    let dir = tiny_with(&[
        ("tokenizer_config.json", Json::Null),
        ("generation_config.json", Json::Null),
        ("config.json", json!({"eos_token_id": 257})),
    ]);
    assert_eq!(Tokenizer::from_hf_dir(dir.path()).unwrap().eos_ids(), [257, 258, 256]);
}

#[test]
fn inner_ends_and_plain_tokens_are_not_ends() {
    let mut whole: Json =
        serde_json::from_slice(&std::fs::read(tiny().join("tokenizer.json")).unwrap()).unwrap();
    let added = whole["added_tokens"].as_array_mut().unwrap();
    let mut add = |id: u32, content: &str, special: bool| {
        added.push(json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": special}));
    };
    add(259, "<|end|>", true);
    add(260, "</s>", false);
    let dir = tiny_with(&[("tokenizer.json", whole.clone())]);
    assert_eq!(Tokenizer::from_hf_dir(dir.path()).unwrap().eos_ids(), [258, 259, 256]);

    let added = whole["added_tokens"].as_array_mut().unwrap();
    for (id, content) in [(261, "<|return|>"), (262, "<|call|>")] {
        added.push(json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}));
    }
    let dir = tiny_with(&[("tokenizer.json", whole)]);
    assert_eq!(Tokenizer::from_hf_dir(dir.path()).unwrap().eos_ids(), [258, 261, 256]);
}

#[test]
fn unusable_folders_are_refused_by_file_and_field() {
    let check = |files: &[(&str, Json)], file: &str, expected: &str| {
        let dir = tiny_with(files);
        let message = Tokenizer::from_hf_dir(dir.path()).unwrap_err().to_string();
        assert!(message.contains(file), "no `{file}` in: {message}");
        assert!(message.contains(expected), "expected `{expected}` in: {message}");
    };
    let config = |value: Json| [("tokenizer_config.json", value)];
    check(
        &config(json!({"eos_token": "<none>"})),
        "tokenizer_config.json",
        "`eos_token`: `<none>` is not in the vocabulary",
    );
    check(&config(json!({"eos_token": 3})), "tokenizer_config.json", "`eos_token`: expected");
    check(&config(json!({"add_bos_token": "yes"})), "tokenizer_config.json", "expected a bool");
    check(
        &config(json!({"added_tokens_decoder": {"999": {"content": "<s>"}}})),
        "tokenizer_config.json",
        "`<s>` should have id 999, tokenizer.json gives 259",
    );
    check(
        &[("generation_config.json", json!({"eos_token_id": [258, 259]}))],
        "generation_config.json",
        "`eos_token_id`: expected ids below 259, got `259`",
    );
    check(&[("tokenizer.json", json!({"model": 1}))], "tokenizer.json", "cannot load");
    // A merge longer than every token makes the tokenizers crate index out of bounds.
    let hostile = json!({"version": "1.0", "added_tokens": [], "model": {
        "type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}});
    check(&[("tokenizer.json", hostile)], "tokenizer.json", "the tokenizers library failed");

    let dir = tiny_with(&[]);
    std::fs::write(dir.path().join("tokenizer_config.json"), "{oops").unwrap();
    let error = Tokenizer::from_hf_dir(dir.path()).unwrap_err();
    assert!(
        matches!(&error, TokenizerError::Json { path, .. } if path.ends_with("tokenizer_config.json"))
    );
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let error = Tokenizer::from_hf_dir(dir.path()).unwrap_err();
    assert!(matches!(&error, TokenizerError::Io { path, .. } if path.ends_with("tokenizer.json")));
}

/// A small tokenizer in the manner of SentencePiece: spaces as `▁`, bytes as `<0x41>`.
fn sentencepiece_like() -> Tokenizer {
    let mut vocab: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    vocab.extend((0..=255).map(|byte: u8| format!("<0x{byte:02X}>")));
    vocab.extend(["▁", "▁▁", "a", "b", "▁a", "日", "�"].map(String::from));
    let ids: serde_json::Map<String, Json> =
        vocab.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let whole = json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": ids, "merges": [["▁", "▁"], ["▁", "a"]]},
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), whole.to_string()).unwrap();
    Tokenizer::from_hf_dir(dir.path()).unwrap()
}

#[test]
fn sentencepiece_text_streams_too() {
    let tokenizer = sentencepiece_like();
    let ids = tokenizer.encode("a 日本🌧  b", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a 日本🌧  b");
    assert_eq!(streamed(&tokenizer, &ids, true), "a 日本🌧  b");
    // Text comes as soon as it cannot change: `本` (three bytes) with the token after it.
    let mut stream = DecodeStream::new(true);
    let ids = tokenizer.encode("a本b", false).unwrap();
    let pieces: Vec<Option<String>> =
        ids.iter().map(|&id| stream.push(&tokenizer, id).unwrap()).collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(pieces, [text("a"), None, None, None, text("本b")]);
    assert_eq!(stream.finish(&tokenizer).unwrap(), None);
}

#[test]
fn byte_level_characters_are_held_back_until_whole() {
    let tokenizer = Tokenizer::from_hf_dir(tiny()).unwrap();
    let mut stream = DecodeStream::new(true);
    // 🌧 is f0 9f 8c a7; ids below 256 are not bytes, so go through the written form.
    let ids = tokenizer.encode("🌧", false).unwrap();
    assert_eq!(ids.len(), 4);
    let pieces: Vec<Option<String>> =
        ids.iter().map(|&id| stream.push(&tokenizer, id).unwrap()).collect();
    assert_eq!(pieces, [None, None, None, Some("🌧".into())]);
    assert_eq!(stream.push(&tokenizer, ids[0]).unwrap(), None);
    assert_eq!(stream.finish(&tokenizer).unwrap().as_deref(), Some("\u{fffd}"));
}

#[test]
fn streaming_costs_the_same_per_token() {
    // Quadratic decoding of this would take minutes.
    let tokenizer = Tokenizer::from_hf_dir(tiny()).unwrap();
    let ids = tokenizer.encode(&"灯塔 x".repeat(20_000), false).unwrap();
    assert!(ids.len() > 100_000);
    assert_eq!(streamed(&tokenizer, &ids, false).len(), 8 * 20_000);
    let tokenizer = sentencepiece_like();
    let ids = tokenizer.encode(&"a 本".repeat(20_000), false).unwrap();
    assert_eq!(streamed(&tokenizer, &ids, false).len(), 5 * 20_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn streams_add_up_to_the_whole(
        byte_level in prop::collection::vec(0u32..265, 0..40),
        sentencepiece in prop::collection::vec(prop_oneof![0u32..270, 255u32..270, 0xe0u32..0xf8], 0..40),
        skip in any::<bool>(),
    ) {
        let tiny = Tokenizer::from_hf_dir(tiny()).unwrap();
        prop_assert_eq!(streamed(&tiny, &byte_level, skip), tiny.decode(&byte_level, skip).unwrap());
        let other = sentencepiece_like();
        let whole = other.decode(&sentencepiece, skip).unwrap();
        prop_assert_eq!(streamed(&other, &sentencepiece, skip), whole);
    }
}

/// The SmolLM2 file, by the folder in `TROUPE_TEST_MODELS`.
fn smollm2() -> Tokenizer {
    let folder = std::env::var_os("TROUPE_TEST_MODELS")
        .expect("set TROUPE_TEST_MODELS to the folder of SmolLM2-135M-Instruct.Q4_1.gguf");
    let names = ["SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct.Q4_1.gguf"];
    let path = names
        .iter()
        .map(|name| Path::new(&folder).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("neither {names:?} is in {}", folder.display()));
    Tokenizer::from_gguf(&GgufFile::open(path).unwrap()).unwrap()
}

fn ids_of(value: &Json) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
#[ignore = "needs TROUPE_TEST_MODELS"]
fn the_real_smollm2_agrees_with_transformers() {
    let tokenizer = smollm2();
    assert_eq!(tokenizer.vocab_size(), 49_152);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(1), [2, 0].as_slice()));
    assert!(!tokenizer.adds_bos());
    let cases: Vec<Json> =
        serde_json::from_str(include_str!("data/smollm2_tokenizer.json")).unwrap();
    for case in cases {
        let (text, ids) = (case["text"].as_str().unwrap(), ids_of(&case["ids"]));
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), case["decoded"].as_str().unwrap());
        assert_eq!(streamed(&tokenizer, &ids, false), case["decoded"].as_str().unwrap());
    }
    let chat: Json = serde_json::from_str(include_str!("data/smollm2_chat.json")).unwrap();
    for case in chat["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids_of(&case["ids"]), "{text:?}");
        let completion = ids_of(&case["completion_ids"]);
        assert_eq!(tokenizer.decode(&completion, true).unwrap(), case["completion"]);
    }
}
