//! Chat templates against jinja2 as transformers sets it up (`scripts/golden/templates.py`),
//! cut into segments, probed, adapted, and turned into tokens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::NaiveDateTime;
use serde_json::{Value as Json, json};
use troupe_dialogue::{Message, Role};
use troupe_model::gguf::{GgufFile, GgufWriter, Value};
use troupe_model::template::{
    Adaptation, ChatTemplate, Rendered, SegmentKind, TemplateError, Traits,
};
use troupe_model::tokenizer::Tokenizer;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// A template of the tests with its reference renderings.
struct Golden {
    name: String,
    template: ChatTemplate,
    cases: Vec<Json>,
}

impl Golden {
    fn read(path: &Path) -> Self {
        let whole: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let file = path.with_file_name(whole["file"].as_str().unwrap());
        let tokens: BTreeMap<String, String> =
            serde_json::from_value(whole["special_tokens"].clone()).unwrap();
        let source = std::fs::read_to_string(&file).unwrap();
        let now: NaiveDateTime = whole["now"].as_str().unwrap().parse().unwrap();
        let mut template = ChatTemplate::new(&source, &tokens).unwrap().with_now(now);
        for (name, value) in whole["variables"].as_object().unwrap() {
            template = template.with_variable(name, value);
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Golden { name, template, cases: whole["cases"].as_array().unwrap().clone() }
    }

    fn all() -> Vec<Self> {
        // A folder of more renderings, made by the script from any templates.
        let more = std::env::var_os("TROUPE_TEST_TEMPLATES").map(PathBuf::from);
        let mut paths: Vec<PathBuf> = [Some(data().join("template")), more]
            .into_iter()
            .flatten()
            .flat_map(|dir| std::fs::read_dir(dir).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        paths.sort();
        assert!(paths.len() >= 14);
        paths.iter().map(|path| Self::read(path)).collect()
    }
}

fn named(name: &str) -> Golden {
    Golden::read(&data().join("template").join(name).with_extension("json"))
}

fn messages(case: &Json) -> Vec<Message> {
    serde_json::from_value(case["messages"].clone()).unwrap()
}

fn generate(case: &Json) -> bool {
    case["add_generation_prompt"].as_bool().unwrap()
}

/// Where two texts begin to differ, for messages.
fn difference(ours: &str, expected: &str) -> String {
    let same = ours.chars().zip(expected.chars()).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(20);
    let shown = |text: &str| text.chars().skip(from).take(60).collect::<String>();
    format!("ours {:?}, expected {:?}", shown(ours), shown(expected))
}

#[test]
fn renderings_are_those_of_jinja2() {
    let mut wrong = Vec::new();
    for golden in Golden::all() {
        for case in &golden.cases {
            let ours = golden.template.render(&messages(case), generate(case));
            let problem = match (&ours, &case["text"], &case["raised"]) {
                (Ok(text), Json::String(expected), _) if text == expected => continue,
                (Ok(text), Json::String(expected), _) => difference(text, expected),
                (Err(TemplateError::Refused { message }), _, Json::String(expected))
                    if message == expected =>
                {
                    continue;
                }
                (Err(TemplateError::Failed { .. }), Json::Null, Json::Null) => continue,
                _ => format!("{ours:?}, expected {} {}", case["raised"], case["failed"]),
            };
            wrong.push(format!("{} of {}: {problem}", case["name"], golden.name));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// What holds for every rendering in segments.
fn check_segments(rendered: &Rendered, count: usize, place: &str) {
    let mut end = 0;
    let mut message = 0;
    for segment in &rendered.segments {
        assert_eq!(segment.text.start, end, "{place}: {rendered:?}");
        end = segment.text.end;
        if segment.kind == SegmentKind::Messages {
            assert_eq!(segment.messages.start, message, "{place}: {rendered:?}");
            assert!(!segment.messages.is_empty());
            message = segment.messages.end;
        } else {
            assert!(segment.messages.is_empty() && !segment.text.is_empty());
        }
        if let Some(start) = segment.reply_start {
            assert!(segment.text.start <= start && start <= segment.text.end);
            assert_eq!(segment.role, Some(Role::Assistant));
        }
    }
    assert_eq!((end, message), (rendered.text.len(), count), "{place}: {rendered:?}");
}

#[test]
fn segments_make_up_the_text() {
    for golden in Golden::all() {
        for case in golden.cases.iter().filter(|case| case["text"].is_string()) {
            let place = format!("{} of {}", case["name"], golden.name);
            let messages = messages(case);
            let rendered = golden.template.render_segments(&messages, generate(case)).unwrap();
            check_segments(&rendered, messages.len(), &place);
        }
    }
}

/// The pieces of a conversation's text: kind or message indexes, text before the reply's
/// start and after it.
fn pieces(name: &str, messages: &[Message], generate: bool) -> Vec<(String, String, String)> {
    let rendered = named(name).template.render_segments(messages, generate).unwrap();
    let piece = |segment: &troupe_model::template::Segment| {
        let label = match segment.kind {
            SegmentKind::Messages => format!("{:?}", segment.messages),
            kind => format!("{kind:?}"),
        };
        let cut = segment.reply_start.unwrap_or(segment.text.end);
        let text = |from: usize, to: usize| rendered.text[from..to].to_owned();
        (label, text(segment.text.start, cut), text(cut, segment.text.end))
    };
    rendered.segments.iter().map(piece).collect()
}

#[track_caller]
fn check_pieces(ours: Vec<(String, String, String)>, expected: &[(&str, &str, &str)]) {
    let ours: Vec<(&str, &str, &str)> =
        ours.iter().map(|(label, head, reply)| (&**label, &**head, &**reply)).collect();
    assert_eq!(ours, expected);
}

fn talk(contents: &[(Role, &str)]) -> Vec<Message> {
    contents.iter().map(|&(role, content)| Message::new(role, content)).collect()
}

use Role::{Assistant, System, Tool, User};

#[test]
fn segments_by_hand() {
    let chat = talk(&[(User, "Hi"), (Assistant, "Yo"), (User, "Bye")]);
    check_pieces(
        pieces("chatml", &chat, true),
        &[
            ("0..1", "<|im_start|>user\nHi<|im_end|>\n", ""),
            ("1..2", "<|im_start|>assistant\n", "Yo<|im_end|>\n"),
            ("2..3", "<|im_start|>user\nBye<|im_end|>\n", ""),
            ("GenerationPrompt", "<|im_start|>assistant\n", ""),
        ],
    );
    // No generation prompt in this template: the reply begins where the segment does.
    check_pieces(
        pieces("mistral_v0_1", &chat, false),
        &[
            ("Leading", "<s>", ""),
            ("0..1", "[INST] Hi [/INST]", ""),
            ("1..2", "", "Yo</s> "),
            ("2..3", "[INST] Bye [/INST]", ""),
        ],
    );
    // An EOS token after all is no message's.
    check_pieces(
        pieces("phi3", &chat[..2], false),
        &[
            ("0..1", "<|user|>\nHi<|end|>\n", ""),
            ("1..2", "<|assistant|>\n", "Yo<|end|>\n"),
            ("Closing", "<|endoftext|>", ""),
        ],
    );
    // So too where it closes replies only.
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}\
        {% if add_generation_prompt %}<assistant>{% elif messages[-1].role == 'assistant' %}\
        {{ eos_token }}{% endif %}";
    let tokens = BTreeMap::from([("eos_token".to_owned(), "</s>".to_owned())]);
    let template = ChatTemplate::new(source, &tokens).unwrap();
    let rendered = template.render_segments(&chat, true).unwrap();
    assert_eq!((rendered.segments.len(), rendered.rewrites_history), (4, None));
    // The first message alone is refused (the template looks at message 0 of none), so the
    // system text that Qwen2.5 adds stays with it.
    let parts = pieces("qwen2_5", &chat[..1], false);
    assert!(parts.len() == 1 && parts[0].1.starts_with("<|im_start|>system\n"));
    assert!(parts[0].1.ends_with("<|im_start|>user\nHi<|im_end|>\n"));
    // Qwen3 opens a last reply with (empty) thinking, which is part of what it writes.
    let parts = pieces("qwen3", &chat[..2], false);
    assert_eq!(parts[1].2, "<think>\n\n</think>\n\nYo<|im_end|>\n");
    let parts = pieces("qwen3_nothink", &chat[..2], false);
    assert_eq!(parts[1].1, "<|im_start|>assistant\n<think>\n\n</think>\n\n");
    assert_eq!(parts[1].2, "Yo<|im_end|>\n");
    // The prompt of R1 ends in `<think>`, which a past reply lacks: the content's place.
    let parts = pieces("deepseek_r1_distill", &chat[..2], false);
    assert_eq!((&*parts[2].1, &*parts[2].2), ("<｜Assistant｜>", "Yo<｜end▁of▁sentence｜>"));
}

#[test]
fn rewritten_history_is_detected() {
    let rewrite = |name: &str, contents: &[(Role, &str)]| {
        let rendered = named(name).template.render_segments(&talk(contents), true).unwrap();
        check_segments(&rendered, contents.len(), name);
        rendered.rewrites_history
    };
    let thinking = "<think>\nAdd.\n</think>\n\n4";
    let asked = [(User, "2+2?"), (Assistant, thinking), (User, "3+3?")];
    let found = rewrite("qwen3", &asked).unwrap();
    assert_eq!(found.message, 1);
    assert_eq!(
        found.to_string(),
        "message 1 is `<think>\\nAdd.\\n</think>\\n\\n4<|im_end|>\\n` at the end but \
         `4<|im_end|>\\n<|im_start|>user\\n3+3?<|im_en` with others after it"
    );
    // R1 strips thinking at once, so nothing changes later; a late system message, which it
    // moves to the front, changes everything.
    assert_eq!(rewrite("deepseek_r1_distill", &asked), None);
    let noted = [(User, "a"), (Assistant, "b"), (System, "c"), (User, "d")];
    assert_eq!(rewrite("deepseek_r1_distill", &noted).unwrap().message, 0);
    // Nemo's system message is part of the last user's message.
    let system = [(System, "s"), (User, "a"), (Assistant, "b"), (User, "c")];
    assert_eq!(rewrite("mistral_nemo", &system).unwrap().message, 1);
    for name in ["chatml", "smollm2", "qwen2_5", "llama3_like", "phi3", "zephyr"] {
        assert_eq!(rewrite(name, &asked), None, "{name}");
    }
}

#[test]
fn traits_of_templates() {
    let plain = Traits {
        accepts_system: true,
        accepts_late_system: true,
        accepts_tool: true,
        requires_alternation: false,
        requires_user_first: false,
        renders_name: false,
        has_generation_prompt: true,
        trims_content: false,
        rewrites_history: false,
        closing: None,
    };
    let check = |name: &str, expected: Traits| {
        assert_eq!(*named(name).template.traits(), expected, "{name}");
    };
    check("chatml", plain.clone());
    check("smollm2", plain.clone());
    check("qwen2_5", plain.clone());
    check("qwen3", Traits { rewrites_history: true, ..plain.clone() });
    check("llama3_like", Traits { trims_content: true, ..plain.clone() });
    check("zephyr", Traits { accepts_tool: false, ..plain.clone() });
    let closing = Some("<|endoftext|>".into());
    check("phi3", Traits { accepts_tool: false, closing, ..plain.clone() });
    let strict = Traits {
        accepts_system: false,
        accepts_late_system: false,
        accepts_tool: false,
        requires_alternation: true,
        requires_user_first: true,
        ..plain.clone()
    };
    check("gemma_like", Traits { trims_content: true, ..strict.clone() });
    check("mistral_v0_1", Traits { has_generation_prompt: false, ..strict.clone() });
    let nemo = Traits { has_generation_prompt: false, rewrites_history: true, ..strict.clone() };
    check("mistral_nemo", Traits { accepts_system: true, ..nemo });
    check("deepseek_r1_distill", Traits { accepts_late_system: false, ..plain.clone() });
    let source = "{% for m in messages %}{{ m.name }}: {{ m.content }}\n{% endfor %}";
    assert!(ChatTemplate::new(source, &BTreeMap::new()).unwrap().traits().renders_name);
}

#[test]
fn adapted_conversations_by_hand() {
    let adapt = |name: &str, contents: &[(Role, &str)]| {
        let adapted = named(name).template.adapt(&talk(contents));
        let messages: Vec<(Role, String)> =
            adapted.messages.into_iter().map(|message| (message.role, message.content)).collect();
        (messages, adapted.origins, adapted.changes)
    };
    let own = |contents: &[(Role, &str)]| -> Vec<(Role, String)> {
        contents.iter().map(|&(role, content)| (role, content.to_owned())).collect()
    };
    use Adaptation::{Joined, OpeningAdded, SystemToUser, ToolToUser};

    let greeting = [(System, "Be Mara."), (Assistant, "Oh!"), (User, "Hi."), (User, "Cold.")];
    let (messages, origins, changes) = adapt("gemma_like", &greeting);
    assert_eq!(messages, own(&[(User, "Be Mara."), (Assistant, "Oh!"), (User, "Hi.\n\nCold.")]));
    assert_eq!(origins, [vec![0], vec![1], vec![2, 3]]);
    assert_eq!(changes, [SystemToUser { message: 0 }, Joined { message: 3 }]);

    let (messages, origins, changes) = adapt("mistral_nemo", &greeting);
    let expected =
        [(System, "Be Mara."), (User, "..."), (Assistant, "Oh!"), (User, "Hi.\n\nCold.")];
    assert_eq!(messages, own(&expected));
    assert_eq!(origins, [vec![0], vec![], vec![1], vec![2, 3]]);
    assert_eq!(changes, [Joined { message: 3 }, OpeningAdded]);

    let (messages, _, changes) = adapt("chatml", &greeting);
    assert_eq!((messages, changes), (own(&greeting), vec![]));

    // A late note goes with the user's message after it, else with the one before.
    let noted =
        [(User, "a"), (System, "n"), (User, "b"), (Assistant, "c"), (User, "d"), (System, "m")];
    let (messages, _, changes) = adapt("deepseek_r1_distill", &noted);
    assert_eq!(messages, own(&[(User, "a"), (User, "n\n\nb"), (Assistant, "c"), (User, "d\n\nm")]));
    assert_eq!(
        changes,
        [
            SystemToUser { message: 1 },
            SystemToUser { message: 5 },
            Joined { message: 2 },
            Joined { message: 5 }
        ]
    );
    let (_, _, changes) = adapt("zephyr", &[(User, "a"), (Assistant, "b"), (Tool, "t")]);
    assert_eq!(changes, [ToolToUser { message: 2 }]);
    assert_eq!(changes[0].to_string(), "tool message 2 became a user message");
}

#[test]
fn adapted_conversations_render() {
    for golden in Golden::all() {
        let traits = golden.template.traits();
        // Templates for contents of another form render no plain message.
        let plain = golden.template.render(&[Message::user("Hello.")], true);
        if !plain.is_ok_and(|text| text.contains("Hello.")) {
            continue;
        }
        for case in golden.cases.iter().filter(|case| generate(case)) {
            let messages = messages(case);
            // Some templates insist on a user's message or on `<think>` in its own place.
            let user = messages.iter().any(|message| message.role == User);
            if !user || case["name"] == "empty_content" || case["name"] == "thinking" {
                continue;
            }
            let adapted = golden.template.adapt(&messages);
            let place = format!("{} of {}", case["name"], golden.name);
            let text = golden.template.render(&adapted.messages, true);
            let text = text.unwrap_or_else(|error| panic!("{place}: {error}, {traits:?}"));
            if golden.name == "features" || std::env::var_os("TROUPE_TEST_TEMPLATES").is_some() {
                continue;
            }
            for message in messages {
                // Python strips the separator `U+001C` too.
                let content = message.content.trim_matches(|c| c <= ' ' || c == '\u{a0}');
                assert!(text.contains(content), "{place}: {text}");
            }
        }
    }
}

#[test]
fn two_hundred_messages_take_a_fraction_of_a_second() {
    for name in ["chatml", "qwen3", "llama3_like"] {
        let golden = named(name);
        let line = "The wind rises over the bay, and Mara counts the lamps again. ".repeat(16);
        let chat: Vec<Message> = (0..200)
            .map(|idx| Message::new(if idx % 2 == 0 { User } else { Assistant }, &line))
            .collect();
        let start = Instant::now();
        let rendered = golden.template.render_segments(&chat, true).unwrap();
        let took = start.elapsed();
        println!("{name}: {} bytes in segments after {took:?}", rendered.text.len());
        check_segments(&rendered, 200, name);
        assert!(took < Duration::from_secs(2), "{name} took {took:?}");
    }
}

fn tiny() -> Tokenizer {
    Tokenizer::from_hf_dir(data().join("tiny")).unwrap()
}

#[test]
fn tokens_of_messages_and_replies() {
    let tokenizer = tiny();
    let template = ChatTemplate::from_hf_dir(data().join("tiny"), &tokenizer).unwrap();
    let contents =
        [(System, "Be Mara."), (User, "Hi\n"), (Assistant, "\nTwo <|im_end|> parts."), (User, "x")];
    let chat = template.tokenise(&tokenizer, &talk(&contents), true).unwrap();
    assert_eq!(chat.differs_at, None);
    assert_eq!(chat.ids, tokenizer.encode(&chat.text, false).unwrap());
    let concatenated: Vec<u32> =
        chat.segments.iter().flat_map(|segment| segment.ids.clone()).collect();
    assert_eq!(concatenated, chat.ids);
    for segment in &chat.segments {
        assert_eq!(chat.ids[segment.tokens.clone()], segment.ids);
        let assistant = segment.segment.role == Some(Assistant);
        assert_eq!(segment.reply.is_some(), assistant);
    }
    let reply = chat.segments[2].reply.as_ref().unwrap();
    let decode = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
    assert_eq!(decode(&reply.header), "<|im_start|>assistant\n");
    // The end of the turn, not the same words within the content.
    assert_eq!(decode(&reply.reply), "\nTwo <|im_end|> parts.<|im_end|>");
    assert_eq!(reply.reply.last(), Some(&258));
    assert_eq!(decode(&reply.tail), "\n");
    assert_eq!(&chat.text[reply.text.clone()], "\nTwo <|im_end|> parts.<|im_end|>");
    assert!(reply.ends_turn);
    // The header is what the model is given, token by token.
    let prompt = template.tokenise(&tokenizer, &talk(&contents[..2]), true).unwrap();
    assert_eq!(prompt.segments.last().unwrap().ids, reply.header);
}

#[test]
fn a_token_over_a_boundary_is_named() {
    let tokenizer = tiny();
    // `user: ` and the next text share a space that belongs to the next word.
    let source = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}";
    let template = ChatTemplate::new(source, &BTreeMap::new()).unwrap();
    let chat = talk(&[(User, "the"), (Assistant, "and the"), (User, "end")]);
    let tokens = template.tokenise(&tokenizer, &chat, false).unwrap();
    let own: Vec<u32> = tokens.segments.iter().flat_map(|segment| segment.ids.clone()).collect();
    assert_eq!(tokens.differs_at.is_some(), own != tokens.ids);
    assert_eq!(tokenizer.decode(&own, false).unwrap(), tokens.text);
    // No end of a turn in this template: the reply is the rest of its segment.
    let reply = tokens.segments[1].reply.as_ref().unwrap();
    assert!(!reply.ends_turn && reply.tail.is_empty());
}

#[test]
fn templates_of_folders_and_files() {
    let tokenizer = tiny();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let render = || {
        let template = ChatTemplate::from_hf_dir(dir.path(), &tokenizer)?;
        template.render(&[Message::user("x")], false)
    };
    let message = || render().unwrap_err().to_string();
    assert!(message().ends_with("has no chat template"));
    write("tokenizer_config.json", "{}");
    assert!(message().ends_with("has no chat template"));
    write("tokenizer_config.json", "{");
    assert!(message().ends_with("tokenizer_config.json` is not valid json"));
    write("tokenizer_config.json", &json!({"chat_template": 1}).to_string());
    assert!(message().contains("`chat_template`: expected a text or a list"));
    let list = json!({"chat_template": [{"name": "tool_use", "template": "t"}]});
    write("tokenizer_config.json", &list.to_string());
    assert!(message().contains("none of the templates [\"tool_use\"] is the `default`"));
    let list = json!({"chat_template": [
        {"name": "tool_use", "template": "t"},
        {"name": "default", "template": "{{ messages[0].content }}{{ eos_token }}"}]});
    write("tokenizer_config.json", &list.to_string());
    assert_eq!(render().unwrap(), "x<|im_end|>");
    write("chat_template.jinja", "{{ messages[0].role }}\n");
    assert_eq!(render().unwrap(), "user");
    write("chat_template.jinja", "{% for %}");
    assert!(message().contains("does not compile"));

    let path = dir.path().join("model.gguf");
    let mut writer = GgufWriter::new();
    writer.save(&path).unwrap();
    let from_gguf = || ChatTemplate::from_gguf(&GgufFile::open(&path).unwrap(), &tokenizer);
    assert!(matches!(from_gguf(), Err(TemplateError::Missing { .. })));
    writer.set("tokenizer.chat_template", Value::Text("{{ eos_token }}!".into()));
    writer.save(&path).unwrap();
    assert_eq!(from_gguf().unwrap().render(&[], false).unwrap(), "<|im_end|>!");
}

#[test]
fn variables_time_and_limits() {
    let none = BTreeMap::new();
    let template = |source: &str| ChatTemplate::new(source, &none).unwrap();
    let thinking = template("{{ 'off' if enable_thinking is false else 'on' }}");
    assert_eq!(thinking.render(&[], false).unwrap(), "on");
    let off = thinking.with_variable("enable_thinking", &json!(false));
    assert_eq!(off.render(&[], false).unwrap(), "off");
    let shown = template("{{ v | tojson }}{{ v.b[1] + 1 }}");
    let shown = shown.with_variable("v", &json!({"b": [1, 2.5, null, true], "a": "é"}));
    assert_eq!(shown.render(&[], false).unwrap(), "{\"b\": [1, 2.5, null, true], \"a\": \"é\"}3.5");

    let dated = "{{ strftime_now('%d %b %Y') if strftime_now is defined else 'never' }}";
    assert_eq!(template(dated).render(&[], false).unwrap(), "never");
    let now = "2026-01-09T00:00:00".parse().unwrap();
    assert_eq!(template(dated).with_now(now).render(&[], false).unwrap(), "09 Jan 2026");

    let long = "a".repeat(70_000);
    assert!(matches!(ChatTemplate::new(&long, &none), Err(TemplateError::Compile { .. })));
    let endless =
        template("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}");
    let error = endless.render(&[], false).unwrap_err();
    assert_eq!(error.to_string(), "the chat template takes too much work");
    let error = template("{{ raise_exception('no way') }}").render(&[], false).unwrap_err();
    assert_eq!(error.to_string(), "the chat template refuses the conversation: no way");
    let error = template("{{ messages.nothing.at_all }}").render(&[], false).unwrap_err();
    assert!(error.to_string().starts_with("the chat template failed: undefined value"), "{error}");
}

#[test]
#[ignore = "needs TROUPE_TEST_MODELS"]
fn the_real_smollm2_agrees_with_transformers() {
    let folder = std::env::var_os("TROUPE_TEST_MODELS")
        .expect("set TROUPE_TEST_MODELS to the folder of SmolLM2-135M-Instruct.Q4_1.gguf");
    let names = ["SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct.Q4_1.gguf"];
    let path = names
        .iter()
        .map(|name| Path::new(&folder).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("neither {names:?} is in {}", folder.display()));
    let file = GgufFile::open(path).unwrap();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let template = ChatTemplate::from_gguf(&file, &tokenizer).unwrap();
    let chat: Json =
        serde_json::from_slice(&std::fs::read(data().join("smollm2_chat.json")).unwrap()).unwrap();
    for case in chat["cases"].as_array().unwrap().iter().filter(|case| !case["messages"].is_null())
    {
        let mut messages = messages(case);
        let prompt = template.tokenise(&tokenizer, &messages, true).unwrap();
        assert_eq!(prompt.text, case["text"]);
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!((prompt.ids, prompt.differs_at), (ids, None));
        // The completion as a message: its reply is the completion's ids.
        messages.push(Message::assistant(case["completion"].as_str().unwrap()));
        let whole = template.tokenise(&tokenizer, &messages, false).unwrap();
        let reply = whole.segments.last().unwrap().reply.clone().unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["completion_ids"].clone()).unwrap();
        assert_eq!(reply.reply, ids, "{}", case["name"]);
        assert!(reply.ends_turn);
    }
}
