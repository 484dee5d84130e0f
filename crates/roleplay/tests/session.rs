//! Chats on a scripted model: every command, what it does to the tree, and that a
//! saved chat goes on as if it had never been closed.

use proptest::prelude::*;
use troupe_dialogue::{
    ChatRequest, DialogueTree, NodeId, Origin, Prompt, Reply, ScriptedModel, Speaker, StopReason,
    complete,
};
use troupe_roleplay::prompt::{FALLBACK_TEXT, Insertion, Place};
use troupe_roleplay::scene::{Scene, read_scenes};
use troupe_roleplay::selfplay::{PlaySettings, PlayedDialogue};
use troupe_roleplay::session::{Accepted, ChatSession, ChatSettings, SessionError};
use troupe_roleplay::suggest::{near_duplicate, suggest};

fn scene(id: &str) -> Scene {
    let (scenes, _) = read_scenes(include_bytes!("data/scenes/scenes.jsonl"));
    scenes.into_iter().find(|scene| scene.id == id).unwrap()
}

fn open() -> ChatSession {
    ChatSession::new(scene("gull-point"), ChatSettings::default())
}

fn reply(text: &str) -> Reply {
    complete(&mut ScriptedModel::from_replies([text]), ask()).unwrap()
}

fn ask() -> ChatRequest {
    ChatRequest::new(Prompt::Text(String::new()))
}

fn cancelled(text: &str) -> Reply {
    Reply { stop: StopReason::Cancelled, ..reply(text) }
}

fn answer(session: &mut ChatSession, text: &str) -> Accepted {
    session.request_reply();
    session.accept_reply(&reply(text)).unwrap()
}

fn texts(session: &ChatSession) -> Vec<&str> {
    let tree = session.tree();
    tree.path().into_iter().map(|id| tree.node(id).text.as_str()).collect()
}

#[test]
fn greetings_are_the_swipes_of_the_opening() {
    let mut session = open();
    assert_eq!((session.swipes().unwrap(), session.awaits_reply()), ((1, 2), false));
    session.swipe(2).unwrap();
    assert!(texts(&session)[0].contains("Can you count to forty?"));
    session.say("  I can.  ").unwrap();
    assert!(session.awaits_reply());
    let request = session.request_reply();
    let Prompt::Messages(messages) = &request.prompt else { panic!("expected messages") };
    assert!(messages[2].content.contains("count to forty"));
    assert_eq!(messages[3].content, "I can.");
}

#[test]
fn retry_keeps_the_earlier_reply() {
    let mut session = open();
    session.say("Who are you?").unwrap();
    let first = session.request_reply();
    session.accept_reply(&reply("Marrow: Nobody.")).unwrap();
    assert_eq!(texts(&session)[2], "Nobody.");
    let second = session.retry();
    assert_eq!(texts(&session)[2], "Nobody."); // nothing changes before it is accepted
    assert_eq!(second.prompt, first.prompt);
    assert_ne!(second.seed, first.seed);
    session.accept_reply(&reply("The keeper.")).unwrap();
    assert_eq!((texts(&session)[2], session.swipes().unwrap()), ("The keeper.", (2, 2)));
    session.swipe(1).unwrap();
    session.say("Nobody keeps a light.").unwrap();
    assert_eq!(texts(&session)[2..], ["Nobody.", "Nobody keeps a light."]);
    let problem = session.swipe(1).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "the last line is not Marrow's: there is no reply to choose from"
    );
    // A reply that never came is asked for, not a sibling of the user's line.
    session.retry();
    session.accept_reply(&reply("Aye.")).unwrap();
    assert_eq!(texts(&session)[3..], ["Nobody keeps a light.", "Aye."]);
    let problem = session.swipe(5).unwrap_err().to_string();
    assert_eq!(problem, "there is no swipe 5: this turn has 1");
}

#[test]
fn a_greeting_can_be_retried() {
    let mut session = open();
    session.retry();
    session.accept_reply(&reply("You're late.")).unwrap();
    assert_eq!((texts(&session), session.swipes().unwrap()), (vec!["You're late."], (3, 3)));
}

#[test]
fn undo_takes_back_the_users_line_and_what_followed() {
    let mut session = open();
    assert!(matches!(session.undo(), Err(SessionError::NothingToUndo)));
    session.say("One.").unwrap();
    answer(&mut session, "First.");
    session.say("Two.").unwrap();
    answer(&mut session, "Second.");
    answer(&mut session, "Third."); // the character goes on by itself
    assert_eq!(session.undo().unwrap(), 3);
    assert_eq!(texts(&session)[1..], ["One.", "First."]);
    session.say("Two, again.").unwrap();
    assert_eq!(session.undo().unwrap(), 1);
    assert_eq!(session.undo().unwrap(), 2);
    assert_eq!((texts(&session).len(), session.tree().nodes().len()), (1, 8));
}

#[test]
fn empty_replies_are_tried_again_then_stood_for() {
    let mut session = open();
    session.say("Well?").unwrap();
    let mut seeds = vec![session.request_reply().seed];
    for _ in 0..3 {
        match session.accept_reply(&reply("Ines Calder: I stay.")).unwrap() {
            Accepted::TryAgain(request) => seeds.push(request.seed),
            other => panic!("expected another try, got {other:?}"),
        }
    }
    let Accepted::Fallback(id) = session.accept_reply(&reply("")).unwrap() else {
        panic!("expected the fallback")
    };
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 4);
    let node = session.tree().node(id);
    assert_eq!((node.text.as_str(), node.origin), (FALLBACK_TEXT, Origin::Author));
    assert_eq!(session.tree().meta["fallback_nodes"], serde_json::json!([id]));
    assert_eq!(session.tree().meta["empty_replies"], 3);
}

#[test]
fn an_interrupted_reply_keeps_what_was_said() {
    let mut session = open();
    session.say("Well?").unwrap();
    session.request_reply();
    assert_eq!(session.accept_reply(&cancelled("")).unwrap(), Accepted::Nothing);
    assert_eq!(texts(&session).len(), 2);
    session.retry();
    let kept = session.accept_reply(&cancelled("It blows")).unwrap();
    assert!(matches!(kept, Accepted::Kept(_)));
    assert_eq!(texts(&session)[2], "It blows");
}

#[test]
fn replies_nobody_asked_for_are_refused() {
    let mut session = open();
    assert!(matches!(session.accept_reply(&reply("x")), Err(SessionError::NothingPending)));
    session.request_reply();
    session.say("Wait.").unwrap();
    assert!(matches!(session.accept_reply(&reply("x")), Err(SessionError::NothingPending)));
    assert!(matches!(session.say(" \n"), Err(SessionError::EmptyLine)));
}

#[test]
fn a_saved_chat_goes_on_as_if_never_closed() {
    let settings = ChatSettings { seed: 5, ..ChatSettings::default() };
    let mut session = ChatSession::new(scene("fu-shou"), settings);
    session.say("周叔，早。").unwrap();
    answer(&mut session, "早什么早。");
    session.retry();
    session.accept_reply(&reply("进来吧。")).unwrap();
    let mut loaded = ChatSession::load(&session.save()).unwrap();
    assert_eq!(loaded.tree(), session.tree());
    assert_eq!((loaded.scene(), loaded.settings()), (session.scene(), session.settings()));
    session.say("我带了橘子。").unwrap();
    loaded.say("我带了橘子。").unwrap();
    assert_eq!(loaded.request_reply(), session.request_reply());
}

#[test]
fn files_without_a_scene_are_told_and_can_be_given_one() {
    let mut tree = DialogueTree::new();
    tree.say(Speaker::User, "hello", Origin::Imported);
    let problem = ChatSession::load(&tree.to_json()).unwrap_err().to_string();
    assert!(problem.starts_with("the dialogue's `scene` cannot be used"), "{problem}");
    assert!(matches!(ChatSession::load("{"), Err(SessionError::Tree(_))));
    let session = ChatSession::from_tree(tree, scene("gull-point"), ChatSettings::default());
    assert!(session.awaits_reply());
    assert!(ChatSession::load(&session.save()).is_ok());
}

#[test]
fn a_self_play_record_can_be_chatted_on() {
    let scene = scene("fu-shou");
    let settings = PlaySettings { turns: 5, ..PlaySettings::default() };
    let mut played = PlayedDialogue::new(&scene, 0, &settings);
    while !played.is_complete() {
        played.accept(&reply("好。"));
    }
    let mut session = ChatSession::load(&played.into_tree("complete").to_json()).unwrap();
    assert_eq!((session.scene(), texts(&session).len()), (&scene, 5));
    session.undo().unwrap();
    session.say("周叔，是我。").unwrap();
    assert_eq!(texts(&session)[1..], ["好。", "周叔，是我。"]);
}

#[test]
fn another_user_is_seen_from_then_on() {
    let mut session = open();
    let mut user = session.scene().user.clone();
    user.name = "Odd Olsen".into();
    session.set_user(user);
    session.say("Hello.").unwrap();
    assert!(session.request_reply().stop.contains(&"\nOdd Olsen:".to_owned()));
    let head = session.tree().head().unwrap();
    assert_eq!(session.tree().node(head).name.as_deref(), Some("Odd Olsen"));
    assert_eq!(session.tree().nodes().len(), 3);
}

#[test]
fn the_shown_stream_is_the_kept_text() {
    let mut session = open();
    let mut cleaner = session.stream_cleaner();
    let shown: String =
        ["Mar", "row: ", "Wind", " it. "].iter().map(|piece| cleaner.push(piece)).collect();
    answer(&mut session, "Marrow: Wind it. ");
    assert_eq!(shown + &cleaner.finish(), texts(&session)[1]);
}

#[test]
fn insertions_enter_the_prompt_and_not_the_dialogue() {
    let mut session = open();
    session.say("Who was Tam?").unwrap();
    let text = "Tam kept the light before Marrow.".to_owned();
    session.set_insertions(vec![Insertion { place: Place::Depth(1), text: text.clone() }]);
    let Prompt::Messages(messages) = session.request_reply().prompt else { panic!("messages") };
    assert_eq!(messages.last().unwrap().content, format!("[{text}]\n\nWho was Tam?"));
    assert!(!session.save().contains(&text));
}

// Suggestions.

#[test]
fn suggestions_differ_from_each_other_and_from_what_was_said() {
    let mut session = ChatSession::new(scene("fu-shou"), ChatSettings::default());
    session.say("您的腿怎么了？").unwrap();
    answer(&mut session, "没怎么。");
    let lines = [
        "小何：我带了橘子。",
        "我带了橘子！", // the same but for a mark
        "您的腿怎么了", // said already
        "……",           // not a word
        "那我把扶手放门口。",
        "那我把扶手放在门口。",
        "到站今天叫了吗？",
    ];
    let mut model = ScriptedModel::from_replies(lines);
    let found = suggest(&mut model, session.suggester(3)).unwrap();
    let texts: Vec<&str> = found.lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts, ["我带了橘子。", "那我把扶手放门口。", "到站今天叫了吗？"]);
    assert_eq!((found.asked, found.duplicates, found.empty), (7, 3, 1));
    let mut seeds: Vec<u64> = model.requests().iter().map(|request| request.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 7);
    let Prompt::Messages(messages) = &model.requests()[0].prompt else {
        panic!("expected messages")
    };
    assert!(messages[0].content.starts_with("你是小何"));
    let line = found.lines[0].clone();
    let seed = line.sample.seed;
    let id = session.say_suggestion(line);
    let node = session.tree().node(id);
    assert_eq!((node.origin, node.sample.as_ref().map(|s| s.seed)), (Origin::Model, Some(seed)));
}

#[test]
fn a_model_that_repeats_itself_gives_fewer() {
    let mut model = ScriptedModel::from_replies(["Who lit the lamp?"]);
    let found = suggest(&mut model, open().suggester(3)).unwrap();
    assert_eq!((found.lines.len(), found.asked, found.duplicates), (1, 12, 11));
    let none = suggest(&mut model, open().suggester(0)).unwrap();
    assert_eq!((none.lines.len(), none.asked), (0, 0));
}

#[test]
fn asking_again_without_a_change_gives_the_same() {
    let ask = |session: &ChatSession| {
        let mut model = ScriptedModel::new(|request| {
            let words = ["lamp", "storm", "brother", "boat", "sea", "night", "order", "buoy"];
            let word = |shift: u32| words[(request.seed >> shift) as usize % words.len()];
            format!("{} {} {} {}?", word(0), word(8), word(16), word(24))
        });
        suggest(&mut model, session.suggester(4)).unwrap()
    };
    let mut session = open();
    let first = ask(&session);
    assert_eq!((first.lines.len(), &ask(&session)), (4, &first));
    for (i, a) in first.lines.iter().enumerate() {
        assert!(first.lines[..i].iter().all(|b| !near_duplicate(&a.text, &b.text)));
    }
    session.say("Hello.").unwrap();
    assert_ne!(ask(&session), first);
}

// Any sequence of commands.

#[derive(Debug, Clone)]
enum Command {
    Say(String),
    Reply(String),
    Retry(String),
    Swipe(usize),
    Undo,
    Reload,
}

fn command() -> impl Strategy<Value = Command> {
    let text = "(Marrow: |User：)?[a-z 灯\n]{0,6}";
    prop_oneof![
        text.prop_map(Command::Say),
        text.prop_map(Command::Reply),
        text.prop_map(Command::Retry),
        (0usize..4).prop_map(Command::Swipe),
        Just(Command::Undo),
        Just(Command::Reload),
    ]
}

proptest! {
    #[test]
    fn no_command_loses_a_text_or_leaves_an_empty_one(
        commands in proptest::collection::vec(command(), 0..30),
    ) {
        let mut session = open();
        for command in commands {
            let before = session.tree().nodes().to_vec();
            match command {
                Command::Say(text) => drop(session.say(&text)),
                Command::Reply(text) => {
                    session.request_reply();
                    session.accept_reply(&reply(&text)).unwrap();
                }
                Command::Retry(text) => {
                    session.retry();
                    session.accept_reply(&reply(&text)).unwrap();
                }
                Command::Swipe(number) => drop(session.swipe(number)),
                Command::Undo => drop(session.undo()),
                Command::Reload => {
                    let loaded = ChatSession::load(&session.save()).unwrap();
                    prop_assert_eq!(loaded.tree(), session.tree());
                    session = loaded;
                }
            }
            let nodes = session.tree().nodes();
            prop_assert_eq!(&nodes[..before.len()], &before[..]);
            prop_assert!(nodes.iter().all(|node| !node.text.trim().is_empty()));
            prop_assert!(session.tree().head() != Some(NodeId(u32::MAX)));
        }
    }
}
