//! The flags of sampling. What is not given comes from the command's own defaults.

use clap::Args;
use troupe_dialogue::{Sampling, SamplingError};

/// How tokens are drawn.
#[derive(Args, Clone)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// 0 always takes the most likely token, 1 leaves the model's distribution
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Keep the K most likely tokens; 0 is off
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Keep the most likely tokens up to this mass; 1 is off
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Keep tokens of at least this share of the most likely one's probability; 0 is off
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Make tokens that were seen less likely; 1 is off
    #[arg(long, value_name = "R")]
    pub repetition_penalty: Option<f32>,
    /// How many last tokens the penalty looks at; 0 is all
    #[arg(long, value_name = "N")]
    pub repetition_range: Option<usize>,
}

/// What suits role-play: lively, without the unlikely tail, slow to repeat itself.
pub const ROLE_PLAY: Sampling = Sampling {
    temperature: 0.8,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.05,
    repetition_penalty: 1.1,
    repetition_range: 256,
};

impl SamplingArgs {
    /// Checked settings. `--temperature 0` alone is plain greedy decoding: the default
    /// penalty is left out unless it is asked for.
    pub fn over(&self, defaults: Sampling) -> Result<Sampling, SamplingError> {
        let defaults = if self.temperature == Some(0.0) { Sampling::greedy() } else { defaults };
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            repetition_range: self.repetition_range.unwrap_or(defaults.repetition_range),
        };
        sampling.validate()?;
        Ok(sampling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_is_plain_unless_more_is_asked_for() {
        let none = SamplingArgs {
            temperature: None,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: None,
            repetition_range: None,
        };
        assert_eq!(none.over(ROLE_PLAY), Ok(ROLE_PLAY));
        let greedy = SamplingArgs { temperature: Some(0.0), ..none.clone() };
        assert_eq!(greedy.over(ROLE_PLAY), Ok(Sampling::greedy()));
        let both = SamplingArgs { repetition_penalty: Some(1.3), ..greedy };
        assert_eq!(both.over(ROLE_PLAY).unwrap().repetition_penalty, 1.3);
        assert!(SamplingArgs { top_p: Some(0.0), ..none }.over(ROLE_PLAY).is_err());
    }
}
