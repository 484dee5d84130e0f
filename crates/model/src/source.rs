//! Where weights come from: an HF folder of safetensors, or a GGUF file.
//!
//! Files are untrusted: shapes and sizes are compared with the config before memory is
//! taken. A weight is read by its HF name, converted to the wanted dtype in one pass and
//! handed over; nothing else of the file stays in memory.

use crate::gguf::{GgmlType, GgufFile, TensorInfo};
use crate::names::{gguf_name, is_interleaved_in_gguf};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as StDtype, Metadata};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;
use troupe_ops::weight::QuantWeight;
use troupe_ops::{QuantType, Weight};

/// In what format weights are held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightDtype {
    /// As the file stores them; quantised blocks stay quantised.
    #[default]
    Keep,
    /// 32-bit.
    F32,
    /// 16-bit, f32's range.
    Bf16,
    /// 16-bit IEEE.
    F16,
}

impl FromStr for WeightDtype {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        match text {
            "keep" => Ok(WeightDtype::Keep),
            "f32" => Ok(WeightDtype::F32),
            "bf16" => Ok(WeightDtype::Bf16),
            "f16" => Ok(WeightDtype::F16),
            _ => Err(SourceError::UnknownDtype(text.to_string())),
        }
    }
}

/// Why a weight, or a file of weights, cannot be used.
#[derive(Debug, Error)]
pub enum SourceError {
    /// Not a dtype name.
    #[error("`{0}` is no weight dtype; expected `f32`, `bf16`, `f16` or `keep`")]
    UnknownDtype(String),
    /// A file that cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A damaged safetensors file.
    #[error("`{}` is not a valid safetensors file: {reason}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A damaged shard index.
    #[error("`{}`: {reason}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No weights in the folder.
    #[error("`{}` has neither `model.safetensors` nor `model.safetensors.index.json`", .0.display())]
    NoWeights(PathBuf),
    /// A weight that the config asks for is not there.
    #[error("`{}` has no tensor `{name}`", path.display())]
    Missing {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name in it.
        name: String,
    },
    /// A weight of another shape than the config says.
    #[error("tensor `{name}` in `{}` has shape {got:?}; the config says {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape, rows first.
        got: Vec<usize>,
        /// The shape that the config asks for.
        expected: Vec<usize>,
    },
    /// A number format that this program cannot read.
    #[error("tensor `{name}` in `{}` is stored as {format}, which is not supported", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its format.
        format: String,
    },
    /// Tensors that the transformer would ignore, though they would change its output.
    #[error("`{}` has tensors that the config does not account for: {}", path.display(), names.join(", "))]
    Unused {
        /// The file or folder.
        path: PathBuf,
        /// Their names; the first few.
        names: Vec<String>,
    },
    /// GGUF.
    #[error(transparent)]
    Gguf(#[from] crate::gguf::GgufError),
    /// candle.
    #[error("cannot place a weight on the device: {0}")]
    Candle(#[from] candle_core::Error),
}

/// An opened checkpoint whose weights are read by HF name.
pub enum WeightSource<'a> {
    /// Safetensors, by tensor name.
    Folder(Folder),
    /// A GGUF file; the flag says that its query and key rows are interleaved.
    Gguf {
        /// The file.
        file: &'a GgufFile,
        /// Heads' halves are interleaved row by row (architecture `llama`).
        interleaved: bool,
    },
}

/// A folder of safetensors.
pub struct Folder {
    path: PathBuf,
    shards: Vec<Shard>,
    by_name: BTreeMap<String, usize>,
}

struct Shard {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
    header: Metadata,
}

impl Folder {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// A missing or damaged file; a shard name that leaves the folder.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let (single, index) =
            (path.join("model.safetensors"), path.join("model.safetensors.index.json"));
        let files = if single.is_file() {
            vec![single]
        } else if index.is_file() {
            shard_files(path, &index)?
        } else {
            return Err(SourceError::NoWeights(path.into()));
        };
        let shards = files.into_iter().map(Shard::open).collect::<Result<Vec<_>, _>>()?;
        let mut by_name = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            for name in shard.header.tensors().into_keys() {
                if by_name.insert(name.clone(), i).is_some() {
                    let reason = format!("tensor `{name}` is in two shards");
                    return Err(SourceError::Index { path: index, reason });
                }
            }
        }
        Ok(Folder { path: path.into(), shards, by_name })
    }
}

fn shard_files(folder: &Path, index: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let wrong = |reason: String| SourceError::Index { path: index.into(), reason };
    let text = std::fs::read_to_string(index)
        .map_err(|source| SourceError::Io { path: index.into(), source })?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| wrong(format!("not JSON: {e}")))?;
    let map = json.get("weight_map").and_then(|m| m.as_object());
    let map = map.ok_or_else(|| wrong("no object `weight_map`".into()))?;
    let mut files = BTreeSet::new();
    for (tensor, file) in map {
        let name = file.as_str().ok_or_else(|| wrong(format!("`{tensor}` names no file")))?;
        let plain = Path::new(name).file_name().is_some_and(|n| n == name);
        if !plain || !name.ends_with(".safetensors") {
            return Err(wrong(format!("`{tensor}` lies in `{name}`, not a plain file name")));
        }
        files.insert(folder.join(name));
    }
    if files.is_empty() {
        return Err(wrong("`weight_map` is empty".into()));
    }
    Ok(files.into_iter().collect())
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self, SourceError> {
        let io = |source| SourceError::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: the map is read-only; a file that another process changes meanwhile can
        // give wrong numbers, as with any reader, but every access is bounds-checked.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let (header_bytes, header) = SafeTensors::read_metadata(&map)
            .map_err(|e| SourceError::Safetensors { path: path.clone(), reason: e.to_string() })?;
        Ok(Shard { data_start: 8 + header_bytes, path, map, header })
    }
}

/// A tensor as it lies in a file.
struct Stored<'a> {
    path: PathBuf,
    name: String,
    shape: Vec<usize>,
    format: Format,
    bytes: &'a [u8],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    F32,
    F16,
    Bf16,
    Quant(QuantType),
}

impl WeightSource<'_> {
    /// A matrix `(rows, cols)` by its HF name.
    ///
    /// `heads` is the number of heads among the rows of a query or key projection; where
    /// the file interleaves their halves, the rows are put back in HF's order.
    ///
    /// # Errors
    /// A missing tensor, another shape, a format that is not supported.
    pub fn matrix(
        &self,
        name: &str,
        shape: (usize, usize),
        heads: usize,
        dtype: WeightDtype,
        device: &Device,
    ) -> Result<Weight, SourceError> {
        let stored = self.stored(name, &[shape.0, shape.1])?;
        let order = self.row_order(name, shape.0, heads);
        let keep_quant = matches!(stored.format, Format::Quant(_)) && dtype == WeightDtype::Keep;
        if let (Format::Quant(kind), true) = (stored.format, keep_quant) {
            let bytes = reorder(stored.bytes, shape.0, order.as_deref());
            return Ok(Weight::Quant(QuantWeight::new(kind, shape.0, shape.1, bytes, device)?));
        }
        let dtype = match (dtype, stored.format) {
            (WeightDtype::F32, _) | (WeightDtype::Keep, Format::F32 | Format::Quant(_)) => {
                DType::F32
            }
            (WeightDtype::Bf16, _) | (WeightDtype::Keep, Format::Bf16) => DType::BF16,
            (WeightDtype::F16, _) | (WeightDtype::Keep, Format::F16) => DType::F16,
        };
        Ok(Weight::dense(stored.dense(shape, order.as_deref(), dtype, device)?)?)
    }

    /// A vector in f32 by its HF name: a norm's weight or a bias.
    ///
    /// # Errors
    /// As [`WeightSource::matrix`].
    pub fn vector(
        &self,
        name: &str,
        len: usize,
        heads: usize,
        device: &Device,
    ) -> Result<Tensor, SourceError> {
        let stored = self.stored(name, &[len])?;
        let order = self.row_order(name, len, heads);
        let column = stored.dense((len, 1), order.as_deref(), DType::F32, device)?;
        Ok(column.flatten_all()?)
    }

    /// Refuses tensors beside `used` (HF names) that would have changed the output.
    ///
    /// # Errors
    /// [`SourceError::Unused`] with their names.
    pub fn refuse_unused(&self, used: &BTreeSet<String>) -> Result<(), SourceError> {
        let harmless = |name: &str| {
            name.ends_with("rotary_emb.inv_freq")
                || name.starts_with("rope_f")
                || name == "score.weight"
        };
        let (path, names): (&Path, Vec<String>) = match self {
            WeightSource::Folder(folder) => {
                let unused = folder.by_name.keys().filter(|n| !used.contains(*n));
                // A tied head may be stored all the same.
                let unused = unused.filter(|n| *n != "lm_head.weight");
                (&folder.path, unused.cloned().collect())
            }
            WeightSource::Gguf { file, .. } => {
                let used: BTreeSet<_> = used.iter().filter_map(|n| gguf_name(n)).collect();
                let unused = file.tensors().iter().filter(|t| !used.contains(&t.name));
                (file.path(), unused.map(|t| t.name.clone()).collect())
            }
        };
        let names: Vec<_> = names.into_iter().filter(|n| !harmless(n)).take(5).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(SourceError::Unused { path: path.into(), names })
    }

    fn stored(&self, name: &str, expected: &[usize]) -> Result<Stored<'_>, SourceError> {
        let stored = match self {
            WeightSource::Folder(folder) => stored_in_folder(folder, name)?,
            WeightSource::Gguf { file, .. } => stored_in_gguf(file, name)?,
        };
        if stored.shape != expected {
            return Err(SourceError::Shape {
                path: stored.path,
                name: stored.name,
                got: stored.shape,
                expected: expected.into(),
            });
        }
        let elements: usize = expected.iter().product();
        let wanted = match stored.format {
            Format::F32 => elements.checked_mul(4),
            Format::F16 | Format::Bf16 => elements.checked_mul(2),
            Format::Quant(kind) => {
                let cols = expected.last().copied().unwrap_or(0);
                kind.bytes_for(cols).and_then(|row| row.checked_mul(elements / cols.max(1)))
            }
        };
        if wanted != Some(stored.bytes.len()) {
            let format = format!("{} bytes for shape {expected:?}", stored.bytes.len());
            return Err(SourceError::Format { path: stored.path, name: stored.name, format });
        }
        Ok(stored)
    }

    /// For an interleaved projection: which stored row each row is.
    fn row_order(&self, name: &str, rows: usize, heads: usize) -> Option<Vec<usize>> {
        let WeightSource::Gguf { interleaved: true, .. } = self else { return None };
        if !is_interleaved_in_gguf(name) {
            return None;
        }
        let head_dim = rows / heads.max(1);
        let half = head_dim / 2;
        let stored = |row: usize| {
            let (head, within) = (row / head_dim, row % head_dim);
            head * head_dim + 2 * (within % half) + within / half
        };
        Some((0..rows).map(stored).collect())
    }
}

fn stored_in_folder<'a>(folder: &'a Folder, name: &str) -> Result<Stored<'a>, SourceError> {
    let missing = || SourceError::Missing { path: folder.path.clone(), name: name.into() };
    let shard = &folder.shards[*folder.by_name.get(name).ok_or_else(missing)?];
    let info = shard.header.info(name).ok_or_else(missing)?;
    let format = match info.dtype {
        StDtype::F32 => Format::F32,
        StDtype::F16 => Format::F16,
        StDtype::BF16 => Format::Bf16,
        other => {
            let (path, name) = (shard.path.clone(), name.to_string());
            return Err(SourceError::Format { path, name, format: format!("{other:?}") });
        }
    };
    let (start, end) = info.data_offsets;
    let bytes =
        shard.map.get(shard.data_start + start..shard.data_start + end).ok_or_else(missing)?;
    let (path, name) = (shard.path.clone(), name.to_string());
    Ok(Stored { path, name, shape: info.shape.clone(), format, bytes })
}

fn stored_in_gguf<'a>(file: &'a GgufFile, hf: &str) -> Result<Stored<'a>, SourceError> {
    let name = gguf_name(hf).unwrap_or_else(|| hf.to_string());
    let tensor: &TensorInfo = file.tensor(&name)?;
    let path = file.path().to_path_buf();
    let format = match tensor.kind {
        GgmlType::F32 => Format::F32,
        GgmlType::F16 => Format::F16,
        GgmlType::BF16 => Format::Bf16,
        GgmlType::Q4_0 => Format::Quant(QuantType::Q4_0),
        GgmlType::Q4_1 => Format::Quant(QuantType::Q4_1),
        GgmlType::Q8_0 => Format::Quant(QuantType::Q8_0),
        other => return Err(SourceError::Format { path, name, format: other.to_string() }),
    };
    // ggml lists the contiguous dimension first.
    let size = |&d: &u64| usize::try_from(d).unwrap_or(usize::MAX);
    let shape = tensor.dims.iter().rev().map(size).collect();
    Ok(Stored { path, name, shape, format, bytes: file.bytes_of(tensor) })
}

fn reorder(bytes: &[u8], rows: usize, order: Option<&[usize]>) -> Vec<u8> {
    let Some(order) = order else { return bytes.to_vec() };
    let row = bytes.len() / rows.max(1);
    let mut out = Vec::with_capacity(bytes.len());
    for &from in order {
        out.extend_from_slice(&bytes[from * row..(from + 1) * row]);
    }
    out
}

impl Stored<'_> {
    /// The matrix in `dtype`, row by row, without a second copy of it.
    fn dense(
        &self,
        (rows, cols): (usize, usize),
        order: Option<&[usize]>,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor, SourceError> {
        let row_bytes = self.bytes.len() / rows.max(1);
        let row = |i: usize| {
            let from = order.map_or(i, |order| order[i]);
            &self.bytes[from * row_bytes..(from + 1) * row_bytes]
        };
        let mut wide = vec![0f32; cols];
        let shape = (rows, cols);
        Ok(match dtype {
            DType::BF16 => {
                let mut out = Vec::with_capacity(rows * cols);
                for i in 0..rows {
                    if self.format == Format::Bf16 {
                        out.extend(pairs(row(i)).map(bf16::from_bits));
                    } else {
                        self.widen(row(i), &mut wide);
                        out.extend(wide.iter().map(|&x| bf16::from_f32(x)));
                    }
                }
                Tensor::from_vec(out, shape, device)?
            }
            DType::F16 => {
                let mut out = Vec::with_capacity(rows * cols);
                for i in 0..rows {
                    if self.format == Format::F16 {
                        out.extend(pairs(row(i)).map(f16::from_bits));
                    } else {
                        self.widen(row(i), &mut wide);
                        out.extend(wide.iter().map(|&x| f16::from_f32(x)));
                    }
                }
                Tensor::from_vec(out, shape, device)?
            }
            _ => {
                let mut out = Vec::with_capacity(rows * cols);
                for i in 0..rows {
                    self.widen(row(i), &mut wide);
                    out.extend_from_slice(&wide);
                }
                Tensor::from_vec(out, shape, device)?
            }
        })
    }

    fn widen(&self, bytes: &[u8], out: &mut [f32]) {
        match self.format {
            Format::F32 => {
                for (b, out) in bytes.chunks_exact(4).zip(out) {
                    *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            Format::F16 => {
                for (bits, out) in pairs(bytes).zip(out) {
                    *out = f16::from_bits(bits).to_f32();
                }
            }
            Format::Bf16 => {
                for (bits, out) in pairs(bytes).zip(out) {
                    *out = bf16::from_bits(bits).to_f32();
                }
            }
            Format::Quant(kind) => kind.dequantise(bytes, out),
        }
    }
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_cannot_leave_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("model.safetensors.index.json");
        for name in ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.bin", ""] {
            let text = format!(r#"{{"weight_map": {{"w": "{name}"}}}}"#);
            std::fs::write(&index, text).unwrap();
            let error = Folder::open(dir.path()).err().unwrap().to_string();
            assert!(error.contains("not a plain file name"), "{name}: {error}");
        }
        std::fs::write(&index, "{").unwrap();
        assert!(Folder::open(dir.path()).err().unwrap().to_string().contains("not JSON"));
    }

    #[test]
    fn a_truncated_shard_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.safetensors");
        for bytes in [&b""[..], &[255; 8], &[8, 0, 0, 0, 0, 0, 0, 0, b'{']] {
            std::fs::write(&file, bytes).unwrap();
            assert!(Folder::open(dir.path()).is_err());
        }
    }
}
