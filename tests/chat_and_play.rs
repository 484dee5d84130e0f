//! `troupe chat` and `troupe play` as a user runs them, on a tiny random model: what they
//! write, that a run that was cut off ends as an unbroken one, and how they fail.
//!
//! The model's words are noise; what a real one says is looked at by people.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use troupe_dialogue::{DialogueTree, Origin, Speaker};

/// A folder for one test, with a model in it that has room for whole scenes: the golden
/// models take 512 tokens, and a token is a byte there.
struct Stage {
    folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Stage { folder: tempfile::tempdir().unwrap() };
        let golden = repository().join("tests/golden/tiny-qwen3");
        let model = stage.path("model");
        fs::create_dir(&model).unwrap();
        for file in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(golden.join(file), model.join(file)).unwrap();
        }
        let config = fs::read_to_string(golden.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["max_position_embeddings"] = 8192.into();
        fs::write(model.join("config.json"), config.to_string()).unwrap();
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// `troupe` in the stage's folder.
    fn troupe(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_troupe"));
        let scenes = repository().join("crates/roleplay/tests/data/scenes/scenes.jsonl");
        let cards = repository().join("crates/roleplay/tests/data/cards");
        let words = line.split_whitespace().map(|word| {
            let word = word.replace("SCENES", scenes.to_str().unwrap());
            word.replace("CARDS", cards.to_str().unwrap())
        });
        command.args(words).current_dir(self.folder.path());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.troupe(line).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs and expects success; standard output.
    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a chat on these lines and expects success.
    fn chat(&self, flags: &str, script: &str) -> Output {
        let line = format!("chat --model model --max-tokens 8 {flags}");
        let mut command = self.troupe(&line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{line}: {}", stderr(&output));
        output
    }

    /// A chat with `--json`: its events.
    fn events(&self, flags: &str, script: &str) -> Vec<Value> {
        let output = self.chat(&format!("--json {flags}"), script);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn tree(&self, name: &str) -> DialogueTree {
        DialogueTree::from_json(&self.text(name)).unwrap()
    }

    /// Runs and expects a failure: exit code 1, one `error:` line, one `hint:` line.
    fn fails(&self, line: &str, error: &str, hint: &str) {
        let output = self.run(line);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{line}: {text}");
        let lines = |start| text.lines().filter(|l| l.starts_with(start)).collect::<Vec<_>>();
        let (errors, hints) = (lines("error: "), lines("hint: "));
        assert_eq!((errors.len(), hints.len()), (1, 1), "{line}: {text}");
        assert!(errors[0].contains(error), "{line}: {text}");
        assert!(hints[0].contains(hint), "{line}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn trees(text: &str) -> Vec<DialogueTree> {
    assert!(text.ends_with('\n'));
    text.lines().map(|line| DialogueTree::from_json(line).unwrap()).collect()
}

fn sorted(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

const PLAY: &str = "play --model model --scenes SCENES --turns 4 --max-tokens 6 --seed 3";

#[test]
fn play_writes_a_tree_for_each_scene_and_repeat() {
    let stage = Stage::new();
    let summary = stage.ok(&format!("{PLAY} --repeats 2 --out a.jsonl --json"));
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!((summary["dialogues"].as_u64(), summary["turns"].as_u64()), (Some(8), Some(32)));
    assert!(summary["tokens"].as_u64() > Some(0) && summary["tokens_per_second"].is_number());
    let stops = summary["stops"].as_object().unwrap().values();
    let fallbacks = summary["fallbacks"].as_u64().unwrap();
    // Greetings open three of the four scenes and are no replies.
    assert_eq!(stops.map(|n| n.as_u64().unwrap()).sum::<u64>() + fallbacks, 32 - 6);
    let text = stage.text("a.jsonl");
    let mut keys = BTreeSet::new();
    for tree in trees(&text) {
        let meta = &tree.meta;
        assert_eq!((&meta["kind"], &meta["outcome"]), (&"self-play".into(), &"complete".into()));
        assert_eq!(meta["model"]["name"], "model");
        keys.insert((meta["scene"]["id"].to_string(), meta["repeat"].as_u64()));
        assert_eq!((tree.nodes().len(), tree.path().len()), (4, 4));
        for (turn, node) in tree.nodes().iter().enumerate() {
            assert!(!node.text.trim().is_empty());
            assert!(turn == 0 || node.origin == Origin::Model || node.text == "…");
        }
    }
    assert_eq!(keys.len(), 8);
}

#[test]
fn a_second_run_has_nothing_to_do_and_more_repeats_are_added() {
    let stage = Stage::new();
    let play = format!("{PLAY} --limit 2 --out a.jsonl");
    stage.ok(&play);
    let first = stage.text("a.jsonl");
    let again = stage.run(&format!("{play} --json"));
    assert!(stderr(&again).contains("nothing to do: all 2 dialogues"), "{}", stderr(&again));
    let summary: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(summary["dialogues"], 0);
    assert_eq!(summary["dialogues_skipped"], 2);
    assert_eq!(stage.text("a.jsonl"), first);
    stage.ok(&format!("{play} --repeats 2"));
    let both = stage.text("a.jsonl");
    assert!(both.starts_with(&first));
    assert_eq!(trees(&both).len(), 4);
}

#[test]
fn a_run_that_was_cut_off_ends_as_an_unbroken_one() {
    let stage = Stage::new();
    let play = format!("{PLAY} --limit 2 --repeats 2");
    stage.ok(&format!("{play} --out whole.jsonl"));
    let whole = stage.text("whole.jsonl");
    for kept in [whole.find('\n').unwrap() + 200, whole.len() - 1, 50] {
        fs::write(stage.path("cut.jsonl"), &whole.as_bytes()[..kept]).unwrap();
        let output = stage.run(&format!("{play} --out cut.jsonl --parallel 1"));
        assert!(stderr(&output).contains("is not whole"), "{}", stderr(&output));
        assert_eq!(sorted(&stage.text("cut.jsonl")), sorted(&whole), "cut at {kept}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_file_that_can_be_resumed() {
    let stage = Stage::new();
    let play = "play --model model --scenes SCENES --turns 12 --repeats 12 --max-tokens 8";
    let mut command = stage.troupe(&format!("{play} --out a.jsonl --parallel 2"));
    command.stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let is_begun = || fs::metadata(stage.path("a.jsonl")).is_ok_and(|file| file.len() > 0);
    while !is_begun() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("the same command goes on with the rest"), "{text}");
    let before = trees(&stage.text("a.jsonl")).len();
    assert!((1..48).contains(&before), "{before} dialogues");
    stage.ok(&format!("{play} --out a.jsonl"));
    stage.ok(&format!("{play} --out b.jsonl"));
    assert_eq!(sorted(&stage.text("a.jsonl")), sorted(&stage.text("b.jsonl")));
}

#[test]
fn another_runs_file_is_left_alone() {
    let stage = Stage::new();
    let play = "play --model model --scenes SCENES --limit 1 --max-tokens 6 --out a.jsonl";
    stage.ok(&format!("{play} --turns 3"));
    let before = stage.text("a.jsonl");
    stage.fails(&format!("{play} --turns 4"), "`turns` 3 instead of 4", "--fresh");
    stage.fails(
        &format!("{play} --turns 3 --user-temperature 0.5"),
        "`user.sampling.temperature` 0.9 instead of 0.5",
        "--fresh",
    );
    stage.fails(&format!("{play} --turns 3 --max-retries 9"), "other settings", "--fresh");
    stage.fails(
        &format!("{play} --turns 3 --repeats 2 --context 4096"),
        "`model.context_tokens` 8192 instead of 4096",
        "--fresh",
    );
    assert_eq!(stage.text("a.jsonl"), before);
    stage.ok(&format!("{play} --turns 4 --fresh"));
    assert_eq!(trees(&stage.text("a.jsonl"))[0].nodes().len(), 4);
    for foreign in ["{\"id\": 1}\n{\"id\": 2}\n", "no line feed"] {
        fs::write(stage.path("a.jsonl"), foreign).unwrap();
        stage.fails(&format!("{play} --turns 4"), "self-play record", "--fresh");
        assert_eq!(stage.text("a.jsonl"), foreign);
    }
}

#[test]
fn bad_rows_are_told_and_cost_no_good_ones() {
    let stage = Stage::new();
    let rows = "{\"npc\": {\"name\": \"Ada\"}}\n\nnot json\n{\"npc\": {}}\n";
    fs::write(stage.path("scenes.jsonl"), rows).unwrap();
    let play = "play --model model --scenes scenes.jsonl --turns 2 --max-tokens 4 --out a.jsonl";
    let output = stage.run(play);
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("`scenes.jsonl` line 3 is left out: not a JSON object"), "{text}");
    assert!(text.contains("`scenes.jsonl` line 4 is left out: `npc.name` is missing"), "{text}");
    assert_eq!(trees(&stage.text("a.jsonl")).len(), 1);
    fs::write(stage.path("scenes.jsonl"), "{\"npc\": {}}\n").unwrap();
    stage.fails(&format!("{play} --fresh"), "no scene in `scenes.jsonl`", "a scene is a JSON line");
    assert_eq!(trees(&stage.text("a.jsonl")).len(), 1); // a run that fails early cuts nothing
}

#[test]
fn cards_are_scenes_too() {
    let stage = Stage::new();
    let play = "play --model model --card CARDS/v2_marrow_chara.png --turns 3 --max-tokens 4 \
                --user-name Ines --out a.jsonl";
    stage.ok(play);
    let tree = &trees(&stage.text("a.jsonl"))[0];
    assert_eq!(tree.meta["scene"]["id"], "v2_marrow_chara");
    assert!(tree.nodes()[0].text.contains("You picked a night for it, Ines."));
    assert_eq!(tree.nodes()[1].name.as_deref(), Some("Ines"));
}

const MARROW: &str = "--card CARDS/v2_marrow_chara.png --user-name Ines --seed 5";

#[test]
fn a_chat_keeps_every_reply_as_a_swipe() {
    let stage = Stage::new();
    let script = "Who lit the lamp?\n/retry\n/swipe 1\n/save one.json\n/swipe\nAnd then?\n\
                  /suggest 2\n/undo\n/save two.json\n/dance\n/info\n/quit\nnever said\n";
    let output = stage.chat(MARROW, script);
    let notes = stderr(&output);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.starts_with("*The door opens a hand’s width.*"), "{shown}");
    assert!(!shown.contains("Ines>") && !shown.contains("never said"), "{shown}");
    assert!(notes.contains("error: there is no command `/dance`\nhint: `/help`"), "{notes}");
    assert!(notes.contains("seed: 5") && notes.contains("reply 1 of 2"), "{notes}");
    let one = stage.tree("one.json");
    assert_eq!(one.nodes().len(), 6); // three greetings, a question, two replies
    let head = one.head().unwrap();
    let swipes = one.swipes(head);
    assert_eq!((swipes.len(), swipes[0]), (2, head));
    assert_eq!(one.path().len(), 3);
    assert_eq!(one.node(one.path()[1]).origin, Origin::Human);
    assert!(one.nodes()[4..].iter().all(|node| node.speaker == Speaker::Npc));
    // The text of the first reply is shown when it is made and when it is chosen.
    assert!(shown.matches(&one.node(head).text).count() >= 2, "{shown}");
    let two = stage.tree("two.json");
    assert_eq!(two.head(), Some(head));
    assert_eq!(two.nodes().len(), 8);
    assert!(shown.contains("character: Marrow"), "{shown}");
}

#[test]
fn a_saved_chat_goes_on_where_it_was() {
    let stage = Stage::new();
    let (begin, end) = ("Who lit the lamp?\n", "And the storm?\n/retry\n");
    stage.chat(&format!("{MARROW} --save whole.json"), &format!("{begin}{end}"));
    stage.chat(&format!("{MARROW} --save parts.json"), begin);
    let resumed = stage.events("--load parts.json --save parts.json", end);
    // The lorebook went along: what its entries remember, and what they say.
    assert_eq!(stage.tree("parts.json"), stage.tree("whole.json"));
    let meta = &stage.tree("parts.json").meta;
    assert!(
        meta["world"]["timed"]["sticky"].as_object().is_some_and(|s| !s.is_empty()),
        "{meta:?}"
    );
    let kinds: Vec<&str> = resumed.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["text", "text", "text", "reply", "reply"]);
    stage.fails(
        "chat --model model --save parts.json",
        "`parts.json` is there already",
        "--load parts.json",
    );
    assert_eq!(stage.tree("parts.json"), stage.tree("whole.json"));
}

#[test]
fn programs_read_a_line_for_each_event() {
    let stage = Stage::new();
    let script = "Hello\\\nthere.\n/retry\n/swipe -\n/suggest 2\n/1\n/undo\n/save\n/nonsense\n";
    let events = stage.events(&format!("{MARROW} --save a.json"), script);
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..4], ["greeting", "reply", "reply", "swipe"], "{kinds:?}");
    assert_eq!((&events[0]["swipe"], &events[0]["swipes"]), (&1.into(), &3.into()));
    assert_eq!((&events[2]["swipe"], &events[2]["swipes"]), (&2.into(), &2.into()));
    assert_eq!((&events[3]["swipe"], &events[3]["text"]), (&1.into(), &events[1]["text"]));
    assert!(events[1]["tokens"].as_u64() > Some(0) && events[1]["stop"].is_string());
    let suggestions = events[4]["lines"].as_array().unwrap();
    let after = if suggestions.is_empty() { vec!["error"] } else { vec!["text", "reply"] };
    assert_eq!(kinds[5..5 + after.len()], after);
    assert_eq!(kinds[kinds.len() - 3..], ["undo", "saved", "error"]);
    assert_eq!(events.last().unwrap()["message"], "there is no command `/nonsense`");
    let tree = stage.tree("a.json");
    assert_eq!(tree.nodes()[3].text, "Hello\nthere.");
}

#[test]
fn the_same_seed_gives_the_same_chat() {
    let stage = Stage::new();
    let texts = |seed: u32| {
        let card = "--card CARDS/v3_marrow.charx --lorebook CARDS/worldinfo_gullpoint.json";
        let events = stage.events(&format!("{card} --seed {seed}"), "The lamp?\nThe storm?\n");
        events.into_iter().map(|event| event["text"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(texts(1), texts(1));
    assert_ne!(texts(1), texts(2));
}

#[test]
fn a_chat_without_a_character_is_with_an_assistant() {
    let stage = Stage::new();
    let events = stage.events("--system Be_brief. --save a.json", "Hello.\n");
    assert_eq!(events.len(), 1);
    assert_eq!(stage.tree("a.json").nodes().len(), 2);
    let scene = stage.events("--scene SCENES --scene-id yu-ji-jiu-shu", "/quit\n");
    assert!(scene.is_empty()); // the user opens this one
}

#[test]
fn failures_are_one_line_and_a_hint() {
    let stage = Stage::new();
    fs::write(stage.path("note.txt"), "a shopping list").unwrap();
    let chat = |rest: &str| format!("chat --model model {rest}");
    stage.fails("chat --model nothing-here", "nothing-here", "--model");
    stage.fails(&chat("--card nothing.png"), "nothing.png", "check the path");
    stage.fails(&chat("--card CARDS/no_metadata.png"), "holds no character", "original file");
    stage.fails(&chat("--card CARDS/truncated.png"), "cut short", "damaged");
    stage.fails(&chat("--card CARDS/lorebook_v3.json"), "this is a lorebook", "--lorebook");
    stage.fails(&chat("--lorebook CARDS/v2_marrow.json"), "a character card", "World Info");
    stage.fails(&chat("--load note.txt"), "not a saved dialogue", "--save");
    stage.fails(&chat("--scene SCENES --scene-id nowhere"), "no scene `nowhere`", "gull-point");
    let play = "play --model model --scenes";
    stage.fails(&format!("{play} note.txt --out a.jsonl"), "no scene in", "JSON line");
    stage.fails(
        "play --model nothing-here --scenes SCENES --out a.jsonl",
        "nothing-here",
        "--model",
    );
    assert!(!stage.path("a.jsonl").exists());
    let narrow = format!("{PLAY} --limit 2 --context 300 --out a.jsonl");
    stage.fails(&narrow, "2 of 2 dialogues could not be played to the end", "--context");
    assert_eq!(stage.text("a.jsonl"), "");
    // A broken command inside a chat ends nothing.
    let output = stage.chat(MARROW, "/save note.txt\n/swipe 9\n/undo\n/3\n");
    let text = stderr(&output);
    assert!(text.contains("`note.txt` is there already and is no saved chat"), "{text}");
    assert!(text.contains("there is no swipe 9: this turn has 3"), "{text}");
    assert!(text.contains("there is nothing to undo"), "{text}");
    assert!(text.contains("there are no suggested lines"), "{text}");
    assert_eq!(stage.text("note.txt"), "a shopping list");
}

#[test]
fn help_has_examples() {
    let stage = Stage::new();
    for command in ["chat", "play"] {
        let help = stage.ok(&format!("{command} --help"));
        assert!(help.contains(&format!("Examples:\n  troupe {command} --model")), "{help}");
    }
}
