//! From a JSON value to a [`Lorebook`]: which program wrote it, and its fields.
//!
//! SillyTavern's World Info and the `extensions` of a card's entries say the same
//! things under different names, so both go through one function with a table of names.
//! Sources: character card V2 and V3; SillyTavern `world-info.js`; the export formats
//! of RisuAI, Agnai and NovelAI.

use super::{CharacterFilter, Entry, EntryId, Lorebook, MatchIn, Position, SelectiveLogic};
use crate::card::fields::{Fields, kind, split_words, warn};
use crate::card::{CardError, Warning};
use serde_json::{Map, Value};
use troupe_dialogue::Role;

/// What the rules of SillyTavern are called, in a card's `extensions` and in World Info.
pub(super) struct RuleNames {
    pub(super) logic: &'static str,
    pub(super) position: &'static str,
    pub(super) depth: &'static str,
    pub(super) role: &'static str,
    pub(super) outlet: &'static str,
    pub(super) probability: &'static str,
    pub(super) use_probability: &'static str,
    pub(super) exclude_recursion: &'static str,
    pub(super) prevent_recursion: &'static str,
    pub(super) delay_until_recursion: &'static str,
    pub(super) scan_depth: &'static str,
    pub(super) case_sensitive: &'static str,
    pub(super) match_whole_words: &'static str,
    pub(super) use_group_scoring: &'static str,
    pub(super) group: &'static str,
    pub(super) group_override: &'static str,
    pub(super) group_weight: &'static str,
    pub(super) sticky: &'static str,
    pub(super) cooldown: &'static str,
    pub(super) delay: &'static str,
    pub(super) ignore_budget: &'static str,
    pub(super) triggers: &'static str,
    pub(super) filter: &'static str,
    /// In the order of [`MatchIn`]'s fields.
    pub(super) match_in: [&'static str; 6],
}

pub(super) const IN_CARD: RuleNames = RuleNames {
    logic: "selectiveLogic",
    position: "position",
    depth: "depth",
    role: "role",
    outlet: "outlet_name",
    probability: "probability",
    use_probability: "useProbability",
    exclude_recursion: "exclude_recursion",
    prevent_recursion: "prevent_recursion",
    delay_until_recursion: "delay_until_recursion",
    scan_depth: "scan_depth",
    case_sensitive: "case_sensitive",
    match_whole_words: "match_whole_words",
    use_group_scoring: "use_group_scoring",
    group: "group",
    group_override: "group_override",
    group_weight: "group_weight",
    sticky: "sticky",
    cooldown: "cooldown",
    delay: "delay",
    ignore_budget: "ignore_budget",
    triggers: "triggers",
    filter: "character_filter",
    match_in: [
        "match_persona_description",
        "match_character_description",
        "match_character_personality",
        "match_character_depth_prompt",
        "match_scenario",
        "match_creator_notes",
    ],
};

const IN_WORLD_INFO: RuleNames = RuleNames {
    outlet: "outletName",
    exclude_recursion: "excludeRecursion",
    prevent_recursion: "preventRecursion",
    delay_until_recursion: "delayUntilRecursion",
    scan_depth: "scanDepth",
    case_sensitive: "caseSensitive",
    match_whole_words: "matchWholeWords",
    use_group_scoring: "useGroupScoring",
    group_override: "groupOverride",
    group_weight: "groupWeight",
    ignore_budget: "ignoreBudget",
    filter: "characterFilter",
    match_in: [
        "matchPersonaDescription",
        "matchCharacterDescription",
        "matchCharacterPersonality",
        "matchCharacterDepthPrompt",
        "matchScenario",
        "matchCreatorNotes",
    ],
    ..IN_CARD
};

/// What a JSON file is, going by its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Card,
    Lorebook,
    Chat,
    RisuChat,
    Other(&'static str),
}

impl FileKind {
    /// In words, for messages.
    pub(crate) fn words(self) -> &'static str {
        match self {
            FileKind::Card => "a character card",
            FileKind::Lorebook => "a lorebook",
            FileKind::Chat => "a chat",
            FileKind::RisuChat => "a RisuAI chat",
            FileKind::Other(words) => words,
        }
    }
}

/// Looks at the keys that only one kind of file has.
pub(crate) fn kind_of_file(value: &Value) -> FileKind {
    let has = |key: &str| value.get(key).is_some();
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let says_book = text("spec") == "lorebook_v3" || text("kind") == "memory";
    if says_book || text("type") == "risu" || has("lorebookVersion") {
        FileKind::Lorebook
    } else if text("type").starts_with("risu") {
        FileKind::RisuChat
    } else if text("spec").starts_with("chara_card_") || has("first_mes") || has("char_persona") {
        FileKind::Card
    } else if has("entries") {
        FileKind::Lorebook
    } else if ["messages", "chat_metadata", "mes", "data_visible", "histories"].into_iter().any(has)
    {
        FileKind::Chat
    } else if value.is_object() {
        FileKind::Other("JSON of another kind")
    } else {
        FileKind::Other(kind(value))
    }
}

/// Reads a stand-alone book of any program.
pub(super) fn lorebook(value: Value) -> Result<(Lorebook, Vec<Warning>), CardError> {
    let expected = "a lorebook";
    let found = kind_of_file(&value).words();
    let Value::Object(mut map) = value else {
        return Err(CardError::OtherKind { found: kind(&value), expected });
    };
    let mut warnings = Vec::new();
    let text = |key: &str| map.get(key).and_then(Value::as_str);
    let book = if text("spec") == Some("lorebook_v3") {
        match map.shift_remove("data") {
            Some(Value::Object(book)) => from_character_book(book, "data", &mut warnings),
            other => {
                let got = other.as_ref().map_or("missing", kind);
                let field = "data".to_owned();
                return Err(CardError::Field { field, expected: "an object with the book", got });
            }
        }
    } else if text("type") == Some("risu") {
        risu(map, &mut warnings)
    } else if text("kind") == Some("memory") {
        agnai(map, &mut warnings)
    } else if map.contains_key("lorebookVersion") {
        novel_ai(map, &mut warnings)
    } else if map.get("entries").is_some_and(is_world_info) {
        world_info(map, &mut warnings)
    } else if map.get("entries").is_some_and(Value::is_array) {
        from_character_book(map, "", &mut warnings)
    } else {
        return Err(CardError::OtherKind { found, expected });
    };
    Ok((book, warnings))
}

/// Reads a `character_book`, which is also the body of a stand-alone V3 file.
pub(crate) fn from_character_book(
    book: Map<String, Value>,
    place: &str,
    warnings: &mut Vec<Warning>,
) -> Lorebook {
    let mut fields = Fields::new(place, book, warnings);
    let mut read = Vec::new();
    for (place, entry) in fields.objects("entries") {
        read.push(card_entry(entry, &place, fields.warnings()));
    }
    Lorebook {
        name: fields.text("name"),
        description: fields.text("description"),
        scan_depth: fields.count("scan_depth"),
        token_budget: fields.count("token_budget"),
        recursive_scanning: fields.flag("recursive_scanning"),
        entries: read,
        extensions: fields.object("extensions"),
        other_fields: fields.rest(),
    }
}

fn card_entry(entry: Map<String, Value>, place: &str, warnings: &mut Vec<Warning>) -> Entry {
    let mut fields = Fields::new(place, entry, warnings);
    let mut read = Entry {
        id: id_of(&mut fields, "id"),
        name: fields.text("name"),
        comment: fields.text("comment"),
        keys: fields.words("keys"),
        secondary_keys: fields.words("secondary_keys"),
        selective: fields.flag("selective").unwrap_or(false),
        content: fields.text("content"),
        enabled: fields.flag("enabled").unwrap_or(true),
        constant: fields.flag("constant").unwrap_or(false),
        use_regex: fields.flag("use_regex").unwrap_or(false),
        order: fields.integer("insertion_order").unwrap_or(100),
        priority: fields.integer("priority"),
        ..Entry::default()
    };
    if fields.text("position") == "after_char" {
        read.position = Position::AfterCharacter;
    }
    let case_sensitive = fields.flag("case_sensitive");
    let extensions = fields.object("extensions");
    let mut rules = Fields::new(fields.path("extensions"), extensions, fields.warnings());
    read_rules(&mut rules, &IN_CARD, &mut read);
    read.extensions = rules.rest();
    read.case_sensitive = read.case_sensitive.or(case_sensitive);
    read.other_fields = fields.rest();
    read
}

/// World Info keeps its entries under their numbers; the key `key` is what tells it
/// from a `character_book` when they stand in a list.
fn is_world_info(entries: &Value) -> bool {
    match entries {
        Value::Object(_) => true,
        Value::Array(list) => list.first().is_some_and(|entry| entry.get("key").is_some()),
        _ => false,
    }
}

fn world_info(mut map: Map<String, Value>, warnings: &mut Vec<Warning>) -> Lorebook {
    let mut read = Vec::new();
    let entries: Vec<(String, Value)> = match map.shift_remove("entries") {
        Some(Value::Object(entries)) => entries.into_iter().collect(),
        Some(Value::Array(list)) => {
            list.into_iter().enumerate().map(|(i, entry)| (i.to_string(), entry)).collect()
        }
        _ => Vec::new(),
    };
    for (uid, entry) in entries {
        let place = format!("entries.{uid}");
        match entry {
            Value::Object(entry) => read.push(world_info_entry(entry, &uid, &place, warnings)),
            other => {
                warn(warnings, place, format!("expected an object, got {}", kind(&other)));
            }
        }
    }
    let mut fields = Fields::new("", map, warnings);
    Lorebook {
        name: fields.text("name"),
        description: fields.text("description"),
        scan_depth: fields.count("scan_depth"),
        token_budget: fields.count("token_budget"),
        recursive_scanning: fields.flag("recursive_scanning"),
        entries: read,
        extensions: fields.object("extensions"),
        other_fields: fields.rest(),
    }
}

fn world_info_entry(
    entry: Map<String, Value>,
    uid: &str,
    place: &str,
    warnings: &mut Vec<Warning>,
) -> Entry {
    let mut fields = Fields::new(place, entry, warnings);
    let mut read = Entry {
        id: id_of(&mut fields, "uid").or_else(|| Some(id_from(uid))),
        comment: fields.text("comment"),
        keys: fields.words("key"),
        secondary_keys: fields.words("keysecondary"),
        selective: fields.flag("selective").unwrap_or(true),
        content: fields.text("content"),
        enabled: !fields.flag("disable").unwrap_or(false),
        constant: fields.flag("constant").unwrap_or(false),
        order: fields.integer("order").unwrap_or(100),
        ..Entry::default()
    };
    read_rules(&mut fields, &IN_WORLD_INFO, &mut read);
    let renamed = [
        ("vectorized", "vectorized"),
        ("automationId", "automation_id"),
        ("displayIndex", "display_index"),
    ];
    for (from, to) in renamed {
        if let Some(value) = fields.value(from) {
            read.extensions.insert(to.to_owned(), value);
        }
    }
    read.other_fields = fields.rest();
    read
}

/// SillyTavern's rules, under either set of names.
fn read_rules(fields: &mut Fields, names: &RuleNames, entry: &mut Entry) {
    entry.logic = match fields.integer(names.logic) {
        Some(1) => SelectiveLogic::NotAll,
        Some(2) => SelectiveLogic::NotAny,
        Some(3) => SelectiveLogic::AndAll,
        None | Some(0) => SelectiveLogic::AndAny,
        Some(other) => {
            fields.warn(names.logic, format!("{other} is not a logic; taken for 0 (and any)"));
            SelectiveLogic::AndAny
        }
    };
    let depth = fields.count(names.depth).unwrap_or(4);
    let role = role_of(fields, names.role);
    let outlet = fields.text(names.outlet);
    match fields.integer(names.position) {
        Some(0) => entry.position = Position::BeforeCharacter,
        Some(1) => entry.position = Position::AfterCharacter,
        Some(2) => entry.position = Position::NoteTop,
        Some(3) => entry.position = Position::NoteBottom,
        Some(4) => entry.position = Position::AtDepth { depth, role },
        Some(5) => entry.position = Position::BeforeExamples,
        Some(6) => entry.position = Position::AfterExamples,
        Some(7) => entry.position = Position::Outlet(outlet),
        None => {}
        Some(other) => fields.warn(names.position, format!("{other} is not a position")),
    }
    let used = fields.flag(names.use_probability).unwrap_or(true);
    let probability = fields.number(names.probability).unwrap_or(100.0);
    entry.probability = if used { probability.clamp(0.0, 100.0) } else { 100.0 };
    entry.exclude_recursion = fields.flag(names.exclude_recursion).unwrap_or(false);
    entry.prevent_recursion = fields.flag(names.prevent_recursion).unwrap_or(false);
    entry.delay_until_recursion = match fields.value(names.delay_until_recursion) {
        Some(Value::Bool(delayed)) => u32::from(delayed),
        Some(Value::Number(level)) => level.as_f64().unwrap_or(0.0).max(0.0) as u32,
        _ => 0,
    };
    entry.scan_depth = fields.count(names.scan_depth);
    entry.case_sensitive = fields.flag(names.case_sensitive);
    entry.match_whole_words = fields.flag(names.match_whole_words);
    entry.use_group_scoring = fields.flag(names.use_group_scoring);
    entry.groups = fields.words(names.group);
    entry.group_override = fields.flag(names.group_override).unwrap_or(false);
    entry.group_weight = fields.count(names.group_weight).unwrap_or(100);
    entry.sticky = fields.count(names.sticky).unwrap_or(0);
    entry.cooldown = fields.count(names.cooldown).unwrap_or(0);
    entry.delay = fields.count(names.delay).unwrap_or(0);
    entry.ignore_budget = fields.flag(names.ignore_budget).unwrap_or(false);
    entry.triggers = fields.words(names.triggers);
    let filter = fields.object(names.filter);
    entry.character_filter = (!filter.is_empty()).then(|| {
        let mut filter = Fields::new(fields.path(names.filter), filter, fields.warnings());
        CharacterFilter {
            names: filter.texts("names"),
            tags: filter.texts("tags"),
            exclude: filter.flag("isExclude").unwrap_or(false),
        }
    });
    let [persona, description, personality, depth_prompt, scenario, creator_notes] =
        names.match_in.map(|name| fields.flag(name).unwrap_or(false));
    entry.match_in =
        MatchIn { persona, description, personality, depth_prompt, scenario, creator_notes };
}

/// 0, 1, 2 or a name; system when missing.
fn role_of(fields: &mut Fields, key: &str) -> Role {
    match fields.text(key).trim() {
        "1" | "user" => Role::User,
        "2" | "assistant" => Role::Assistant,
        _ => Role::System,
    }
}

fn id_of(fields: &mut Fields, key: &str) -> Option<EntryId> {
    match fields.value(key)? {
        Value::Number(number) => Some(match number.as_i64() {
            Some(number) => EntryId::Number(number),
            None => EntryId::Text(number.to_string()),
        }),
        Value::String(text) => Some(EntryId::Text(text)),
        _ => None,
    }
}

fn id_from(text: &str) -> EntryId {
    text.parse().map_or_else(|_| EntryId::Text(text.to_owned()), EntryId::Number)
}

/// RisuAI: keys in one text with commas; folders are entries of a mode of their own.
fn risu(map: Map<String, Value>, warnings: &mut Vec<Warning>) -> Lorebook {
    let mut file = Fields::new("", map, warnings);
    let mut entries = Vec::new();
    for (place, entry) in file.objects("data") {
        let mut fields = Fields::new(place, entry, file.warnings());
        let mode = fields.text("mode");
        if mode == "folder" {
            continue;
        }
        let use_regex = fields.flag("useRegex").unwrap_or(false);
        let keys = fields.text("key"); // a pattern may hold commas
        let keys = if use_regex && !keys.is_empty() { vec![keys] } else { split_words(&keys) };
        entries.push(Entry {
            id: id_of(&mut fields, "id"),
            comment: fields.text("comment"),
            keys,
            secondary_keys: fields.words("secondkey"),
            selective: fields.flag("selective").unwrap_or(false),
            content: fields.text("content"),
            constant: fields.flag("alwaysActive").unwrap_or(false) || mode == "constant",
            use_regex,
            order: fields.integer("insertorder").unwrap_or(100),
            probability: fields.number("activationPercent").unwrap_or(100.0).clamp(0.0, 100.0),
            other_fields: fields.rest(),
            ..Entry::default()
        });
    }
    Lorebook { name: file.text("name"), entries, ..Lorebook::default() }
}

/// Agnai: `weight` is the place in the prompt, `priority` who stays when it is full.
fn agnai(map: Map<String, Value>, warnings: &mut Vec<Warning>) -> Lorebook {
    let mut file = Fields::new("", map, warnings);
    let mut entries = Vec::new();
    for (place, entry) in file.objects("entries") {
        let mut fields = Fields::new(place, entry, file.warnings());
        entries.push(Entry {
            id: id_of(&mut fields, "id"),
            name: fields.text("name"),
            keys: fields.words("keywords"),
            content: fields.text("entry"),
            enabled: fields.flag("enabled").unwrap_or(true),
            order: fields.integer("weight").unwrap_or(0),
            priority: fields.integer("priority"),
            other_fields: fields.rest(),
            ..Entry::default()
        });
    }
    let (name, description) = (file.text("name"), file.text("description"));
    Lorebook { name, description, entries, ..Lorebook::default() }
}

/// NovelAI: a search range in characters is left out, ours is counted in messages.
fn novel_ai(map: Map<String, Value>, warnings: &mut Vec<Warning>) -> Lorebook {
    let mut file = Fields::new("", map, warnings);
    let mut entries = Vec::new();
    for (place, entry) in file.objects("entries") {
        let mut fields = Fields::new(&place, entry, file.warnings());
        let context = fields.object("contextConfig");
        let context_place = fields.path("contextConfig");
        let priority =
            Fields::new(context_place, context, fields.warnings()).integer("budgetPriority");
        entries.push(Entry {
            id: id_of(&mut fields, "id"),
            name: fields.text("displayName"),
            keys: fields.words("keys"),
            content: fields.text("text"),
            enabled: fields.flag("enabled").unwrap_or(true),
            constant: fields.flag("forceActivation").unwrap_or(false),
            order: priority.unwrap_or(100),
            priority,
            other_fields: fields.rest(),
            ..Entry::default()
        });
    }
    Lorebook { name: file.text("name"), entries, ..Lorebook::default() }
}
