//! The scenes of a run: rows of a file, and cards.

use super::PlayArgs;
use crate::chat::card::{read_card, scene_of_card};
use crate::chat::open::scenes_of_file;
use anyhow::{Context, Result};
use std::collections::HashSet;
use std::path::Path;
use troupe_roleplay::macros::Variables;
use troupe_roleplay::scene::Scene;
use troupe_roleplay::selfplay::seed::derive;

/// The scenes that the flags name, each with an id of its own.
pub fn read(args: &PlayArgs) -> Result<Vec<Scene>> {
    let mut scenes = Vec::new();
    if let Some(path) = &args.from.scenes {
        scenes = scenes_of_file(path)?;
        for scene in &mut scenes {
            scene.user = args.user.over(&scene.user);
        }
    }
    for path in &args.from.card {
        scenes.push(scene_of(path, args)?);
    }
    let mut taken = HashSet::new();
    for scene in &mut scenes {
        let id = scene.id.clone();
        let mut copy = 1;
        while !taken.insert(scene.id.clone()) {
            copy += 1;
            scene.id = format!("{id}#{copy}");
        }
    }
    scenes.truncate(args.limit.unwrap_or(usize::MAX));
    Ok(scenes)
}

/// A card as a scene that bears the file's name: its content has the time of day in it,
/// when the card asks for it, and would be another scene at each run.
fn scene_of(path: &Path, args: &PlayArgs) -> Result<Scene> {
    let card = read_card(path)?;
    let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let seed = derive(args.seed, &id, &[]);
    let mut scene = scene_of_card(&card, &args.user, seed, &mut Variables::default())
        .with_context(|| format!("card `{}`", path.display()))?;
    if card.character_book.is_some() || card.depth_prompt().is_some() {
        eprintln!("note: `{id}`: its lorebook and notes take no part in self-play");
    }
    scene.id = id;
    Ok(scene)
}
