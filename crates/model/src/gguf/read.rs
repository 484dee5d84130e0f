//! Parses the header of a GGUF file from its bytes.
//!
//! Nothing in the file is trusted: a count or length is compared with the bytes
//! that are left before anything is allocated for it, products are checked, and
//! tensors may neither leave the file nor overlap. The tensor data is not read.
//! Source of the format: llama.cpp, `ggml/src/gguf.cpp`, commit 067d44f6; unlike
//! it we take tensors in any order and refuse empty ones.

use std::collections::{HashMap, HashSet};

use super::types::{GgmlType, tensor_byte_len};
use super::value::{Array, TextArray, Value, kind_name};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, Problem, TensorInfo};

/// Arrays in arrays exist in no known model; this bounds the recursion.
const MAX_ARRAY_DEPTH: usize = 4;
/// The format's own limit on a key.
const MAX_KEY_BYTES: u64 = 65_535;
/// ggml holds 64 bytes (some forks 128); generous, so that a name fits in a message.
const MAX_NAME_BYTES: u64 = 256;
/// ggml's limit.
const MAX_DIMS: u32 = 4;

const ARRAY_KIND: u32 = 9;

pub(super) struct Header {
    pub version: u32,
    pub alignment: u64,
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<TensorInfo>,
    pub tensor_idx: HashMap<String, usize>,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Header, Problem> {
    let mut cursor = Cursor { bytes, at: 0 };
    let version = read_version(&mut cursor)?;
    let tensor_count = cursor.u64(|| "tensor count".into())?;
    let key_count = cursor.u64(|| "metadata count".into())?;

    let metadata = read_metadata(&mut cursor, key_count)?;
    let alignment = read_alignment(&metadata)?;

    // The smallest entry: an empty name, no dimension, a type and an offset.
    cursor.expect_room(tensor_count, 8 + 4 + 4 + 8, || "tensor count".into())?;
    let mut tensors = Vec::new();
    let mut tensor_idx = HashMap::new();
    for idx in 0..tensor_count {
        let tensor = read_tensor(&mut cursor, idx)?;
        if tensor_idx.insert(tensor.name.clone(), tensors.len()).is_some() {
            return Err(Problem::Duplicate { field: format!("tensor `{}`", tensor.name) });
        }
        tensors.push(tensor);
    }
    place_tensors(&mut tensors, cursor.at as u64, alignment, bytes.len() as u64)?;
    Ok(Header { version, alignment, metadata, tensors, tensor_idx })
}

fn read_version(cursor: &mut Cursor) -> Result<u32, Problem> {
    let magic = cursor.take(4, || "magic".into())?;
    if magic != b"GGUF" {
        return Err(Problem::Magic { got: magic.escape_ascii().to_string() });
    }
    let version = cursor.u32(|| "version".into())?;
    match version {
        2 | 3 => Ok(version),
        _ if matches!(version.swap_bytes(), 1..=3) => Err(Problem::BigEndian),
        _ => Err(Problem::Version { version }),
    }
}

fn read_metadata(cursor: &mut Cursor, count: u64) -> Result<Vec<(String, Value)>, Problem> {
    // The smallest entry: a key of one byte, a type and a value of one byte.
    cursor.expect_room(count, 8 + 1 + 4 + 1, || "metadata count".into())?;
    let mut metadata: Vec<(String, Value)> = Vec::new();
    let mut seen = HashSet::new();
    for idx in 0..count {
        let key = cursor.text(MAX_KEY_BYTES, || format!("metadata key {idx}"))?.to_owned();
        if key.is_empty() {
            let field = format!("metadata key {idx}");
            return Err(Problem::Invalid { field, why: "it is empty".into() });
        }
        let field = || key.escape_debug().to_string();
        if !seen.insert(key.clone()) {
            return Err(Problem::Duplicate { field: format!("metadata key `{}`", field()) });
        }
        let kind = cursor.u32(field)?;
        let value = read_value(cursor, kind, &field)?;
        metadata.push((key, value));
    }
    Ok(metadata)
}

fn read_value(
    cursor: &mut Cursor,
    kind: u32,
    field: &dyn Fn() -> String,
) -> Result<Value, Problem> {
    Ok(match kind {
        0 => Value::U8(u8::from_le_bytes(cursor.fixed(field)?)),
        1 => Value::I8(i8::from_le_bytes(cursor.fixed(field)?)),
        2 => Value::U16(u16::from_le_bytes(cursor.fixed(field)?)),
        3 => Value::I16(i16::from_le_bytes(cursor.fixed(field)?)),
        4 => Value::U32(cursor.u32(field)?),
        5 => Value::I32(i32::from_le_bytes(cursor.fixed(field)?)),
        6 => Value::F32(f32::from_le_bytes(cursor.fixed(field)?)),
        7 => Value::Bool(read_bool(cursor.fixed(field)?, field)?),
        8 => Value::Text(cursor.text(u64::MAX, field)?.to_owned()),
        ARRAY_KIND => Value::Array(read_array(cursor, 1, field)?),
        10 => Value::U64(cursor.u64(field)?),
        11 => Value::I64(i64::from_le_bytes(cursor.fixed(field)?)),
        12 => Value::F64(f64::from_le_bytes(cursor.fixed(field)?)),
        _ => return Err(unknown_kind(kind, field)),
    })
}

fn read_array(
    cursor: &mut Cursor,
    depth: usize,
    field: &dyn Fn() -> String,
) -> Result<Array, Problem> {
    if depth > MAX_ARRAY_DEPTH {
        let why = format!("arrays are nested more than {MAX_ARRAY_DEPTH} deep");
        return Err(Problem::Invalid { field: field(), why });
    }
    let kind = cursor.u32(field)?;
    let count = cursor.u64(field)?;
    Ok(match kind {
        0 => Array::U8(cursor.numbers(count, u8::from_le_bytes, field)?),
        1 => Array::I8(cursor.numbers(count, i8::from_le_bytes, field)?),
        2 => Array::U16(cursor.numbers(count, u16::from_le_bytes, field)?),
        3 => Array::I16(cursor.numbers(count, i16::from_le_bytes, field)?),
        4 => Array::U32(cursor.numbers(count, u32::from_le_bytes, field)?),
        5 => Array::I32(cursor.numbers(count, i32::from_le_bytes, field)?),
        6 => Array::F32(cursor.numbers(count, f32::from_le_bytes, field)?),
        7 => {
            let raw = cursor.numbers(count, |byte: [u8; 1]| byte, field)?;
            Array::Bool(
                raw.into_iter().map(|byte| read_bool(byte, field)).collect::<Result<_, _>>()?,
            )
        }
        8 => Array::Texts(read_texts(cursor, count, field)?),
        ARRAY_KIND => {
            cursor.expect_room(count, 4 + 8, field)?;
            let inner = (0..count)
                .map(|idx| read_array(cursor, depth + 1, &|| format!("{}[{idx}]", field())));
            Array::Arrays(inner.collect::<Result<_, _>>()?)
        }
        10 => Array::U64(cursor.numbers(count, u64::from_le_bytes, field)?),
        11 => Array::I64(cursor.numbers(count, i64::from_le_bytes, field)?),
        12 => Array::F64(cursor.numbers(count, f64::from_le_bytes, field)?),
        _ => return Err(unknown_kind(kind, field)),
    })
}

fn read_texts(
    cursor: &mut Cursor,
    count: u64,
    field: &dyn Fn() -> String,
) -> Result<TextArray, Problem> {
    cursor.expect_room(count, 8, field)?;
    let mut texts = TextArray::default();
    for idx in 0..count {
        texts.push(cursor.text(u64::MAX, || format!("{}[{idx}]", field()))?);
    }
    Ok(texts)
}

fn read_bool([byte]: [u8; 1], field: &dyn Fn() -> String) -> Result<bool, Problem> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Problem::Invalid { field: field(), why: format!("{byte} is not a bool") }),
    }
}

fn unknown_kind(kind: u32, field: &dyn Fn() -> String) -> Problem {
    Problem::Invalid { field: field(), why: format!("{kind} is not a GGUF value type") }
}

fn read_alignment(metadata: &[(String, Value)]) -> Result<u64, Problem> {
    let invalid = |why| Problem::Invalid { field: ALIGNMENT_KEY.into(), why };
    match metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some((_, Value::U32(alignment))) if alignment.is_power_of_two() => Ok((*alignment).into()),
        Some((_, Value::U32(got))) => Err(invalid(format!("{got} is not a power of two"))),
        Some((_, other)) => {
            Err(invalid(format!("expected {}, got {}", kind_name(4), other.type_name())))
        }
    }
}

fn read_tensor(cursor: &mut Cursor, idx: u64) -> Result<TensorInfo, Problem> {
    let name = cursor.text(MAX_NAME_BYTES, || format!("tensor name {idx}"))?.to_owned();
    let field = || format!("tensor `{}`", name.escape_debug());
    let invalid = |why| Problem::Invalid { field: field(), why };

    let dim_count = cursor.u32(field)?;
    if dim_count > MAX_DIMS {
        return Err(invalid(format!("{dim_count} dimensions, at most {MAX_DIMS} are allowed")));
    }
    let dims = (0..dim_count).map(|_| cursor.u64(field)).collect::<Result<Vec<_>, _>>()?;
    let type_id = cursor.u32(field)?;
    let kind = GgmlType::from_id(type_id)
        .ok_or_else(|| invalid(format!("unknown ggml type id {type_id}")))?;
    let byte_len = tensor_byte_len(&dims, kind).map_err(invalid)?;
    let offset = cursor.u64(field)?;
    Ok(TensorInfo { name, dims, kind, offset, byte_len })
}

/// Turns the offsets in the data section into offsets in the file.
fn place_tensors(
    tensors: &mut [TensorInfo],
    header_end: u64,
    alignment: u64,
    file_len: u64,
) -> Result<(), Problem> {
    // Neither can wrap: the header end is within the file, the alignment below 2^32.
    let data_start = header_end.next_multiple_of(alignment);
    for tensor in tensors.iter_mut() {
        let invalid = |why| Problem::Invalid {
            field: format!("tensor `{}`", tensor.name.escape_debug()),
            why,
        };
        if !tensor.offset.is_multiple_of(alignment) {
            let why = format!("offset {} is not a multiple of {alignment}", tensor.offset);
            return Err(invalid(why));
        }
        let start = data_start.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(tensor.byte_len));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_len => tensor.offset = start,
            _ => {
                let (offset, len) = (tensor.offset, tensor.byte_len);
                return Err(invalid(format!(
                    "{len} bytes at offset {offset} of the data end past the file's {file_len} bytes"
                )));
            }
        }
    }

    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].byte_len > pair[1].offset {
            return Err(Problem::Overlap {
                first: pair[0].name.escape_debug().to_string(),
                second: pair[1].name.escape_debug().to_string(),
            });
        }
    }
    Ok(())
}

/// A position in the file. `field` closures name what is being read, for errors only.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, needed: u64, field: impl Fn() -> String) -> Result<&'a [u8], Problem> {
        if needed > self.left() {
            return Err(Problem::Truncated {
                field: field(),
                at: self.at as u64,
                needed,
                left: self.left(),
            });
        }
        let (start, end) = (self.at, self.at + needed as usize);
        self.at = end;
        Ok(&self.bytes[start..end])
    }

    /// Fails unless `count` entries of at least `least_bytes` each can still follow.
    fn expect_room(
        &self,
        count: u64,
        least_bytes: u64,
        field: impl Fn() -> String,
    ) -> Result<(), Problem> {
        if count > self.left() / least_bytes {
            return Err(Problem::Count { field: field(), count, left: self.left() });
        }
        Ok(())
    }

    fn fixed<const N: usize>(&mut self, field: impl Fn() -> String) -> Result<[u8; N], Problem> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, field)?);
        Ok(array)
    }

    fn u32(&mut self, field: impl Fn() -> String) -> Result<u32, Problem> {
        Ok(u32::from_le_bytes(self.fixed(field)?))
    }

    fn u64(&mut self, field: impl Fn() -> String) -> Result<u64, Problem> {
        Ok(u64::from_le_bytes(self.fixed(field)?))
    }

    fn text(&mut self, max_bytes: u64, field: impl Fn() -> String) -> Result<&'a str, Problem> {
        let len = self.u64(&field)?;
        if len > max_bytes {
            let why = format!("{len} bytes, at most {max_bytes} are allowed");
            return Err(Problem::Invalid { field: field(), why });
        }
        let bytes = self.take(len, &field)?;
        std::str::from_utf8(bytes)
            .map_err(|_| Problem::Invalid { field: field(), why: "it is not UTF-8".into() })
    }

    fn numbers<const N: usize, T>(
        &mut self,
        count: u64,
        decode: impl Fn([u8; N]) -> T,
        field: impl Fn() -> String,
    ) -> Result<Vec<T>, Problem> {
        self.expect_room(count, N as u64, &field)?;
        let bytes = self.take(count * N as u64, field)?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|chunk| decode(*chunk)).collect())
    }
}
