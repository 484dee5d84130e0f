//! From a [`Lorebook`] to a `character_book`.

use super::read::IN_CARD;
use super::{Entry, EntryId, Lorebook, MatchIn, Position, SelectiveLogic};
use crate::card::add_missing;
use serde_json::{Map, Value, json};
use troupe_dialogue::Role;

/// The book as an object; settings that it does not have are left out.
pub(super) fn book(book: &Lorebook) -> Value {
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
    put("name", json!(book.name));
    put("description", json!(book.description));
    if let Some(depth) = book.scan_depth {
        put("scan_depth", json!(depth));
    }
    if let Some(budget) = book.token_budget {
        put("token_budget", json!(budget));
    }
    if let Some(recursive) = book.recursive_scanning {
        put("recursive_scanning", json!(recursive));
    }
    put("extensions", Value::Object(book.extensions.clone()));
    put("entries", book.entries.iter().map(entry).collect());
    add_missing(&mut map, &book.other_fields);
    Value::Object(map)
}

fn entry(entry: &Entry) -> Value {
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
    match &entry.id {
        Some(EntryId::Number(id)) => _ = put("id", json!(id)),
        Some(EntryId::Text(id)) => _ = put("id", json!(id)),
        None => {}
    }
    put("keys", json!(entry.keys));
    put("secondary_keys", json!(entry.secondary_keys));
    put("name", json!(entry.name));
    put("comment", json!(entry.comment));
    put("content", json!(entry.content));
    put("constant", json!(entry.constant));
    put("selective", json!(entry.selective));
    put("insertion_order", json!(entry.order));
    put("enabled", json!(entry.enabled));
    let before = entry.position == Position::BeforeCharacter;
    put("position", if before { "before_char".into() } else { "after_char".into() });
    put("use_regex", json!(entry.use_regex));
    if let Some(sensitive) = entry.case_sensitive {
        put("case_sensitive", json!(sensitive));
    }
    if let Some(priority) = entry.priority {
        put("priority", json!(priority));
    }
    put("extensions", Value::Object(rules(entry)));
    add_missing(&mut map, &entry.other_fields);
    Value::Object(map)
}

/// SillyTavern's rules where they differ from its defaults; the position always.
fn rules(entry: &Entry) -> Map<String, Value> {
    let names = &IN_CARD;
    let default = Entry::default();
    let mut map = Map::new();
    let mut put = |key: &str, value: Value, differs: bool| {
        if differs {
            map.insert(key.to_owned(), value);
        }
    };
    let position = match &entry.position {
        Position::BeforeCharacter => 0,
        Position::AfterCharacter => 1,
        Position::NoteTop => 2,
        Position::NoteBottom => 3,
        Position::AtDepth { depth, role } => {
            put(names.depth, json!(depth), true);
            put(names.role, json!(role_number(*role)), true);
            4
        }
        Position::BeforeExamples => 5,
        Position::AfterExamples => 6,
        Position::Outlet(name) => {
            put(names.outlet, json!(name), true);
            7
        }
        // Only decorators lead there, and they are still in the content.
        Position::Personality | Position::Scenario => 1,
    };
    put(names.position, json!(position), true);
    let logic = match entry.logic {
        SelectiveLogic::AndAny => 0,
        SelectiveLogic::NotAll => 1,
        SelectiveLogic::NotAny => 2,
        SelectiveLogic::AndAll => 3,
    };
    put(names.logic, json!(logic), logic != 0);
    put(names.probability, json!(entry.probability), entry.probability != default.probability);
    put(names.use_probability, json!(true), entry.probability != default.probability);
    put(names.exclude_recursion, json!(true), entry.exclude_recursion);
    put(names.prevent_recursion, json!(true), entry.prevent_recursion);
    let delay = entry.delay_until_recursion;
    put(names.delay_until_recursion, json!(delay), delay != 0);
    put(names.scan_depth, json!(entry.scan_depth), entry.scan_depth.is_some());
    put(names.case_sensitive, json!(entry.case_sensitive), entry.case_sensitive.is_some());
    let whole_words = entry.match_whole_words;
    put(names.match_whole_words, json!(whole_words), whole_words.is_some());
    let scoring = entry.use_group_scoring;
    put(names.use_group_scoring, json!(scoring), scoring.is_some());
    put(names.group, json!(entry.groups.join(", ")), !entry.groups.is_empty());
    put(names.group_override, json!(true), entry.group_override);
    let weight = entry.group_weight;
    put(names.group_weight, json!(weight), weight != default.group_weight);
    put(names.sticky, json!(entry.sticky), entry.sticky != 0);
    put(names.cooldown, json!(entry.cooldown), entry.cooldown != 0);
    put(names.delay, json!(entry.delay), entry.delay != 0);
    put(names.ignore_budget, json!(true), entry.ignore_budget);
    put(names.triggers, json!(entry.triggers), !entry.triggers.is_empty());
    if let Some(filter) = &entry.character_filter {
        let filter =
            json!({ "names": filter.names, "tags": filter.tags, "isExclude": filter.exclude });
        put(names.filter, filter, true);
    }
    let MatchIn { persona, description, personality, depth_prompt, scenario, creator_notes } =
        entry.match_in;
    let flags = [persona, description, personality, depth_prompt, scenario, creator_notes];
    for (name, flag) in names.match_in.into_iter().zip(flags) {
        put(name, json!(true), flag);
    }
    add_missing(&mut map, &entry.extensions);
    map
}

fn role_number(role: Role) -> u8 {
    match role {
        Role::System | Role::Tool => 0,
        Role::User => 1,
        Role::Assistant => 2,
    }
}
