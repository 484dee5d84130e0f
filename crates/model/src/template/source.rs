//! Changes to a template's source before it is compiled, none of which a well-meant
//! template can notice.
//!
//! Line ends become `\n` and generation tags plain scopes. Every `{% set %}` gets a guard
//! around its value: values may not be nested without end, nor a namespace hold itself,
//! because the engine recurses when it prints, compares or drops them.

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, State, Value};

const VALUE_GUARD: &str = "troupe_value";
const ATTRIBUTE_GUARD: &str = "troupe_attribute";

/// No value that a template has a use for is nested more deeply.
const MAX_DEPTH: usize = 32;

/// How many visited items one unit of fuel pays for.
const ITEMS_PER_FUEL: u64 = 2;

/// Adds the filters that [`prepare`] puts into templates.
pub(super) fn add_guards(engine: &mut Environment<'static>) {
    engine.add_filter(VALUE_GUARD, |state: &State, value: Value| guard(state, value, false));
    engine.add_filter(ATTRIBUTE_GUARD, |state: &State, value: Value| guard(state, value, true));
}

/// The source that is compiled for a template.
///
/// Every `{%` in the text counts as the start of a tag, also within a comment or a string:
/// so no tag is missed, and a template that prints template code, which none does, would
/// print the guards.
pub(super) fn prepare(source: &str) -> String {
    // Jinja2 reads every line end in a template as `\n`.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = rest.find("{%") {
        let (text, tag) = rest.split_at(start + 2);
        out.push_str(text);
        let len = tag_len(tag);
        push_tag(&mut out, &tag[..len]);
        rest = &tag[len..];
    }
    out.push_str(rest);
    out
}

/// The length of a tag's inside: up to `%}` or `-%}` outside strings, or to the end.
fn tag_len(tag: &str) -> usize {
    let bytes = tag.as_bytes();
    let mut quote = None;
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], quote) {
            (b'\\', Some(_)) => at += 1,
            (byte, Some(open)) if byte == open => quote = None,
            (byte @ (b'"' | b'\''), None) => quote = Some(byte),
            (b'%', None) if bytes.get(at + 1) == Some(&b'}') => {
                let control = at > 0 && matches!(bytes[at - 1], b'-' | b'+');
                return if control { at - 1 } else { at };
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Writes the inside of a tag, changed where it is one of ours.
fn push_tag(out: &mut String, tag: &str) {
    let name_at = tag.find(|c: char| c.is_alphanumeric()).unwrap_or(tag.len());
    let name_len = tag[name_at..].find(|c: char| !c.is_alphanumeric() && c != '_');
    let name_end = name_len.map_or(tag.len(), |len| name_at + len);
    let (head, body) = (&tag[..name_at], &tag[name_end..]);
    match &tag[name_at..name_end] {
        // Transformers marks the text between these as the assistant's; we know it from the
        // segments. Like `with`, they are a scope of their own.
        "generation" => out.extend([head, "with", body]),
        "endgeneration" => out.extend([head, "endwith", body]),
        "set" => push_set(out, &tag[..name_end], body),
        _ => out.push_str(tag),
    }
}

/// `{% set a = b %}` becomes `{% set a = (b) | guard %}`; for an attribute, the form
/// `{% set a.b %}text{% endset %}` is guarded too, since filters may follow its target.
fn push_set(out: &mut String, head: &str, body: &str) {
    let target_len = body.find(['=', '|']).unwrap_or(body.len());
    let (target, value) = body.split_at(target_len);
    let guard = if target.contains('.') { ATTRIBUTE_GUARD } else { VALUE_GUARD };
    out.push_str(head);
    match value.strip_prefix('=') {
        Some(value) => out.extend([target, "= (", value, ") | ", guard, " "]),
        None if guard == ATTRIBUTE_GUARD => out.extend([body, " | ", guard, " "]),
        None => out.push_str(body),
    }
}

fn guard(state: &State, value: Value, attribute: bool) -> Result<Value, Error> {
    let mut visited = 0;
    check(state, &value, 0, attribute, &mut visited)?;
    Ok(value)
}

fn check(
    state: &State,
    value: &Value,
    depth: usize,
    attribute: bool,
    visited: &mut u64,
) -> Result<(), Error> {
    let refuse = |detail: &'static str| Err(Error::new(ErrorKind::InvalidOperation, detail));
    *visited += 1;
    if visited.is_multiple_of(ITEMS_PER_FUEL) {
        state.consume_fuel(1)?;
    }
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        return Ok(());
    }
    if depth > MAX_DEPTH {
        return refuse("a value is nested too deeply");
    }
    let namespace =
        value.as_object().is_some_and(|object| object.type_name().contains("Namespace"));
    if attribute && namespace {
        return refuse("a namespace cannot be kept in a namespace");
    }
    for item in value.try_iter()? {
        check(state, &item, depth + 1, attribute, visited)?;
        if value.kind() == ValueKind::Map {
            check(state, &value.get_item(&item)?, depth + 1, attribute, visited)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::engine::{compile, render};
    use super::*;

    fn check(source: &str, expected: &str) {
        let engine = compile(source).unwrap();
        let variables = Value::from_pairs([("text", Value::from("a"))]);
        assert_eq!(render(&engine, variables).unwrap(), expected, "{source}");
    }

    #[test]
    fn generation_tags_keep_their_whitespace_control() {
        check("x {%- generation -%} {{ text }} {%- endgeneration %} y", "xa y");
        check("x {% generation %} {{ text }} {% endgeneration %} y", "x  a  y");
        check("{% generation %}\n{{ text }}\n{% endgeneration %}\ny", "a\ny");
        // A scope: what is set inside is gone after it.
        check("{% set b = 1 %}{% generation %}{% set b = 2 %}{% endgeneration %}{{ b }}", "1");
    }

    #[test]
    fn blocks_are_trimmed_and_line_ends_are_newlines() {
        check("a\r\n  {% if true %}\r\nb\r{% endif %}\r\nc\n", "a\nb\nc");
        check(
            "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "01",
        );
    }

    #[test]
    fn guarded_assignments_assign() {
        check("{% set b = text if text else 1 %}{{ b }}", "a");
        check("{%- set b, c = 1, '%}' -%} {{ b }}{{ c }}", "1%}");
        check("{% set ns = namespace(x=0) %}{% set ns.x = ns.x + 1 %}{{ ns.x }}", "1");
        check("{% set b | upper %}x{{ text }}{% endset %}{{ b }}", "XA");
        check("{% set ns = namespace() %}{% set ns.x %}y{% endset %}{{ ns.x }}", "y");
        check("{% set b = nothing %}{{ b is defined }}{{ b is undefined }}", "FalseTrue");
        check("{% set b = [1, {'c': 2}] %}{{ b[1].c }}{{ b == [1, {'c': 2}] }}", "2True");
        check("{%+ set b = 'it\\'s' +%}\n{{ b }}", "\nit's");
    }
}
