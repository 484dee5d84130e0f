//! GGUF files: a strict reader over a memory map, and a small writer.
//!
//! A file is untrusted input. Every count, size and product is checked against the
//! file's length before memory is taken, and each error names the file and the
//! field. Refused: version 1, big-endian files, alignments that are no power of two,
//! duplicate keys and names, tensors outside the file or over one another. Known
//! block types that we cannot compute with are listed all the same ([`GgmlType`]).
//!
//! Nothing here knows a model: tokenizers are built in `tokenizer/gguf.rs`, weights
//! elsewhere. Next: `gguf/read.rs` (the parser), `gguf/write.rs`.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

mod types;
mod value;
mod read;
mod write;

pub use types::{GgmlType, tensor_byte_len};
pub use value::{Array, FromValue, TextArray, Value};
pub use write::GgufWriter;

/// The key of the alignment of the tensor data.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
/// The alignment when the file does not say, in bytes.
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;

/// An open GGUF file: its metadata, and its tensors as bytes in a memory map.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: Mmap,
    version: u32,
    alignment: u64,
    metadata: Vec<(String, Value)>,
    key_idx: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    tensor_idx: HashMap<String, usize>,
}

/// Where a tensor lies in the file, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, as in `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements per dimension in ggml order: the contiguous one first, so the reverse
    /// of the shape in row-major libraries. Empty for a scalar.
    pub dims: Vec<u64>,
    /// Its element or block type.
    pub kind: GgmlType,
    /// Its first byte, counted from the start of the file.
    pub offset: u64,
    /// Its length in bytes.
    pub byte_len: u64,
}

/// A GGUF file could not be read, or does not hold what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file could not be opened, mapped or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The header is malformed.
    #[error("`{}` is not a usable gguf file: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and in which field.
        problem: Problem,
    },
    /// A metadata key that is needed is absent.
    #[error("`{}` has no metadata key `{key}`", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A metadata value has another type than is needed.
    #[error("`{}`: metadata key `{key}` should be {expected}, got {got}", path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is needed.
        expected: &'static str,
        /// What the file has.
        got: String,
    },
    /// A tensor that is needed is absent.
    #[error("`{}` has no tensor `{name}`", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
}

/// What is wrong with a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The first four bytes are not `GGUF`.
    #[error("it starts with `{got}` instead of `GGUF`")]
    Magic {
        /// The first four bytes, escaped.
        got: String,
    },
    /// The file was written for big-endian machines.
    #[error("it is big-endian, only little-endian files are supported")]
    BigEndian,
    /// A version that we do not know.
    #[error("version {version} is not supported, only 2 and 3 are")]
    Version {
        /// The file's version.
        version: u32,
    },
    /// The file ends inside a field.
    #[error("{field} needs {needed} bytes at offset {at}, but {left} are left")]
    Truncated {
        /// The field.
        field: String,
        /// Where it starts, in bytes from the start of the file.
        at: u64,
        /// How many bytes it takes.
        needed: u64,
        /// How many there are.
        left: u64,
    },
    /// A count says more entries than the rest of the file could hold.
    #[error("{field} says {count} entries, which cannot fit in the {left} bytes left")]
    Count {
        /// The field.
        field: String,
        /// The count.
        count: u64,
        /// How many bytes are left.
        left: u64,
    },
    /// A key or a tensor's name occurs twice.
    #[error("{field} occurs twice")]
    Duplicate {
        /// The field.
        field: String,
    },
    /// A field has a value that is not allowed.
    #[error("{field}: {why}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// Two tensors share bytes.
    #[error("tensors `{first}` and `{second}` overlap")]
    Overlap {
        /// The one that starts first.
        first: String,
        /// The other.
        second: String,
    },
}

impl GgufFile {
    /// Maps the file and reads its header; tensor data is not touched.
    ///
    /// The file must not be truncated by others while it is open: reading a page that
    /// is gone ends the process, as with every memory map.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        let path = path.as_ref().to_owned();
        let io = |action| {
            let path = path.clone();
            move |source| GgufError::Io { action, path, source }
        };
        let file = File::open(&path).map_err(io("open"))?;
        // SAFETY: the map is private to us and read-only; that others do not change the
        // file meanwhile is asked of the caller above.
        let map = unsafe { Mmap::map(&file) }.map_err(io("map"))?;
        let header = read::parse(&map)
            .map_err(|problem| GgufError::Malformed { path: path.clone(), problem })?;
        let keys = header.metadata.iter().enumerate();
        Ok(GgufFile {
            key_idx: keys.map(|(idx, (key, _))| (key.clone(), idx)).collect(),
            path,
            map,
            version: header.version,
            alignment: header.alignment,
            metadata: header.metadata,
            tensors: header.tensors,
            tensor_idx: header.tensor_idx,
        })
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The alignment of the tensor data in bytes, a power of two.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// All metadata, in file order.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The raw value of a key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.key_idx.get(key).map(|&idx| &self.metadata[idx].1)
    }

    /// The value of a key, as in `file.get::<u32>("llama.block_count")?`.
    ///
    /// Integers are accepted in any width that fits, floats in either.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, GgufError> {
        self.find(key)?
            .ok_or_else(|| GgufError::MissingKey { path: self.path.clone(), key: key.to_owned() })
    }

    /// As [`get`](Self::get), but `None` where the key is absent.
    pub fn find<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        T::from_value(value).map(Some).ok_or_else(|| GgufError::WrongType {
            path: self.path.clone(),
            key: key.to_owned(),
            expected: T::EXPECTED,
            got: match value.as_integer() {
                Some(number) => format!("{} {number}", value.type_name()),
                None => value.type_name(),
            },
        })
    }

    /// The entry of a tensor, if there is one of this name.
    pub fn find_tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensor_idx.get(name).map(|&idx| &self.tensors[idx])
    }

    /// The entry of a tensor that must be there.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.find_tensor(name).ok_or_else(|| GgufError::MissingTensor {
            path: self.path.clone(),
            name: name.to_owned(),
        })
    }

    /// The bytes of a tensor, straight from the map.
    pub fn tensor_bytes(&self, name: &str) -> Result<&[u8], GgufError> {
        self.tensor(name).map(|tensor| self.bytes_of(tensor))
    }

    /// The bytes of a tensor of this file's table.
    ///
    /// # Panics
    /// When the entry is of another file and lies outside this one.
    pub fn bytes_of(&self, tensor: &TensorInfo) -> &[u8] {
        // The parser made sure that both ends lie within the map.
        &self.map[tensor.offset as usize..(tensor.offset + tensor.byte_len) as usize]
    }
}
