//! From a JSON value to a [`Card`]: which specification, and its fields.
//!
//! The shapes, in the order in which they are tried: `spec` of a card; `data` with a
//! name but no `spec`; Pygmalion's and text-generation-webui's keys; the six V1 fields.
//! Sources: character card V1 and V2 (malfoyslastname), V3 (kwaroran).

use super::error::{CardError, Warning};
use super::fields::{Fields, kind, warn};
use super::{Asset, Card, CardSpec};
use crate::lorebook::{self, FileKind};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What other programs call the V1 fields.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("char_name", "name"),
    ("char_persona", "description"),
    ("context", "description"),
    ("world_scenario", "scenario"),
    ("char_greeting", "first_mes"),
    ("greeting", "first_mes"),
    ("example_dialogue", "mes_example"),
];

const V1_FIELDS: &[&str] =
    &["name", "description", "personality", "scenario", "first_mes", "mes_example"];

/// Reads a card of any version.
pub(super) fn card(value: Value) -> Result<(Card, Vec<Warning>), CardError> {
    let expected = "a character card";
    let file = lorebook::kind_of_file(&value);
    let may_be_card = matches!(file, FileKind::Card | FileKind::Other(_));
    let Value::Object(mut outer) = value else {
        return Err(CardError::OtherKind { found: kind(&value), expected });
    };
    let mut warnings = Vec::new();
    let named = outer.get("spec").and_then(Value::as_str).map(str::to_owned);
    let spec = match named.as_deref() {
        Some("chara_card_v2") => CardSpec::V2,
        Some("chara_card_v3") => CardSpec::V3,
        Some(other) if other.starts_with("chara_card_") => {
            warn(&mut warnings, "spec", format!("`{}` is unknown; read as V3", short(other)));
            CardSpec::V3
        }
        None if may_be_card && outer.get("data").and_then(Value::as_object).is_some_and(is_v1) => {
            warn(&mut warnings, "spec", "missing; read as V2");
            CardSpec::V2
        }
        _ => CardSpec::V1,
    };
    if spec == CardSpec::V1 {
        rename_other_names(&mut outer);
        if !may_be_card || !is_v1(&outer) {
            return Err(CardError::OtherKind { found: file.words(), expected });
        }
        // Some programs put the fields of V2 beside those of V1.
        let mut card = body_of(spec, "", outer, &mut warnings)?;
        std::mem::swap(&mut card.other_fields, &mut card.other_outer_fields);
        return Ok((card, warnings));
    }
    if named.is_some() {
        check_version(spec, outer.get("spec_version"), &mut warnings);
    }
    let mut body = match outer.shift_remove("data") {
        Some(Value::Object(body)) => body,
        other => {
            let got = other.as_ref().map_or("missing", kind);
            let field = "data".to_owned();
            return Err(CardError::Field { field, expected: "an object with the card", got });
        }
    };
    // SillyTavern repeats the V1 fields at the top level; `data` wins where it speaks.
    for &field in V1_FIELDS {
        let copy = outer.shift_remove(field).filter(Value::is_string);
        if let Some(copy) = copy
            && body.get(field).is_none_or(Value::is_null)
        {
            body.insert(field.to_owned(), copy);
        }
    }
    outer.shift_remove("spec");
    outer.shift_remove("spec_version");
    let mut card = body_of(spec, "data", body, &mut warnings)?;
    card.other_outer_fields = outer;
    Ok((card, warnings))
}

/// A name, and at least one other of the six.
fn is_v1(map: &Map<String, Value>) -> bool {
    let other = V1_FIELDS.iter().any(|&field| field != "name" && map.contains_key(field));
    map.contains_key("name") && other
}

/// The fields of all versions, wherever they stand.
fn body_of(
    spec: CardSpec,
    place: &str,
    body: Map<String, Value>,
    warnings: &mut Vec<Warning>,
) -> Result<Card, CardError> {
    let mut fields = Fields::new(place, body, warnings);
    let name = name_of(&mut fields)?;
    Ok(Card {
        spec,
        name,
        description: fields.text("description"),
        personality: fields.text("personality"),
        scenario: fields.text("scenario"),
        first_mes: fields.text("first_mes"),
        mes_example: fields.text("mes_example"),
        creator_notes: fields.text("creator_notes"),
        system_prompt: fields.text("system_prompt"),
        post_history_instructions: fields.text("post_history_instructions"),
        alternate_greetings: fields.texts("alternate_greetings"),
        character_book: book_of(&mut fields),
        tags: fields.words("tags"),
        creator: fields.text("creator"),
        character_version: fields.text("character_version"),
        nickname: fields.text_or_none("nickname").filter(|n| !n.trim().is_empty()),
        group_only_greetings: fields.texts("group_only_greetings"),
        creator_notes_multilingual: notes_of(&mut fields),
        source: fields.texts("source"),
        assets: assets_of(&mut fields),
        creation_date: fields.integer("creation_date"),
        modification_date: fields.integer("modification_date"),
        extensions: fields.object("extensions"),
        other_fields: fields.rest(),
        other_outer_fields: Map::new(),
    })
}

fn name_of(fields: &mut Fields) -> Result<String, CardError> {
    let value = fields.value("name");
    let got = match &value {
        Some(Value::String(name)) if name.trim().is_empty() => "empty",
        Some(Value::String(name)) => return Ok(name.clone()),
        Some(Value::Number(name)) => return Ok(name.to_string()),
        Some(other) => kind(other),
        None => "missing",
    };
    let field = fields.path("name");
    Err(CardError::Field { field, expected: "the character's name", got })
}

fn book_of(fields: &mut Fields) -> Option<lorebook::Lorebook> {
    let book = fields.object("character_book");
    let place = fields.path("character_book");
    (!book.is_empty()).then(|| lorebook::from_character_book(book, &place, fields.warnings()))
}

fn notes_of(fields: &mut Fields) -> BTreeMap<String, String> {
    let place = fields.path("creator_notes_multilingual");
    let notes = fields.object("creator_notes_multilingual");
    let languages: Vec<String> = notes.keys().cloned().collect();
    let mut notes = Fields::new(place, notes, fields.warnings());
    let read = |language: String| Some((notes.text_or_none(&language)?, language));
    languages.into_iter().filter_map(read).map(|(note, language)| (language, note)).collect()
}

fn assets_of(fields: &mut Fields) -> Vec<Asset> {
    let assets = fields.objects("assets");
    let read = |(place, asset)| {
        let mut asset = Fields::new(place, asset, fields.warnings());
        Asset {
            kind: asset.text("type"),
            uri: asset.text("uri"),
            name: asset.text("name"),
            ext: asset.text("ext"),
            other_fields: asset.rest(),
        }
    };
    assets.into_iter().map(read).collect()
}

/// V3 wants versions compared as numbers, and newer ones accepted.
fn check_version(spec: CardSpec, version: Option<&Value>, warnings: &mut Vec<Warning>) {
    let known = if spec == CardSpec::V2 { 2.0 } else { 3.0 };
    let number = match version {
        Some(Value::String(s)) => s.trim().parse::<f64>().ok(),
        Some(other) => other.as_f64(),
        None => None,
    };
    match number {
        Some(number) if number >= known + 1.0 || spec == CardSpec::V3 && number > known => warn(
            warnings,
            "spec_version",
            format!("{number} is newer than {known:.1}; what is new in it is kept but not used"),
        ),
        Some(_) => {}
        None => warn(warnings, "spec_version", format!("not a version; taken for {known:.1}")),
    }
}

/// Pygmalion's keys become V1's, which win where both are there.
fn rename_other_names(outer: &mut Map<String, Value>) {
    for &(other, name) in OTHER_NAMES {
        if !outer.contains_key(name)
            && let Some(value) = outer.shift_remove(other)
        {
            outer.insert(name.to_owned(), value);
        }
    }
}

/// A text from a file, short enough for a message.
fn short(text: &str) -> String {
    text.chars().take(40).collect()
}
