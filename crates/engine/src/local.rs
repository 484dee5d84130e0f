//! The local `ChatModel`: a step-driven scheduler over one transformer.
//!
//! A step computes one token of every decoding request and a chunk of the prompts that
//! are still being read. Pages of a common beginning are computed once: a request whose
//! next page another one computes in this step waits for it. When pages run out, the
//! youngest request gives its own back and starts over later; its reply stays the same.
//! There is no thread here; [`ChatModel::poll`] is the engine's heartbeat.

use crate::fit::fit_messages;
use crate::pages::{PAGE, Pages, PathHash};
use crate::sequence::Sequence;
use candle_core::Tensor;
use std::collections::{HashSet, VecDeque};
use troupe_dialogue::{
    ChatError, ChatModel, ChatRequest, Finished, Prompt, RequestId, StopReason, TokenSink,
};
use troupe_model::{KvCache, KvPool, Model};
use troupe_ops::{Segment, TreeLayout};

/// Sizes of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most tokens of prompt and reply together; none is the smaller of 8192 and what
    /// the model was trained for.
    pub context_tokens: Option<usize>,
    /// Requests that are worked on at once; others wait.
    pub max_batch: usize,
    /// Prompt tokens that a step computes; bounds how long decoding waits for a prompt.
    pub prefill_tokens: usize,
    /// Bytes for keys and values. At least one full context is always given.
    pub cache_bytes: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            context_tokens: None,
            max_batch: 32,
            prefill_tokens: 512,
            cache_bytes: 4 << 30,
        }
    }
}

/// Counters since the engine began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Prompt tokens that were computed.
    pub prefill_tokens: usize,
    /// Prompt tokens that the cache had.
    pub cached_tokens: usize,
    /// Tokens that were sampled.
    pub sampled_tokens: usize,
    /// Times that a request had to give its pages back.
    pub preemptions: usize,
    /// Most pages that requests held at once.
    pub peak_pages: usize,
}

/// Many conversations on one local model.
pub struct LocalEngine {
    model: Model,
    config: EngineConfig,
    context: usize,
    pool: KvPool,
    pages: Pages,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    cancelled: HashSet<RequestId>,
    finished: Vec<Finished>,
    next_id: u64,
    stats: EngineStats,
}

impl LocalEngine {
    /// An engine over a loaded model.
    ///
    /// # Errors
    /// A context beyond what the model was trained for, sizes of zero, or lack of memory.
    pub fn new(model: Model, config: EngineConfig) -> Result<Self, ChatError> {
        let trained = model.transformer.config().max_positions;
        let context = config.context_tokens.unwrap_or(trained.min(8192));
        if context < 2 || context > trained {
            return Err(ChatError::BadRequest(format!(
                "a context of {context} tokens; this model takes 2 to {trained}"
            )));
        }
        if config.max_batch == 0 || config.prefill_tokens == 0 {
            let what = "`max_batch` and `prefill_tokens` must be at least 1";
            return Err(ChatError::BadRequest(what.into()));
        }
        let dtype = model.transformer.compute_dtype();
        let token_bytes = model.transformer.config().kv_bytes_per_token(dtype.size_in_bytes());
        let one = context.div_ceil(PAGE);
        let budget = config.cache_bytes / token_bytes.max(1) / PAGE;
        let pages = budget.clamp(one, (one + 1).saturating_mul(config.max_batch).max(one));
        let device = model.transformer.device().clone();
        let pool = KvPool::new(model.transformer.config(), pages * PAGE, dtype, &device)
            .map_err(failed)?;
        Ok(LocalEngine {
            model,
            config,
            context,
            pool,
            pages: Pages::new(pages),
            waiting: VecDeque::new(),
            running: Vec::new(),
            cancelled: HashSet::new(),
            finished: Vec::new(),
            next_id: 0,
            stats: EngineStats::default(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Counters since the engine began.
    pub fn stats(&self) -> EngineStats {
        self.stats
    }

    /// Tokens that the key-value cache holds.
    pub fn cache_tokens(&self) -> usize {
        self.pages.total() * PAGE
    }

    /// Pages that requests hold now; 0 when nothing is pending.
    pub fn pages_in_use(&self) -> usize {
        self.pages.in_use()
    }

    /// Forgets every prefix that no request uses: for weights that have changed.
    pub fn forget_prefixes(&mut self) {
        self.pages.invalidate();
    }

    /// The ids that a prompt becomes, and how many messages did not fit.
    ///
    /// # Errors
    /// A conversation that the template refuses, or that leaves no room for a reply.
    pub fn prompt_ids(
        &self,
        prompt: &Prompt,
        max_new_tokens: usize,
    ) -> Result<(Vec<u32>, usize), ChatError> {
        let (ids, dropped) = match prompt {
            Prompt::Ids(ids) => (ids.clone(), 0),
            Prompt::Text(text) => {
                let ids = self.model.tokenizer.encode(text, true);
                (ids.map_err(|e| ChatError::BadRequest(e.to_string()))?, 0)
            }
            Prompt::Messages(messages) => {
                // Half of the context at most is kept free for the reply.
                let reserve = max_new_tokens.min(self.context / 2);
                fit_messages(&self.model, messages, self.context - reserve)?
            }
        };
        if ids.is_empty() {
            return Err(ChatError::BadRequest("the prompt has no tokens".into()));
        }
        if ids.len() >= self.context {
            return Err(ChatError::ContextTooLong { prompt: ids.len(), context: self.context });
        }
        let vocab = self.model.transformer.config().vocab;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
            let what = format!("token id {id} is outside the vocabulary of {vocab}");
            return Err(ChatError::BadRequest(what));
        }
        Ok((ids, dropped))
    }

    fn drop_cancelled(&mut self) -> Result<(), ChatError> {
        if self.cancelled.is_empty() {
            return Ok(());
        }
        let cancelled = std::mem::take(&mut self.cancelled);
        let gone = |s: &Sequence| cancelled.contains(&s.id);
        let mut ended: Vec<Sequence> = Vec::new();
        let (out, keep): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(gone);
        self.waiting = keep;
        ended.extend(out);
        let (out, keep): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.running).into_iter().partition(gone);
        self.running = keep;
        ended.extend(out);
        for sequence in ended {
            self.end(sequence, StopReason::Cancelled);
        }
        Ok(())
    }

    /// Takes a sequence that is in no list any more to its reply.
    fn end(&mut self, mut sequence: Sequence, stop: StopReason) {
        sequence.give_back(&mut self.pages);
        let id = sequence.id;
        let reply = sequence.finish(stop, &self.model.tokenizer);
        if let Ok(reply) = &reply {
            self.stats.cached_tokens += reply.cached_tokens;
        }
        self.finished.push(Finished { id, reply });
    }

    fn admit(&mut self) {
        while self.running.len() < self.config.max_batch {
            let Some(next) = self.waiting.front() else { break };
            let needed = next.tokens.len().div_ceil(PAGE) + 1;
            if needed > self.pages.available() && !self.running.is_empty() {
                break;
            }
            if let Some(next) = self.waiting.pop_front() {
                self.running.push(next);
                self.running.sort_by_key(|s| s.id);
            }
        }
    }

    /// Which sequences compute how many tokens in this step, in order of arrival.
    fn plan(&mut self) -> Vec<(RequestId, usize)> {
        let mut plan = Vec::new();
        let mut budget = self.config.prefill_tokens;
        let mut filling: HashSet<PathHash> = HashSet::new();
        let mut at = 0;
        while at < self.running.len() {
            let sequence = &mut self.running[at];
            sequence.adopt(&mut self.pages);
            let waits = sequence.next_page().is_some_and(|path| filling.contains(&path));
            let n = if sequence.left() == 1 { 1 } else { sequence.left().min(budget) };
            if waits || n == 0 {
                at += 1;
                continue;
            }
            if !self.have_pages(at, n) {
                // The sequence itself was sent back, or ended: `at` is the next one now.
                continue;
            }
            let sequence = &self.running[at];
            if sequence.left() > 1 {
                budget -= n;
                filling.extend(sequence.pages_filled_by(n));
            }
            plan.push((sequence.id, n));
            at += 1;
        }
        plan
    }

    /// Gives `running[at]` pages for `n` more tokens, taking them from younger sequences
    /// if need be. False when it had to leave itself.
    fn have_pages(&mut self, at: usize, n: usize) -> bool {
        let needed = (self.running[at].computed + n).div_ceil(PAGE);
        while self.running[at].pages.len() < needed {
            if let Some(page) = self.pages.take() {
                self.running[at].pages.push(page);
                continue;
            }
            let youngest = self.running.len() - 1;
            let mut victim = self.running.remove(youngest);
            if youngest == 0 {
                self.end(victim, StopReason::ContextFull);
                return false;
            }
            victim.give_back(&mut self.pages);
            self.stats.preemptions += 1;
            self.waiting.push_front(victim);
            if youngest == at {
                return false;
            }
        }
        self.stats.peak_pages = self.stats.peak_pages.max(self.pages.in_use());
        true
    }

    fn step(&mut self) -> Result<(), ChatError> {
        self.admit();
        let plan = self.plan();
        if plan.is_empty() {
            return Ok(());
        }
        let position = |id| self.running.iter().position(|s| s.id == id);
        let plan: Vec<(usize, usize)> =
            plan.into_iter().filter_map(|(id, n)| Some((position(id)?, n))).collect();
        let (mut ids, mut slots, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        let mut sampled = Vec::new(); // (index in running, row of its last token)
        for &(i, n) in &plan {
            let sequence = &self.running[i];
            let end = sequence.computed + n;
            ids.extend_from_slice(&sequence.tokens[sequence.computed..end]);
            slots.extend((sequence.computed..end).map(|t| sequence.slot(t) as u32));
            push_segments(sequence, end, &mut segments);
            if end == sequence.tokens.len() {
                sampled.push((i, ids.len() as u32 - 1));
            }
        }
        let layout = TreeLayout::new(segments).map_err(failed)?;
        let cache = KvCache { pool: &self.pool, slots: &slots };
        let transformer = &self.model.transformer;
        let hidden = transformer.hidden_states(&ids, &layout, Some(cache)).map_err(failed)?;
        for &(i, n) in &plan {
            let sequence = &mut self.running[i];
            let decoding = sequence.left() == 1;
            self.stats.prefill_tokens += if decoding { 0 } else { n };
            sequence.advance(n, &mut self.pages);
        }
        if sampled.is_empty() {
            return Ok(());
        }
        let rows: Vec<u32> = sampled.iter().map(|&(_, row)| row).collect();
        let rows = Tensor::new(rows, transformer.device()).map_err(failed)?;
        let logits = hidden.index_select(&rows, 0).map_err(failed)?;
        let logits = transformer.logits(&logits).map_err(failed)?;
        let logits = logits.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(failed)?;
        let vocab = logits.len() / sampled.len();
        let mut ended = Vec::new();
        for (&(i, _), logits) in sampled.iter().zip(logits.chunks_exact(vocab)) {
            let sequence = &mut self.running[i];
            let eos = self.model.eos_ids();
            let Some(drawn) = sequence.sampler.draw(logits, &sequence.tokens, eos) else {
                let what = "the logits are not finite: the weights or the input are broken";
                ended.push((sequence.id, Err(ChatError::Model(what.into()))));
                continue;
            };
            self.stats.sampled_tokens += 1;
            match sequence.take(drawn, eos, self.context, &self.model.tokenizer) {
                Ok(None) => {}
                Ok(Some(stop)) => ended.push((sequence.id, Ok(stop))),
                Err(error) => ended.push((sequence.id, Err(error))),
            }
        }
        for (id, outcome) in ended {
            let Some(at) = self.running.iter().position(|s| s.id == id) else { continue };
            let mut sequence = self.running.remove(at);
            match outcome {
                Ok(stop) => self.end(sequence, stop),
                Err(error) => {
                    sequence.give_back(&mut self.pages);
                    self.finished.push(Finished { id, reply: Err(error) });
                }
            }
        }
        Ok(())
    }
}

/// A sequence's tokens up to `end` as segments: runs of neighbouring pages in a chain.
fn push_segments(sequence: &Sequence, end: usize, segments: &mut Vec<Segment>) {
    let mut parent = None;
    let mut start = 0;
    while start < end {
        let mut stop = (start / PAGE + 1) * PAGE;
        while stop < end && sequence.slot(stop) == sequence.slot(stop - 1) + 1 {
            stop += PAGE;
        }
        let stop = stop.min(end);
        segments.push(Segment {
            parent,
            key_start: sequence.slot(start),
            len: stop - start,
            queries: stop.saturating_sub(sequence.computed.max(start)),
        });
        parent = Some(segments.len() - 1);
        start = stop;
    }
}

fn failed(error: impl std::fmt::Display) -> ChatError {
    ChatError::Model(error.to_string())
}

impl ChatModel for LocalEngine {
    fn submit(
        &mut self,
        request: ChatRequest,
        sink: Option<Box<dyn TokenSink>>,
    ) -> Result<RequestId, ChatError> {
        request.sampling.validate().map_err(|e| ChatError::BadRequest(e.to_string()))?;
        if request.max_new_tokens == 0 {
            return Err(ChatError::BadRequest("`max_new_tokens` is 0".into()));
        }
        let (ids, dropped) = self.prompt_ids(&request.prompt, request.max_new_tokens)?;
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.waiting.push_back(Sequence::new(id, &request, ids, dropped, sink));
        Ok(id)
    }

    fn poll(&mut self) -> Result<Vec<Finished>, ChatError> {
        self.drop_cancelled()?;
        if self.finished.is_empty()
            && let Err(error) = self.step()
        {
            // A failed step fails the requests that took part, not the engine.
            for mut sequence in std::mem::take(&mut self.running) {
                sequence.give_back(&mut self.pages);
                self.finished.push(Finished { id: sequence.id, reply: Err(error.clone()) });
            }
        }
        Ok(std::mem::take(&mut self.finished))
    }

    fn cancel(&mut self, id: RequestId) {
        let known = self.running.iter().chain(&self.waiting).any(|s| s.id == id);
        if known {
            self.cancelled.insert(id);
        }
    }

    fn pending(&self) -> usize {
        self.waiting.len() + self.running.len() + self.finished.len()
    }

    fn context_tokens(&self) -> usize {
        self.context
    }

    fn count_tokens(&self, text: &str) -> Result<usize, ChatError> {
        let ids = self.model.tokenizer.encode(text, false);
        Ok(ids.map_err(|e| ChatError::BadRequest(e.to_string()))?.len())
    }
}
