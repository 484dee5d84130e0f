//! What templates know from Python: `json.dumps` as a filter, and string methods.
//!
//! Most methods are minijinja's own Python compatibility; here are those that differ from
//! Python or that it lacks. Sources: CPython 3.12, `json/encoder.py` and `str` of the
//! library reference.

use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(
    state: &State,
    value: &Value,
    arguments: Rest<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    const NAMES: [&str; 4] = ["ensure_ascii", "indent", "separators", "sort_keys"];
    if arguments.len() > NAMES.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let argument = |idx: usize| -> Result<Value, Error> {
        match arguments.get(idx) {
            Some(value) => Ok(value.clone()),
            None => Ok(named.get::<Option<Value>>(NAMES[idx])?.unwrap_or_default()),
        }
    };
    let (indent, separators) = (argument(1)?, argument(2)?);
    let indent = match indent.kind() {
        ValueKind::Undefined | ValueKind::None => None,
        ValueKind::String => Some(indent.to_string()),
        _ => {
            let width = i64::try_from(indent)?.max(0);
            if width > MAX_INDENT {
                return Err(invalid(format!("tojson indents by at most {MAX_INDENT}")));
            }
            Some(" ".repeat(width as usize))
        }
    };
    let (item, key) = match separators.kind() {
        ValueKind::Undefined | ValueKind::None if indent.is_some() => (",".into(), ": ".into()),
        ValueKind::Undefined | ValueKind::None => (", ".into(), ": ".into()),
        _ => (
            separators.get_item_by_index(0)?.to_string(),
            separators.get_item_by_index(1)?.to_string(),
        ),
    };
    let mut writer = JsonWriter {
        state,
        out: String::new(),
        charged: 0,
        ascii: argument(0)?.is_true(),
        sorted: argument(3)?.is_true(),
        indent,
        item,
        key,
    };
    named.assert_all_used()?;
    writer.value(value, 0)?;
    Ok(writer.out)
}

/// `str.strip`, which Jinja2's filter calls.
pub(super) fn trim(value: &Value, characters: Option<&str>) -> String {
    strip(&value.to_string(), characters, true, true).to_owned()
}

/// Whether Python's `iter` takes a value; minijinja also iterates over `none`.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Whether a value has a length and items, which for Jinja2 holds of texts and maps too.
pub(super) fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Bytes, Map, Seq, String, Undefined};
    matches!(value.kind(), Undefined | String | Bytes | Seq | Map)
}

/// A text without the white space around it, as a template's `trim` leaves it.
pub(super) fn stripped(text: &str) -> &str {
    strip(text, None, true, true)
}

/// Methods that minijinja itself does not have on a value.
pub(super) fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    if value.kind() == ValueKind::String
        && let Some(text) = value.as_str()
        && let Some(result) = string_method(text, name, arguments)?
    {
        return Ok(result);
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments)
}

fn string_method(text: &str, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<&str>,) = from_args(arguments)?;
            strip(text, characters, name != "rstrip", name != "lstrip").into()
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(arguments)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(arguments)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "split" if arguments.is_empty() => {
            text.split(is_space).filter(|word| !word.is_empty()).map(Value::from).collect()
        }
        "splitlines" if arguments.is_empty() => lines(text).into_iter().map(Value::from).collect(),
        _ => return Ok(None),
    }))
}

/// Python's whitespace is Unicode's and four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn strip<'a>(text: &'a str, characters: Option<&str>, left: bool, right: bool) -> &'a str {
    let gone = |c: char| characters.map_or_else(|| is_space(c), |set| set.contains(c));
    let text = if left { text.trim_start_matches(gone) } else { text };
    if right { text.trim_end_matches(gone) } else { text }
}

fn lines(text: &str) -> Vec<&str> {
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(ends) {
        lines.push(&rest[..end]);
        let long = if rest[end..].starts_with("\r\n") {
            2
        } else {
            rest[end..].chars().next().map_or(0, char::len_utf8)
        };
        rest = &rest[end + long..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// Values nested more deeply than this are refused: the writer recurses.
const MAX_DEPTH: usize = 64;
/// Far above any use; the indent is written once a line and level.
const MAX_INDENT: i64 = 64;
/// One unit of fuel pays for this many bytes.
const BYTES_PER_FUEL: usize = 64;

struct JsonWriter<'a> {
    state: &'a State<'a, 'a>,
    out: String,
    /// How many bytes of `out` have been paid for.
    charged: usize,
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

fn invalid(detail: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}

impl JsonWriter<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid(format!("tojson takes values nested at most {MAX_DEPTH} deep")));
        }
        // A list that holds another twice doubles at every level, so each step is paid for.
        let bytes = self.out.len() - self.charged;
        self.state.consume_fuel(1 + (bytes / BYTES_PER_FUEL) as u64)?;
        self.charged = self.out.len();
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.collect::<Vec<_>>();
                self.container(['[', ']'], items, depth, |writer, item| {
                    writer.value(item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    pairs.push((key_text(&key)?, item));
                }
                if self.sorted {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.container(['{', '}'], pairs, depth, |writer, (key, item)| {
                    writer.text(key);
                    writer.out.push_str(&writer.key);
                    writer.value(item, depth + 1)
                })?;
            }
            kind => return Err(invalid(format!("{kind} is not json serializable"))),
        }
        Ok(())
    }

    fn container<T>(
        &mut self,
        [open, close]: [char; 2],
        items: Vec<T>,
        depth: usize,
        mut write: impl FnMut(&mut Self, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (idx, item) in items.iter().enumerate() {
            if idx > 0 {
                self.out.push_str(&self.item);
            }
            self.new_line(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
    }

    fn number(&mut self, value: &Value) {
        match f64::try_from(value.clone()) {
            Ok(number) if !value.is_integer() => self.out.push_str(&float_text(number)),
            _ => self.out.push_str(&value.to_string()),
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a string cannot fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A key as `json.dumps` writes it: strings as they are, scalars in JSON's words.
fn key_text(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.to_string(),
        ValueKind::None => "null".into(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number => match f64::try_from(key.clone()) {
            Ok(number) if !key.is_integer() => float_text(number),
            _ => key.to_string(),
        },
        kind => return Err(invalid(format!("{kind} cannot be a key of json"))),
    })
}

/// Python's `repr` of a float, with JSON's names for what JSON does not have.
fn float_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    // Rust and Python both write the shortest digits that read back; Python turns to the
    // exponent from 1e16 and below 1e-4, with two digits at least.
    let exponent = format!("{number:e}");
    let (digits, power) = exponent.split_once('e').unwrap_or((&exponent, "0"));
    match power.parse::<i32>() {
        Ok(power) if number != 0.0 && !(-4..16).contains(&power) => {
            let sign = if power < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", power.abs())
        }
        _ => format!("{number:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::{compile, render};
    use super::*;

    fn check(expression: &str, expected: &str) {
        let engine = compile(&format!("{{{{ {expression} }}}}")).unwrap();
        assert_eq!(render(&engine, Value::UNDEFINED).unwrap(), expected, "{expression}");
    }

    // The expected texts are what Python 3.12 prints.
    #[test]
    fn json_as_python_writes_it() {
        check(
            r#"{'a': [1, 2.0, none, true], '<b>': '"é\n'} | tojson"#,
            r#"{"a": [1, 2.0, null, true], "<b>": "\"é\n"}"#,
        );
        check(r#"'é\u0007🌧' | tojson(ensure_ascii=true)"#, r#""\u00e9\u0007\ud83c\udf27""#);
        check("{'b': [], 'a': {}} | tojson(indent=2)", "{\n  \"b\": [],\n  \"a\": {}\n}");
        check("[1, [2]] | tojson(indent=1)", "[\n 1,\n [\n  2\n ]\n]");
        check(
            "{'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':'))",
            r#"{"a":2,"b":1}"#,
        );
        check(
            "[1e16, 1.5e-7, 0.0001, 123456.789, 1e15] | tojson",
            "[1e+16, 1.5e-07, 0.0001, 123456.789, 1000000000000000.0]",
        );
        check("{2: 1, none: 3, true: 4} | tojson", r#"{"2": 1, "null": 3, "true": 4}"#);
    }

    #[test]
    fn string_methods_as_python_has_them() {
        check(r"'\u001c a\u00a0'.strip() | tojson", r#""a""#);
        check("'xxayx'.strip('x') ~ '|' ~ 'xay'.lstrip('x') ~ '|' ~ 'ay '.rstrip()", "ay|ay|ay");
        check("'abab'.removeprefix('ab') ~ 'abab'.removesuffix('b')", "ababa");
        check(r"'a \u001d b  c'.split() | tojson", r#"["a", "b", "c"]"#);
        check(r"'a\r\nb\u2028c\n'.splitlines() | tojson", r#"["a", "b", "c"]"#);
        check("'a</think>b'.split('</think>')[-1] ~ 'x'.upper()", "bX");
        check(
            "none is iterable ~ [] is iterable ~ 'a' is iterable ~ 1 is iterable",
            "FalseTrueTrueFalse",
        );
        check(
            "'a' is sequence ~ {} is sequence ~ nothing is sequence ~ 1 is sequence",
            "TrueTrueTrueFalse",
        );
        check("[1, 2, 3][::-1] ~ none ~ true", "[3, 2, 1]NoneTrue");
        check("{'a': 1}.items() | list ~ {'a': 1}.get('b', 2)", "[('a', 1)]2");
    }
}
