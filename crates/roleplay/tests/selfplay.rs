//! Self-play on a scripted model: who speaks when, what is recorded, and that a run is
//! the same however it is cut and scheduled. What each side is shown: `scenes.rs`.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use troupe_dialogue::{
    ChatError, ChatModel, ChatRequest, DialogueTree, Finished, Message, Origin, Prompt, RequestId,
    Sampling, ScriptedModel, Side, Speaker, TokenSink,
};
use troupe_roleplay::prompt::{FALLBACK_TEXT, Shape, SideSettings, View};
use troupe_roleplay::scene::{Scene, read_scenes};
use troupe_roleplay::selfplay::{
    DialogueKey, FinishedDialogue, PlayError, PlayEvent, PlaySettings, PlaySummary, play,
    read_progress,
};

const SCENES: &[u8] = include_bytes!("data/scenes/scenes.jsonl");

fn scenes() -> Vec<Scene> {
    let (scenes, problems) = read_scenes(SCENES);
    assert_eq!((scenes.len(), problems.len()), (4, 0));
    scenes
}

fn scene(id: &str) -> Scene {
    scenes().into_iter().find(|scene| scene.id == id).unwrap()
}

fn scene_from(json: &str) -> Scene {
    serde_json::from_str(json).unwrap()
}

fn messages(request: &ChatRequest) -> &[Message] {
    match &request.prompt {
        Prompt::Messages(messages) => messages,
        other => panic!("expected messages, got {other:?}"),
    }
}

/// A line that depends on the request's seed and language only.
fn seeded_line(request: &ChatRequest) -> String {
    let is_chinese = messages(request)[0].content.starts_with('你');
    let n = request.seed % 10_000;
    if is_chinese {
        format!("这是第{n}句，灯还亮着。")
    } else {
        format!("Line {n}, and the lamp burns.")
    }
}

fn settings(turns: usize, repeats: u32) -> PlaySettings {
    PlaySettings { turns, repeats, seed: 7, ..PlaySettings::default() }
}

/// Plays to the end and returns what was finished, by key, and the summary.
fn run(
    model: &mut dyn ChatModel,
    scenes: &[Scene],
    settings: &PlaySettings,
    done: &HashSet<DialogueKey>,
) -> (BTreeMap<DialogueKey, FinishedDialogue>, PlaySummary) {
    let mut finished = BTreeMap::new();
    let summary = play(model, scenes, settings, done, &AtomicBool::new(false), &mut |event| {
        if let PlayEvent::Finished(dialogue) = event {
            assert!(finished.insert(dialogue.key.clone(), *dialogue).is_none(), "played twice");
        }
    });
    (finished, summary.unwrap())
}

fn run_all(scenes: &[Scene], settings: &PlaySettings) -> BTreeMap<DialogueKey, FinishedDialogue> {
    let (finished, _) =
        run(&mut ScriptedModel::new(seeded_line), scenes, settings, &HashSet::new());
    finished
}

/// Plays one scene with short scripted lines and returns the requests.
fn requests(scene: &Scene, settings: &PlaySettings, lines: &[&str]) -> Vec<ChatRequest> {
    let mut model = ScriptedModel::from_replies(lines.iter().copied());
    run(&mut model, std::slice::from_ref(scene), settings, &HashSet::new());
    model.requests().to_vec()
}

#[test]
fn four_scenes_three_times_a_hundred_turns() {
    let (scenes, settings) = (scenes(), settings(100, 3));
    let mut model = Watched::new(ScriptedModel::new(seeded_line));
    let (finished, summary) = run(&mut model, &scenes, &settings, &HashSet::new());
    assert!(!summary.stopped);
    assert_eq!(summary.progress.turns, 1200);
    assert_eq!((summary.progress.dialogues_complete, summary.progress.turns_total), (12, 1200));
    assert_eq!(model.most_pending, settings.parallel);
    for (key, dialogue) in &finished {
        let scene = scenes.iter().find(|scene| scene.id == key.scene).unwrap();
        let tree = &dialogue.tree;
        assert_eq!(
            (tree.nodes().len(), tree.path().len(), dialogue.failure.is_none()),
            (100, 100, true)
        );
        for (turn, node) in tree.nodes().iter().enumerate() {
            let side = scene.side_at(turn);
            assert_eq!(node.speaker, Speaker::from(side));
            assert_eq!(node.name.as_deref(), Some(scene.display_name(side)));
            assert!(node.sample.is_some() || turn == 0);
        }
        let line = tree.to_json();
        assert_eq!(DialogueTree::from_json(&line).unwrap(), *tree);
        assert!(!line.contains('\n'));
    }
    let first = &finished[&DialogueKey { scene: "fu-shou".into(), repeat: 1 }];
    assert!(first.tree.nodes()[0].text.starts_with("（隔着门）")); // the second greeting
}

#[test]
fn what_is_said_does_not_depend_on_parallel() {
    let all = |parallel| {
        let settings = PlaySettings { parallel, ..settings(9, 3) };
        let finished = run_all(&scenes(), &settings);
        finished.into_values().map(|dialogue| dialogue.tree).collect::<Vec<_>>()
    };
    let alone = all(1);
    assert_eq!(alone, all(3));
    assert_eq!(alone, all(100));
    let mut uneven = Watched { uneven: true, ..Watched::new(ScriptedModel::new(seeded_line)) };
    let (finished, _) = run(&mut uneven, &scenes(), &settings(9, 3), &HashSet::new());
    assert_eq!(alone, finished.into_values().map(|d| d.tree).collect::<Vec<_>>());
    let other_seed = PlaySettings { seed: 8, ..settings(9, 3) };
    assert_ne!(
        alone[0].nodes(),
        run_all(&scenes(), &other_seed).into_values().next().unwrap().tree.nodes()
    );
}

#[test]
fn the_record_says_how_it_was_made() {
    let key = DialogueKey { scene: "yu-ji-jiu-shu".into(), repeat: 0 };
    let finished = run_all(&scenes(), &settings(4, 1));
    let record = serde_json::to_string_pretty(&finished[&key].tree.meta).unwrap();
    insta::assert_snapshot!(record);
}

#[test]
fn a_torn_file_is_resumed_without_a_difference() {
    let (scenes, settings) = (scenes(), settings(5, 2));
    let whole: BTreeMap<_, _> =
        run_all(&scenes, &settings).into_iter().map(|(key, d)| (key, d.tree.to_json())).collect();
    let lines: Vec<String> = whole.values().map(|line| format!("{line}\n")).collect();
    let (three, torn) = (lines[..3].concat(), &lines[3][..lines[3].len() / 2]);
    for tail in ["", torn, lines[3].trim_end(), "\0\0\0"] {
        let file = format!("{three}{tail}");
        let progress = read_progress(file.as_bytes()).unwrap();
        assert_eq!(progress.valid_bytes, three.len() as u64);
        assert_eq!(progress.done, whole.keys().take(3).cloned().collect());
        assert_eq!(progress.runs, [settings.fingerprint()].into());
        assert_eq!(progress.problems, []);
        let mut model = ScriptedModel::new(seeded_line);
        let (rest, summary) = run(&mut model, &scenes, &settings, &progress.done);
        assert_eq!((rest.len(), summary.progress.dialogues_total), (5, 5));
        for (key, dialogue) in rest {
            assert_eq!(dialogue.tree.to_json(), whole[&key]);
        }
    }
}

#[test]
fn other_lines_in_the_output_are_told() {
    let whole = run_all(&scenes()[..1], &settings(2, 1)).into_values().next().unwrap().tree;
    let mut failed = whole.clone();
    failed.meta.insert("outcome".into(), "model: gone".into());
    let mut nameless = whole.clone();
    nameless.meta["scene"]["id"] = 3.into();
    let lines = [
        whole.to_json(),
        "{}".into(),
        String::new(),
        failed.to_json(),
        DialogueTree::new().to_json(),
        nameless.to_json(),
    ];
    let progress = read_progress((lines.join("\n") + "\n").as_bytes()).unwrap();
    assert_eq!(progress.done.len(), 1);
    let mut told = String::new();
    for problem in progress.problems {
        writeln!(told, "{}: {}", problem.line, problem.reason).unwrap();
    }
    insta::assert_snapshot!(told, @"
    2: not a saved dialogue: missing field `format` at line 1 column 2
    4: `outcome` is \"model: gone\"; expected `complete`
    5: `kind` is null; expected `self-play`
    6: `scene.id` is missing
    ");
}

#[test]
fn dropped_messages_are_counted_per_view() {
    let scene = scene("yu-ji-jiu-shu");
    let settings = PlaySettings {
        npc: SideSettings { max_new_tokens: 20, ..SideSettings::default() },
        user: SideSettings { max_new_tokens: 20, ..SideSettings::default() },
        ..settings(40, 1)
    };
    let length = |side| {
        let view = View::new(&scene, side, &settings.npc, Shape::default());
        view.system_text().chars().count()
    };
    // Room for a hundred characters of dialogue beside the longer system text.
    let context = length(Side::Npc).max(length(Side::User)) + 20 + 100;
    let mut model = ScriptedModel::new(seeded_line).with_context(context);
    let (finished, _) = run(&mut model, std::slice::from_ref(&scene), &settings, &HashSet::new());
    let tree = &finished.values().next().unwrap().tree;
    assert_eq!(tree.nodes().len(), 40);
    for (side, name) in [(Side::Npc, "npc"), (Side::User, "user")] {
        let own = tree.nodes().iter().filter(|node| node.speaker == Speaker::from(side));
        let dropped: Vec<u64> =
            own.map(|node| node.sample.as_ref().unwrap().dropped_messages as u64).collect();
        assert_eq!(dropped[0], 0);
        assert!(dropped.is_sorted() && dropped[19] > 20, "{dropped:?}");
        assert_eq!(tree.meta["sides"][name]["counts"]["dropped_messages"], dropped[19]);
    }
}

#[test]
fn an_empty_reply_is_retried_then_shown_as_such() {
    let scene = scene_from(r#"{"id": "s", "npc": {"name": "Ash"}, "user": {"name": "Bo"}}"#);
    let settings = PlaySettings { max_retries: 2, ..settings(4, 1) };
    // Bo: empty, then a word; Ash: speaks for Bo thrice; Bo again; Ash again.
    let lines = ["  ", "Bo: Hello.", "Bo: No.", "Ash:", "Bo：", "Well?", "Ash: Hm.\nBo: What?"];
    let mut model = ScriptedModel::from_replies(lines);
    let (finished, summary) =
        run(&mut model, std::slice::from_ref(&scene), &settings, &HashSet::new());
    let tree = &finished.values().next().unwrap().tree;
    let texts: Vec<&str> = tree.nodes().iter().map(|node| node.text.as_str()).collect();
    assert_eq!(texts, ["Hello.", FALLBACK_TEXT, "Well?", "Hm."]);
    let fallback = &tree.nodes()[1];
    assert_eq!((fallback.origin, fallback.sample.is_none()), (Origin::Author, true));
    assert_eq!(tree.meta["fallback_nodes"], serde_json::json!([1]));
    let count = |side: &str, what: &str| tree.meta["sides"][side]["counts"][what].clone();
    assert_eq!((count("user", "retries"), count("npc", "retries")), (1.into(), 2.into()));
    assert_eq!((count("user", "fallbacks"), count("npc", "fallbacks")), (0.into(), 1.into()));
    assert_eq!(tree.meta["sides"]["npc"]["counts"]["stops"], serde_json::json!({"stop_string": 1}));
    let tokens =
        count("npc", "tokens").as_u64().unwrap() + count("user", "tokens").as_u64().unwrap();
    assert_eq!(tokens, summary.progress.tokens as u64);
    let seeds: HashSet<u64> = model.requests().iter().map(|request| request.seed).collect();
    assert_eq!(seeds.len(), 7);
}

#[test]
fn greedy_replies_are_not_asked_for_twice() {
    let scene = scene_from(r#"{"id": "s", "npc": {"name": "Ash"}}"#);
    let greedy = SideSettings { sampling: Sampling::greedy(), ..SideSettings::default() };
    let settings = PlaySettings { npc: greedy.clone(), user: greedy, ..settings(3, 1) };
    let requests = requests(&scene, &settings, &[""]);
    assert_eq!(requests.len(), 3);
}

#[test]
fn each_side_has_its_own_sampler_and_length() {
    let mut settings = settings(4, 1);
    settings.npc.sampling.temperature = 0.5;
    settings.user.max_new_tokens = 33;
    let requests = requests(&scene("locked-trunk"), &settings, &["a", "b", "c"]);
    let drawn: Vec<_> =
        requests.iter().map(|r| (r.sampling.temperature, r.max_new_tokens)).collect();
    assert_eq!(drawn, [(0.9, 33), (0.5, 200), (0.9, 33)]);
}

#[test]
fn long_turns_are_cut_where_the_scene_says() {
    let scene =
        scene_from(r#"{"npc": {"name": "Ash"}, "turns": {"first": "npc", "max_characters": 20}}"#);
    let mut model = ScriptedModel::from_replies(["The lamp is lit. The sea is high tonight."]);
    let (finished, _) = run(&mut model, &[scene], &settings(1, 1), &HashSet::new());
    let tree = &finished.values().next().unwrap().tree;
    assert_eq!(tree.nodes()[0].text, "The lamp is lit.");
    assert_eq!(tree.meta["sides"]["npc"]["counts"]["shortened"], 1);
}

#[test]
fn one_dialogue_that_fails_leaves_the_others_alone() {
    let mut scenes = scenes();
    scenes[1].context = "word ".repeat(2000); // no room for this one
    let mut model = ScriptedModel::new(seeded_line).with_context(3000);
    let (finished, summary) = run(&mut model, &scenes, &settings(4, 1), &HashSet::new());
    assert_eq!((summary.progress.dialogues_complete, summary.progress.dialogues_failed), (3, 1));
    let failed = &finished[&DialogueKey { scene: scenes[1].id.clone(), repeat: 0 }];
    assert!(matches!(failed.failure, Some(ChatError::ContextTooLong { .. })));
    assert_eq!(failed.tree.nodes().len(), 1);
    assert!(failed.tree.meta["outcome"].as_str().unwrap().contains("no room"));
}

#[test]
fn a_stopped_run_leaves_nothing_pending() {
    let stop = AtomicBool::new(false);
    let finished = RefCell::new(0);
    let mut model = ScriptedModel::new(seeded_line);
    let settings = PlaySettings { parallel: 3, ..settings(6, 3) };
    let summary = play(&mut model, &scenes(), &settings, &HashSet::new(), &stop, &mut |event| {
        if let PlayEvent::Finished(_) = event {
            *finished.borrow_mut() += 1;
            stop.store(true, Ordering::Relaxed);
        }
    });
    let summary = summary.unwrap();
    assert!(summary.stopped && summary.progress.dialogues_complete == *finished.borrow());
    assert_eq!((model.pending(), *finished.borrow() < 12), (0, true));
}

#[test]
fn bad_settings_are_named() {
    let check = |scenes: &[Scene], settings: PlaySettings| {
        let mut model = ScriptedModel::from_replies(["x"]);
        let stop = AtomicBool::new(false);
        play(&mut model, scenes, &settings, &HashSet::new(), &stop, &mut |_| {})
            .unwrap_err()
            .to_string()
    };
    let scenes = scenes();
    assert_eq!(check(&scenes, settings(0, 1)), "`turns` is 0; expected at least 1");
    let mut bad = settings(2, 1);
    bad.user.sampling.top_p = 2.0;
    assert_eq!(
        check(&scenes, bad),
        "sampling of the user: `top_p` is 2; expected above 0, at most 1 (off)"
    );
    let twice = [scenes[0].clone(), scenes[0].clone()];
    assert_eq!(check(&twice, settings(2, 1)), PlayError::SameId("gull-point".into()).to_string());
}

#[test]
fn a_model_that_forgets_is_an_error_not_a_hang() {
    struct Forgetful;
    impl ChatModel for Forgetful {
        fn submit(
            &mut self,
            _: ChatRequest,
            _: Option<Box<dyn TokenSink>>,
        ) -> Result<RequestId, ChatError> {
            Ok(RequestId(1))
        }
        fn poll(&mut self) -> Result<Vec<Finished>, ChatError> {
            Ok(Vec::new())
        }
        fn cancel(&mut self, _: RequestId) {}
        fn pending(&self) -> usize {
            0
        }
        fn context_tokens(&self) -> usize {
            1
        }
        fn count_tokens(&self, _: &str) -> Result<usize, ChatError> {
            Ok(1)
        }
    }
    let stop = AtomicBool::new(false);
    let result =
        play(&mut Forgetful, &scenes()[..1], &settings(2, 1), &HashSet::new(), &stop, &mut |_| {});
    assert_eq!(result.unwrap_err(), PlayError::Lost(1));
}

/// Remembers how much was pending at once, and can hand answers out one at a time, the
/// newest first.
struct Watched {
    inner: ScriptedModel,
    most_pending: usize,
    uneven: bool,
    held: Vec<Finished>,
}

impl Watched {
    fn new(inner: ScriptedModel) -> Self {
        Watched { inner, most_pending: 0, uneven: false, held: Vec::new() }
    }
}

impl ChatModel for Watched {
    fn submit(
        &mut self,
        request: ChatRequest,
        sink: Option<Box<dyn TokenSink>>,
    ) -> Result<RequestId, ChatError> {
        let id = self.inner.submit(request, sink);
        self.most_pending = self.most_pending.max(self.pending());
        id
    }
    fn poll(&mut self) -> Result<Vec<Finished>, ChatError> {
        let finished = self.inner.poll()?;
        if !self.uneven {
            return Ok(finished);
        }
        self.held.extend(finished);
        Ok(self.held.pop().into_iter().collect())
    }
    fn cancel(&mut self, id: RequestId) {
        self.inner.cancel(id);
    }
    fn pending(&self) -> usize {
        self.inner.pending() + self.held.len()
    }
    fn context_tokens(&self) -> usize {
        self.inner.context_tokens()
    }
    fn count_tokens(&self, text: &str) -> Result<usize, ChatError> {
        self.inner.count_tokens(text)
    }
}
