//! One request while it is worked on.

use crate::pages::{PAGE, PageId, Pages, PathHash};
use crate::sampler::{Drawn, Sampler};
use crate::stops::{StopWatch, Watched};
use troupe_dialogue::{
    ChatError, ChatRequest, Reply, RequestId, StopReason, TokenChunk, TokenSink,
};
use troupe_model::Tokenizer;
use troupe_model::tokenizer::DecodeStream;

pub(crate) struct Sequence {
    pub(crate) id: RequestId,
    /// Prompt and reply so far.
    pub(crate) tokens: Vec<u32>,
    /// How many of `tokens` have keys and values in `pages`.
    pub(crate) computed: usize,
    pub(crate) pages: Vec<PageId>,
    /// Path hashes of the full pages among the computed tokens.
    hashes: Vec<PathHash>,
    pub(crate) sampler: Sampler,
    prompt_len: usize,
    cached: Option<usize>,
    dropped_messages: usize,
    max_new_tokens: usize,
    ignore_eos: bool,
    log_probs: Vec<f32>,
    tempered_log_probs: Vec<f32>,
    text: String,
    decoder: Option<DecodeStream>,
    stops: Option<StopWatch>,
    sink: Option<Box<dyn TokenSink>>,
}

impl Sequence {
    pub(crate) fn new(
        id: RequestId,
        request: &ChatRequest,
        prompt: Vec<u32>,
        dropped_messages: usize,
        sink: Option<Box<dyn TokenSink>>,
    ) -> Self {
        Sequence {
            id,
            prompt_len: prompt.len(),
            tokens: prompt,
            computed: 0,
            pages: Vec::new(),
            hashes: Vec::new(),
            sampler: Sampler::new(request.sampling.clone(), request.seed),
            cached: None,
            dropped_messages,
            max_new_tokens: request.max_new_tokens,
            ignore_eos: request.ignore_eos,
            log_probs: Vec::new(),
            tempered_log_probs: Vec::new(),
            text: String::new(),
            decoder: Some(DecodeStream::new(true)),
            stops: Some(StopWatch::new(&request.stop)),
            sink,
        }
    }

    /// Tokens that are not computed yet; 1 while decoding.
    pub(crate) fn left(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// The path hash of the page that begins at token `computed`, if it will be full and
    /// is not the last: the last token is always computed, for its logits.
    pub(crate) fn next_page(&self) -> Option<PathHash> {
        let whole_page_left = self.computed + PAGE < self.tokens.len();
        (self.computed.is_multiple_of(PAGE) && whole_page_left)
            .then(|| self.path().then(&self.tokens[self.computed..self.computed + PAGE]))
    }

    /// Path hashes of the pages that computing `n` more tokens will fill.
    pub(crate) fn pages_filled_by(&self, n: usize) -> Vec<PathHash> {
        let mut path = self.path();
        let mut filled = Vec::new();
        let start = self.hashes.len() * PAGE;
        for page in self.tokens[start..self.computed + n].chunks_exact(PAGE) {
            path = path.then(page);
            filled.push(path);
        }
        filled
    }

    /// Takes over pages that others have computed, as far as they are known.
    pub(crate) fn adopt(&mut self, pages: &mut Pages) {
        while let Some(path) = self.next_page() {
            let own = &self.tokens[self.computed..self.computed + PAGE];
            let Some(page) = pages.find(path, own) else { break };
            self.pages.push(page);
            self.hashes.push(path);
            self.computed += PAGE;
        }
        // What was there when work began; pages adopted later were computed meanwhile.
        self.cached.get_or_insert(self.computed);
    }

    /// Notes `n` more computed tokens and makes the pages that they filled known.
    pub(crate) fn advance(&mut self, n: usize, pages: &mut Pages) {
        let filled = self.pages_filled_by(n);
        self.computed += n;
        for path in filled {
            let at = self.hashes.len();
            let own = &self.tokens[at * PAGE..(at + 1) * PAGE];
            pages.publish(self.pages[at], path, own);
            self.hashes.push(path);
        }
    }

    /// Gives all pages back; what was computed will be computed again.
    pub(crate) fn give_back(&mut self, pages: &mut Pages) {
        pages.release(&self.pages);
        self.pages.clear();
        self.hashes.clear();
        self.computed = 0;
    }

    /// The slot of a token.
    pub(crate) fn slot(&self, token: usize) -> usize {
        self.pages[token / PAGE] as usize * PAGE + token % PAGE
    }

    /// Takes the next token; says why the reply is over, if it is.
    pub(crate) fn take(
        &mut self,
        drawn: Drawn,
        eos: &[u32],
        context: usize,
        tokenizer: &Tokenizer,
    ) -> Result<Option<StopReason>, ChatError> {
        self.tokens.push(drawn.id);
        self.log_probs.push(drawn.log_prob);
        self.tempered_log_probs.push(drawn.tempered_log_prob);
        if eos.contains(&drawn.id) && !self.ignore_eos {
            return Ok(Some(StopReason::EndOfTurn));
        }
        if let Some(decoder) = &mut self.decoder {
            let piece = decoder.push(tokenizer, drawn.id).map_err(broken)?;
            if self.watch(piece.as_deref().unwrap_or("")) {
                return Ok(Some(StopReason::StopString));
            }
        }
        if self.log_probs.len() >= self.max_new_tokens {
            return Ok(Some(StopReason::Length));
        }
        Ok((self.tokens.len() >= context).then_some(StopReason::ContextFull))
    }

    /// The reply. `stop` is why it ended; text that was held back is let go unless a stop
    /// string cut it.
    pub(crate) fn finish(
        mut self,
        stop: StopReason,
        tokenizer: &Tokenizer,
    ) -> Result<Reply, ChatError> {
        let mut stop = stop;
        if stop != StopReason::StopString {
            if let Some(decoder) = self.decoder.take() {
                let piece = decoder.finish(tokenizer).map_err(broken)?.unwrap_or_default();
                // A reply that is cut inside a character loses that character.
                if self.watch(piece.trim_end_matches(char::REPLACEMENT_CHARACTER)) {
                    stop = StopReason::StopString;
                }
            }
            if let Some(stops) = self.stops.take() {
                self.emit(&stops.finish());
            }
        }
        Ok(Reply {
            text: self.text,
            ids: self.tokens.split_off(self.prompt_len),
            log_probs: self.log_probs,
            tempered_log_probs: self.tempered_log_probs,
            stop,
            prompt_tokens: self.prompt_len,
            cached_tokens: self.cached.unwrap_or(0),
            dropped_messages: self.dropped_messages,
        })
    }

    fn path(&self) -> PathHash {
        self.hashes.last().copied().unwrap_or(PathHash::ROOT)
    }

    /// Passes text through the stop strings; true when one was found.
    fn watch(&mut self, piece: &str) -> bool {
        let Some(stops) = &mut self.stops else { return false };
        let (text, stopped) = match stops.push(piece) {
            Watched::Text(text) => (text, false),
            Watched::Stop(text) => (text, true),
        };
        self.emit(&text);
        if stopped {
            self.stops = None;
        }
        stopped
    }

    fn emit(&mut self, text: &str) {
        self.text.push_str(text);
        if let Some(sink) = &mut self.sink
            && !text.is_empty()
        {
            sink.push(TokenChunk { text: text.to_string(), n_tokens: self.log_probs.len() });
        }
    }
}

fn broken(error: impl std::fmt::Display) -> ChatError {
    ChatError::Model(error.to_string())
}
