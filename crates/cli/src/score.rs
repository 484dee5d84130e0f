//! `troupe score`: how likely the model finds given completions.

use crate::interrupt;
use crate::model_args::ModelArgs;
use crate::rows::{messages_of, read_text, writer};
use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use troupe_dialogue::{Message, Role};
use troupe_engine::fit::prompt_ids;
use troupe_engine::{Model, ScoreRow, score_rows};

/// Log-probabilities of completions, token by token
#[derive(Args)]
#[command(after_help = "Examples:
  troupe score --model smollm2.gguf --input rows.jsonl --out scores.jsonl
  echo '{\"prompt_ids\": [504, 33059], \"completion_ids\": [40061]}' |
    troupe score --model smollm2.gguf --input -

A row of --input has prompt_ids and completion_ids, or messages and completion, or prompt
and completion. A completion of messages is the assistant's next message: it is tokenised
apart from the prompt, and its end-of-turn token is scored too.
Row N of the output belongs to row N of the input: log_probs per token and log_prob_sum in
nats, completion_ids, prompt_tokens; or error. If any row failed the exit code is 1.")]
pub struct ScoreArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// JSON lines; - is standard input
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// JSON lines [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Accepted for symmetry with other commands: the output is always JSON lines
    #[arg(long, hide = true)]
    json: bool,
}

/// Rows whose scores are computed and written together.
const ROWS_AT_ONCE: usize = 32;

/// Runs the command.
pub fn run(args: &ScoreArgs) -> Result<()> {
    let text = read_text(&args.input)?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        bail!("`{}` has no rows", args.input.display());
    }
    let model = args.model.load()?;
    let mut out = writer(args.out.as_deref())?;
    let bar = ProgressBar::new(lines.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} rows, {eta} left") {
        bar.set_style(style);
    }
    let mut failed = 0;
    for lines in lines.chunks(ROWS_AT_ONCE) {
        if interrupt::requested() {
            break;
        }
        for line in score_lines(&model, lines) {
            failed += usize::from(line.get("error").is_some());
            writeln!(out, "{line}")?;
        }
        out.flush()?;
        bar.inc(lines.len() as u64);
    }
    bar.finish_and_clear();
    if failed > 0 {
        bail!("{failed} of {} rows failed; each has a row with `error`", lines.len());
    }
    Ok(())
}

/// One output row for each input row.
fn score_lines(model: &Model, lines: &[&str]) -> Vec<Value> {
    let rows: Vec<Result<ScoreRow>> = lines.iter().map(|line| row_of(model, line)).collect();
    // A row that the model refuses must not take its neighbours with it.
    let usable = |row: &ScoreRow| score_rows(model, std::slice::from_ref(row));
    let good: Vec<ScoreRow> = rows.iter().flatten().cloned().collect();
    let scores = match score_rows(model, &good) {
        Ok(scores) => scores.into_iter().map(Ok).collect(),
        Err(_) => good.iter().map(|row| usable(row).map(|mut s| s.remove(0))).collect::<Vec<_>>(),
    };
    let mut scores = scores.into_iter();
    let line = |row: Result<ScoreRow>| match row {
        Err(error) => json!({ "error": format!("{error:#}") }),
        Ok(row) => match scores.next() {
            Some(Ok(log_probs)) => json!({
                "log_prob_sum": log_probs.iter().map(|&x| f64::from(x)).sum::<f64>(),
                "log_probs": log_probs,
                "completion_ids": row.completion_ids,
                "prompt_tokens": row.prompt_ids.len(),
            }),
            Some(Err(error)) => json!({ "error": error.to_string() }),
            None => json!({ "error": "the row was not scored" }),
        },
    };
    rows.into_iter().map(line).collect()
}

fn row_of(model: &Model, line: &str) -> Result<ScoreRow> {
    let mut row: Value = serde_json::from_str(line).context("not JSON")?;
    let mut take = |key: &str| row.get_mut(key).map(Value::take);
    let ids = |value: Value, key: &str| -> Result<Vec<u32>> {
        serde_json::from_value(value).with_context(|| format!("`{key}` is no list of token ids"))
    };
    if let (Some(prompt), Some(completion)) = (take("prompt_ids"), take("completion_ids")) {
        return Ok(ScoreRow {
            prompt_ids: ids(prompt, "prompt_ids")?,
            completion_ids: ids(completion, "completion_ids")?,
        });
    }
    let completion = take("completion")
        .context("the row has neither `prompt_ids` and `completion_ids` nor `completion`")?;
    let completion = match &completion {
        Value::String(text) => text.clone(),
        // The conversational form: a list with the one message.
        other => match messages_of(other.clone())?.as_slice() {
            [message] => message.content.clone(),
            _ => bail!("`completion` is neither a text nor one message"),
        },
    };
    if let Some(messages) = take("messages") {
        return of_messages(model, messages_of(messages)?, &completion);
    }
    let prompt = take("prompt").context("the row has neither `messages` nor `prompt`")?;
    match prompt {
        Value::String(prompt) => Ok(ScoreRow {
            prompt_ids: model.tokenizer.encode(&prompt, true)?,
            completion_ids: model.tokenizer.encode(&completion, false)?,
        }),
        messages => of_messages(model, messages_of(messages)?, &completion),
    }
}

fn of_messages(model: &Model, messages: Vec<Message>, completion: &str) -> Result<ScoreRow> {
    let prompt = prompt_ids(model, &messages)?;
    let template = model.template.as_ref().context("the model has no chat template")?;
    let mut all = template.adapt(&messages).messages;
    all.push(Message::new(Role::Assistant, completion));
    let chat = template.tokenise(&model.tokenizer, &all, false)?;
    let messages = chat.segments.iter().rev().find(|s| !s.segment.messages.is_empty());
    let reply = messages.and_then(|segment| segment.reply.as_ref());
    let reply = reply.context("the chat template hides where the completion begins")?;
    Ok(ScoreRow { prompt_ids: prompt, completion_ids: reply.reply.clone() })
}
