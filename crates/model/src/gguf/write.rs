//! Writes GGUF version 3: metadata in the order given, then tensors, aligned.
//!
//! What the reader would refuse is refused here too, so that a written file always
//! opens again. It does not quantise; the caller brings bytes in their final form.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::types::{GgmlType, tensor_byte_len};
use super::value::{Array, Value};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgufError, Problem};

/// A GGUF file in the making; tensor bytes can be borrowed.
#[derive(Debug, Default)]
pub struct GgufWriter<'a> {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor<'a>>,
    names: HashSet<String>,
}

#[derive(Debug)]
struct Tensor<'a> {
    name: String,
    dims: Vec<u64>,
    kind: GgmlType,
    bytes: Cow<'a, [u8]>,
}

impl<'a> GgufWriter<'a> {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a metadata key; an earlier value of the key is replaced in its place.
    ///
    /// `general.alignment` (a `u32`) also sets the alignment of the tensors.
    pub fn set(&mut self, key: impl Into<String>, value: Value) -> &mut Self {
        let key = key.into();
        match self.metadata.iter_mut().find(|(known, _)| *known == key) {
            Some((_, slot)) => *slot = value,
            None => self.metadata.push((key, value)),
        }
        self
    }

    /// Adds a tensor; `dims` in ggml order (the contiguous one first).
    ///
    /// # Errors
    /// A name that was used before, or bytes that do not fit the dimensions.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        dims: &[u64],
        kind: GgmlType,
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Result<&mut Self, Problem> {
        let (name, bytes) = (name.into(), bytes.into());
        let invalid = |why| Problem::Invalid { field: format!("tensor `{name}`"), why };
        let expected = tensor_byte_len(dims, kind).map_err(invalid)?;
        if bytes.len() as u64 != expected {
            let got = bytes.len();
            return Err(invalid(format!("{dims:?} in {kind} takes {expected} bytes, got {got}")));
        }
        if !self.names.insert(name.clone()) {
            return Err(Problem::Duplicate { field: format!("tensor `{name}`") });
        }
        self.tensors.push(Tensor { name, dims: dims.to_vec(), kind, bytes });
        Ok(self)
    }

    /// Writes the whole file to `path`, replacing what is there.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), GgufError> {
        let path = path.as_ref();
        let io = |source| GgufError::Io { action: "write", path: path.to_owned(), source };
        let mut file = BufWriter::new(File::create(path).map_err(io)?);
        self.write(&mut file).map_err(io)?;
        file.into_inner().map_err(|error| io(error.into_error()))?.sync_all().map_err(io)
    }

    /// Writes the whole file.
    pub fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let alignment = self.alignment()?;
        let mut header = Vec::new();
        header.extend_from_slice(b"GGUF");
        header.extend_from_slice(&3u32.to_le_bytes());
        header.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_text(&mut header, key);
            header.extend_from_slice(&value.kind().to_le_bytes());
            put_value(&mut header, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            put_text(&mut header, &tensor.name);
            header.extend_from_slice(&(tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| header.extend_from_slice(&dim.to_le_bytes()));
            header.extend_from_slice(&tensor.kind.id().to_le_bytes());
            header.extend_from_slice(&offset.to_le_bytes());
            offset += (tensor.bytes.len() as u64).next_multiple_of(alignment);
        }
        out.write_all(&header)?;
        pad(out, header.len() as u64, alignment)?;
        for tensor in &self.tensors {
            out.write_all(&tensor.bytes)?;
            pad(out, tensor.bytes.len() as u64, alignment)?;
        }
        Ok(())
    }

    fn alignment(&self) -> std::io::Result<u64> {
        match self.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
            None => Ok(DEFAULT_ALIGNMENT),
            Some((_, Value::U32(alignment))) if alignment.is_power_of_two() => {
                Ok((*alignment).into())
            }
            Some((_, other)) => Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                format!("`{ALIGNMENT_KEY}` must be a u32 power of two, got {other}"),
            )),
        }
    }
}

fn pad(out: &mut impl Write, written: u64, alignment: u64) -> std::io::Result<()> {
    let missing = written.next_multiple_of(alignment) - written;
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), missing), out).map(drop)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(x) => out.push(*x),
        Value::I8(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::U16(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::I16(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::U32(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::I32(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::F32(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::Bool(x) => out.push((*x).into()),
        Value::Text(x) => put_text(out, x),
        Value::Array(x) => put_array(out, x),
        Value::U64(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::I64(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::F64(x) => out.extend_from_slice(&x.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend_from_slice(&array.element_kind().to_le_bytes());
    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    match array {
        Array::U8(x) => out.extend_from_slice(x),
        Array::I8(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::U16(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::I16(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::U32(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::I32(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::F32(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::Bool(x) => x.iter().for_each(|x| out.push((*x).into())),
        Array::Texts(x) => x.iter().for_each(|x| put_text(out, x)),
        Array::Arrays(x) => x.iter().for_each(|x| put_array(out, x)),
        Array::U64(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::I64(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::F64(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
    }
}
