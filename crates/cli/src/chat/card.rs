//! Characters from card files, for chats and for self-play.

use crate::fail::WithHint;
use anyhow::{Context, Result};
use chrono::Local;
use clap::Args;
use rand_core::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;
use std::path::Path;
use troupe_roleplay::card::{Card, CardError, Warning};
use troupe_roleplay::lorebook::Lorebook;
use troupe_roleplay::macros::{Expander, MacroContext, Variables};
use troupe_roleplay::scene::{Lang, Persona, Scene};

/// Who talks to the character.
#[derive(Args, Clone)]
pub struct UserArgs {
    /// The name of who talks to the character [default: the scene's, else User]
    #[arg(long, value_name = "NAME")]
    pub user_name: Option<String>,
    /// Who that is, as the character knows it
    #[arg(long, value_name = "TEXT")]
    pub user_persona: Option<String>,
}

impl UserArgs {
    /// This user where something is given, else the one before.
    pub fn over(&self, before: &Persona) -> Persona {
        let mut user = before.clone();
        if let Some(name) = &self.user_name {
            user.name = name.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        if let Some(persona) = &self.user_persona {
            user.visible = persona.trim().to_owned();
            user.persona.clear(); // the one before is somebody else
        }
        user
    }

    /// This user for a card, whose macros want a name.
    fn for_card(&self, card: &Card) -> Persona {
        let texts = [&card.description, &card.personality, &card.scenario, &card.first_mes];
        let name = match Lang::detect(texts.map(String::as_str)) {
            Lang::En => "User",
            Lang::Zh => "用户",
        };
        let mut user = self.over(&Persona { name: name.to_owned(), ..Persona::default() });
        user.persona = std::mem::take(&mut user.visible); // macros know it as the persona
        user
    }
}

/// Reads a card; what was strange about it goes to standard error.
pub fn read_card(path: &Path) -> Result<Card> {
    let (card, warnings) = Card::load(path).or_else(|error| {
        let hint = card_hint(&error);
        failed("card", path, error, hint)
    })?;
    tell(path, &warnings);
    Ok(card)
}

/// Reads a lorebook; what was strange about it goes to standard error.
pub fn read_lorebook(path: &Path) -> Result<Lorebook> {
    let hint = "`--lorebook` takes World Info and lorebooks as JSON, as SillyTavern, RisuAI, \
                Agnai and NovelAI write them";
    let (mut book, warnings) =
        Lorebook::load(path).or_else(|error| failed("lorebook", path, error, hint))?;
    tell(path, &warnings);
    if book.name.is_empty() {
        // Entries of several books are told apart by the books' names.
        book.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    }
    Ok(book)
}

/// The scene of a card, its macros replaced; chance in them comes from `seed`.
pub fn scene_of_card(
    card: &Card,
    user: &UserArgs,
    seed: u64,
    variables: &mut Variables,
) -> Result<Scene> {
    let user = user.for_card(card);
    let context = MacroContext {
        persona: user.persona.clone(),
        chat_id: seed.to_string(),
        ..MacroContext::for_card(card, &*user.name, Local::now().fixed_offset())
    };
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut expander = Expander::new(&context, variables, &mut random);
    let made = Scene::from_card(card, &user, &mut expander)?;
    for name in &made.unknown_macros {
        eprintln!("note: the macro `{{{{{name}}}}}` is not known and stays as it is");
    }
    Ok(made.scene)
}

fn failed<T>(kind: &str, path: &Path, error: CardError, hint: &str) -> Result<T> {
    let missing = matches!(error, CardError::Io { .. });
    let outcome = match missing {
        true => Err(anyhow::Error::new(error)), // names the file itself
        false => Err(error).with_context(|| format!("{kind} `{}`", path.display())),
    };
    outcome.hint(if missing { "check the path" } else { hint })
}

fn card_hint(error: &CardError) -> &'static str {
    match error {
        CardError::OtherKind { found: "a lorebook", .. } => "`--lorebook` takes lorebooks",
        CardError::PngCut { .. } | CardError::Zip(_) => {
            "the file seems to be damaged; download or export it again"
        }
        CardError::PngWithoutCard { .. } => {
            "the picture has lost its character, as happens when a site converts it; get the \
             original file, or the card as JSON"
        }
        _ => "`--card` takes character cards (V1, V2, V3) as PNG, JSON or CHARX",
    }
}

fn tell(path: &Path, warnings: &[Warning]) {
    for warning in warnings {
        eprintln!("note: `{}`: {warning}", path.display());
    }
}
