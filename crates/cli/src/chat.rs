//! `troupe chat`: talk with a character, or with the model as it is.
//!
//! Here are the flags; the chat itself is `chat/talk.rs`. How it begins is in
//! `chat/open.rs`, what lorebooks add to it in `chat/world.rs`. What a command does to the
//! dialogue is decided by [`troupe_roleplay::session`].

pub mod open;
pub mod card;
pub mod save;
mod world;
mod talk;
mod command;
mod reply;
mod info;
mod input;
mod screen;

use crate::fail::WithHint;
use crate::model_args::{EngineArgs, ModelArgs};
use crate::sampling_args::SamplingArgs;
use anyhow::{Result, anyhow, bail};
use card::UserArgs;
use clap::Args;
use input::Lines;
use save::SaveFiles;
use screen::Screen;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};
use talk::Chat;
use troupe_engine::LocalEngine;
use troupe_roleplay::prompt::ReplyLength;

/// Requests at once: suggestions are asked for together.
const PARALLEL: usize = 4;

/// Talk with a character, or with the model as it is
#[derive(Args)]
#[command(after_help = after_help())]
pub struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    from: FromArgs,
    /// Which scene of --scene [default: the first]
    #[arg(long, value_name = "ID", requires = "scene")]
    scene_id: Option<String>,
    /// World Info or a lorebook, beside the card's own; may be given several times
    #[arg(long, value_name = "FILE")]
    lorebook: Vec<PathBuf>,
    #[command(flatten)]
    user: UserArgs,
    /// Write the dialogue to this file after every turn
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// The same seed and the same words give the same replies [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Tokens of a reply at most [default: 300]
    #[arg(long, value_name = "TOKENS")]
    max_tokens: Option<usize>,
    /// How long the character is asked to speak: short, medium or long [default: medium]
    #[arg(long, value_parser = open::reply_length)]
    length: Option<ReplyLength>,
    /// Print JSON lines instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// What a chat begins with.
#[derive(Args)]
#[group(multiple = false)]
struct FromArgs {
    /// A character card: PNG, JSON or CHARX
    #[arg(long, value_name = "FILE")]
    card: Option<PathBuf>,
    /// A file of scenes, one of which is played
    #[arg(long, value_name = "FILE")]
    scene: Option<PathBuf>,
    /// A saved chat to go on with
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// What the model is told when there is no character
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
}

fn after_help() -> String {
    format!(
        "Examples:
  troupe chat --model smollm2.gguf
  troupe chat --model smollm2.gguf --card marrow.png --user-name Ines --save ines.json
  troupe chat --model smollm2.gguf --load ines.json --save ines.json
  troupe chat --model smollm2.gguf --scene scenes.jsonl --scene-id gull-point
  printf 'Hello?\\n/retry\\n' | troupe chat --model smollm2.gguf --card marrow.png --json

In a chat:
{}
Ctrl-C ends a reply and keeps what was said; while you type it ends the chat.

With --json each line of output is an object; its type is greeting, text, reply, swipe,
suggestions, undo, saved, info, help or error. A reply has text, tokens, stop, swipe and swipes.",
        command::COMMANDS
    )
}

/// Runs the command.
pub fn run(args: &ChatArgs) -> Result<()> {
    if args.max_tokens == Some(0) {
        bail!("`--max-tokens` is 0; expected at least 1");
    }
    let (session, world) = open::open(args, clock_seed())?;
    let files = SaveFiles::new(args.save.as_deref(), args.from.load.as_deref())?;
    let engine = args.model.engine(&args.engine, PARALLEL)?;
    require_template(&engine)?;
    eprintln!("seed: {}", session.settings().seed);
    let name = engine.model().name.clone();
    let screen = Screen::new(args.json);
    let mut chat = Chat::new(Box::new(engine), name, session, world, screen, files);
    chat.begin()?;
    chat.talk(&Lines::from_stdin())
}

/// Refuses a model that can continue text only.
pub fn require_template(engine: &LocalEngine) -> Result<()> {
    match &engine.model().template {
        Some(_) => Ok(()),
        None => Err(anyhow!("the model has no chat template, so it cannot take part in a chat"))
            .hint("take an instruct model, or continue plain text with `troupe generate`"),
    }
}

/// A seed that people can type.
fn clock_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_nanos() % 1_000_000_000) as u64
}
