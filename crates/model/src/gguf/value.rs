//! Metadata values of a GGUF file, and how a typed getter reads one.
//!
//! Arrays stay compact: numbers in one vector of their type, strings in one text
//! with end offsets, since a vocabulary has some hundred thousand of them.
//! Next: `read.rs`, which fills these from a file.

use std::fmt;

/// A metadata value, in the thirteen types that GGUF has.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant is the type it names")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of metadata values, all of one type.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant is the type it names")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Texts(TextArray),
    Arrays(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Many strings in one allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextArray {
    text: String,
    ends: Vec<usize>,
}

/// A Rust type that a metadata value can be read as.
pub trait FromValue<'a>: Sized {
    /// What an error message calls the type.
    const EXPECTED: &'static str;

    /// The value as this type, or `None` when it has another type or does not fit.
    fn from_value(value: &'a Value) -> Option<Self>;
}

impl Value {
    /// The type's name in messages, as in `u32` or `array of string`.
    pub fn type_name(&self) -> String {
        match self {
            Value::Array(array) => format!("array of {}", kind_name(array.element_kind())),
            other => kind_name(other.kind()).to_owned(),
        }
    }

    /// Any integer type, widened.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(x) => x.into(),
            Value::I8(x) => x.into(),
            Value::U16(x) => x.into(),
            Value::I16(x) => x.into(),
            Value::U32(x) => x.into(),
            Value::I32(x) => x.into(),
            Value::U64(x) => x.into(),
            Value::I64(x) => x.into(),
            _ => return None,
        })
    }

    /// The type id in a file.
    pub(crate) fn kind(&self) -> u32 {
        match self {
            Value::U8(_) => 0,
            Value::I8(_) => 1,
            Value::U16(_) => 2,
            Value::I16(_) => 3,
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::Text(_) => 8,
            Value::Array(_) => 9,
            Value::U64(_) => 10,
            Value::I64(_) => 11,
            Value::F64(_) => 12,
        }
    }
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(x) => x.len(),
            Array::I8(x) => x.len(),
            Array::U16(x) => x.len(),
            Array::I16(x) => x.len(),
            Array::U32(x) => x.len(),
            Array::I32(x) => x.len(),
            Array::F32(x) => x.len(),
            Array::Bool(x) => x.len(),
            Array::Texts(x) => x.len(),
            Array::Arrays(x) => x.len(),
            Array::U64(x) => x.len(),
            Array::I64(x) => x.len(),
            Array::F64(x) => x.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements of any integer array, widened; `None` for other element types.
    pub fn integers(&self) -> Option<Box<dyn ExactSizeIterator<Item = i128> + '_>> {
        Some(match self {
            Array::U8(x) => Box::new(x.iter().map(|&x| x.into())),
            Array::I8(x) => Box::new(x.iter().map(|&x| x.into())),
            Array::U16(x) => Box::new(x.iter().map(|&x| x.into())),
            Array::I16(x) => Box::new(x.iter().map(|&x| x.into())),
            Array::U32(x) => Box::new(x.iter().map(|&x| x.into())),
            Array::I32(x) => Box::new(x.iter().map(|&x| x.into())),
            Array::U64(x) => Box::new(x.iter().map(|&x| x.into())),
            Array::I64(x) => Box::new(x.iter().map(|&x| x.into())),
            _ => return None,
        })
    }

    /// The element type's id in a file.
    pub(crate) fn element_kind(&self) -> u32 {
        match self {
            Array::U8(_) => 0,
            Array::I8(_) => 1,
            Array::U16(_) => 2,
            Array::I16(_) => 3,
            Array::U32(_) => 4,
            Array::I32(_) => 5,
            Array::F32(_) => 6,
            Array::Bool(_) => 7,
            Array::Texts(_) => 8,
            Array::Arrays(_) => 9,
            Array::U64(_) => 10,
            Array::I64(_) => 11,
            Array::F64(_) => 12,
        }
    }
}

impl TextArray {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no string.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.text[start..end])
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }

    /// Adds a string at the end.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }
}

impl<S: AsRef<str>> FromIterator<S> for TextArray {
    fn from_iter<I: IntoIterator<Item = S>>(texts: I) -> Self {
        let mut array = TextArray::default();
        texts.into_iter().for_each(|text| array.push(text.as_ref()));
        array
    }
}

impl fmt::Display for Value {
    /// A short form for listings: long strings and arrays are only described.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_CHARS: usize = 60;
        match self {
            Value::Text(text) => {
                let shown: String = text.chars().take(SHOWN_CHARS).collect();
                let rest = if shown.len() < text.len() { "..." } else { "" };
                write!(f, "\"{}{rest}\"", shown.escape_debug())
            }
            Value::Array(array) => write!(f, "{} ({})", self.type_name(), array.len()),
            Value::Bool(x) => write!(f, "{x}"),
            Value::F32(x) => write!(f, "{x}"),
            Value::F64(x) => write!(f, "{x}"),
            other => write!(f, "{}", other.as_integer().unwrap_or_default()),
        }
    }
}

/// The name of a type id, for messages.
pub(crate) fn kind_name(kind: u32) -> &'static str {
    const NAMES: [&str; 13] = [
        "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64",
        "f64",
    ];
    NAMES.get(kind as usize).copied().unwrap_or("unknown type")
}

macro_rules! integer_from_value {
    ($($int:ty, $expected:literal;)*) => {$(
        impl FromValue<'_> for $int {
            const EXPECTED: &'static str = $expected;

            // Writers differ in the width they choose, so any integer that fits will do.
            fn from_value(value: &Value) -> Option<Self> {
                value.as_integer()?.try_into().ok()
            }
        }
    )*};
}

integer_from_value! {
    u32, "an integer that fits in u32";
    u64, "an integer that fits in u64";
    usize, "an integer that fits in usize";
    i32, "an integer that fits in i32";
    i64, "an integer that fits in i64";
}

impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "a float";

    fn from_value(value: &Value) -> Option<Self> {
        match *value {
            Value::F32(x) => Some(x),
            Value::F64(x) => Some(x as f32),
            _ => None,
        }
    }
}

impl FromValue<'_> for f64 {
    const EXPECTED: &'static str = "a float";

    fn from_value(value: &Value) -> Option<Self> {
        match *value {
            Value::F32(x) => Some(x.into()),
            Value::F64(x) => Some(x),
            _ => None,
        }
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "a bool";

    fn from_value(value: &Value) -> Option<Self> {
        match *value {
            Value::Bool(x) => Some(x),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";

    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a Array {
    const EXPECTED: &'static str = "an array";

    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a TextArray {
    const EXPECTED: &'static str = "an array of strings";

    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(Array::Texts(texts)) => Some(texts),
            _ => None,
        }
    }
}
