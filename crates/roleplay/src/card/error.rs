//! Why a file gives no card or lorebook, and what was strange about one that does.
//!
//! A [`CardError`] means that nothing could be read. Everything else (a field of the
//! wrong type, a newer version) is a [`Warning`]: the card is there, less that field.

use std::fmt;
use std::path::PathBuf;
use thiserror::Error;

/// Why a file gives no card or no lorebook.
#[derive(Debug, Error)]
pub enum CardError {
    /// The file system said no.
    #[error("cannot read `{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Larger than any honest card; see the `MAX_*` constants in [`crate::card`].
    #[error("{what} has {bytes} bytes; at most {limit} are read")]
    TooLarge {
        /// The file, or the part of it.
        what: &'static str,
        /// Its size, or a size that it certainly has.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Nothing in it.
    #[error("the file is empty")]
    Empty,
    /// A file format in which no card travels.
    #[error("this is {found}; character cards travel as PNG, CHARX or JSON")]
    OtherFormat {
        /// What the first bytes say.
        found: &'static str,
    },
    /// A PNG whose last chunk is not all there.
    #[error(
        "the PNG is cut short: chunk `{chunk}` at byte {offset} should have {announced} bytes, \
         {left} are left"
    )]
    PngCut {
        /// The chunk's type.
        chunk: String,
        /// Where the chunk begins.
        offset: usize,
        /// Its announced length.
        announced: u64,
        /// What there is.
        left: usize,
    },
    /// A picture, and only that.
    #[error("the PNG holds no character: no `chara` or `ccv3` text chunk{others}")]
    PngWithoutCard {
        /// The text chunks that it has instead, as a clause, or nothing.
        others: String,
    },
    /// A text chunk that is no base64.
    #[error("{place} is not base64: {problem}")]
    Base64 {
        /// Which chunk.
        place: String,
        /// What the decoder said.
        problem: String,
    },
    /// A zip file that cannot be read.
    #[error("the CHARX archive cannot be read: {0}")]
    Zip(String),
    /// A zip file without a card at its root.
    #[error("the archive holds no `card.json` at its root{hint}")]
    ZipWithoutCard {
        /// Where one was seen instead, as a clause, or nothing.
        hint: &'static str,
    },
    /// Text in another encoding.
    #[error("{place} is not UTF-8 text (byte {offset})")]
    NotUtf8 {
        /// The file, or the part of it.
        place: String,
        /// The first byte that does not belong.
        offset: usize,
    },
    /// Text that is no JSON.
    #[error("{place} is not valid JSON: {source}")]
    Json {
        /// The file, or the part of it.
        place: String,
        /// What the parser said, with line and column.
        source: serde_json::Error,
    },
    /// JSON of another kind.
    #[error("this is {found}, not {expected}")]
    OtherKind {
        /// What it looks like.
        found: &'static str,
        /// What was asked for.
        expected: &'static str,
    },
    /// A field without which there is no character or book.
    #[error("`{field}` is {got}; expected {expected}")]
    Field {
        /// The field's path.
        field: String,
        /// What is needed.
        expected: &'static str,
        /// What is there.
        got: &'static str,
    },
}

/// Something in a file that was put right or left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The path of the field, such as `data.tags[2]`; empty for the file as a whole.
    pub place: String,
    /// What was strange, and what was done about it.
    pub problem: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            f.write_str(&self.problem)
        } else {
            write!(f, "`{}`: {}", self.place, self.problem)
        }
    }
}
