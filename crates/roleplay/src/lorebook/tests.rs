//! Which entries become active, one rule at a time, and books of other programs.

use super::*;
use crate::macros::Expansion;
use rand_core::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;
use serde_json::json;
use troupe_dialogue::Message;

/// A chat, a book and what they remember.
struct World {
    book: Lorebook,
    messages: Vec<Message>,
    settings: ScanSettings,
    state: TimedState,
    seed: u64,
}

/// One token per character.
fn count_tokens(text: &str) -> usize {
    text.chars().count()
}

impl World {
    fn new(entries: Vec<Entry>) -> Self {
        let settings = ScanSettings { recursive: true, ..ScanSettings::for_context(100_000) };
        let book = Lorebook { name: "book".into(), entries, ..Lorebook::default() };
        let state = TimedState::default();
        World { book, messages: Vec::new(), settings, state, seed: 1 }
    }

    /// Adds messages, the user's and the character's in turn.
    fn say(mut self, texts: &[&str]) -> Self {
        self.add(texts);
        self
    }

    fn add(&mut self, texts: &[&str]) {
        for text in texts {
            let message = if self.messages.len().is_multiple_of(2) {
                Message::user(*text)
            } else {
                Message::assistant(*text)
            };
            self.messages.push(message);
        }
    }

    fn scan_with(&mut self, change: impl FnOnce(&mut Scan)) -> Activation {
        let settings = self.settings.clone();
        let mut scan = Scan::new(&self.messages, &settings, &count_tokens);
        scan.character = "Marrow";
        change(&mut scan);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(self.seed);
        let mut expand = |text: &str| Expansion::literal(text.replace("{{char}}", "Marrow"));
        activate(&[&self.book], &scan, &mut self.state, &mut random, &mut expand)
    }

    fn scan(&mut self) -> Activation {
        self.scan_with(|_| {})
    }

    /// The texts that become active, in the order of the prompt.
    fn active(&mut self) -> Vec<String> {
        self.scan().entries.into_iter().map(|e| e.text).collect()
    }
}

/// An entry that says its own name, with keys and more.
fn entry(name: &str, keys: &[&str], change: impl FnOnce(&mut Entry)) -> Entry {
    let keys = keys.iter().map(|&k| k.to_owned()).collect();
    let mut entry = Entry { content: name.to_owned(), keys, ..Entry::default() };
    change(&mut entry);
    entry
}

fn words(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&t| t.to_owned()).collect()
}

#[test]
fn keys_constants_and_disabled_entries() {
    let mut world = World::new(vec![
        entry("lamp", &["lens", "LAMP"], |_| {}),
        entry("gone", &["lamp"], |e| e.enabled = false),
        entry("always", &[], |e| e.constant = true),
        entry("never", &[], |_| {}),
        entry("empty", &[""], |_| {}),
        entry("char", &["{{char}}"], |_| {}),
    ])
    .say(&["The lamp!", "Marrow turns."]);
    assert_eq!(world.active(), ["lamp", "always", "char"]);
    world.messages.clear();
    assert_eq!(world.active(), ["always"]);
}

#[test]
fn chinese_keys_match_with_and_without_whole_words() {
    let mut world = World::new(vec![
        entry("灯塔", &["灯塔"], |e| e.match_whole_words = Some(true)),
        entry("掌柜", &["沈砚", "掌柜"], |_| {}),
        entry("雨", &["/梅雨|暴雨/"], |_| {}),
        entry("none", &["书"], |_| {}),
    ])
    .say(&["老灯塔又亮了，沈掌柜说梅雨快到了。"]);
    assert_eq!(world.active(), ["灯塔", "掌柜", "雨"]);
}

#[test]
fn use_regex_changes_nothing_about_plain_keys_and_constants() {
    let mut world = World::new(vec![
        entry("plain", &["lamp"], |e| e.use_regex = true),
        entry("constant", &[], |e| (e.use_regex, e.constant) = (true, true)),
        entry("broken", &["/(/"], |e| e.use_regex = true),
    ])
    .say(&["a lamp ("]);
    let found = world.scan();
    assert_eq!(found.entries.len(), 2);
    assert_eq!(found.problems.len(), 1);
    assert!(found.problems[0].starts_with("key `/(/`: "), "{:?}", found.problems);
}

#[test]
fn secondary_keys_follow_their_logic() {
    for (logic, text, expected) in [
        (SelectiveLogic::AndAny, "k a", true),
        (SelectiveLogic::AndAny, "k", false),
        (SelectiveLogic::AndAny, "a b", false),
        (SelectiveLogic::NotAll, "k a", true),
        (SelectiveLogic::NotAll, "k a b", false),
        (SelectiveLogic::NotAny, "k", true),
        (SelectiveLogic::NotAny, "k b", false),
        (SelectiveLogic::AndAll, "k a b", true),
        (SelectiveLogic::AndAll, "k b", false),
    ] {
        let selective = entry("x", &["k"], |e| {
            (e.selective, e.logic, e.secondary_keys) = (true, logic, words(&["a", "b"]));
        });
        let found = !World::new(vec![selective]).say(&[text]).active().is_empty();
        assert_eq!(found, expected, "{logic:?} {text}");
    }
    let idle = entry("x", &["k"], |e| e.secondary_keys = words(&["a"]));
    assert_eq!(World::new(vec![idle]).say(&["k"]).active(), ["x"]);
}

#[test]
fn the_newest_messages_are_searched() {
    let mut world = World::new(vec![
        entry("two", &["old"], |_| {}),
        entry("three", &["old"], |e| e.scan_depth = Some(3)),
        entry("none", &["new"], |e| e.scan_depth = Some(0)),
        entry("@@scan_depth 3\ndecorated", &["old"], |_| {}),
    ])
    .say(&["old", "b", "new"]);
    assert_eq!(world.active(), ["three", "decorated"]);
    world.book.scan_depth = Some(5);
    assert_eq!(world.active(), ["two", "three", "decorated"]);
}

#[test]
fn names_prompts_and_card_texts_are_searched_where_wanted() {
    let mut world = World::new(vec![
        entry("name", &["ansel:"], |_| {}),
        entry("start", &["/\\x01Ansel: hi/"], |_| {}),
        entry("note", &["noted"], |_| {}),
        entry("persona", &["rower"], |e| e.match_in.persona = true),
        entry("not asked", &["rower"], |_| {}),
    ]);
    world.messages.push(Message { name: Some("Ansel".into()), ..Message::user("hi") });
    let found = world.scan_with(|scan| {
        scan.prompts = &["noted"];
        scan.texts.persona = "a rower";
    });
    let texts: Vec<_> = found.entries.iter().map(|e| e.text.as_str()).collect();
    assert_eq!(texts, ["name", "start", "note", "persona"]);
    world.settings.include_names = false;
    assert!(world.active().is_empty());
}

#[test]
fn texts_wake_other_entries_unless_told_not_to() {
    let mut world = World::new(vec![
        entry("mentions ansel", &["lamp"], |_| {}),
        entry("silent kit", &["lamp"], |e| e.prevent_recursion = true),
        entry("grave", &["ansel"], |_| {}),
        entry("deep", &["grave"], |_| {}),
        entry("kit", &["kit"], |_| {}),
        entry("shy", &["ansel"], |e| e.exclude_recursion = true),
    ])
    .say(&["lamp"]);
    assert_eq!(world.active(), ["mentions ansel", "silent kit", "grave", "deep"]);
    world.settings.max_passes = 2;
    assert_eq!(world.active(), ["mentions ansel", "silent kit", "grave"]);
    world.settings.max_passes = 0;
    world.book.recursive_scanning = Some(false);
    assert_eq!(world.active(), ["mentions ansel", "silent kit"]);
}

#[test]
fn delayed_entries_wait_for_recursion_and_open_level_by_level() {
    let mut world = World::new(vec![
        entry("first", &["lamp"], |_| {}),
        entry("one", &["lamp"], |e| e.delay_until_recursion = 1),
        entry("three two", &["first"], |e| e.delay_until_recursion = 3),
        entry("two", &["one"], |e| e.delay_until_recursion = 2),
        entry("plain", &["three two"], |_| {}),
    ])
    .say(&["lamp"]);
    assert_eq!(world.active(), ["first", "one", "three two", "two", "plain"]);
    world.settings.recursive = false;
    assert_eq!(world.active(), ["first"]);
}

#[test]
fn hidden_keys_wake_entries_though_they_are_not_in_the_text() {
    let mut world =
        World::new(vec![entry("a", &["lamp"], |_| {}), entry("b", &["secret"], |_| {})])
            .say(&["lamp"]);
    let settings = world.settings.clone();
    let scan = Scan::new(&world.messages, &settings, &count_tokens);
    let mut expand = |text: &str| {
        let hidden_keys = if text == "a" { words(&["secret"]) } else { Vec::new() };
        Expansion { hidden_keys, ..Expansion::literal(text) }
    };
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let found = activate(&[&world.book], &scan, &mut world.state, &mut random, &mut expand);
    assert_eq!(found.entries.len(), 2);
}

#[test]
fn sticky_entries_stay_and_then_cool_down() {
    let sticky = entry("x", &["lamp"], |e| (e.sticky, e.cooldown) = (2, 2));
    let mut world = World::new(vec![sticky]).say(&["lamp"]);
    world.settings.scan_depth = 1;
    let mut history = Vec::new();
    for text in ["a", "b", "lamp", "lamp", "lamp", "c"] {
        history.push(world.active().len());
        // The state is what a saved chat would bring back.
        let saved = serde_json::to_string(&world.state).unwrap();
        world.state = serde_json::from_str(&saved).unwrap();
        world.add(&[text]);
    }
    // At 1 message it matches; sticky at 2; at 3 sticky has ended and the cooldown of
    // two messages begins, so the lamps at 4 are not heard, but those at 5 are.
    assert_eq!(history, [1, 1, 0, 0, 1, 1]);
}

#[test]
fn an_effect_is_dropped_when_the_chat_does_not_grow() {
    let mut world =
        World::new(vec![entry("x", &["lamp"], |e| e.cooldown = 5)]).say(&["lamp", "lamp"]);
    assert_eq!(world.active(), ["x"]);
    assert_eq!(world.active(), ["x"]); // a swipe: the same place again
    world.add(&["lamp"]);
    assert!(world.active().is_empty());
    world.messages.truncate(2);
    assert_eq!(world.active(), ["x"]);
}

#[test]
fn an_edited_entry_forgets_its_effects() {
    let mut world = World::new(vec![entry("x", &["lamp"], |e| e.sticky = 9)]).say(&["lamp"]);
    assert_eq!(world.active(), ["x"]);
    world.add(&["b", "c", "d"]);
    assert_eq!(world.active(), ["x"]);
    world.book.entries[0].content = "y".into();
    assert!(world.active().is_empty());
}

#[test]
fn delay_waits_for_the_chat_to_grow() {
    let mut world = World::new(vec![entry("x", &["lamp"], |e| e.delay = 2)]).say(&["lamp"]);
    assert!(world.active().is_empty());
    world.add(&["lamp"]);
    assert_eq!(world.active(), ["x"]);
}

#[test]
fn probability_is_rolled_once_per_scan() {
    let chancy = |percent: f64| entry("x", &["lamp"], move |e| e.probability = percent);
    let mut hits = 0;
    for seed in 0..400 {
        // The second entry brings a second pass, in which the first must not roll again.
        let waker = entry("lamp again", &["lamp"], |_| {});
        let mut world = World::new(vec![chancy(25.0), waker]).say(&["lamp"]);
        world.seed = seed;
        hits += usize::from(world.active().iter().any(|t| t == "x"));
    }
    assert!((60..140).contains(&hits), "{hits}"); // 100 expected, 44 percent with two rolls
    assert!(World::new(vec![chancy(0.0)]).say(&["lamp"]).active().is_empty());
    let sure = entry("x", &["lamp"], |e| (e.probability, e.sticky) = (100.0, 5));
    let mut world = World::new(vec![sure]).say(&["lamp"]);
    assert_eq!(world.active(), ["x"]);
    world.book.entries[0].probability = 0.0; // sticky entries do not roll
    world.add(&["b", "c"]);
    assert_eq!(world.active(), ["x"]);
}

fn in_group(name: &str, group: &str, change: impl FnOnce(&mut Entry)) -> Entry {
    entry(name, &["lamp"], |e| {
        e.groups = words(&[group]);
        change(e);
    })
}

#[test]
fn a_group_draws_one_by_weight() {
    let mut wins = 0;
    for seed in 0..400 {
        let mut world = World::new(vec![
            in_group("a", "g", |e| e.group_weight = 300),
            in_group("b", "g", |_| {}),
            in_group("c", "h", |_| {}),
        ])
        .say(&["lamp"]);
        world.seed = seed;
        let active = world.active();
        assert!(active.len() == 2 && active[1] == "c", "{active:?}");
        wins += usize::from(active[0] == "a");
    }
    assert!((250..350).contains(&wins), "{wins}"); // 300 expected
}

#[test]
fn a_group_prefers_sticky_then_score_then_override() {
    let group = |change: fn(&mut Entry)| {
        World::new(vec![
            in_group("a", "g", |e| (e.group_override, e.order) = (true, 10)),
            in_group("b", "g", |e| (e.group_override, e.order) = (true, 20)),
            in_group("c", "g", change),
        ])
        .say(&["lamp lens"])
    };
    assert_eq!(group(|_| {}).active(), ["b"]); // the override of highest order
    let mut scored = group(|e| e.keys.push("lens".into()));
    scored.settings.group_scoring = true;
    assert_eq!(scored.active(), ["c"]); // two keys beat one
    let mut sticky = group(|e| (e.keys, e.sticky) = (words(&["storm"]), 9));
    sticky.messages.clear();
    sticky.add(&["storm"]);
    assert_eq!(sticky.active(), ["c"]);
    sticky.add(&["lamp"]);
    assert_eq!(sticky.active(), ["c"]);
}

#[test]
fn a_group_with_an_active_entry_takes_no_other() {
    let late = entry("late", &["early"], |e| e.groups = words(&["g"]));
    let mut world = World::new(vec![in_group("early", "g", |_| {}), late]).say(&["lamp"]);
    assert_eq!(world.active(), ["early"]);
}

#[test]
fn the_budget_serves_high_order_first_and_counts_what_it_drops() {
    let mut world = World::new(vec![
        entry("aaaa", &["lamp"], |e| e.order = 1),
        entry("bbbb", &["lamp"], |e| e.order = 2),
        entry("cccc", &["lamp"], |e| e.order = 3),
        entry("d", &["lamp"], |e| e.order = 0),
        entry("free", &["lamp"], |e| e.ignore_budget = true),
        entry("woken", &["cccc"], |_| {}),
    ])
    .say(&["lamp"]);
    world.settings.budget_tokens = 9;
    let found = world.scan();
    let texts: Vec<_> = found.entries.iter().map(|e| e.text.as_str()).collect();
    assert_eq!(texts, ["bbbb", "cccc", "free"]); // and no recursion after an overflow
    let dropped: Vec<_> = found.dropped.iter().map(|d| d.entry).collect();
    assert_eq!((dropped, found.tokens), (vec![0, 3], 12));
    assert_eq!(found.dropped[0].label, "lamp");
    world.settings.budget_tokens = 8; // the entry that reaches the budget is dropped
    assert_eq!(world.active(), ["cccc", "free"]);
}

#[test]
fn a_books_budget_drops_lowest_priority_first() {
    let mut world = World::new(vec![
        entry("aaaa", &["lamp"], |e| (e.order, e.priority) = (1, Some(10))),
        entry("bbbb", &["lamp"], |e| (e.order, e.priority) = (9, Some(5))),
        entry("@@ignore_on_max_context\ncccc", &["lamp"], |e| e.priority = Some(99)),
    ])
    .say(&["lamp"]);
    world.book.token_budget = Some(8);
    assert_eq!(world.active(), ["aaaa", "bbbb"]);
    world.book.token_budget = Some(7);
    assert_eq!(world.active(), ["aaaa"]);
    assert_eq!(ScanSettings::for_context(4096).budget_tokens, 1024);
    assert_eq!(ScanSettings::for_context(0).budget_tokens, 1);
}

#[test]
fn two_books_keep_their_own_settings() {
    let first = Lorebook {
        recursive_scanning: Some(false),
        entries: vec![entry("a", &["woken"], |_| {})],
        ..Lorebook::default()
    };
    let second = Lorebook {
        name: "second".into(),
        token_budget: Some(5),
        entries: vec![
            entry("woken", &["lamp"], |e| e.order = 2),
            entry("too long", &["lamp"], |e| e.order = 1),
            entry("b", &["woken"], |e| e.order = 3),
        ],
        ..Lorebook::default()
    };
    let settings = ScanSettings { recursive: true, ..ScanSettings::for_context(4000) };
    let messages = [Message::user("lamp")];
    let scan = Scan::new(&messages, &settings, &count_tokens);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut state = TimedState::default();
    let mut expand = |text: &str| Expansion::literal(text);
    let found = activate(&[&first, &second], &scan, &mut state, &mut random, &mut expand);
    let texts: Vec<_> = found.entries.iter().map(|e| (e.book, e.text.as_str())).collect();
    assert_eq!(texts, [(1, "woken")]);
    assert_eq!(found.dropped.len(), 2);
}

#[test]
fn too_few_activations_deepen_the_search() {
    let mut world = World::new(vec![entry("a", &["one"], |_| {}), entry("b", &["two"], |_| {})])
        .say(&["one", "two", "c", "d", "e"]);
    assert!(world.active().is_empty());
    world.settings.min_activations = 1;
    assert_eq!(world.active(), ["b"]);
    world.settings.min_activations_depth = 3;
    assert!(world.active().is_empty());
}

#[test]
fn filters_and_triggers() {
    let filter = |names: &[&str], tags: &[&str], exclude: bool| {
        Some(CharacterFilter { names: words(names), tags: words(tags), exclude })
    };
    let mut world = World::new(vec![
        entry("mine", &["k"], |e| e.character_filter = filter(&["Marrow"], &[], false)),
        entry("other", &["k"], |e| e.character_filter = filter(&["Kit"], &[], false)),
        entry("not other", &["k"], |e| e.character_filter = filter(&["Kit"], &[], true)),
        entry("tagged", &["k"], |e| e.character_filter = filter(&[], &["sea"], false)),
        entry("untagged", &["k"], |e| e.character_filter = filter(&[], &["sea"], true)),
        entry("swipe", &["k"], |e| e.triggers = words(&["swipe", "continue"])),
    ])
    .say(&["k"]);
    let tags = words(&["sea"]);
    let found = world.scan_with(|scan| scan.trigger = "swipe");
    assert_eq!(found.entries.len(), 4);
    assert_eq!(world.active(), ["mine", "not other", "untagged"]);
    let tags: &'static [String] = Vec::leak(tags);
    let found = world.scan_with(|scan| scan.tags = tags);
    assert_eq!(found.entries.iter().map(|e| e.text.as_str()).nth(2), Some("tagged"));
}

#[test]
fn decorators_switch_and_gate() {
    let decorated = |line: &str| entry(&format!("{line}\nx"), &["k"], |_| {});
    let active = |line: &str, texts: &[&str]| {
        !World::new(vec![decorated(line)]).say(texts).active().is_empty()
    };
    assert!(active("@@activate\n@@dont_activate", &["no key"]));
    assert!(!active("@@dont_activate", &["k"]));
    assert!(!active("@@activate_only_after 1", &["k"]));
    assert!(active("@@activate_only_after 1", &["a", "k"]));
    assert!(active("@@activate_only_every 2", &["a", "b", "c", "k"]));
    assert!(!active("@@activate_only_every 2", &["a", "k"]));
    assert!(!active("@@additional_keys a,b", &["k"]));
    assert!(active("@@additional_keys a,b\n@@additional_keys c", &["k b c"]));
    assert!(!active("@@additional_keys a,b\n@@additional_keys c", &["k b"]));
    assert!(!active("@@exclude_keys a,b", &["k b"]));
    assert!(
        !World::new(vec![decorated("@@activate"), entry("", &[], |_| {})]).scan().entries[0]
            .text
            .contains("@@")
    );
    let mut world = World::new(vec![decorated("@@is_greeting 1\n@@is_user_icon hat")]).say(&["k"]);
    assert_eq!(world.active(), ["x"]); // nothing is known of greeting and icon
    assert!(world.scan_with(|scan| scan.greeting = Some(0)).entries.is_empty());
    assert!(world.scan_with(|scan| scan.user_icon = Some("cap")).entries.is_empty());
    let fits = world.scan_with(|scan| (scan.greeting, scan.user_icon) = (Some(1), Some("hat")));
    assert_eq!(fits.entries.len(), 1);
    let mut world = World::new(vec![decorated("@@ignore_on_max_context")]).say(&["k"]);
    assert!(world.scan_with(|scan| scan.context_full = true).entries.is_empty());
    let mut world = World::new(vec![decorated("@@disable_ui_prompt system_prompt")]).say(&["k"]);
    assert_eq!(world.scan().disabled_prompts, [UiPrompt::SystemPrompt].into());
}

#[test]
fn once_matched_entries_stay_or_go() {
    let mut world = World::new(vec![
        entry("@@keep_activate_after_match\nkeep", &["k"], |_| {}),
        entry("@@dont_activate_after_match\nonce", &["k"], |_| {}),
    ])
    .say(&["k"]);
    assert_eq!(world.active(), ["keep", "once"]);
    assert_eq!(world.active(), ["keep", "once"]); // a swipe
    world.add(&["k"]);
    assert_eq!(world.active(), ["keep"]);
    world.add(&["b", "c", "d"]);
    assert_eq!(world.active(), ["keep"]);
}

#[test]
fn texts_are_gathered_by_place() {
    let at = |position: Position| move |e: &mut Entry| (e.position, e.constant) = (position, true);
    let deep = |depth, role| Position::AtDepth { depth, role };
    let mut world = World::new(vec![
        entry("last", &[], |e| {
            at(Position::BeforeCharacter)(e);
            e.order = 200;
        }),
        entry("first", &[], at(Position::BeforeCharacter)),
        entry("after", &[], at(Position::AfterCharacter)),
        entry("one", &[], at(deep(4, Role::System))),
        entry("two", &[], at(deep(4, Role::System))),
        entry("spoken", &[], at(deep(1, Role::Assistant))),
        entry("@@depth 0\n@@role user\nnow", &[], at(Position::BeforeCharacter)),
        entry("@@reverse_depth 1\nearly", &[], at(Position::NoteTop)),
        entry("@@role user\nmoved", &[], at(deep(9, Role::System))),
        entry("@@position personality\n@@depth 2\ngruff", &[], at(Position::NoteTop)),
        entry("out", &[], at(Position::Outlet("here".into()))),
        entry("", &[], at(Position::NoteBottom)),
    ])
    .say(&["a", "b", "c"]);
    let found = world.scan();
    assert_eq!(found.text_at(&Position::BeforeCharacter), "first\nlast");
    assert_eq!(found.text_at(&Position::AfterCharacter), "after");
    assert_eq!(found.text_at(&Position::Personality), "gruff");
    assert_eq!(found.text_at(&Position::NoteBottom), "");
    assert_eq!(found.outlets(), [("here".to_owned(), "out".to_owned())].into());
    let expected = [
        (9, Role::User, "moved"),
        (4, Role::System, "one\ntwo"),
        (2, Role::System, "early"),
        (1, Role::Assistant, "spoken"),
        (0, Role::User, "now"),
    ];
    assert_eq!(found.at_depth(), expected.map(|(d, r, t)| (d, r, t.to_owned())));
}

#[test]
fn a_book_that_wakes_itself_forever_ends() {
    let chain = |i: usize| entry(&format!("n{}.", i + 1), &[&format!("n{i}.")], |_| {});
    let mut world = World::new((0..500).map(chain).collect()).say(&["n0."]);
    assert_eq!(world.active().len(), 100);
}

fn read(json: serde_json::Value) -> (Lorebook, Vec<String>) {
    let (book, warnings) = Lorebook::from_json(&json.to_string()).unwrap();
    (book, warnings.iter().map(ToString::to_string).collect())
}

#[test]
fn risu_agnai_and_novel_ai_books() {
    let (risu, _) = read(json!({"type": "risu", "ver": 1, "data": [
        {"mode": "folder", "comment": "f"},
        {"key": "lamp, 灯，lens", "secondkey": "", "insertorder": 7, "comment": "c",
         "content": "text", "mode": "normal", "alwaysActive": true, "selective": false,
         "activationPercent": 40, "useRegex": false},
        {"key": "/a,b/i", "useRegex": true, "content": "re"},
    ]}));
    assert_eq!(risu.entries.len(), 2);
    let first = &risu.entries[0];
    assert_eq!((&first.keys, first.order), (&words(&["lamp", "灯", "lens"]), 7));
    assert_eq!((first.constant, first.probability), (true, 40.0));
    assert_eq!(risu.entries[1].keys, ["/a,b/i"]);

    let (agnai, _) = read(json!({"kind": "memory", "name": "m", "entries": [
        {"name": "n", "entry": "text", "keywords": ["k"], "priority": 3, "weight": 2,
         "enabled": false},
    ]}));
    let first = &agnai.entries[0];
    assert_eq!((first.content.as_str(), first.order, first.priority), ("text", 2, Some(3)));
    assert!(!first.enabled);

    let (novel, _) = read(json!({"lorebookVersion": 5, "entries": [
        {"text": "t", "keys": ["k"], "displayName": "d", "enabled": true,
         "forceActivation": true, "searchRange": 1000,
         "contextConfig": {"budgetPriority": 400}},
    ]}));
    let first = &novel.entries[0];
    assert_eq!((first.name.as_str(), first.order, first.constant), ("d", 400, true));
    assert_eq!(first.other_fields["searchRange"], 1000);
}

#[test]
fn odd_fields_are_told_by_place() {
    let (book, warnings) = read(json!({"entries": {
        "0": {"uid": 0, "key": "a, b", "content": "x", "position": 99, "selectiveLogic": 8},
        "1": "text",
        "2": {"key": [1, {}], "content": ["x"], "order": "12", "delayUntilRecursion": true,
              "characterFilter": {"names": ["A"], "isExclude": true}},
    }}));
    assert_eq!(book.entries.len(), 2);
    assert_eq!(book.entries[0].keys, ["a", "b"]);
    let odd = &book.entries[1];
    assert_eq!((odd.order, odd.delay_until_recursion), (12, 1));
    assert_eq!(odd.id, Some(EntryId::Number(2)));
    assert_eq!(odd.character_filter.as_ref().map(|f| f.exclude), Some(true));
    assert_eq!(
        warnings,
        [
            "`entries.0.selectiveLogic`: 8 is not a logic; taken for 0 (and any)",
            "`entries.0.position`: 99 is not a position",
            "`entries.1`: expected an object, got text",
            "`entries.2.key[1]`: expected text, got an object; left out",
            "`entries.2.content`: expected text, got a list; left out",
        ]
    );
}

#[test]
fn files_of_another_kind_are_named() {
    let error =
        |json: serde_json::Value| Lorebook::from_json(&json.to_string()).unwrap_err().to_string();
    let card = json!({"spec": "chara_card_v2", "data": {"name": "x"}});
    assert_eq!(error(card), "this is a character card, not a lorebook");
    assert_eq!(error(json!([1])), "this is a list, not a lorebook");
    assert_eq!(
        error(json!({"type": "risuChat", "data": {}})),
        "this is a RisuAI chat, not a lorebook"
    );
    let missing = json!({"spec": "lorebook_v3"});
    assert_eq!(error(missing), "`data` is missing; expected an object with the book");
}

proptest::proptest! {
    #[test]
    fn no_book_panics(
        contents in proptest::collection::vec(proptest::collection::vec(proptest::sample::select(vec![
            "@@", "@@@", "depth ", "-1", "4294967296", "3", "\n", "activate_only_every ", "0", "role user",
            "keep_activate_after_match", "scan_depth ", "reverse_depth ", "additional_keys ", ",", "灯", "a",
        ]), 0..8), 1..6),
        keys in proptest::collection::vec("[/a灯(\\[*+ ]{0,4}i?", 6),
        numbers in proptest::collection::vec(proptest::prelude::any::<u32>(), 6),
        messages in proptest::collection::vec("[a灯 ]{0,6}", 0..4),
    ) {
        let entries = contents.iter().enumerate().map(|(i, content)| Entry {
            content: content.concat(),
            keys: vec![keys[i].clone()],
            constant: numbers[i].is_multiple_of(3),
            sticky: numbers[i],
            cooldown: numbers[(i + 1) % 6],
            group_weight: numbers[(i + 2) % 6],
            groups: vec![(numbers[i] % 2).to_string()],
            match_whole_words: Some(true),
            scan_depth: Some(numbers[(i + 3) % 6]),
            delay_until_recursion: numbers[i] % 3,
            position: Position::AtDepth { depth: numbers[i], role: Role::User },
            ..Entry::default()
        });
        let mut world = World::new(entries.collect());
        world.settings.scan_depth = u32::MAX;
        world.settings.min_activations = 3;
        for message in &messages {
            world.add(&[message]);
            world.scan().at_depth();
        }
    }
}
