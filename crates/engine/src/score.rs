//! Log-probabilities of given completions, without sampling.
//!
//! Rows that share a prompt become one tree: the prompt is the trunk, the completions its
//! branches, so the prompt is computed once. Batches are bounded in tokens.

use candle_core::Tensor;
use troupe_dialogue::ChatError;
use troupe_model::Model;
use troupe_ops::{Segment, TreeLayout};

/// A prompt and what followed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreRow {
    /// At least one token.
    pub prompt_ids: Vec<u32>,
    /// The tokens to be scored.
    pub completion_ids: Vec<u32>,
}

/// Tokens of one pass.
const BATCH_TOKENS: usize = 2048;

/// For each row, the log-probability of every completion token in nats, under the
/// unmodified model.
///
/// # Errors
/// A row without a prompt, with an id outside the vocabulary, or longer than the model's
/// positions; the row's index is named.
pub fn score_rows(model: &Model, rows: &[ScoreRow]) -> Result<Vec<Vec<f32>>, ChatError> {
    check(model, rows)?;
    let mut scores = Vec::with_capacity(rows.len());
    let mut start = 0;
    while start < rows.len() {
        let (mut end, mut tokens) = (start, 0);
        while end < rows.len() {
            let shared = end > start && rows[end].prompt_ids == rows[end - 1].prompt_ids;
            let prompt = if shared { 0 } else { rows[end].prompt_ids.len() };
            let more = prompt + rows[end].completion_ids.len();
            if end > start && tokens + more > BATCH_TOKENS {
                break;
            }
            tokens += more;
            end += 1;
        }
        scores.extend(score_batch(model, &rows[start..end]).map_err(failed)?);
        start = end;
    }
    Ok(scores)
}

fn check(model: &Model, rows: &[ScoreRow]) -> Result<(), ChatError> {
    let config = model.transformer.config();
    for (i, row) in rows.iter().enumerate() {
        let bad = |what: String| Err(ChatError::BadRequest(format!("row {i}: {what}")));
        if row.prompt_ids.is_empty() {
            return bad("`prompt_ids` is empty; the first token has nothing to be scored by".into());
        }
        let total = row.prompt_ids.len() + row.completion_ids.len();
        if total > config.max_positions {
            return bad(format!("{total} tokens; the model takes {}", config.max_positions));
        }
        let mut ids = row.prompt_ids.iter().chain(&row.completion_ids);
        if let Some(id) = ids.find(|&&id| id as usize >= config.vocab) {
            return bad(format!("token id {id}; the vocabulary has {}", config.vocab));
        }
    }
    Ok(())
}

fn score_batch(model: &Model, rows: &[ScoreRow]) -> candle_core::Result<Vec<Vec<f32>>> {
    let (mut ids, mut segments) = (Vec::new(), Vec::new());
    let (mut sources, mut targets) = (Vec::new(), Vec::new());
    let push = |ids: &mut Vec<u32>, segments: &mut Vec<Segment>, parent, new: &[u32]| {
        let (key_start, len) = (ids.len(), new.len());
        segments.push(Segment { parent, key_start, len, queries: len });
        ids.extend_from_slice(new);
        segments.len() - 1
    };
    let mut trunk = 0;
    let mut trunk_end = 0;
    for (i, row) in rows.iter().enumerate() {
        if i == 0 || row.prompt_ids != rows[i - 1].prompt_ids {
            trunk = push(&mut ids, &mut segments, None, &row.prompt_ids);
            trunk_end = ids.len() - 1;
        }
        let Some((_, read)) = row.completion_ids.split_last() else { continue };
        // The last token is only a target: nothing after it is asked for.
        let first = ids.len();
        push(&mut ids, &mut segments, Some(trunk), read);
        sources.push(trunk_end as u32);
        sources.extend((first..ids.len()).map(|row| row as u32));
        targets.extend_from_slice(&row.completion_ids);
    }
    if targets.is_empty() {
        return Ok(vec![Vec::new(); rows.len()]);
    }
    let layout = TreeLayout::new(segments).map_err(candle_core::Error::wrap)?;
    let hidden = model.transformer.hidden_states(&ids, &layout, None)?;
    let sources = Tensor::new(sources, model.transformer.device())?;
    let hidden = hidden.index_select(&sources, 0)?;
    let scored = model.transformer.log_probs(&hidden, &targets, 1.0)?.log_prob.to_vec1::<f32>()?;
    let mut rest = scored.as_slice();
    let split = |row: &ScoreRow| {
        let (own, later) = rest.split_at(row.completion_ids.len());
        rest = later;
        own.to_vec()
    };
    Ok(rows.iter().map(split).collect())
}

fn failed(error: candle_core::Error) -> ChatError {
    ChatError::Model(error.to_string())
}
