//! How a chat begins: from a card, a scene, a saved chat, or nothing but a system text.

use super::ChatArgs;
use super::card::{read_card, read_lorebook, scene_of_card};
use super::world::{META, World};
use crate::fail::WithHint;
use crate::sampling_args::ROLE_PLAY;
use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use troupe_dialogue::{DialogueTree, SamplingError};
use troupe_roleplay::lorebook::Lorebook;
use troupe_roleplay::macros::Variables;
use troupe_roleplay::prompt::{ReplyLength, SideSettings};
use troupe_roleplay::scene::{CharacterFields, Lang, Scene, read_scenes};
use troupe_roleplay::session::{ChatSession, ChatSettings};

/// Tokens of a reply at most, when nothing is said.
const MAX_TOKENS: usize = 300;
/// Tokens of a suggested line at most: people type less.
const MAX_SUGGESTED_TOKENS: usize = 120;
/// What the model without a character is told.
const ASSISTANT: &str = "You are a helpful assistant.";

/// Opens the chat that the flags ask for. `clock_seed` is the seed when none is given.
pub fn open(args: &ChatArgs, clock_seed: u64) -> Result<(ChatSession, World)> {
    let books = args.lorebook.iter().map(|path| read_lorebook(path)).collect::<Result<Vec<_>>>()?;
    let fresh = ChatSettings {
        seed: args.seed.unwrap_or(clock_seed),
        npc: SideSettings {
            sampling: ROLE_PLAY,
            max_new_tokens: MAX_TOKENS,
            ..SideSettings::default()
        },
        user: SideSettings {
            sampling: ROLE_PLAY,
            max_new_tokens: MAX_SUGGESTED_TOKENS,
            ..SideSettings::user()
        },
        ..ChatSettings::default()
    };
    if let Some(path) = &args.from.load {
        return load(args, path, &fresh, books);
    }
    let settings = settings_over(args, fresh)?;
    let mut variables = Variables::default();
    let (scene, card) = if let Some(path) = &args.from.card {
        let card = read_card(path)?;
        (scene_of_card(&card, &args.user, settings.seed, &mut variables)?, Some(card))
    } else if let Some(path) = &args.from.scene {
        let mut scene = scene_of_file(path, args.scene_id.as_deref())?;
        scene.user = args.user.over(&scene.user);
        (scene, None)
    } else {
        (assistant(args)?, None)
    };
    let world = World::new(card, books, variables);
    Ok((ChatSession::new(scene, settings), world))
}

/// Scenes of a file; rows that are none are told and left out.
pub fn scenes_of_file(path: &Path) -> Result<Vec<Scene>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let (scenes, problems) = read_scenes(&bytes);
    const SHOWN: usize = 20;
    for problem in problems.iter().take(SHOWN) {
        let (line, reason) = (problem.line, &problem.reason);
        eprintln!("note: `{}` line {line} is left out: {reason}", path.display());
    }
    if problems.len() > SHOWN {
        eprintln!("note: {} more lines are left out", problems.len() - SHOWN);
    }
    if scenes.is_empty() {
        return Err(anyhow!("there is no scene in `{}`", path.display())).hint(
            r#"a scene is a JSON line such as {"npc": {"name": "Marrow", "persona": "..."}}"#,
        );
    }
    Ok(scenes)
}

/// Reads a reply length from a flag.
pub fn reply_length(text: &str) -> Result<ReplyLength, String> {
    let value = Value::String(text.to_owned());
    ReplyLength::deserialize(value).map_err(|_| "expected short, medium or long".into())
}

fn settings_over(args: &ChatArgs, before: ChatSettings) -> Result<ChatSettings, SamplingError> {
    let mut settings = before;
    settings.seed = args.seed.unwrap_or(settings.seed);
    settings.npc.sampling = args.sampling.over(settings.npc.sampling)?;
    settings.user.sampling = args.sampling.over(settings.user.sampling)?;
    if let Some(most) = args.max_tokens {
        settings.npc.max_new_tokens = most;
        settings.user.max_new_tokens = settings.user.max_new_tokens.min(most);
    }
    settings.npc.reply_length = args.length.unwrap_or(settings.npc.reply_length);
    Ok(settings)
}

fn load(
    args: &ChatArgs,
    path: &Path,
    fresh: &ChatSettings,
    books: Vec<Lorebook>,
) -> Result<(ChatSession, World)> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{shown}`"))?;
    let text = text.trim_start_matches('\u{feff}');
    let opened = DialogueTree::from_json(text).map_err(anyhow::Error::new).and_then(|tree| {
        let has_settings = tree.meta.contains_key("settings");
        Ok((ChatSession::load(text)?, has_settings))
    });
    let (mut session, has_settings) = opened
        .with_context(|| format!("`{shown}`"))
        .hint("`--load` takes what `--save` and `/save` write, or one line of a self-play file")?;
    let meta = &session.tree().meta;
    let mut world = World::from_meta(meta.get(META)).unwrap_or_else(|problem| {
        eprintln!("note: the lorebooks in `{shown}` cannot be read: {problem}");
        World::default()
    });
    world.add_books(books);
    // A record of self-play has no chat settings; it goes on with those of a new chat.
    let before = if has_settings { session.settings().clone() } else { fresh.clone() };
    session.set_settings(settings_over(args, before)?);
    session.set_user(args.user.over(&session.scene().user));
    Ok((session, world))
}

fn scene_of_file(path: &Path, id: Option<&str>) -> Result<Scene> {
    let mut scenes = scenes_of_file(path)?;
    let names: Vec<&str> = scenes.iter().take(10).map(|scene| &*scene.id).collect();
    let names = names.join("`, `");
    let at = match id {
        None => {
            if scenes.len() > 1 {
                let (count, first) = (scenes.len(), &scenes[0].id);
                eprintln!("note: the first of {count} scenes, `{first}`; see `--scene-id`");
            }
            0
        }
        Some(id) => {
            let at = scenes.iter().position(|scene| scene.id == id);
            at.ok_or_else(|| anyhow!("there is no scene `{id}` in `{}`", path.display()))
                .hint(format!("it has `{names}`"))?
        }
    };
    Ok(scenes.swap_remove(at))
}

/// A scene with no character in it. Its system text is all that the model is told.
fn assistant(args: &ChatArgs) -> Result<Scene> {
    let system = args.from.system.as_deref().map_or(ASSISTANT, str::trim);
    let fields = CharacterFields {
        name: "Assistant".into(),
        system_prompt: system.to_owned(),
        user_name: args.user.user_name.clone().unwrap_or_default(),
        user_persona: args.user.user_persona.clone().unwrap_or_default(),
        ..CharacterFields::default()
    };
    let mut scene = Scene::from_character(fields)?;
    scene.lang = Lang::detect([system]);
    Ok(scene)
}
