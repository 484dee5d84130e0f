//! How the next token is drawn: the settings, their "off" values and their checks.
//!
//! Names and semantics are those of the local-LLM world. The order in which an
//! engine applies them is: repetition penalty, top-k, top-p, min-p, temperature.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Settings of one draw. [`Sampling::default`] samples from the unmodified model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits; 1 leaves them, 0 is greedy.
    pub temperature: f32,
    /// Keeps the k most likely tokens; 0 is off.
    pub top_k: usize,
    /// Keeps the smallest set of tokens whose probability reaches this; 1 is off.
    pub top_p: f32,
    /// Keeps tokens of at least this share of the most likely one's probability; 0 is off.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen before; 1 is off.
    pub repetition_penalty: f32,
    /// How many of the last tokens (prompt and reply) the penalty looks at; 0 is all.
    pub repetition_range: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_range: 0,
        }
    }
}

/// A setting outside the range in which it means something.
#[derive(Debug, Clone, Error, PartialEq)]
#[error("`{field}` is {value}; expected {expected}")]
pub struct SamplingError {
    /// The setting.
    pub field: &'static str,
    /// What it was.
    pub value: f32,
    /// What it may be.
    pub expected: &'static str,
}

impl Sampling {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        Sampling { temperature: 0.0, ..Self::default() }
    }

    /// Whether the draw is deterministic.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is out of range, with the range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = |field, value: f32, ok: bool, expected| {
            if ok { Ok(()) } else { Err(SamplingError { field, value, expected }) }
        };
        let t = self.temperature;
        check("temperature", t, (0.0..=100.0).contains(&t), "0 (greedy) to 100")?;
        let p = self.top_p;
        check("top_p", p, p > 0.0 && p <= 1.0, "above 0, at most 1 (off)")?;
        check("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 (off) to 1")?;
        let r = self.repetition_penalty;
        check("repetition_penalty", r, r > 0.0 && r <= 100.0, "above 0, at most 100; 1 is off")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_off_and_valid() {
        assert_eq!(Sampling::default().validate(), Ok(()));
        assert!(Sampling::greedy().is_greedy());
    }

    #[test]
    fn nan_and_out_of_range_are_named() {
        let bad = Sampling { temperature: f32::NAN, ..Sampling::default() };
        assert_eq!(bad.validate().unwrap_err().field, "temperature");
        let bad = Sampling { top_p: 0.0, ..Sampling::default() };
        assert_eq!(bad.validate().unwrap_err().field, "top_p");
        let bad = Sampling { min_p: -0.1, ..Sampling::default() };
        assert_eq!(bad.validate().unwrap_err().field, "min_p");
        let bad = Sampling { repetition_penalty: 0.0, ..Sampling::default() };
        assert_eq!(bad.validate().unwrap_err().field, "repetition_penalty");
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_json::from_str::<Sampling>(r#"{"temprature": 1}"#).is_err());
    }
}
