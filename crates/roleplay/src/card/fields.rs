//! Reads the fields of a JSON object that nobody vouches for.
//!
//! Each getter takes its field out of the object; what remains is what the format
//! does not know, kept for export. A field of the wrong type is put right where the
//! meaning is plain (`1.0` for `"1.0"`) and otherwise left out with a [`Warning`].
//! Nothing here fails. Used by the cards and by the lorebooks.

use super::error::Warning;
use serde_json::{Map, Value};

/// More warnings than this help nobody, and a hostile file could make millions.
const MAX_WARNINGS: usize = 200;

/// An object being taken apart.
pub(crate) struct Fields<'w> {
    place: String,
    map: Map<String, Value>,
    warnings: &'w mut Vec<Warning>,
}

impl<'w> Fields<'w> {
    /// `place` is the object's path, empty for the top level.
    pub(crate) fn new(
        place: impl Into<String>,
        map: Map<String, Value>,
        warnings: &'w mut Vec<Warning>,
    ) -> Self {
        Fields { place: place.into(), map, warnings }
    }

    /// What no getter has taken.
    pub(crate) fn rest(self) -> Map<String, Value> {
        self.map
    }

    /// The path of a field of this object.
    pub(crate) fn path(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }

    /// Lends the list of warnings, for a part that is read by someone else.
    pub(crate) fn warnings(&mut self) -> &mut Vec<Warning> {
        self.warnings
    }

    /// Records that something about a field is strange.
    pub(crate) fn warn(&mut self, key: &str, problem: impl Into<String>) {
        let place = self.path(key);
        warn(self.warnings, place, problem);
    }

    /// Takes a field as it is; `null` counts as missing.
    pub(crate) fn value(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key).filter(|v| !v.is_null())
    }

    /// A text; numbers and truth values are written out.
    pub(crate) fn text_or_none(&mut self, key: &str) -> Option<String> {
        let value = self.value(key)?;
        let text = plain_text(&value);
        if text.is_none() {
            self.wrong(key, "text", &value);
        }
        text
    }

    /// A text, empty when missing.
    pub(crate) fn text(&mut self, key: &str) -> String {
        self.text_or_none(key).unwrap_or_default()
    }

    /// A list of texts; a lone text counts as a list of one.
    pub(crate) fn texts(&mut self, key: &str) -> Vec<String> {
        match self.value(key) {
            Some(Value::Array(items)) => self.texts_of(key, items),
            Some(value) => match plain_text(&value) {
                Some(text) if text.trim().is_empty() => Vec::new(),
                Some(text) => vec![text],
                None => {
                    self.wrong(key, "a list of texts", &value);
                    Vec::new()
                }
            },
            None => Vec::new(),
        }
    }

    /// A list of short texts; a lone text is split at its commas.
    pub(crate) fn words(&mut self, key: &str) -> Vec<String> {
        match self.value(key) {
            Some(Value::String(text)) => split_words(&text),
            Some(value) => {
                self.map.insert(key.to_owned(), value);
                self.texts(key)
            }
            None => Vec::new(),
        }
    }

    /// A truth value; 0, 1 and their like in quotes count.
    pub(crate) fn flag(&mut self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        let flag = match &value {
            Value::Bool(b) => Some(*b),
            Value::Number(n) => n.as_f64().map(|n| n != 0.0),
            Value::String(s) => match s.trim().to_ascii_lowercase().as_str() {
                "true" | "1" => Some(true),
                "false" | "0" | "" => Some(false),
                _ => None,
            },
            _ => None,
        };
        if flag.is_none() {
            self.wrong(key, "true or false", &value);
        }
        flag
    }

    /// A finite number; one in quotes counts.
    pub(crate) fn number(&mut self, key: &str) -> Option<f64> {
        let value = self.value(key)?;
        let number = match &value {
            Value::Number(n) => n.as_f64(),
            Value::String(s) if s.trim().is_empty() => return None,
            Value::String(s) => s.trim().parse().ok(),
            _ => None,
        };
        let number = number.filter(|n: &f64| n.is_finite());
        if number.is_none() {
            self.wrong(key, "a number", &value);
        }
        number
    }

    /// A whole number; fractions are rounded and huge ones cut to the type's range.
    pub(crate) fn integer(&mut self, key: &str) -> Option<i64> {
        if let Some(exact) = self.map.get(key).and_then(Value::as_i64) {
            self.map.shift_remove(key);
            return Some(exact);
        }
        self.number(key).map(|n| n.round() as i64) // `as` saturates
    }

    /// A whole number from 0 to `u32::MAX`; negative ones become 0.
    pub(crate) fn count(&mut self, key: &str) -> Option<u32> {
        self.integer(key).map(|n| n.clamp(0, i64::from(u32::MAX)) as u32)
    }

    /// An object, empty when missing.
    pub(crate) fn object(&mut self, key: &str) -> Map<String, Value> {
        match self.value(key) {
            Some(Value::Object(map)) => map,
            Some(value) => {
                self.wrong(key, "an object", &value);
                Map::new()
            }
            None => Map::new(),
        }
    }

    /// The objects of a list, each with its path; others are left out with a warning.
    pub(crate) fn objects(&mut self, key: &str) -> Vec<(String, Map<String, Value>)> {
        let items = match self.value(key) {
            Some(Value::Array(items)) => items,
            Some(value) => {
                self.wrong(key, "a list", &value);
                Vec::new()
            }
            None => Vec::new(),
        };
        let mut objects = Vec::with_capacity(items.len());
        for (i, item) in items.into_iter().enumerate() {
            match item {
                Value::Object(map) => objects.push((format!("{}[{i}]", self.path(key)), map)),
                other => self.wrong(&format!("{key}[{i}]"), "an object", &other),
            }
        }
        objects
    }

    fn texts_of(&mut self, key: &str, items: Vec<Value>) -> Vec<String> {
        let mut texts = Vec::with_capacity(items.len());
        for (i, item) in items.into_iter().enumerate() {
            match plain_text(&item) {
                Some(text) => texts.push(text),
                None if item.is_null() => {}
                None => self.wrong(&format!("{key}[{i}]"), "text", &item),
            }
        }
        texts
    }

    fn wrong(&mut self, key: &str, expected: &str, got: &Value) {
        self.warn(key, format!("expected {expected}, got {}; left out", kind(got)));
    }
}

/// Adds a warning, up to the number that a reader can use.
pub(crate) fn warn(
    warnings: &mut Vec<Warning>,
    place: impl Into<String>,
    problem: impl Into<String>,
) {
    if warnings.len() < MAX_WARNINGS {
        warnings.push(Warning { place: place.into(), problem: problem.into() });
    }
}

/// What a value is, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The words of a list written as one text, split at ASCII and full-width commas.
pub(crate) fn split_words(text: &str) -> Vec<String> {
    text.split([',', '，']).map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

fn plain_text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read<T>(value: Value, read: impl FnOnce(&mut Fields) -> T) -> (T, Vec<String>) {
        let Value::Object(map) = value else { panic!("an object") };
        let mut warnings = Vec::new();
        let result = read(&mut Fields::new("data", map, &mut warnings));
        (result, warnings.iter().map(Warning::to_string).collect())
    }

    #[test]
    fn plain_meanings_are_put_right_in_silence() {
        let (got, warnings) = read(json!({"v": 1.5, "t": "a, b，c", "f": "0", "n": "7"}), |f| {
            (f.text("v"), f.words("t"), f.flag("f"), f.integer("n"), f.text("missing"))
        });
        let words = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(got, ("1.5".into(), words, Some(false), Some(7), String::new()));
        assert!(warnings.is_empty());
    }

    #[test]
    fn wrong_types_are_named_with_their_path() {
        let (_, warnings) = read(json!({"d": [1], "t": ["x", {}], "f": "maybe", "n": []}), |f| {
            assert_eq!(f.text_or_none("d"), None);
            assert_eq!(f.texts("t"), ["x"]);
            assert_eq!((f.flag("f"), f.integer("n")), (None, None));
        });
        assert_eq!(
            warnings,
            [
                "`data.d`: expected text, got a list; left out",
                "`data.t[1]`: expected text, got an object; left out",
                "`data.f`: expected true or false, got text; left out",
                "`data.n`: expected a number, got a list; left out",
            ]
        );
    }

    #[test]
    fn huge_numbers_stay_in_range() {
        let (got, _) = read(json!({"a": 1e300, "b": -5, "c": 9e18, "d": 2.6}), |f| {
            (f.count("a"), f.count("b"), f.integer("c"), f.integer("d"))
        });
        assert_eq!(got, (Some(u32::MAX), Some(0), Some(9_000_000_000_000_000_000), Some(3)));
    }
}
