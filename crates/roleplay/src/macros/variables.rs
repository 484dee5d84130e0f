//! `{{getvar}}`, `{{setvar}}` and the others that remember values.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A longer value is not stored: `{{setvar::a::{{getvar::a}}{{getvar::a}}}}` doubles.
const MAX_VALUE_BYTES: usize = 64 << 10;
/// More variables than this are not stored.
const MAX_VARIABLES: usize = 4096;
/// A variable's name is a word.
const MAX_NAME_BYTES: usize = 256;

/// Values that macros have stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Variables {
    /// Those of this chat.
    pub local: BTreeMap<String, String>,
    /// Those of all chats.
    pub global: BTreeMap<String, String>,
}

/// The macros, without their endings `var` and `globalvar`.
const ACTIONS: &[&str] = &["get", "set", "add", "inc", "dec", "has", "delete"];

impl Variables {
    /// Whether there is a macro of this name.
    pub(super) fn has_macro(name: &str) -> bool {
        let action = name.strip_suffix("globalvar").or(name.strip_suffix("var"));
        action.is_some_and(|action| ACTIONS.contains(&action))
    }

    /// Runs a macro on a variable: its text, and whether a limit kept it from storing.
    /// None if there is no such macro or a value is missing.
    pub(super) fn call(
        &mut self,
        macro_name: &str,
        variable: &str,
        value: Option<&String>,
    ) -> Option<(String, bool)> {
        let (action, variables) = match macro_name.strip_suffix("globalvar") {
            Some(action) => (action, &mut self.global),
            None => (macro_name.strip_suffix("var")?, &mut self.local),
        };
        let old = variables.get(variable);
        let (new, text) = match action {
            "get" => return Some((old.cloned().unwrap_or_default(), false)),
            "has" => return Some((old.is_some().to_string(), false)),
            "delete" => {
                variables.remove(variable);
                return Some((String::new(), false));
            }
            "set" => (value?.clone(), String::new()),
            "add" => (added(old, value?), String::new()),
            "inc" | "dec" => {
                let step = if action == "inc" { "1" } else { "-1" };
                let new = added(old, step);
                (new.clone(), new)
            }
            _ => return None,
        };
        let limited = new.len() > MAX_VALUE_BYTES
            || variable.len() > MAX_NAME_BYTES
            || old.is_none() && variables.len() >= MAX_VARIABLES;
        if !limited {
            variables.insert(variable.to_owned(), new);
        }
        Some((text, limited))
    }
}

/// The sum of two numbers, or the two texts in a row. A missing value is 0.
fn added(old: Option<&String>, value: &str) -> String {
    let old = old.map_or("", String::as_str);
    let number = |text: &str| match text.trim() {
        "" => Some(0.0),
        text => text.parse().ok().filter(|n: &f64| n.is_finite()),
    };
    match (number(old), number(value)) {
        (Some(a), Some(b)) => (a + b).to_string(),
        _ => format!("{old}{value}"),
    }
}
