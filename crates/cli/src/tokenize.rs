//! `troupe tokenize`: what a conversation becomes for the model.

use crate::model_args::DateArgs;
use crate::rows::{read_messages, read_text};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use troupe_dialogue::Role;
use troupe_engine::{Model, SegmentKind, TokenisedChat, Tokenizer};

/// Show the text and token ids that a conversation becomes
#[derive(Args)]
#[command(after_help = "Examples:
  troupe tokenize --model smollm2.gguf --messages chat.json
  troupe tokenize --model smollm2.gguf --messages chat.json --json | jq .ids
  troupe tokenize --model smollm2.gguf --text notes.txt --json

The JSON has text, ids (of the whole text, as transformers gives them) and segments: for
each part its kind, messages, role, text, ids and tokens [start, end). An assistant's
segment has reply: header, ids (content and end of turn) and tail. differs_at names a
segment over whose edge a token reaches, rewrites_history a message that the template
writes anew when others follow.")]
pub struct TokenizeArgs {
    /// A model folder or a .gguf file; weights are not loaded
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    #[command(flatten)]
    date: DateArgs,
    /// A JSON list of messages, or an object with `messages`; - is standard input
    #[arg(long, value_name = "FILE", required_unless_present = "text", conflicts_with = "text")]
    messages: Option<PathBuf>,
    /// A plain text, tokenised without the chat template; - is standard input
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// End with the beginning of an assistant's turn: auto does unless the last message is
    /// the assistant's
    #[arg(long, value_enum, default_value = "auto")]
    generation_prompt: GenerationPrompt,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum GenerationPrompt {
    Auto,
    Always,
    Never,
}

/// Runs the command.
pub fn run(args: &TokenizeArgs) -> Result<()> {
    let (tokenizer, template) = Model::load_text_side(&args.model)
        .with_context(|| format!("cannot load `{}`", args.model.display()))?;
    let mut out = std::io::stdout().lock();
    if let Some(path) = &args.text {
        let text = read_text(path)?;
        let ids = tokenizer.encode(&text, true)?;
        if args.json {
            writeln!(out, "{}", json!({ "text": text, "ids": ids, "segments": [] }))?;
        } else {
            writeln!(out, "{} tokens\n{}", ids.len(), spelled(&tokenizer, &ids))?;
        }
        return Ok(());
    }
    let path = args.messages.as_ref().context("no messages were given")?;
    let messages = read_messages(path)?;
    let template = args.date.set(template.context("the model has no chat template")?);
    let add_generation_prompt = match args.generation_prompt {
        GenerationPrompt::Always => true,
        GenerationPrompt::Never => false,
        GenerationPrompt::Auto => messages.last().is_some_and(|m| m.role != Role::Assistant),
    };
    let chat = template
        .tokenise(&tokenizer, &messages, add_generation_prompt)
        .context("the chat template refuses the conversation")?;
    if args.json {
        writeln!(out, "{}", to_json(&chat))?;
        return Ok(());
    }
    writeln!(out, "{}\n\n{} tokens", chat.text, chat.ids.len())?;
    for segment in &chat.segments {
        let name = match (segment.segment.kind, segment.segment.role) {
            (SegmentKind::Messages, Some(role)) => role.as_str(),
            (kind, _) => kind_name(kind),
        };
        let ids = spelled(&tokenizer, &segment.ids);
        writeln!(out, "{name} ({} tokens): {ids}", segment.ids.len())?;
    }
    if let Some(i) = chat.differs_at {
        writeln!(out, "note: a token reaches over an edge of segment {i}")?;
    }
    if let Some(rewrite) = &chat.rewrites_history {
        writeln!(out, "note: the template rewrites its history: {rewrite}")?;
    }
    Ok(())
}

fn to_json(chat: &TokenisedChat) -> Value {
    let segments = chat.segments.iter().map(|part| {
        let reply = part.reply.as_ref().map(|reply| {
            json!({
                "header_ids": reply.header,
                "ids": reply.reply,
                "tail_ids": reply.tail,
                "text": &chat.text[reply.text.clone()],
                "ends_turn": reply.ends_turn,
            })
        });
        json!({
            "kind": kind_name(part.segment.kind),
            "messages": part.segment.messages.clone().collect::<Vec<_>>(),
            "role": part.segment.role,
            "text": &chat.text[part.segment.text.clone()],
            "ids": part.ids,
            "tokens": [part.tokens.start, part.tokens.end],
            "reply": reply,
        })
    });
    json!({
        "text": chat.text,
        "ids": chat.ids,
        "segments": segments.collect::<Vec<_>>(),
        "differs_at": chat.differs_at,
        "rewrites_history": chat.rewrites_history.as_ref().map(ToString::to_string),
    })
}

fn kind_name(kind: SegmentKind) -> &'static str {
    match kind {
        SegmentKind::Leading => "leading",
        SegmentKind::Messages => "message",
        SegmentKind::GenerationPrompt => "generation_prompt",
        SegmentKind::Closing => "closing",
    }
}

fn spelled(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let one = |&id: &u32| {
        let token = tokenizer.id_to_token(id).unwrap_or_default();
        format!("{id}:{}", token.escape_debug())
    };
    ids.iter().map(one).collect::<Vec<_>>().join(" ")
}
