//! `troupe generate`: continuations of prompts, one or many.

use crate::interrupt;
use crate::model_args::{EngineArgs, ModelArgs};
use crate::rows::{messages_of, read_messages, read_text, writer};
use crate::sampling_args::SamplingArgs;
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use troupe_dialogue::{
    ChatModel, ChatRequest, Prompt, Reply, RequestId, Sampling, TokenChunk, TokenSink,
};

/// Continue prompts, one or a file of them
#[derive(Args)]
#[command(after_help = "Examples:
  troupe generate --model smollm2.gguf --prompt 'The lighthouse keeper' --max-tokens 60
  troupe generate --model smollm2.gguf --messages chat.json --n 4 --seed 7
  troupe generate --model smollm2.gguf --input rows.jsonl --out replies.jsonl
  troupe generate --model smollm2.gguf --prompt-ids 504,33059 --temperature 0 --json

A row of --input has one of prompt, messages, prompt_ids, and may have seed. A row of
output has text, ids, log_probs, log_prob_sum, stop, seed, row and candidate.")]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Replies for each prompt, with seeds SEED, SEED + 1, ...
    #[arg(long, default_value_t = 1, value_name = "N")]
    n: u64,
    /// Tokens of a reply at most
    #[arg(long, default_value_t = 256, value_name = "TOKENS")]
    max_tokens: usize,
    /// End a reply before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on past the model's end of turn
    #[arg(long)]
    ignore_eos: bool,
    /// The same seed gives the same replies
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    engine: EngineArgs,
    /// Requests that are worked on at once
    #[arg(long, default_value_t = 16, value_name = "N")]
    parallel: usize,
    /// Print JSON lines instead of text
    #[arg(long)]
    json: bool,
    /// Write JSON lines to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct PromptArgs {
    /// A text to continue, as it stands
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Token ids to continue, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    prompt_ids: Option<Vec<u32>>,
    /// A conversation to answer: a JSON list of messages
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
    /// JSON lines, a prompt each
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

/// One reply to be made.
struct Job {
    row: usize,
    candidate: u64,
    request: ChatRequest,
}

/// Runs the command.
pub fn run(args: &GenerateArgs) -> Result<()> {
    if args.n == 0 || args.parallel == 0 {
        bail!("`--n` and `--parallel` must be at least 1");
    }
    let jobs = jobs(args)?;
    let mut engine = args.model.engine(&args.engine, args.parallel)?;
    let as_rows = args.json || args.out.is_some() || args.prompt.input.is_some();
    let mut out = writer(args.out.as_deref())?;
    if !as_rows && jobs.len() == 1 {
        return stream(&mut engine, jobs, &mut out);
    }
    let total = jobs.len();
    let failed = all(&mut engine, jobs, args.parallel, |job, reply| {
        let line = match reply {
            Ok(reply) if as_rows => to_json(job, reply),
            Ok(reply) => format!("--- {}\n{}", job.candidate + 1, reply.text),
            Err(error) => {
                json!({ "row": job.row, "candidate": job.candidate, "error": error }).to_string()
            }
        };
        writeln!(out, "{line}")?;
        out.flush()?;
        Ok(())
    })?;
    out.flush()?;
    if failed > 0 {
        bail!("{failed} of {total} requests failed; each has a row with `error`");
    }
    Ok(())
}

fn jobs(args: &GenerateArgs) -> Result<Vec<Job>> {
    let sampling = args.sampling.over(Sampling::default())?;
    let rows: Vec<(Prompt, u64)> = if let Some(text) = &args.prompt.prompt {
        vec![(Prompt::Text(text.clone()), args.seed)]
    } else if let Some(ids) = &args.prompt.prompt_ids {
        vec![(Prompt::Ids(ids.clone()), args.seed)]
    } else if let Some(path) = &args.prompt.messages {
        vec![(Prompt::Messages(read_messages(path)?), args.seed)]
    } else if let Some(path) = &args.prompt.input {
        let text = read_text(path)?;
        let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
        let read = lines.map(|(i, line)| {
            prompt_of(line, args.seed)
                .with_context(|| format!("`{}` line {}", path.display(), i + 1))
        });
        read.collect::<Result<_>>()?
    } else {
        bail!("no prompt was given");
    };
    let mut jobs = Vec::new();
    for (row, (prompt, seed)) in rows.into_iter().enumerate() {
        for candidate in 0..args.n {
            let request = ChatRequest {
                prompt: prompt.clone(),
                sampling: sampling.clone(),
                max_new_tokens: args.max_tokens,
                stop: args.stop.clone(),
                seed: seed.wrapping_add(candidate),
                ignore_eos: args.ignore_eos,
            };
            jobs.push(Job { row, candidate, request });
        }
    }
    Ok(jobs)
}

fn prompt_of(line: &str, seed: u64) -> Result<(Prompt, u64)> {
    let mut row: Value = serde_json::from_str(line).context("not JSON")?;
    let seed = match row.get("seed") {
        None => seed,
        Some(value) => value.as_u64().context("`seed` is not a whole number")?,
    };
    let take = |row: &mut Value, key: &str| row.get_mut(key).map(Value::take);
    let prompt = if let Some(messages) = take(&mut row, "messages") {
        Prompt::Messages(messages_of(messages)?)
    } else if let Some(ids) = take(&mut row, "prompt_ids") {
        Prompt::Ids(serde_json::from_value(ids).context("`prompt_ids` is no list of ids")?)
    } else if let Some(text) = take(&mut row, "prompt") {
        Prompt::Text(text.as_str().context("`prompt` is no text")?.to_string())
    } else {
        bail!("the row has none of `prompt`, `messages`, `prompt_ids`");
    };
    Ok((prompt, seed))
}

fn to_json(job: &Job, reply: &Reply) -> String {
    json!({
        "row": job.row,
        "candidate": job.candidate,
        "text": reply.text,
        "ids": reply.ids,
        "log_probs": reply.log_probs,
        "log_prob_sum": reply.log_prob_sum(),
        "tempered_log_probs": reply.tempered_log_probs,
        "stop": reply.stop,
        "seed": job.request.seed,
        "prompt_tokens": reply.prompt_tokens,
        "cached_tokens": reply.cached_tokens,
        "dropped_messages": reply.dropped_messages,
    })
    .to_string()
}

/// Prints one reply while it is made.
fn stream(engine: &mut dyn ChatModel, jobs: Vec<Job>, out: &mut dyn Write) -> Result<()> {
    let (sender, pieces) = std::sync::mpsc::channel::<TokenChunk>();
    let sink: Box<dyn TokenSink> = Box::new(move |chunk| {
        // The receiver lives as long as the request; a closed channel means we stopped.
        let _ = sender.send(chunk);
    });
    let Some(job) = jobs.into_iter().next() else { return Ok(()) };
    let id = engine.submit(job.request, Some(sink))?;
    loop {
        if interrupt::requested() {
            engine.cancel(id);
        }
        let finished = engine.poll()?;
        for piece in pieces.try_iter() {
            write!(out, "{}", piece.text)?;
        }
        out.flush()?;
        if let Some(done) = finished.into_iter().next() {
            let reply = done.reply?;
            writeln!(out)?;
            if reply.dropped_messages > 0 {
                eprintln!("note: {} oldest messages did not fit", reply.dropped_messages);
            }
            return Ok(());
        }
    }
}

/// A job that was submitted; its reply waits here until those before it are written.
struct Begun {
    job: Job,
    id: Option<RequestId>,
    reply: Option<Result<Reply, String>>,
}

/// Keeps the engine filled until every job has its reply; results come in the order of
/// the jobs. Returns how many failed.
fn all(
    engine: &mut dyn ChatModel,
    jobs: Vec<Job>,
    parallel: usize,
    mut done: impl FnMut(&Job, Result<&Reply, String>) -> Result<()>,
) -> Result<usize> {
    let mut failed = 0;
    let mut left: VecDeque<Job> = jobs.into();
    let mut begun: VecDeque<Begun> = VecDeque::new();
    while !left.is_empty() || !begun.is_empty() {
        while engine.pending() < parallel && !interrupt::requested() {
            let Some(job) = left.pop_front() else { break };
            match engine.submit(job.request.clone(), None) {
                Ok(id) => begun.push_back(Begun { job, id: Some(id), reply: None }),
                Err(error) => {
                    let reply = Some(Err(error.to_string()));
                    begun.push_back(Begun { job, id: None, reply });
                }
            }
        }
        for finished in engine.poll()? {
            if let Some(begun) = begun.iter_mut().find(|b| b.id == Some(finished.id)) {
                begun.reply = Some(finished.reply.map_err(|e| e.to_string()));
            }
        }
        while let Some(Begun { job, reply: Some(reply), .. }) = begun.front() {
            failed += usize::from(reply.is_err());
            done(job, reply.as_ref().map_err(Clone::clone))?;
            begun.pop_front();
        }
        if interrupt::requested() {
            // What is finished is written; what is not is given up.
            return Ok(failed);
        }
    }
    Ok(failed)
}
