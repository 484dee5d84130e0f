//! Scenes from files: rows that people and other programs wrote.
//!
//! Null and missing fields are empty and unknown ones are ignored, but for the turn
//! rules, where a misspelt rule would be a rule ignored. A bad row is a [`RowProblem`]
//! and never costs the good ones.

use super::{Lang, Persona, Scene, SceneError, TurnRules};
use crate::macros::fnv1a;
use crate::prompt::clean_reply;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;
use troupe_dialogue::Side;

/// A row that is no scene.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowProblem {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads scenes from JSON lines. Blank lines and a byte order mark are skipped; an id
/// that was taken by an earlier line gets `#2`, `#3`, ... appended.
pub fn read_scenes(jsonl: &[u8]) -> (Vec<Scene>, Vec<RowProblem>) {
    let jsonl = jsonl.strip_prefix(b"\xef\xbb\xbf").unwrap_or(jsonl);
    let (mut scenes, mut problems) = (Vec::<Scene>::new(), Vec::new());
    let mut taken = HashSet::new();
    for (i, bytes) in jsonl.split(|&b| b == b'\n').enumerate() {
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            let reason = "not a JSON object".to_owned();
            problems.push(RowProblem { line: i + 1, reason });
            continue;
        }
        match serde_json::from_slice::<Scene>(bytes) {
            Ok(mut scene) => {
                let id = scene.id.clone();
                let mut copy = 1;
                while !taken.insert(scene.id.clone()) {
                    copy += 1;
                    scene.id = format!("{id}#{copy}");
                }
                scenes.push(scene);
            }
            Err(error) => {
                let reason = error.to_string().replace(" at line 1 column ", " at column ");
                problems.push(RowProblem { line: i + 1, reason });
            }
        }
    }
    (scenes, problems)
}

/// A scene as files hold it: anything but the NPC's name may be null or missing.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct SceneRow {
    pub(super) id: Option<Value>,
    pub(super) source: Option<Value>,
    pub(super) kind: Option<String>,
    pub(super) lang: Option<String>,
    pub(super) npc: Option<PersonaRow>,
    pub(super) user: Option<PersonaRow>,
    pub(super) relationship: Option<String>,
    pub(super) context: Option<String>,
    pub(super) turns: Option<TurnRow>,
    pub(super) system_prompt: Option<String>,
    pub(super) post_history: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct PersonaRow {
    pub(super) name: Option<String>,
    pub(super) persona: Option<String>,
    pub(super) visible: Option<String>,
    pub(super) greeting: Option<String>,
    pub(super) alternate_greetings: Option<Vec<Option<String>>>,
    pub(super) example: Option<String>,
}

/// Rules refuse unknown keys: a rule misspelt would be a rule ignored.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TurnRow {
    first: Option<Side>,
    order: Option<OrderRow>,
    max_characters: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`order`: expected `alternate` or a list of `npc` and `user`")]
enum OrderRow {
    Word(Alternate),
    Pattern(Vec<Side>),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Alternate {
    Alternate,
}

impl TryFrom<SceneRow> for Scene {
    type Error = SceneError;

    fn try_from(row: SceneRow) -> Result<Scene, SceneError> {
        let mut npc = Persona::from(row.npc.unwrap_or_default());
        if npc.name.is_empty() {
            return Err(SceneError::NoName);
        }
        let user = Persona::from(row.user.unwrap_or_default());
        for line in std::iter::once(&mut npc.greeting).chain(&mut npc.alternate_greetings) {
            *line = clean_reply(line, &[npc.name.as_str()], &[]).unwrap_or_default();
        }
        let mut context = tidy(row.context);
        let mut system_prompt = tidy(row.system_prompt);
        match row.kind.as_deref() {
            // A character without a scene: the context is a word to its player.
            Some("character") if !context.is_empty() && system_prompt.is_empty() => {
                system_prompt = format!("{context}\n{{{{original}}}}");
                context.clear();
            }
            // The source's own bookkeeping.
            Some("situation") if context.starts_with("tags:") => context.clear(),
            _ => {}
        }
        let relationship = tidy(row.relationship);
        let texts = [&npc.persona, &user.persona, &relationship, &context, &npc.greeting];
        let lang = row.lang.as_deref().and_then(lang_of_tag);
        let lang = lang.unwrap_or_else(|| Lang::detect(texts.map(String::as_str)));
        let turns = row.turns.unwrap_or_default();
        let turns = TurnRules {
            first: turns.first.unwrap_or(Side::User),
            order: match turns.order {
                Some(OrderRow::Pattern(order)) => order,
                Some(OrderRow::Word(Alternate::Alternate)) | None => Vec::new(),
            },
            max_characters: turns.max_characters.filter(|&n| n > 0),
        };
        let post_history = tidy(row.post_history);
        let id = String::new();
        let mut scene = Scene {
            id,
            lang,
            npc,
            user,
            relationship,
            context,
            turns,
            system_prompt,
            post_history,
        };
        scene.id = match (id_text(row.id)?, row.source) {
            (Some(id), _) => id,
            (None, Some(Value::String(source))) if !source.trim().is_empty() => {
                source.trim().to_owned()
            }
            _ => {
                let content = serde_json::to_string(&scene).expect("a scene is plain data");
                format!("scene-{:016x}", fnv1a(content.as_bytes()))
            }
        };
        Ok(scene)
    }
}

impl From<PersonaRow> for Persona {
    fn from(row: PersonaRow) -> Persona {
        let name = row.name.unwrap_or_default();
        let alternates = row.alternate_greetings.unwrap_or_default();
        Persona {
            name: name.split_whitespace().collect::<Vec<_>>().join(" "), // labels are one line
            persona: tidy(row.persona),
            visible: tidy(row.visible),
            greeting: tidy(row.greeting),
            alternate_greetings: alternates
                .into_iter()
                .map(tidy)
                .filter(|text| !text.is_empty())
                .collect(),
            example: tidy(row.example),
        }
    }
}

fn tidy(text: Option<String>) -> String {
    text.map(|t| t.trim().replace("\r\n", "\n")).unwrap_or_default()
}

fn id_text(id: Option<Value>) -> Result<Option<String>, SceneError> {
    match id {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) => Ok(Some(id.trim().to_owned()).filter(|id| !id.is_empty())),
        Some(Value::Number(id)) => Ok(Some(id.to_string())),
        Some(other) => Err(SceneError::Id(other.to_string())),
    }
}

/// Reads `zh-CN`, `en_GB` and the like; none for other languages.
fn lang_of_tag(tag: &str) -> Option<Lang> {
    let tag = tag.trim().to_ascii_lowercase();
    match tag.split(['-', '_']).next() {
        Some("en" | "eng" | "english") => Some(Lang::En),
        Some("zh" | "zho" | "chinese" | "cn") => Some(Lang::Zh),
        _ => None,
    }
}
