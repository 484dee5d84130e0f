//! `troupe bench`: how fast this machine reads and speaks.
//!
//! The work is that of the usual benches: random ids, greedy, the model's end of turn
//! ignored. Each figure is the median of several runs after one that is not counted.

use crate::model_args::{EngineArgs, ModelArgs};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::time::Instant;
use troupe_dialogue::{ChatModel, ChatRequest, Prompt, Sampling};
use troupe_engine::LocalEngine;

/// Measure reading (prefill), speaking (decode) and speaking to many (batch)
#[derive(Args)]
#[command(after_help = "Examples:
  troupe bench prefill --model smollm2.gguf --dtype f32
  troupe bench decode --model smollm2.gguf --json
  troupe bench batch --model smollm2.gguf --batch 16")]
pub struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Tokens of a prompt [default: 512 for prefill, else 32]
    #[arg(long, value_name = "TOKENS")]
    prompt: Option<usize>,
    /// Tokens of a reply
    #[arg(long, default_value_t = 128, value_name = "TOKENS")]
    new: usize,
    /// Requests at once, for batch
    #[arg(long, default_value_t = 16, value_name = "N")]
    batch: usize,
    /// Runs that count
    #[arg(long, default_value_t = 5, value_name = "N")]
    runs: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Prefill,
    Decode,
    Batch,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    if args.runs == 0 || args.batch == 0 {
        bail!("`--runs` and `--batch` must be at least 1");
    }
    let (name, batch, prompt, new) = match args.what {
        What::Prefill => ("prefill", 1, args.prompt.unwrap_or(512), 1),
        What::Decode => ("decode", 1, args.prompt.unwrap_or(32), args.new),
        What::Batch => ("batch", args.batch, args.prompt.unwrap_or(32), args.new),
    };
    let mut engine = args.model.engine(&args.engine, batch)?;
    let mut rates = Vec::with_capacity(args.runs);
    for run in 0..=args.runs {
        engine.forget_prefixes();
        let rate = measure(&mut engine, batch, prompt, new, run as u32)?;
        if run > 0 {
            rates.push(rate);
        }
    }
    rates.sort_by(f64::total_cmp);
    let median = rates[rates.len() / 2];
    let transformer = &engine.model().transformer;
    if args.json {
        let row = json!({
            "bench": name,
            "model": engine.model().name,
            "format": transformer.weight_format(),
            "threads": troupe_ops::threads(),
            "batch": batch,
            "prompt_tokens": prompt,
            "new_tokens": new,
            "tokens_per_second": median,
            "min": rates[0],
            "max": rates[rates.len() - 1],
            "runs": rates.len(),
            "weight_bytes": transformer.weight_bytes(),
        });
        println!("{row}");
    } else {
        let (low, high) = (rates[0], rates[rates.len() - 1]);
        println!("{name}: {median:.1} tokens/s (of {} runs, {low:.1} to {high:.1})", rates.len());
    }
    Ok(())
}

/// Tokens a second of one run: prompt tokens for prefill, else sampled ones.
fn measure(
    engine: &mut LocalEngine,
    batch: usize,
    prompt: usize,
    new: usize,
    run: u32,
) -> Result<f64> {
    let vocab = engine.model().transformer.config().vocab as u32;
    let mut state = 0x9e37_79b9u32.wrapping_add(run);
    let mut id = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % vocab
    };
    for _ in 0..batch {
        let mut request = ChatRequest::new(Prompt::Ids((0..prompt).map(|_| id()).collect()));
        request.sampling = Sampling::greedy();
        request.max_new_tokens = new;
        request.ignore_eos = true;
        engine.submit(request, None)?;
    }
    // Decoding is timed from the moment that every prompt has been read.
    let mut begun = Instant::now();
    let before = engine.stats();
    let read = |engine: &LocalEngine| engine.stats().prefill_tokens - before.prefill_tokens;
    let mut sampled = before.sampled_tokens;
    while engine.pending() > 0 {
        let reading = new > 1 && read(engine) < batch * prompt;
        for finished in engine.poll()? {
            finished.reply?;
        }
        if reading {
            begun = Instant::now();
            sampled = engine.stats().sampled_tokens;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let tokens = if new == 1 { batch * prompt } else { engine.stats().sampled_tokens - sampled };
    Ok(tokens as f64 / seconds)
}
