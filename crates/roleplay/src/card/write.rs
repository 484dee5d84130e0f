//! From a [`Card`] back to JSON, for other programs.

use super::{Asset, Card, CardSpec};
use serde_json::{Map, Value, json};

/// The card as an object of the given specification; V1 is written as V2.
pub(super) fn card(card: &Card, spec: CardSpec) -> Value {
    let v3 = spec == CardSpec::V3;
    let mut outer = Map::new();
    let (name, version) = if v3 { ("chara_card_v3", "3.0") } else { ("chara_card_v2", "2.0") };
    outer.insert("spec".into(), name.into());
    outer.insert("spec_version".into(), version.into());
    outer.insert("data".into(), Value::Object(body(card, v3)));
    add_missing(&mut outer, &card.other_outer_fields);
    Value::Object(outer)
}

/// Fields of V3 are written where set; V3 requires one of them in any case.
fn body(card: &Card, v3: bool) -> Map<String, Value> {
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    put("name", json!(card.name));
    put("description", json!(card.description));
    put("personality", json!(card.personality));
    put("scenario", json!(card.scenario));
    put("first_mes", json!(card.first_mes));
    put("mes_example", json!(card.mes_example));
    put("creator_notes", json!(card.creator_notes));
    put("system_prompt", json!(card.system_prompt));
    put("post_history_instructions", json!(card.post_history_instructions));
    put("alternate_greetings", json!(card.alternate_greetings));
    if let Some(book) = &card.character_book {
        put("character_book", book.to_json());
    }
    put("tags", json!(card.tags));
    put("creator", json!(card.creator));
    put("character_version", json!(card.character_version));
    put("extensions", Value::Object(card.extensions.clone()));
    if let Some(nickname) = &card.nickname {
        put("nickname", json!(nickname));
    }
    if v3 || !card.group_only_greetings.is_empty() {
        put("group_only_greetings", json!(card.group_only_greetings));
    }
    if !card.creator_notes_multilingual.is_empty() {
        put("creator_notes_multilingual", json!(card.creator_notes_multilingual));
    }
    if !card.source.is_empty() {
        put("source", json!(card.source));
    }
    if !card.assets.is_empty() {
        put("assets", card.assets.iter().map(asset).collect());
    }
    if let Some(seconds) = card.creation_date {
        put("creation_date", json!(seconds));
    }
    if let Some(seconds) = card.modification_date {
        put("modification_date", json!(seconds));
    }
    add_missing(&mut body, &card.other_fields);
    body
}

fn asset(asset: &Asset) -> Value {
    let mut map = Map::new();
    map.insert("type".into(), json!(asset.kind));
    map.insert("uri".into(), json!(asset.uri));
    map.insert("name".into(), json!(asset.name));
    map.insert("ext".into(), json!(asset.ext));
    add_missing(&mut map, &asset.other_fields);
    Value::Object(map)
}

/// Adds fields that were kept from a file; those that we write ourselves win.
pub(crate) fn add_missing(map: &mut Map<String, Value>, kept: &Map<String, Value>) {
    for (key, value) in kept {
        if !map.contains_key(key) {
            map.insert(key.clone(), value.clone());
        }
    }
}
