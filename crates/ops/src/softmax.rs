//! Softmax pieces over one row in host memory, for samplers.

use crate::simd::{Simd, dispatch, exp};

/// `ln sum_i e^(x_i * scale)`, in nats.
pub fn log_sum_exp(x: &[f32], scale: f32) -> f32 {
    let top = x.iter().map(|z| z * scale).fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0f64;
    sum_exp(x, scale, top, &mut sum);
    (f64::from(top) + sum.ln()) as f32
}

/// `out_i = e^((x_i - top) * scale)`; at most 1 where `top` is the maximum.
///
/// # Panics
/// When the lengths differ.
pub fn exp_into(x: &[f32], scale: f32, top: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "softmax: input and output");
    exponentiate(x, scale, top, out);
}

#[inline(always)]
unsafe fn sum_exp_kernel<S: Simd>(x: &[f32], scale: f32, top: f32, out: &mut f64) {
    let mut sums = [0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..16 {
            sums[i] += exp(chunk[i] * scale - top);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += exp(x * scale - top);
    }
    *out = sums.iter().map(|&s| f64::from(s)).sum();
}

#[inline(always)]
unsafe fn exponentiate_kernel<S: Simd>(x: &[f32], scale: f32, top: f32, out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = exp((x - top) * scale);
    }
}

dispatch! { fn sum_exp = sum_exp_kernel(x: &[f32], scale: f32, top: f32, out: &mut f64) }
dispatch! {
    fn exponentiate = exponentiate_kernel(x: &[f32], scale: f32, top: f32, out: &mut [f32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_sum_exp_by_hand_and_far_from_zero() {
        // ln(1 + 3) with logits 0 and ln 3, at any offset.
        for offset in [0.0f32, 500.0, -500.0] {
            let x = [offset, offset + 3f32.ln()];
            assert!((log_sum_exp(&x, 1.0) - offset - 4f32.ln()).abs() < 1e-4, "{offset}");
        }
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY, 2.0], 1.0), 2.0);
        assert!((log_sum_exp(&[0.0; 41], 0.5) - 41f32.ln()).abs() < 1e-6);
    }
}
