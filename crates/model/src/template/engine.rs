//! The Jinja engine, set up so that it renders as transformers does.
//!
//! Settings and functions are those of transformers 5.23.0, `utils/chat_template_utils.py`
//! (`_cached_compile_jinja_template`): blocks trimmed, loop controls, `tojson` without HTML
//! escapes, `raise_exception`, `strftime_now`, generation tags without effect. A template
//! is a program from a stranger: it can reach nothing but its variables, and the engine's
//! fuel bounds what it may do.

use std::fmt::Write;

use chrono::NaiveDateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};

use super::{python, source};

/// The longest template that is compiled. The longest in use have some 20 kB; the stack
/// that compiling takes grows with the length (see [`on_own_stack`]).
pub(super) const MAX_SOURCE_BYTES: usize = 64 << 10;

/// What one rendering may cost: one unit pays for an instruction or for 64 bytes of
/// strings made or written, so this also bounds memory and output (320 MB). A chat of two
/// hundred long messages takes about a hundredth; an endless loop ends within a second.
const FUEL: u64 = 5_000_000;

/// Macros that call macros, at four a call: depth 50.
const MAX_RECURSION: usize = 200;

/// Address space for [`on_own_stack`]; pages that are not used are never taken. A
/// template of the maximum length made of nothing but `-` takes about half.
const STACK_BYTES: usize = 256 << 20;

const NAME: &str = "chat_template";

/// Compiles a template.
pub(super) fn compile(source: &str) -> Result<Environment<'static>, Error> {
    let mut engine = Environment::new();
    engine.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    engine.set_auto_escape_callback(|_| AutoEscape::None);
    engine.set_debug(false);
    engine.set_fuel(Some(FUEL));
    engine.set_recursion_limit(MAX_RECURSION);
    engine.set_unknown_method_callback(python::method);
    engine.add_filter("tojson", python::tojson);
    engine.add_filter("trim", python::trim);
    engine.add_test("iterable", python::is_iterable);
    engine.add_test("sequence", python::is_sequence);
    engine.add_function("raise_exception", raise_exception);
    // Not in transformers, and both print nested values in time that fuel does not count.
    engine.remove_filter("pprint");
    engine.remove_global("debug");
    source::add_guards(&mut engine);
    engine.add_template_owned(NAME, source::prepare(source))?;
    Ok(engine)
}

/// Renders the template of an environment made by [`compile`].
pub(super) fn render(engine: &Environment, variables: Value) -> Result<String, Error> {
    engine.get_template(NAME)?.render(variables)
}

/// Runs compiling or rendering on a large stack of its own.
///
/// The engine recurses: over the operators of an expression while it compiles, over nested
/// values while it prints, compares and drops them. A long chain or a deep nest in a
/// hostile template would overflow a thread's usual stack, which ends the process.
///
/// # Errors
/// There is no memory for the stack, or the engine panicked.
pub(super) fn on_own_stack<T: Send>(run: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name(NAME.into()).stack_size(STACK_BYTES);
        match builder.spawn_scoped(scope, run)?.join() {
            Ok(result) => Ok(result),
            Err(_) => Err(std::io::Error::other("the template engine panicked")),
        }
    })
}

/// What a template said to `raise_exception`, if that is what went wrong.
pub(super) fn raised(error: &Error) -> Option<&str> {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message);
        }
        source = error.source();
    }
    None
}

/// The function `strftime_now` for a fixed time.
pub(super) fn strftime_now(now: NaiveDateTime) -> Value {
    Value::from_function(move |format: &str| {
        let mut text = String::new();
        // `format` writes lazily and fails on a specifier that it does not know.
        match write!(text, "{}", now.format(format)) {
            Ok(()) => Ok(text),
            Err(_) => {
                let detail = format!("strftime_now cannot format `{}`", format.escape_debug());
                Err(Error::new(ErrorKind::InvalidOperation, detail))
            }
        }
    })
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, "the template raised an exception");
    Err(error.with_source(Raised(message.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_carry_their_message() {
        let engine = compile("{{ raise_exception('no ' ~ text) }}").unwrap();
        let error = render(&engine, Value::from_pairs([("text", "way")])).unwrap_err();
        assert_eq!(raised(&error), Some("no way"));
        let engine = compile("{{ text.a.b }}").unwrap();
        let error = render(&engine, Value::from_pairs([("text", "way")])).unwrap_err();
        assert_eq!(raised(&error), None);
    }

    /// Renders on the engine's own stack; a hostile template may only fail.
    fn attack(source: &str) -> Result<String, String> {
        let run = || render(&compile(source)?, Value::UNDEFINED);
        on_own_stack(run).unwrap().map_err(|error| error.to_string())
    }

    #[test]
    fn hostile_templates_run_out_of_fuel() {
        let doubling = "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}\
            {% set ns.s = [ns.s, ns.s] %}{% endfor %}";
        let sources = [
            "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
            "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
            &format!("{doubling}{{{{ ns.s | tojson }}}}"),
            &format!("{doubling}{{{{ ns.s }}}}"),
            &format!("{doubling}{{{{ ns.s == [ns.s] }}}}"),
            "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
            "{{ 'a' * 999999999 }}",
            "{{ [1] | tojson(indent=999999999) }}",
        ];
        for source in sources {
            assert!(attack(source).is_err(), "{source}");
        }
    }

    #[test]
    fn deep_values_do_not_overflow_the_stack() {
        let uses =
            ["", "{{ ns.s | tojson }}", "{{ ns.s }}", "{{ ns.s == ns.s }}", "{{ ns.s | string }}"];
        for end in uses {
            let grow = |set: &str| {
                format!(
                    "{{% set ns = namespace(s=[1]) %}}{{% for i in range(90000) %}}{set}{{% endfor %}}{end}"
                )
            };
            assert!(attack(&grow("{% set ns.s = [ns.s] %}")).is_err());
            assert!(attack(&grow("{%-set\nns . s=[ns.s]-%}")).is_err());
            assert!(attack(&grow("{% set t = [ns.s] %}{% set ns.s = t %}")).is_err());
            assert!(attack(&grow("{% set ns.s, t = [ns.s], 1 %}")).is_err());
            assert!(attack(&grow("{% set ns.s | default([ns.s], true) %}{% endset %}")).is_err());
            let cycle = "{% set ns = namespace() %}{% set ns.s = ns %}";
            assert!(attack(&format!("{cycle}{end}")).is_err());
            let cycle = "{% set ns = namespace() %}{% set t = [ns] %}{% set ns.s = t %}";
            assert!(attack(&format!("{cycle}{end}")).is_err());
        }
        let (open, close) = ("[".repeat(60), "]".repeat(60));
        let nest = format!("{{{{ f({open}s{close}, n - 1) }}}}");
        let _ = attack(&format!(
            "{{% macro f(s, n) %}}{{% if n %}}{nest}{{% else %}}{{{{ s }}}}{{% endif %}}{{% endmacro %}}{{{{ f(1, 40) }}}}"
        ));
    }

    #[test]
    fn long_chains_do_not_overflow_the_stack() {
        let chain = |start: &str, link: &str, end: &str| {
            let links = (MAX_SOURCE_BYTES - start.len() - end.len()) / link.len();
            attack(&[start, &link.repeat(links), end].concat())
        };
        let _ = chain("{{ 1", "+1", " }}");
        let _ = chain("{{ ", "-", "1 }}");
        let _ = chain("{{ ", "not ", "1 }}");
        let _ = chain("{{ [1]", "|list", " }}");
        let _ = chain("{{ [1]", "|batch(1)", " }}");
        let _ = chain("{{ x", "[0]", " }}");
        let _ = chain("{{ ", "(", " }}");
        let _ = chain("{% set s = [1] %}", "{% set s=[s] %}", "{{ s }}");
        let _ = chain("{% if 0 %}", "{% elif 0 %}", "{% endif %}");
        let _ = chain("{% if 0 %}", "{% if 0 %}", "");
    }

    #[test]
    fn the_time_is_the_one_given() {
        let now =
            chrono::NaiveDate::from_ymd_opt(2024, 7, 26).unwrap().and_hms_opt(9, 5, 1).unwrap();
        let render_now = |source: &str| {
            let variables = Value::from_pairs([("strftime_now", strftime_now(now))]);
            render(&compile(source).unwrap(), variables)
        };
        assert_eq!(
            render_now("{{ strftime_now('%d %b %Y, %H:%M') }}").unwrap(),
            "26 Jul 2024, 09:05"
        );
        assert!(render_now("{{ strftime_now('%!') }}").is_err());
    }
}
