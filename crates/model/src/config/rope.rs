//! Rotary frequencies and their scaling to longer contexts.

use super::ConfigError;
use std::f64::consts::PI;

/// The frequencies of rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// How the frequencies are scaled.
    pub scaling: RopeScaling,
}

/// Scaling of rotary frequencies. All are those of transformers'
/// `modeling_rope_utils.py`.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// As they are.
    None,
    /// All divided by `factor` (position interpolation, arXiv:2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Long wavelengths divided by `factor`, short ones kept, a ramp between (Llama 3).
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original / high` are short.
        high_freq_factor: f64,
        /// Context of the first training.
        original_max_positions: f64,
    },
    /// YaRN, arXiv:2309.00071.
    Yarn {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided.
        beta_slow: f64,
        /// Context of the first training.
        original_max_positions: f64,
        /// Multiplies cosines and sines.
        attention_factor: f64,
    },
    /// Each frequency divided by its own factor, as GGUF files store them.
    Factors(Vec<f32>),
}

impl RopeConfig {
    /// Inverse frequencies in radians per token, one for each pair of a head, and the
    /// factor on cosines and sines.
    pub fn inverse_frequencies(&self, head_dim: usize) -> (Vec<f32>, f32) {
        let plain = (0..head_dim / 2)
            .map(|i| 1.0 / self.theta.powf(2.0 * i as f64 / head_dim as f64))
            .collect::<Vec<f64>>();
        let narrow = |v: Vec<f64>| v.into_iter().map(|x| x as f32).collect();
        match &self.scaling {
            RopeScaling::None => (narrow(plain), 1.0),
            RopeScaling::Linear { factor } => {
                (narrow(plain.into_iter().map(|f| f / factor).collect()), 1.0)
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_positions: original,
            } => {
                let scale = |f: f64| {
                    let wavelength = 2.0 * PI / f;
                    if wavelength < original / high {
                        f
                    } else if wavelength > original / low {
                        f / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                (narrow(plain.into_iter().map(scale).collect()), 1.0)
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_positions: original,
                attention_factor,
            } => {
                let dim = head_dim as f64;
                let turns_at = |turns: f64| {
                    dim * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let low = turns_at(*beta_fast).floor().max(0.0);
                let mut high = turns_at(*beta_slow).ceil().min(dim - 1.0);
                if high == low {
                    high += 0.001;
                }
                let scale = |(i, f): (usize, f64)| {
                    let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * divided + f * (1.0 - divided)
                };
                let scaled = plain.into_iter().enumerate().map(scale).collect();
                (narrow(scaled), *attention_factor as f32)
            }
            RopeScaling::Factors(factors) => {
                let divided = plain.iter().zip(factors).map(|(f, d)| f / f64::from(*d));
                (divided.map(|x| x as f32).collect(), 1.0)
            }
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let positive = |field: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err(ConfigError::unsupported(field, value, "a positive number"))
            }
        };
        positive("rope_theta", self.theta)?;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("rope_scaling.factor", *factor),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_positions,
            } => {
                positive("rope_scaling.factor", *factor)?;
                positive("rope_scaling.low_freq_factor", *low)?;
                positive("rope_scaling.original_max_position_embeddings", *original_max_positions)?;
                if high > low {
                    return Ok(());
                }
                let expected = format!("above low_freq_factor, {low}");
                Err(ConfigError::unsupported("rope_scaling.high_freq_factor", high, expected))
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_positions,
                attention_factor,
            } => {
                positive("rope_scaling.factor", *factor)?;
                positive("rope_scaling.beta_fast", *beta_fast)?;
                positive("rope_scaling.beta_slow", *beta_slow)?;
                positive("rope_scaling.original_max_position_embeddings", *original_max_positions)?;
                positive("rope_scaling.attention_factor", *attention_factor)
            }
            RopeScaling::Factors(factors) => {
                factors.iter().try_for_each(|&f| positive("rope_freqs.weight", f64::from(f)))
            }
        }
    }
}

/// YaRN's attention factor where the config does not give one.
pub(super) fn yarn_attention_factor(factor: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> Vec<f32> {
        RopeConfig { theta: 10_000.0, scaling }.inverse_frequencies(8).0
    }

    #[test]
    fn plain_and_linear_by_hand() {
        // theta^(-2i/8) for i = 0..4: 1, 0.1, 0.01, 0.001.
        let close = |got: Vec<f32>, want: [f32; 4]| {
            got.iter().zip(want).all(|(a, b)| (a - b).abs() <= 1e-7 * b.abs())
        };
        assert!(close(rope(RopeScaling::None), [1.0, 0.1, 0.01, 0.001]));
        let linear = rope(RopeScaling::Linear { factor: 4.0 });
        assert!(close(linear, [0.25, 0.025, 0.0025, 0.00025]));
        let factors = rope(RopeScaling::Factors(vec![1.0, 1.0, 2.0, 10.0]));
        assert!(close(factors, [1.0, 0.1, 0.005, 0.0001]));
    }

    #[test]
    fn yarn_keeps_fast_frequencies_and_divides_slow_ones() {
        let config = RopeConfig {
            theta: 1_000_000.0,
            scaling: RopeScaling::Yarn {
                factor: 4.0,
                beta_fast: 32.0,
                beta_slow: 1.0,
                original_max_positions: 32_768.0,
                attention_factor: yarn_attention_factor(4.0),
            },
        };
        let plain = RopeConfig { theta: 1_000_000.0, scaling: RopeScaling::None };
        let (scaled, factor) = config.inverse_frequencies(128);
        let (plain, _) = plain.inverse_frequencies(128);
        assert_eq!((scaled[0], scaled[20]), (plain[0], plain[20]));
        assert!((scaled[63] * 4.0 - plain[63]).abs() < 1e-12);
        assert!((factor - 1.138_629_4).abs() < 1e-6);
    }
}
