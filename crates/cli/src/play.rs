//! `troupe play`: one model plays both sides of many scenes, and every dialogue that is
//! done goes to a file.
//!
//! The playing is [`troupe_roleplay::selfplay`]. Here are the flags and the joining; the
//! file and its resuming are in `play/output.rs`, the bar in `play/progress.rs`, what is
//! said at the end in `play/summary.rs`.

mod scenes;
mod output;
mod progress;
mod summary;

use crate::chat::card::UserArgs;
use crate::chat::open::reply_length;
use crate::chat::require_template;
use crate::fail::WithHint;
use crate::interrupt;
use crate::model_args::{EngineArgs, ModelArgs};
use crate::sampling_args::SamplingArgs;
use anyhow::{Context, Result, anyhow, bail};
use chrono::Local;
use clap::Args;
use output::{Found, OutputFile};
use progress::Progress;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;
use summary::Summary;
use troupe_dialogue::ChatModel;
use troupe_engine::LocalEngine;
use troupe_roleplay::prompt::{ReplyLength, SideSettings};
use troupe_roleplay::scene::Scene;
use troupe_roleplay::selfplay::{DialogueKey, PlayEvent, PlaySettings, play};

/// Let the model play both sides of scenes, into a file of dialogues
#[derive(Args)]
#[command(after_help = "Examples:
  troupe play --model smollm2.gguf --scenes scenes.jsonl --out play.jsonl
  troupe play --model smollm2.gguf --scenes scenes.jsonl --turns 100 --repeats 3 --out long.jsonl
  troupe play --model smollm2.gguf --card marrow.png --user-name Ines --out marrow.jsonl
  troupe play --model smollm2.gguf --scenes scenes.jsonl --user-temperature 1 --out free.jsonl

A scene is a JSON line such as {\"id\": \"gull-point\", \"npc\": {\"name\": \"Marrow\", \"persona\":
\"...\", \"greeting\": \"...\"}, \"user\": {\"name\": \"Ines\", \"persona\": \"...\"}, \"context\": \"...\"}.

Each line of --out is a dialogue tree, written when the dialogue is complete. The same
command again goes on where a run ended, also after Ctrl-C or a crash, and gives the same
dialogues as a run that was never stopped. More --repeats may be asked for later.")]
pub struct PlayArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    from: FromArgs,
    /// Write the dialogues to this file, one a line
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Begin the file anew, whatever is in it
    #[arg(long)]
    fresh: bool,
    /// Texts of a dialogue, the greeting counted
    #[arg(long, default_value_t = 20, value_name = "N")]
    turns: usize,
    /// How often each scene is played
    #[arg(long, default_value_t = 1, value_name = "N")]
    repeats: u32,
    /// Play only the first N scenes
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The same seed gives the same dialogues
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Dialogues in flight; changes the speed only
    #[arg(long, default_value_t = 8, value_name = "N")]
    parallel: usize,
    /// Tokens of a text at most
    #[arg(long, default_value_t = SideSettings::default().max_new_tokens, value_name = "TOKENS")]
    max_tokens: usize,
    /// How often an empty text is asked for again before `…` stands for it
    #[arg(long, default_value_t = PlaySettings::default().max_retries, value_name = "N")]
    max_retries: u32,
    #[command(flatten)]
    user: UserArgs,
    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    sides: SideArgs,
}

/// What is played.
#[derive(Args)]
#[group(required = true, multiple = true)]
struct FromArgs {
    /// JSON lines, a scene each
    #[arg(long, value_name = "FILE")]
    scenes: Option<PathBuf>,
    /// A character card to play as a scene; may be given several times
    #[arg(long, value_name = "FILE")]
    card: Vec<PathBuf>,
}

/// What differs between the sides.
#[derive(Args)]
#[command(next_help_heading = "One side only")]
struct SideArgs {
    /// --temperature of the character
    #[arg(long, value_name = "T")]
    npc_temperature: Option<f32>,
    /// --temperature of the user
    #[arg(long, value_name = "T")]
    user_temperature: Option<f32>,
    /// --max-tokens of the character
    #[arg(long, value_name = "TOKENS")]
    npc_max_tokens: Option<usize>,
    /// --max-tokens of the user
    #[arg(long, value_name = "TOKENS")]
    user_max_tokens: Option<usize>,
    /// How long the character is asked to speak: short, medium or long [default: medium]
    #[arg(long, value_name = "LENGTH", value_parser = reply_length)]
    npc_length: Option<ReplyLength>,
    /// How long the user is asked to speak [default: short]
    #[arg(long, value_name = "LENGTH", value_parser = reply_length)]
    user_length: Option<ReplyLength>,
}

/// Runs the command.
pub fn run(args: &PlayArgs) -> Result<()> {
    let mut settings = settings(args)?;
    settings.validate()?;
    let scenes = scenes::read(args)?;
    let found = output::look(&args.out, args.fresh)?;
    found.check_settings(&settings)?;
    let skipped = already_there(&scenes, &settings, &found);
    let total = scenes.len() * settings.repeats as usize;
    let mut summary = Summary::new(&args.out, total, skipped);
    if skipped == total {
        eprintln!("nothing to do: all {total} dialogues are in `{}`", args.out.display());
        return summary.print(args.json);
    }
    let mut engine = args.model.engine(&args.engine, args.parallel.min(total))?;
    require_template(&engine)?;
    settings.parallel = fitting(&settings, &engine);
    let model = model_record(&engine, args);
    found.check_model(&model)?;
    let mut file = OutputFile::open(&args.out, &found)?;
    if skipped > 0 {
        eprintln!("{skipped} of {total} dialogues are in `{}` already", args.out.display());
    }
    let begun = Instant::now();
    let mut progress = Progress::new();
    let mut failed_write = None;
    let outcome =
        play(&mut engine, &scenes, &settings, &found.done, interrupt::flag(), &mut |event| {
            match event {
                PlayEvent::Progress(counts) => progress.update(&counts),
                PlayEvent::Finished(mut dialogue) => {
                    if let Some(failure) = &dialogue.failure {
                        let DialogueKey { scene, repeat } = &dialogue.key;
                        progress.failure(&format!("`{scene}` repeat {repeat}: {failure}"));
                        return;
                    }
                    summary.count(&dialogue.tree);
                    dialogue.tree.meta.insert(output::MODEL.into(), model.clone());
                    if let Err(error) = file.append(&dialogue.tree) {
                        failed_write.get_or_insert(error);
                        interrupt::flag().store(true, Ordering::SeqCst); // ends the play
                    }
                }
            }
        });
    progress.finish();
    if let Some(error) = failed_write {
        return Err(error)
            .with_context(|| format!("cannot write `{}`", args.out.display()))
            .hint("what was written before is whole; the same command goes on from there");
    }
    let outcome = outcome?;
    summary.end(&outcome, begun.elapsed(), &engine);
    summary.print(args.json)?;
    let failed = outcome.progress.dialogues_failed;
    if outcome.stopped {
        eprintln!("stopped; the same command goes on with the rest");
    } else if failed > 0 {
        return Err(anyhow!("{failed} of {total} dialogues could not be played to the end"))
            .hint("the same command tries them again; a larger `--context` may help");
    }
    Ok(())
}

fn settings(args: &PlayArgs) -> Result<PlaySettings> {
    let sides = &args.sides;
    let side = |defaults: SideSettings, temperature, max_tokens: Option<usize>, length| {
        let mut flags = args.sampling.clone();
        flags.temperature = Option::or(temperature, flags.temperature);
        anyhow::Ok(SideSettings {
            sampling: flags.over(defaults.sampling)?,
            max_new_tokens: max_tokens.unwrap_or(args.max_tokens),
            reply_length: Option::unwrap_or(length, defaults.reply_length),
        })
    };
    if args.limit == Some(0) {
        bail!("`--limit` is 0; expected at least 1");
    }
    Ok(PlaySettings {
        turns: args.turns,
        repeats: args.repeats,
        seed: args.seed,
        parallel: args.parallel,
        max_retries: args.max_retries,
        npc: side(
            SideSettings::default(),
            sides.npc_temperature,
            sides.npc_max_tokens,
            sides.npc_length,
        )?,
        user: side(
            SideSettings::user(),
            sides.user_temperature,
            sides.user_max_tokens,
            sides.user_length,
        )?,
        ..PlaySettings::default()
    })
}

/// How many of the dialogues to be had the file holds.
fn already_there(scenes: &[Scene], settings: &PlaySettings, found: &Found) -> usize {
    let keys = (0..settings.repeats).flat_map(|repeat| {
        scenes.iter().map(move |scene| DialogueKey { scene: scene.id.clone(), repeat })
    });
    keys.filter(|key| found.done.contains(key)).count()
}

/// What of the model decides what is said, for each record.
fn model_record(engine: &LocalEngine, args: &PlayArgs) -> Value {
    let model = engine.model();
    let mut record = json!({
        "name": model.name,
        "weights": model.transformer.weight_format(),
        "context_tokens": engine.context_tokens(),
    });
    if model.template.as_ref().is_some_and(|t| t.source().contains("strftime_now")) {
        let day = args.model.date.date.unwrap_or_else(|| Local::now().date_naive());
        record["date"] = json!(day.to_string());
    }
    record
}

/// Tokens of system text that a view is taken to have, for an estimate.
const SYSTEM_TOKENS: usize = 512;

/// How many dialogues may be in flight so that both views of each stay in the key-value
/// cache: beyond that, every turn would compute its whole history again.
fn fitting(settings: &PlaySettings, engine: &LocalEngine) -> usize {
    let turn = settings.npc.max_new_tokens.max(settings.user.max_new_tokens) + 16;
    let view = (SYSTEM_TOKENS + settings.turns.saturating_mul(turn)).min(engine.context_tokens());
    let fits = (engine.cache_tokens() / (2 * view)).max(1);
    if fits < settings.parallel {
        eprintln!(
            "note: {fits} dialogues at once, not {}: more would not fit the key-value cache \
             (see `--cache-mib` and `--context`)",
            settings.parallel
        );
    }
    settings.parallel.min(fits)
}
