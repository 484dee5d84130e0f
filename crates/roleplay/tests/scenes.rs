//! Scenes and views: what files become, and exactly what each side is shown.

use chrono::DateTime;
use rand_core::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use troupe_dialogue::{
    ChatRequest, DialogueTree, Message, Origin, Prompt, ScriptedModel, Side, Speaker, complete,
};
use troupe_roleplay::card::Card;
use troupe_roleplay::lorebook::{Lorebook, MatchTexts, Scan, ScanSettings, TimedState, activate};
use troupe_roleplay::macros::{Expander, Expansion, MacroContext, Variables};
use troupe_roleplay::prompt::{Insertion, Place, Shape, SideSettings, View};
use troupe_roleplay::scene::{CharacterFields, Lang, Persona, Scene, SceneError, read_scenes};
use troupe_roleplay::selfplay::{PlaySettings, PlayedDialogue};

const SCENES: &[u8] = include_bytes!("data/scenes/scenes.jsonl");
const THIN: &[u8] = include_bytes!("data/scenes/thin.jsonl");

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

/// Plays `turns` of a scene with scripted lines and returns the requests.
fn requests(scene: &Scene, turns: usize, lines: &[&str]) -> Vec<ChatRequest> {
    let settings = PlaySettings { turns, ..PlaySettings::default() };
    let mut model = ScriptedModel::from_replies(lines.iter().copied());
    let mut dialogue = PlayedDialogue::new(scene, 0, &settings);
    while !dialogue.is_complete() {
        dialogue.accept(&complete(&mut model, dialogue.next_request()).unwrap());
    }
    model.requests().to_vec()
}

fn show(messages: &[Message]) -> String {
    let mut shown = String::new();
    for message in messages {
        writeln!(shown, "--- {}\n{}", message.role.as_str(), message.content).unwrap();
    }
    shown
}

// Scenes.

#[test]
fn thin_rows_are_scenes_too() {
    let (scenes, problems) = read_scenes(THIN);
    assert_eq!((scenes.len(), problems), (9, Vec::new()));
    assert_eq!(scenes[0].id, "hand-made/0");
    assert_eq!((scenes[0].user.name.as_str(), scenes[0].display_name(Side::User)), ("", "用户"));
    let untagged = String::from_utf8(THIN.to_vec()).unwrap().replace("\"lang\"", "\"language\"");
    let (detected, _) = read_scenes(untagged.as_bytes());
    let langs = |scenes: &[Scene]| scenes.iter().map(|s| s.lang).collect::<Vec<_>>();
    assert_eq!(langs(&detected), langs(&scenes));
}

#[test]
fn bad_rows_are_told_and_cost_no_good_ones() {
    let rows: &[&[u8]] = &[
        "\u{feff}{\"npc\": {\"name\": \"A\", \"persona\": null}, \"user\": null}\r".as_bytes(),
        b"{\"npc\": {\"name\": \"B\"",
        b"",
        b"{\"npc\": {\"name\": \" \"}}",
        b"{\"npc\": {\"name\": 3}}",
        b"\xff\xfe",
        b"[1]",
        br#"{"id": "x", "npc": {"name": "C"}, "turns": {"ordre": []}}"#,
        br#"{"id": "x", "npc": {"name": "C"}, "turns": {"order": "sometimes"}}"#,
        br#"{"id": "x", "npc": {"name": "C"}, "turns": {"order": "alternate", "first": null}}"#,
        br#"{"id": "x", "npc": {"name": "D"}, "turns": {"order": ["npc", "user"]}, "more": 1}"#,
        br#"{"id": "x#2", "npc": {"name": "F"}}"#,
        br#"{"id": 12, "npc": {"name": "E", "greeting": "E: Hello."}, "lang": "zh-CN"}"#,
    ];
    let (scenes, problems) = read_scenes(&rows.join(&b'\n'));
    let ids: Vec<&str> = scenes.iter().map(|scene| scene.id.as_str()).collect();
    assert_eq!(ids[1..], ["x", "x#2", "x#2#2", "12"]);
    assert!(ids[0].starts_with("scene-") && ids[0].len() == 22);
    assert_eq!((scenes[4].lang, scenes[4].npc.greeting.as_str()), (Lang::Zh, "Hello."));
    let mut told = String::new();
    for problem in problems {
        writeln!(told, "{}: {}", problem.line, problem.reason).unwrap();
    }
    insta::assert_snapshot!(told);
}

#[test]
fn bookkeeping_of_sources_is_no_scene_text() {
    let character = scene_from(
        r#"{"kind": "character", "npc": {"name": "A"}, "context": "Use colloquial language."}"#,
    );
    assert_eq!(character.context, "");
    assert_eq!(character.system_prompt, "Use colloquial language.\n{{original}}");
    let situation = scene_from(
        r#"{"kind": "situation", "npc": {"name": "A"}, "context": "tags: x; turns: 4"}"#,
    );
    assert_eq!(situation.context, "");
}

#[test]
fn scenes_survive_json() {
    let (thin, _) = read_scenes(THIN);
    for scene in scenes().into_iter().chain(thin) {
        let json = serde_json::to_string(&scene).unwrap();
        assert_eq!(scene_from(&json), scene);
    }
}

#[test]
fn a_character_becomes_a_scene() {
    let fields = CharacterFields {
        name: "阿蛮".into(),
        description: "猎户的养女，能背整本药谱。".into(),
        personality: "直来直去".into(),
        scenario: "雨后的山路。".into(),
        first_mes: "阿蛮：别动，有蛇。".into(),
        alternate_greetings: vec!["你又迷路了？".into(), " ".into()],
        mes_example: "<START>\n阿蛮：哼。\n<start>\n阿蛮：走。".into(),
        user_name: "郎中".into(),
        user_persona: "背药箱的年轻人。".into(),
        ..CharacterFields::default()
    };
    let scene = Scene::from_character(fields).unwrap();
    assert_eq!((scene.lang, scene.greetings().count()), (Lang::Zh, 2));
    let view = View::new(&scene, Side::Npc, &SideSettings::default(), Shape::default());
    insta::assert_snapshot!(view.system_text());
    let nameless = Scene::from_character(CharacterFields::default());
    assert_eq!(nameless.unwrap_err(), SceneError::NoName);
}

#[test]
fn a_card_becomes_a_scene_with_its_macros_expanded() {
    let json = r#"{"spec": "chara_card_v2", "spec_version": "2.0", "data": {
        "name": "Marrow", "description": "{{char}} keeps the light. {{user}} is wet.",
        "personality": "dry", "scenario": "A storm. {{nonsense::1}}",
        "first_mes": "{{char}}: Wind it, {{user}}.", "alternate_greetings": ["Well, <USER>?"],
        "mes_example": "<START>\n{{char}}: Aye.",
        "system_prompt": "Be brief. {{Original}} {{original}}",
        "post_history_instructions": "{{original}}Stay dry, {{char}}.",
        "extensions": {"depth_prompt": {"prompt": "{{char}} limps.", "depth": 2}}}}"#;
    let (card, _) = Card::from_json(json).unwrap();
    let user = Persona { name: "Ines".into(), persona: "A surveyor.".into(), ..Persona::default() };
    let now = DateTime::UNIX_EPOCH.fixed_offset();
    let context = MacroContext::for_card(&card, user.name.as_str(), now);
    let (mut variables, mut random) = (Variables::default(), Xoshiro256PlusPlus::seed_from_u64(1));
    let mut expander = Expander::new(&context, &mut variables, &mut random);
    let made = Scene::from_card(&card, &user, &mut expander).unwrap();
    assert_eq!(made.unknown_macros, ["nonsense"]);
    let note = Insertion { place: Place::Depth(2), text: "Marrow limps.".into() };
    assert_eq!(made.note, Some(note));
    insta::assert_snapshot!(serde_json::to_string_pretty(&made.scene).unwrap());
    let view = View::new(&made.scene, Side::Npc, &SideSettings::default(), Shape::default());
    assert_eq!(view.system_text().matches("Now write only your next turn").count(), 1);
    assert!(!view.system_text().contains("riginal"));
    // What a persona tells apart stays apart.
    let user = Persona { visible: "A wet {{user}}.".into(), ..user };
    let scene = Scene::from_card(&card, &user, &mut expander).unwrap().scene;
    assert_eq!((&*scene.user.persona, &*scene.user.visible), ("A surveyor.", "A wet Ines."));
}

#[test]
fn active_lore_goes_where_its_book_says() {
    let (book, _) = Lorebook::from_json(
        r#"{"spec": "lorebook_v3", "data": {"extensions": {}, "entries": [
        {"keys": [], "content": "The light was built in 1871.", "constant": true, "enabled": true,
         "insertion_order": 1, "use_regex": false, "extensions": {}, "position": "after_char"},
        {"keys": ["tam"], "content": "@@depth 1\nTam drowned.", "enabled": true,
         "insertion_order": 2, "use_regex": false, "extensions": {}}]}}"#,
    )
    .unwrap();
    let messages = [Message::user("Who was Tam?")];
    let settings = ScanSettings::for_context(4096);
    let scan = Scan {
        messages: &messages,
        prompts: &[],
        texts: MatchTexts::default(),
        character: "Marrow",
        tags: &[],
        trigger: "normal",
        greeting: None,
        user_icon: None,
        context_full: false,
        settings: &settings,
        count_tokens: &|text| text.len() / 4,
    };
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut state = TimedState::default();
    let expand = &mut |text: &str| Expansion::literal(text);
    let activation = activate(&[&book], &scan, &mut state, &mut random, expand);
    let insertion = |place, text: &str| Insertion { place, text: text.to_owned() };
    assert_eq!(
        Insertion::from_activation(&activation),
        [
            insertion(Place::AfterPersona, "The light was built in 1871."),
            insertion(Place::Depth(1), "Tam drowned."),
        ]
    );
}

#[test]
fn turns_follow_the_rules() {
    let order = |turns: &str, greeting: &str| {
        let scene = scene_from(&format!(
            r#"{{"npc": {{"name": "A", "greeting": "{greeting}"}}, "turns": {turns}}}"#
        ));
        let letters = (0..7).map(|turn| match scene.side_at(turn) {
            Side::Npc => 'n',
            Side::User => 'u',
        });
        letters.collect::<String>()
    };
    assert_eq!(order("{}", ""), "ununun".to_owned() + "u");
    assert_eq!(order(r#"{"first": "npc"}"#, ""), "nununun");
    assert_eq!(order(r#"{"first": "user"}"#, "Hello."), "nununun");
    assert_eq!(order(r#"{"order": ["npc", "npc", "user"]}"#, ""), "nnunnun");
    assert_eq!(order(r#"{"order": ["npc", "npc", "user"]}"#, "Hello."), "nnunnun");
    assert_eq!(order(r#"{"order": ["user", "user", "npc"]}"#, ""), "uunuunu");
    assert_eq!(order(r#"{"order": ["user", "user", "npc"]}"#, "Hello."), "nuunuun");
}

// Views.

#[test]
fn each_side_has_its_own_view_in_english() {
    let lines = ["Who are you?", "Marrow: The keeper.", "And the light?", "It burns."];
    let requests = requests(&scene("gull-point"), 5, &lines);
    assert_eq!(requests.len(), 4); // the greeting is the first of five
    insta::assert_snapshot!("marrow_user_opens", show(messages(&requests[0])));
    insta::assert_snapshot!("marrow_npc_last", show(messages(&requests[3])));
    assert_eq!(
        requests[1].stop,
        ["\nInes Calder:", "\nInes Calder：", "\nUser:", "\nUser：", "\n用户:", "\n用户："]
    );
    assert_eq!(requests[0].stop, ["\nMarrow:", "\nMarrow："]);
}

#[test]
fn consecutive_turns_are_asked_for_in_chinese() {
    let lines =
        ["草房站，当年真有草房。", "您的腿怎么了？", "没怎么。", "（坐下）喝茶。", "周叔。"];
    let requests = requests(&scene("fu-shou"), 6, &lines);
    insta::assert_snapshot!("zhou_npc_again", show(messages(&requests[0])));
    insta::assert_snapshot!("zhou_user_after_four", show(messages(&requests[4])));
    insta::assert_snapshot!("zhou_npc_fifth", show(messages(&requests[3])));
}

#[test]
fn a_view_without_names_and_personas_still_reads_well() {
    let (thin, _) = read_scenes(THIN);
    let bare = scene_from(r#"{"npc": {"name": "Ash"}}"#);
    let mut shown = String::new();
    for (scene, side) in [(&thin[0], Side::Npc), (&thin[0], Side::User), (&bare, Side::User)] {
        let view = View::new(scene, side, &SideSettings::default(), Shape::default());
        writeln!(shown, "{}\n=====", view.system_text()).unwrap();
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn the_plain_shape_adds_nothing_but_post_history() {
    let mut scene = scene("fu-shou");
    scene.post_history = "记住：膝盖的事不要说出来。".into();
    let mut tree = DialogueTree::new();
    tree.say(Speaker::Npc, "又来啦？", Origin::Author);
    tree.say(Speaker::Narrator, "鹩哥扑了一下翅膀。", Origin::Author);
    tree.say(Speaker::User, "来了。", Origin::Human);
    tree.say(Speaker::User, "带了橘子。", Origin::Human);
    let shown = |shape, side| {
        let view = View::new(&scene, side, &SideSettings::default(), shape);
        show(&view.messages(&tree, tree.head())[1..])
    };
    insta::assert_snapshot!("plain_npc", shown(Shape::Plain, Side::Npc));
    insta::assert_snapshot!("alternating_npc", shown(Shape::Alternating, Side::Npc));
    insta::assert_snapshot!("alternating_user", shown(Shape::Alternating, Side::User));
}

#[test]
fn insertions_stand_where_they_are_wanted() {
    let scene = scene("gull-point");
    let mut tree = DialogueTree::new();
    for (speaker, text) in [(Speaker::Npc, "one"), (Speaker::User, "two"), (Speaker::Npc, "three")]
    {
        tree.say(speaker, text, Origin::Human);
    }
    let insertion = |place, text: &str| Insertion { place, text: text.to_owned() };
    let insertions = [
        insertion(Place::BeforePersona, "BEFORE PERSONA"),
        insertion(Place::AfterExamples, "AFTER EXAMPLES"),
        insertion(Place::AfterPersona, "AFTER PERSONA"),
        insertion(Place::BeforeExamples, "BEFORE EXAMPLES"),
        insertion(Place::Depth(0), "depth 0"),
        insertion(Place::Depth(1), "depth 1"),
        insertion(Place::Depth(9), "depth 9"),
        insertion(Place::Depth(3), "depth 3"),
    ];
    let view = View::new(&scene, Side::Npc, &SideSettings::default(), Shape::default());
    let messages = view.messages_with(&tree, tree.head(), &insertions);
    let upper =
        |line: &&str| line.chars().all(|c| c.is_uppercase() || c == ' ') || line.ends_with(':');
    let headings: Vec<&str> =
        messages[0].content.lines().filter(|l| !l.is_empty()).filter(upper).collect();
    insta::assert_snapshot!(headings.join("\n"), @"
    BEFORE PERSONA
    About you:
    AFTER PERSONA
    What you know of Ines Calder:
    You and Ines Calder:
    The scene:
    BEFORE EXAMPLES
    How you talk, for example:
    AFTER EXAMPLES
    ");
    insta::assert_snapshot!(show(&messages[1..]), @"
    --- user
    [depth 9]

    [depth 3]
    --- assistant
    one
    --- user
    two

    [depth 1]
    --- assistant
    three
    --- user
    [depth 0]
    ");
    assert_eq!(view.messages_with(&tree, tree.head(), &[]), view.messages(&tree, tree.head()));
}

#[test]
fn a_systems_prompt_of_the_card_replaces_the_rules() {
    let scene = scene_from(
        r#"{"npc": {"name": "Ash", "persona": "A cat."}, "system_prompt": "Purr. {{original}}"}"#,
    );
    let text = |scene: &Scene, side| {
        let view = View::new(scene, side, &SideSettings::default(), Shape::default());
        view.system_text()
    };
    assert!(text(&scene, Side::Npc).contains("A cat.\n\nPurr. Now write only your next turn"));
    assert!(!text(&scene, Side::User).contains("Purr"));
    let bare = Scene { system_prompt: "Purr.".into(), ..scene };
    assert!(text(&bare, Side::Npc).ends_with("\n\nPurr."));
}

#[test]
fn secrets_stay_with_their_side() {
    for scene in scenes() {
        let requests = requests(&scene, 6, &["a", "b", "c", "d"]);
        let first_lines: HashSet<_> = requests.iter().map(|r| &messages(r)[0].content).collect();
        assert_eq!(first_lines.len(), 2);
        for text in first_lines {
            let (npc, user) =
                (text.contains(&scene.npc.persona), text.contains(&scene.user.persona));
            assert!(npc != user, "{}", scene.id);
            assert!(text.contains(&scene.npc.visible) && text.contains(&scene.user.visible));
        }
        let alternates = requests.iter().all(|request| {
            let roles: Vec<&str> = messages(request)[1..].iter().map(|m| m.role.as_str()).collect();
            roles.iter().enumerate().all(|(i, &role)| role == ["user", "assistant"][i % 2])
                && roles.last() == Some(&"user")
        });
        assert!(alternates, "{}", scene.id);
    }
}

#[test]
fn a_view_grows_at_its_end_only() {
    for scene in scenes() {
        let lines: Vec<String> = (0..12).map(|n| format!("line {n}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let mut last: BTreeMap<String, Vec<Message>> = BTreeMap::new();
        for request in requests(&scene, 12, &lines) {
            let now = messages(&request).to_vec();
            if let Some(before) = last.insert(now[0].content.clone(), now.clone()) {
                assert_eq!(now[..before.len()], before);
            }
        }
    }
}
