//! Cards and books as files: every sample, broken ones with their messages, bombs,
//! round trips, and bytes turned at random. Macros and activation are tested beside
//! their code.

use proptest::prelude::*;
use rand_core::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;
use serde_json::{Map, Value, json};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use troupe_dialogue::{Message, Role, Speaker};
use troupe_roleplay::card::{
    Asset, Card, CardError, CardSpec, MAX_CHARX_ENTRIES, MAX_FILE_BYTES, MAX_JSON_BYTES,
};
use troupe_roleplay::lorebook::{
    CharacterFilter, Entry, EntryId, Lorebook, MatchIn, Position, Scan, ScanSettings,
    SelectiveLogic, TimedState, activate,
};
use troupe_roleplay::macros::{Expander, MacroContext, Variables};
use zip::write::SimpleFileOptions;

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cards").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(sample(name)).unwrap()
}

/// Reads a sample that must come without warnings.
fn load(name: &str) -> Card {
    let (card, warnings) = Card::load(sample(name)).unwrap();
    assert!(warnings.is_empty(), "{name}: {warnings:?}");
    card
}

fn error(bytes: &[u8]) -> String {
    Card::from_bytes(bytes).unwrap_err().to_string()
}

/// Reads JSON, with its warnings as text.
fn read(json: &Value) -> (Card, Vec<String>) {
    let (card, warnings) = Card::from_json(&json.to_string()).unwrap();
    (card, warnings.iter().map(ToString::to_string).collect())
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_be_bytes();
    [&length, &kind[..], data, b"crc?"].concat()
}

fn png(chunks: &[Vec<u8>]) -> Vec<u8> {
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunks.concat(), chunk(b"IEND", b"")].concat()
}

fn text_chunk(keyword: &str, text: &[u8]) -> Vec<u8> {
    chunk(b"tEXt", &[keyword.as_bytes(), b"\0", text].concat())
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text).into_bytes()
}

fn zip_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in members {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

const SMALL: &str = r#"{"spec":"chara_card_v2","spec_version":"2.0","data":{"name":"Kit"}}"#;

#[test]
fn the_same_character_comes_from_each_format() {
    let v1 = load("v1_marrow.json");
    assert_eq!((v1.spec, v1.name.as_str()), (CardSpec::V1, "Marrow"));
    assert_eq!(v1, load("v1_marrow_chara.png"));

    let v2 = load("v2_marrow.json");
    assert_eq!(v2.spec, CardSpec::V2);
    assert_eq!(v2, load("v2_marrow_chara.png"));
    assert_eq!(v2.mes_example, v1.mes_example);
    assert_eq!(v2.greetings().len(), 3);
    assert_eq!(v2.tags, ["test", "slice of life"]);
    assert_eq!(v2.extensions["talkativeness"], "0.5");
    assert_eq!(v2.depth_prompt(), None); // there is one, but it is empty
    assert_eq!(v2.character_book.as_ref().unwrap().entries.len(), 5);

    let v3 = load("v3_marrow.json");
    assert_eq!(v3, load("v3_marrow_both.png")); // `ccv3` wins over `chara`
    assert_eq!((v3.spec, v3.spoken_name()), (CardSpec::V3, "Old Marrow"));
    assert_eq!(v3.group_only_greetings.len(), 1);
    assert_eq!(v3.creator_notes_multilingual["zh"], "手工测试卡。");
    assert_eq!((v3.creation_date, v3.source.len()), (Some(1_735_689_600), 1));
    assert_eq!(v3.assets[0].uri, "ccdefault:");
    let mut charx = load("v3_marrow.charx");
    assert_eq!(charx.assets[0].uri, "embeded://assets/icon/images/main.png");
    charx.assets.clone_from(&v3.assets);
    assert_eq!(charx, v3);
    assert!(v3.other_fields.is_empty() && v3.other_outer_fields.is_empty());
}

#[test]
fn the_book_of_a_card_keeps_sillytaverns_rules() {
    let book = load("v2_marrow.json").character_book.unwrap();
    assert_eq!((book.scan_depth, book.token_budget), (Some(4), Some(400)));
    assert_eq!(book.recursive_scanning, Some(true));
    let [lamp, ansel, year, storm, cove] = book.entries.as_slice() else { panic!("five entries") };
    assert_eq!((lamp.sticky, lamp.cooldown, lamp.priority), (3, 2, Some(10)));
    assert_eq!((&lamp.id, lamp.order), (&Some(EntryId::Number(0)), 100));
    assert_eq!(ansel.position, Position::AtDepth { depth: 2, role: Role::System });
    assert_eq!((ansel.selective, ansel.probability), (true, 60.0));
    assert!(year.constant && storm.position == Position::AfterCharacter && !cove.enabled);
}

#[test]
fn the_three_sample_books_agree() {
    let book = load("v2_marrow.json").character_book.unwrap();
    let (world, warnings) = Lorebook::load(sample("worldinfo_gullpoint.json")).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(world.entries.len(), 5);
    for (ours, theirs) in book.entries.iter().zip(&world.entries) {
        assert_eq!((&ours.keys, &ours.content), (&theirs.keys, &theirs.content));
        assert_eq!(
            (ours.order, &ours.position, ours.enabled, ours.constant, ours.sticky),
            (theirs.order, &theirs.position, theirs.enabled, theirs.constant, theirs.sticky)
        );
    }
    let (v3, warnings) = Lorebook::load(sample("lorebook_v3.json")).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let (decorators, text) = v3.entries[5].decorated();
    assert_eq!((decorators.depth, decorators.role), (Some(3), Some(Role::System)));
    assert_eq!((decorators.activate_only_after, decorators.scan_depth), (Some(2), Some(6)));
    assert_eq!(decorators.unknown, ["vendor_only"]);
    assert_eq!(text, "The cellar floods at high tide.");
    let (decorators, text) = v3.entries[6].decorated();
    assert!(decorators.activate && decorators.dont_activate);
    assert_eq!(text, "Both present: activate wins.");
}

#[test]
fn examples_in_english_and_chinese() {
    let examples = load("v2_marrow.json").examples("");
    assert_eq!(examples.len(), 2);
    let lines = &examples[1].lines;
    assert_eq!((lines[0].speaker, lines[0].text.as_str()), (Speaker::User, "Are you lonely?"));
    assert_eq!(lines[1].text, "*shrugs* \"Ask me in February.\"");
    let chinese = load("v2_shenyan_zh.json");
    assert_eq!(chinese, load("v2_shenyan_zh_chara.png"));
    let lines = &chinese.examples("")[0].lines;
    assert_eq!((lines[0].speaker, lines[0].text.as_str()), (Speaker::User, "这本多少钱？"));
    assert_eq!(
        (lines[1].speaker, lines[1].text.as_str()),
        (Speaker::Npc, "“不卖。你坐着看完就是。”")
    );
}

#[test]
fn broken_samples_say_what_is_wrong() {
    assert_eq!(
        error(&bytes("no_metadata.png")),
        "the PNG holds no character: no `chara` or `ccv3` text chunk"
    );
    assert_eq!(
        error(&bytes("truncated.png")),
        "the PNG is cut short: chunk `tEXt` at byte 166 should have 4070 bytes, 1956 are left"
    );
    let missing = Card::load(sample("missing.json")).unwrap_err().to_string();
    assert!(missing.starts_with("cannot read `") && missing.contains("missing.json"), "{missing}");
    let book = Card::load(sample("lorebook_v3.json")).unwrap_err().to_string();
    assert_eq!(book, "this is a lorebook, not a character card");
    let world = Card::load(sample("worldinfo_gullpoint.json")).unwrap_err().to_string();
    assert_eq!(world, "this is a lorebook, not a character card");
    let card = Lorebook::load(sample("v3_marrow.json")).unwrap_err().to_string();
    assert_eq!(card, "this is a character card, not a lorebook");
}

#[test]
fn other_files_are_named() {
    for (file, expected) in [
        (&b""[..], "the file is empty"),
        (b"\xef\xbb\xbf \n", "the file is empty"),
        (
            b"\xff\xd8\xff\xe0 JFIF",
            "this is a JPEG picture; character cards travel as PNG, CHARX or JSON",
        ),
        (
            b"PK\x03\x04....",
            "this is a zip archive that is cut short; character cards travel as PNG, CHARX or JSON",
        ),
        (b"\xff\xfe{\0", "this is UTF-16 text; character cards travel as PNG, CHARX or JSON"),
        (b"{\"name\": \"\xff\"}", "the file is not UTF-8 text (byte 10)"),
        (
            b"{\"name\": \"K",
            "the file is not valid JSON: EOF while parsing a string at line 1 column 11",
        ),
        (b"[]", "this is a list, not a character card"),
        (b"{}", "this is JSON of another kind, not a character card"),
        (b"{\"name\": \"Kit\"}", "this is JSON of another kind, not a character card"),
        (
            br#"{"user_name":"a","character_name":"b","chat_metadata":{}}"#,
            "this is a chat, not a character card",
        ),
        (br#"{"spec":"chara_card_v2"}"#, "`data` is missing; expected an object with the card"),
        (
            br#"{"spec":"chara_card_v3","data":[]}"#,
            "`data` is a list; expected an object with the card",
        ),
        (
            br#"{"spec":"chara_card_v2","data":{}}"#,
            "`data.name` is missing; expected the character's name",
        ),
        (br#"{"name":["x"],"first_mes":""}"#, "`name` is a list; expected the character's name"),
        (br#"{"name":" ","first_mes":""}"#, "`name` is empty; expected the character's name"),
    ] {
        assert_eq!(error(file), expected);
    }
}

#[test]
fn damaged_containers_are_named() {
    assert_eq!(
        error(&png(&[text_chunk("chara", b"!!!!")])),
        "the `chara` chunk is not base64: invalid symbol 33, offset 0"
    );
    let cut_json = base64(&SMALL[..20]);
    assert_eq!(
        error(&png(&[text_chunk("ccv3", &cut_json)])),
        "the `ccv3` chunk is not valid JSON: EOF while parsing a string at line 1 column 20"
    );
    assert_eq!(
        error(&zip_of(&[("readme.txt", b"hi")])),
        "the archive holds no `card.json` at its root"
    );
    assert_eq!(
        error(&zip_of(&[("../card.json", SMALL.as_bytes()), ("/x", b"")])),
        "the archive holds no `card.json` at its root; there is one inside a folder"
    );
    let mut damaged = bytes("v3_marrow.charx");
    damaged[40..400].fill(0x55);
    let message = error(&damaged);
    assert!(message.starts_with("the CHARX archive cannot be read: "), "{message}");
}

#[test]
fn png_readers_forgive_what_writers_do() {
    let spaced: Vec<u8> =
        base64(SMALL).chunks(7).flat_map(|part| [part, b"\r\n "].concat()).collect();
    let unpadded: Vec<u8> = base64(SMALL).into_iter().filter(|&b| b != b'=').collect();
    for text in [base64(SMALL), spaced, unpadded, SMALL.as_bytes().to_vec()] {
        let file = [png(&[text_chunk("CHARA", &text)]), b"trailing bytes".to_vec()].concat();
        let (card, warnings) = Card::from_bytes(&file).unwrap();
        assert_eq!((card.name.as_str(), warnings.len()), ("Kit", 0));
    }
    let other = base64(&SMALL.replace("Kit", "Ann"));
    let file = png(&[
        text_chunk("chara", &base64(SMALL)),
        text_chunk("chara", &other),
        text_chunk("chara-ext-asset_:icon.png", b"AAAA"),
    ]);
    assert_eq!(Card::from_bytes(&file).unwrap().0.name, "Kit"); // the first of a keyword

    let file = png(&[text_chunk("chara", &base64(SMALL)), text_chunk("ccv3", b"broken!")]);
    let (card, warnings) = Card::from_bytes(&file).unwrap();
    assert_eq!(card.name, "Kit");
    let warning = warnings[0].to_string();
    assert!(warning.starts_with("the `ccv3` chunk is not base64"), "{warning}");

    let mut cut = png(&[text_chunk("chara", &base64(SMALL)), text_chunk("ccv3", &other)]);
    cut.truncate(cut.len() - 40);
    let (card, warnings) = Card::from_bytes(&cut).unwrap();
    assert_eq!(card.name, "Kit");
    assert!(warnings[0].to_string().starts_with("the PNG is cut short"), "{warnings:?}");
}

#[test]
fn a_ccv3_chunk_may_lack_the_fields_of_v3() {
    let json = SMALL.replace("_v2", "_v3").replace("2.0", "3.0");
    let file = png(&[text_chunk("ccv3", &base64(&json))]);
    let (card, warnings) = Card::from_bytes(&file).unwrap();
    assert_eq!((card.spec, card.group_only_greetings.len(), warnings.len()), (CardSpec::V3, 0, 0));
}

#[test]
fn a_charx_may_begin_with_a_picture_and_end_with_a_comment() {
    let zip = bytes("v3_marrow.charx");
    let picture = [b"\xff\xd8\xff\xe0".to_vec(), vec![7; 5000]].concat();
    let (card, _) = Card::from_bytes(&[picture, zip].concat()).unwrap();
    assert_eq!(card.name, "Marrow");
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("card.json", SimpleFileOptions::default()).unwrap();
    writer.write_all(SMALL.as_bytes()).unwrap();
    writer.set_comment("c".repeat(65_535)).unwrap();
    let zip = writer.finish().unwrap().into_inner();
    assert_eq!(Card::from_bytes(&zip).unwrap().0.name, "Kit");
}

#[test]
fn bombs_are_refused_without_being_unpacked() {
    // 64 MiB of spaces before the card, about 64 KiB when packed.
    let blank = vec![b' '; 64 << 20];
    let bomb = zip_of(&[("card.json", &blank)]);
    assert!(bomb.len() < 1 << 20);
    let limit = MAX_JSON_BYTES;
    let expected =
        format!("`card.json`, unpacked, has {} bytes; at most {limit} are read", limit + 1);
    assert_eq!(error(&bomb), expected);
    // The same in an asset is never unpacked.
    let hidden = zip_of(&[("card.json", SMALL.as_bytes()), ("assets/a.png", &blank)]);
    assert_eq!(Card::from_bytes(&hidden).unwrap().0.name, "Kit");

    let many = MAX_CHARX_ENTRIES + 1;
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for i in 0..many {
        zip.start_file(i.to_string(), SimpleFileOptions::default()).unwrap();
    }
    let message = error(&zip.finish().unwrap().into_inner());
    assert!(message.contains("it lists 10001 members; at most 10000 are read"), "{message}");

    let absurd = [b"\x89PNG\r\n\x1a\n".as_slice(), b"\xff\xff\xff\xfftEXtchara\0e30="].concat();
    assert_eq!(
        error(&absurd),
        "the PNG is cut short: chunk `tEXt` at byte 8 should have 4294967295 bytes, 10 are left"
    );
    let message = error(&png(&[text_chunk("chara", &vec![b'A'; 23 << 20])]));
    assert!(message.starts_with("the text chunk has 24117248 bytes; at most "), "{message}");
    let message = error(&vec![b'['; MAX_JSON_BYTES + 1]);
    assert!(message.starts_with("the JSON text has "), "{message}");
    let deep = format!("{}{}", r#"{"data":"#.repeat(5000), "}".repeat(5000));
    let message = error(deep.as_bytes());
    assert!(message.contains("recursion limit exceeded"), "{message}");
}

#[test]
fn files_too_large_to_hold_are_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.charx");
    std::fs::File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap(); // sparse
    let message = Card::load(&path).unwrap_err().to_string();
    assert_eq!(message, "the file has 268435457 bytes; at most 268435456 are read");
    assert!(matches!(Lorebook::load(&path), Err(CardError::TooLarge { .. })));
}

#[test]
fn versions_are_compared_as_numbers() {
    let warnings = |spec: &str, version: Value| {
        read(&json!({"spec": spec, "spec_version": version, "data": {"name": "K"}})).1
    };
    assert!(warnings("chara_card_v3", json!("3.0")).is_empty());
    assert!(warnings("chara_card_v3", json!(3)).is_empty());
    assert!(warnings("chara_card_v2", json!("2.1")).is_empty());
    assert_eq!(
        warnings("chara_card_v3", json!("3.1")),
        ["`spec_version`: 3.1 is newer than 3.0; what is new in it is kept but not used"]
    );
    assert_eq!(
        warnings("chara_card_v4", json!("4.0")),
        [
            "`spec`: `chara_card_v4` is unknown; read as V3",
            "`spec_version`: 4 is newer than 3.0; what is new in it is kept but not used",
        ]
    );
    assert_eq!(
        warnings("chara_card_v2", json!("two")),
        ["`spec_version`: not a version; taken for 2.0"]
    );
}

#[test]
fn wrong_types_cost_a_field_and_name_it() {
    let (card, warnings) = read(&json!({"spec": "chara_card_v3", "spec_version": "3.0", "data": {
        "name": "K", "description": {"a": 1}, "tags": "a, b，c", "alternate_greetings": "hi",
        "character_version": 1.5, "extensions": [], "nickname": "", "assets": [5, {"type": "icon"}],
        "creation_date": "soon", "character_book": {"entries": [{"keys": "a, b", "content": 5}, 1]},
        "creator_notes_multilingual": {"en": "x", "de": []}, "personality": null,
    }}));
    assert_eq!(
        warnings,
        [
            "`data.description`: expected text, got an object; left out",
            "`data.character_book.entries[1]`: expected an object, got a number; left out",
            "`data.creator_notes_multilingual.de`: expected text, got a list; left out",
            "`data.assets[0]`: expected an object, got a number; left out",
            "`data.creation_date`: expected a number, got text; left out",
            "`data.extensions`: expected an object, got a list; left out",
        ]
    );
    assert_eq!(card.tags, ["a", "b", "c"]);
    assert_eq!((card.alternate_greetings.len(), card.character_version.as_str()), (1, "1.5"));
    assert_eq!((card.nickname.as_deref(), card.spoken_name()), (None, "K"));
    let entry = &card.character_book.as_ref().unwrap().entries[0];
    assert_eq!((entry.keys.len(), entry.content.as_str()), (2, "5"));
}

#[test]
fn sillytaverns_copy_of_v1_gives_way_to_data() {
    let (card, _) = read(&json!({
        "name": "Old", "description": "old", "first_mes": "copied", "fav": false, "chat": "K - 1",
        "spec": "chara_card_v2", "spec_version": "2.0",
        "data": {"name": "New", "description": "new", "x_mine": 1},
    }));
    assert_eq!((card.name.as_str(), card.description.as_str()), ("New", "new"));
    assert_eq!(card.first_mes, "copied"); // `data` says nothing about it
    let exported = card.to_v2_json();
    assert_eq!((&exported["chat"], &exported["data"]["x_mine"]), (&json!("K - 1"), &json!(1)));
}

#[test]
fn other_shapes_are_read() {
    let (card, warnings) = read(&json!({"char_name": "K", "char_persona": "p",
        "world_scenario": "s", "char_greeting": "g", "example_dialogue": "e"}));
    assert_eq!((card.spec, card.name.as_str(), warnings.len()), (CardSpec::V1, "K", 0));
    let texts = [&card.description, &card.scenario, &card.first_mes, &card.mes_example];
    assert_eq!(texts, ["p", "s", "g", "e"]);
    let (card, warnings) = read(&json!({"data": {"name": "K", "scenario": ""}}));
    assert_eq!(
        (card.spec, warnings.as_slice()),
        (CardSpec::V2, &["`spec`: missing; read as V2".to_owned()][..])
    );
    let (card, _) = read(&json!({"name": "K", "first_mes": "", "tags": ["t"], "avatar": "none"}));
    assert_eq!((card.tags.len(), &card.other_outer_fields["avatar"]), (1, &json!("none")));
    let (card, _) = Card::from_json(&format!("\u{feff}{SMALL}\0")).unwrap();
    assert_eq!(card.name, "Kit");
}

#[test]
fn depth_prompts_have_defaults() {
    let card = |stored: Value| {
        let data = json!({"name": "K", "extensions": {"depth_prompt": stored}});
        read(&json!({"spec": "chara_card_v2", "spec_version": "2.0", "data": data})).0
    };
    let prompt = card(json!({"prompt": "be dry", "role": "user"})).depth_prompt().unwrap();
    assert_eq!((prompt.prompt.as_str(), prompt.depth, prompt.role), ("be dry", 4, Role::User));
    assert_eq!(card(json!("text")).depth_prompt(), None);
    assert_eq!(card(json!({"prompt": 5})).depth_prompt(), None);
}

#[test]
fn samples_come_back_from_export() {
    for name in ["v1_marrow.json", "v2_marrow.json", "v3_marrow.json", "v2_shenyan_zh.json"] {
        let card = load(name);
        for (exported, spec) in
            [(card.to_v2_json(), CardSpec::V2), (card.to_v3_json(), CardSpec::V3)]
        {
            let (again, warnings) = read(&exported);
            assert!(warnings.is_empty(), "{name}: {warnings:?}");
            assert_eq!(again, Card { spec, ..card.clone() }, "{name}");
        }
    }
    let (world, _) = Lorebook::load(sample("worldinfo_gullpoint.json")).unwrap();
    let (again, _) = Lorebook::from_json(&world.to_v3_json().to_string()).unwrap();
    assert_eq!(again, world);
}

#[test]
fn a_card_its_book_and_its_macros_make_a_prompt() {
    let card = load("v3_marrow.json");
    let now = chrono::DateTime::parse_from_rfc3339("1911-02-03T20:00:00Z").unwrap();
    let context = MacroContext::for_card(&card, "Ann", now);
    let mut variables = Variables::default();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    let mut expander = Expander::new(&context, &mut variables, &mut random);
    let system = expander.expand_override(&card.system_prompt, "You are {{char}}.");
    assert_eq!(
        system.text,
        "You are Old Marrow.\nWrite Old Marrow in plain words, two paragraphs at most."
    );
    let greeting = expander.expand(card.greetings()[2]).text;
    assert!(greeting.ends_with(" again,\" Old Marrow says to nobody."), "{greeting}");

    let messages = [
        Message::assistant(expander.expand(&card.first_mes).text),
        Message::user("A storm broke the lamp. Whose grave is that?"),
    ];
    let count_tokens = |text: &str| text.len() / 4;
    let settings = ScanSettings::for_context(4096);
    let scan = Scan::new(&messages, &settings, &count_tokens);
    let book = card.character_book.as_ref().unwrap();
    let mut expand = |text: &str| expander.expand(text);
    let mut scan_with = |seed| {
        let mut state = TimedState::default();
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        (activate(&[book], &scan, &mut state, &mut random, &mut expand), state)
    };
    // The lamp's text names Ansel and the chat his grave; he comes in 60 percent of scans.
    let ansel = "Ansel was Old Marrow’s brother. Old Marrow does not speak of him before midnight.";
    let at_depth = vec![(2, Role::System, ansel.to_owned())];
    let n_seen = (0..100).filter(|&seed| scan_with(seed).0.at_depth() == at_depth).count();
    assert!((45..75).contains(&n_seen), "{n_seen}");
    let (found, state) = scan_with(0);
    assert_eq!(
        found.text_at(&Position::BeforeCharacter),
        "It is the year 1911.\nBoth present: activate wins.\n\
         The great lamp was carried up by the drowned keeper, Ansel."
    );
    assert_eq!(found.text_at(&Position::AfterCharacter), "Storms at Gull Point last three days.");
    assert_eq!(state.sticky.keys().collect::<Vec<_>>(), ["Gull Point.0"]);
    assert!(found.dropped.is_empty() && found.problems.is_empty());
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".{0,12}", "[a-z灯塔，：{}<> \n\"@]{0,12}"]
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(text(), 0..3)
}

fn kept() -> impl Strategy<Value = Map<String, Value>> {
    let value = prop_oneof![
        text().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(json!({"nested": [1, null, true]})),
    ];
    let fields = prop::collection::vec(("x_[a-z]{1,4}", value), 0..3);
    fields.prop_map(|fields| fields.into_iter().collect())
}

fn position() -> impl Strategy<Value = Position> {
    let role = prop_oneof![Just(Role::System), Just(Role::User), Just(Role::Assistant)];
    prop_oneof![
        Just(Position::BeforeCharacter),
        Just(Position::AfterCharacter),
        Just(Position::NoteTop),
        Just(Position::NoteBottom),
        Just(Position::BeforeExamples),
        Just(Position::AfterExamples),
        (any::<u32>(), role).prop_map(|(depth, role)| Position::AtDepth { depth, role }),
        text().prop_map(Position::Outlet),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let texts = (text(), text(), text(), texts(), texts(), texts());
    let logic = prop_oneof![
        Just(SelectiveLogic::AndAny),
        Just(SelectiveLogic::NotAll),
        Just(SelectiveLogic::NotAny),
        Just(SelectiveLogic::AndAll),
    ];
    let flags = any::<[bool; 10]>();
    let numbers = any::<[u32; 5]>();
    let options = (any::<Option<bool>>(), any::<Option<u32>>(), any::<Option<i64>>());
    let id = prop_oneof![
        Just(None),
        any::<i64>().prop_map(|n| Some(EntryId::Number(n))),
        text().prop_map(|t| Some(EntryId::Text(t))),
    ];
    let rest = (id, 0u32..=200, prop::collection::vec("[a-z]{1,4}", 0..3), kept(), any::<i64>());
    (texts, logic, flags, numbers, options, position(), rest).prop_map(
        |(texts, logic, flags, numbers, options, position, rest)| {
            let (name, comment, content, keys, secondary_keys, names) = texts;
            let (id, half_percent, groups, extensions, order) = rest;
            let filter = CharacterFilter { names, tags: Vec::new(), exclude: flags[8] };
            Entry {
                id,
                name,
                comment,
                content,
                keys,
                secondary_keys,
                logic,
                position,
                order,
                selective: flags[0],
                enabled: flags[1],
                constant: flags[2],
                use_regex: flags[3],
                group_override: flags[4],
                exclude_recursion: flags[5],
                prevent_recursion: flags[6],
                ignore_budget: flags[7],
                character_filter: flags[9].then_some(filter),
                match_in: MatchIn { persona: flags[8], scenario: flags[9], ..MatchIn::default() },
                probability: f64::from(half_percent) / 2.0,
                groups: groups.clone(),
                triggers: groups,
                case_sensitive: options.0,
                match_whole_words: options.0,
                use_group_scoring: options.0,
                scan_depth: options.1,
                priority: options.2,
                group_weight: numbers[0],
                sticky: numbers[1],
                cooldown: numbers[2],
                delay: numbers[3],
                delay_until_recursion: numbers[4],
                other_fields: extensions.clone(),
                extensions,
            }
        },
    )
}

fn book() -> impl Strategy<Value = Lorebook> {
    let settings = (any::<Option<u32>>(), any::<Option<u32>>(), any::<Option<bool>>());
    let entries = prop::collection::vec(entry(), 0..3);
    (text(), text(), settings, entries, kept(), kept()).prop_map(
        |(name, description, settings, entries, extensions, other_fields)| Lorebook {
            name,
            description,
            scan_depth: settings.0,
            token_budget: settings.1,
            recursive_scanning: settings.2,
            entries,
            extensions,
            other_fields,
        },
    )
}

fn card() -> impl Strategy<Value = Card> {
    let lists = (texts(), texts(), texts(), texts());
    let strings = prop::collection::vec(text(), 10);
    let notes = prop::collection::btree_map("[a-z]{2}", text(), 0..3);
    let asset = (text(), text(), kept()).prop_map(|(uri, name, other_fields)| Asset {
        kind: "icon".into(),
        uri,
        name,
        ext: "png".into(),
        other_fields,
    });
    let assets = prop::collection::vec(asset, 0..2);
    let dates = any::<[Option<i64>; 2]>();
    let nickname = prop::option::of("[a-z灯]{1,5}");
    let kept = (kept(), kept(), kept());
    let book = prop::option::of(book());
    ("[a-z灯]{1,8}", strings, lists, notes, assets, dates, nickname, kept, book).prop_map(
        |(name, strings, lists, notes, assets, dates, nickname, kept, character_book)| {
            let mut strings = strings.into_iter();
            let mut next = || strings.next().unwrap_or_default();
            Card {
                spec: CardSpec::V3,
                name,
                description: next(),
                personality: next(),
                scenario: next(),
                first_mes: next(),
                mes_example: next(),
                creator_notes: next(),
                system_prompt: next(),
                post_history_instructions: next(),
                alternate_greetings: lists.0,
                character_book,
                tags: lists.1,
                creator: next(),
                character_version: next(),
                nickname,
                group_only_greetings: lists.2,
                creator_notes_multilingual: notes,
                source: lists.3,
                assets,
                creation_date: dates[0],
                modification_date: dates[1],
                extensions: kept.0,
                other_fields: kept.1,
                other_outer_fields: kept.2,
            }
        },
    )
}

/// Turns, removes and repeats bytes.
fn mutate(bytes: &mut Vec<u8>, changes: &[(usize, u8, u8)]) {
    for &(place, kind, byte) in changes {
        if bytes.is_empty() {
            return;
        }
        let place = place % bytes.len();
        match kind % 5 {
            0 | 1 => bytes[place] = byte,
            2 => bytes.insert(place, byte),
            3 => drop(bytes.drain(place..(place + usize::from(byte)).min(bytes.len()))),
            _ => bytes.truncate(place),
        }
    }
}

proptest! {
    #[test]
    fn cards_come_back_from_v2_and_v3(card in card()) {
        for (json, spec) in [(card.to_v3_json(), CardSpec::V3), (card.to_v2_json(), CardSpec::V2)] {
            let (again, warnings) = Card::from_json(&json.to_string()).unwrap();
            prop_assert!(warnings.is_empty(), "{:?}", warnings);
            prop_assert_eq!(again, Card { spec, ..card.clone() });
        }
    }

    #[test]
    fn damaged_files_never_panic(
        file in prop::sample::select(vec![
            "v1_marrow.json", "v2_marrow.json", "v3_marrow.json", "v2_shenyan_zh.json",
            "v1_marrow_chara.png", "v2_marrow_chara.png", "v3_marrow_both.png", "v3_marrow.charx",
            "lorebook_v3.json", "worldinfo_gullpoint.json", "truncated.png", "no_metadata.png",
        ]),
        changes in prop::collection::vec((any::<usize>(), any::<u8>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = bytes(file);
        mutate(&mut bytes, &changes);
        if let Ok((card, _)) = Card::from_bytes(&bytes) {
            Card::from_json(&card.to_v3_json().to_string()).unwrap();
            card.examples("Ann");
            card.depth_prompt();
        }
        if let Ok((book, _)) = Lorebook::from_json(&String::from_utf8_lossy(&bytes)) {
            Lorebook::from_json(&book.to_v3_json().to_string()).unwrap();
            for entry in &book.entries {
                entry.decorated();
            }
        }
    }

    #[test]
    fn any_json_in_a_card_is_read_or_refused(value in any_json()) {
        let data = json!({"name": "K", "description": value, "tags": value, "assets": value,
            "extensions": value, "character_book": value, "creation_date": value,
            "creator_notes_multilingual": value});
        let wrapped = json!({"spec": "chara_card_v3", "spec_version": value, "data": data});
        let (card, _) = Card::from_json(&wrapped.to_string()).unwrap();
        card.depth_prompt();
        let entry = json!({"keys": value, "content": value, "extensions": {
            "position": value, "depth": value, "role": value, "group": value, "sticky": value,
            "probability": value, "delay_until_recursion": value, "character_filter": value}});
        let book = json!({"name": value, "entries": [entry, value]});
        Lorebook::from_json(&book.to_string()).unwrap();
        let _ = Card::from_json(&value.to_string());
        let _ = Lorebook::from_json(&value.to_string());
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let key = prop::sample::select(vec!["name", "entries", "key", "data", "spec", "prompt"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4).prop_map(|fields| {
                fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
            }),
        ]
    })
}
