//! Block-quantised weight formats, bit for bit those of GGUF files.
//!
//! A row is a sequence of blocks of 32 weights. Dequantisation follows ggml's reference:
//! one multiplication, then one addition, in f32, so every reader of a file gets the
//! same numbers.

use crate::simd::{Simd, dispatch};

/// A block format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuantType {
    /// 4 bits, `d * (q - 8)`.
    Q4_0,
    /// 4 bits, `d * q + m`.
    Q4_1,
    /// 8 bits, `d * q`.
    Q8_0,
}

impl QuantType {
    /// Weights in a block.
    pub const fn block_len(self) -> usize {
        32
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            QuantType::Q4_0 => 18,
            QuantType::Q4_1 => 20,
            QuantType::Q8_0 => 34,
        }
    }

    /// The format's name in ggml.
    pub const fn name(self) -> &'static str {
        match self {
            QuantType::Q4_0 => "Q4_0",
            QuantType::Q4_1 => "Q4_1",
            QuantType::Q8_0 => "Q8_0",
        }
    }

    /// Bytes of `n` weights; none when `n` is no multiple of the block.
    pub fn bytes_for(self, n: usize) -> Option<usize> {
        if !n.is_multiple_of(self.block_len()) {
            return None;
        }
        (n / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Dequantises whole blocks.
    ///
    /// # Panics
    /// When `bytes` does not hold exactly `out.len()` weights.
    pub fn dequantise(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(self.bytes_for(out.len()), Some(bytes.len()), "{} blocks", self.name());
        match self {
            QuantType::Q4_0 => q4_0(bytes, out),
            QuantType::Q4_1 => q4_1(bytes, out),
            QuantType::Q8_0 => q8_0(bytes, out),
        }
    }
}

/// Widens f16 bits. Branch-free, so that loops over it become vector code: a scaled
/// multiplication sets the exponent, subnormals included.
#[inline(always)]
pub(crate) fn f16_bits(h: u16) -> f32 {
    const SCALE: f32 = f32::from_bits(0x7780_0000); // 2^112
    let h = u32::from(h);
    let magnitude = f32::from_bits((h & 0x7fff) << 13) * SCALE;
    let special = if h & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | ((h & 0x8000) << 16))
}

#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    f16_bits(u16::from_le_bytes([block[at], block[at + 1]]))
}

#[inline(always)]
unsafe fn q4_0_kernel<S: Simd>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.chunks_exact(18).zip(out.chunks_exact_mut(32)) {
        let d = half_at(block, 0);
        for j in 0..16 {
            let q = block[2 + j];
            out[j] = d * (i32::from(q & 15) - 8) as f32;
            out[j + 16] = d * (i32::from(q >> 4) - 8) as f32;
        }
    }
}

#[inline(always)]
unsafe fn q4_1_kernel<S: Simd>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.chunks_exact(20).zip(out.chunks_exact_mut(32)) {
        let (d, m) = (half_at(block, 0), half_at(block, 2));
        for j in 0..16 {
            let q = block[4 + j];
            out[j] = d * i32::from(q & 15) as f32 + m;
            out[j + 16] = d * i32::from(q >> 4) as f32 + m;
        }
    }
}

#[inline(always)]
unsafe fn q8_0_kernel<S: Simd>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.chunks_exact(34).zip(out.chunks_exact_mut(32)) {
        let d = half_at(block, 0);
        for j in 0..32 {
            out[j] = d * i32::from(block[2 + j] as i8) as f32;
        }
    }
}

dispatch! { fn q4_0 = q4_0_kernel(bytes: &[u8], out: &mut [f32]) }
dispatch! { fn q4_1 = q4_1_kernel(bytes: &[u8], out: &mut [f32]) }
dispatch! { fn q8_0 = q8_0_kernel(bytes: &[u8], out: &mut [f32]) }

#[inline(always)]
unsafe fn widen_bf16_kernel<S: Simd>(from: &[half::bf16], out: &mut [f32]) {
    for (x, out) in from.iter().zip(out) {
        *out = f32::from_bits(u32::from(x.to_bits()) << 16);
    }
}

#[inline(always)]
unsafe fn widen_f16_kernel<S: Simd>(from: &[half::f16], out: &mut [f32]) {
    for (x, out) in from.iter().zip(out) {
        *out = f16_bits(x.to_bits());
    }
}

dispatch! {
    /// Widens bf16 to f32, exactly.
    pub(crate) fn widen_bf16 = widen_bf16_kernel(from: &[half::bf16], out: &mut [f32])
}
dispatch! {
    /// Widens f16 to f32, exactly.
    pub(crate) fn widen_f16 = widen_f16_kernel(from: &[half::f16], out: &mut [f32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (got, want) = (f16_bits(bits), half::f16::from_bits(bits).to_f32());
            assert!(
                got == want && got.is_sign_negative() == want.is_sign_negative()
                    || got.is_nan() && want.is_nan(),
                "{bits:#06x}: {got} {want}"
            );
        }
    }

    #[test]
    fn blocks_by_hand() {
        let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
        let mut out = [0f32; 32];
        // d = 0.5; every byte 0x2f: low nibble 15, high nibble 2.
        let mut block = half(0.5).to_vec();
        block.extend([0x2f; 16]);
        QuantType::Q4_0.dequantise(&block, &mut out);
        assert_eq!((out[0], out[31]), (3.5, -3.0)); // 0.5 * (15 - 8), 0.5 * (2 - 8)
        let mut block = half(0.5).to_vec();
        block.extend(half(-1.0));
        block.extend([0x2f; 16]);
        QuantType::Q4_1.dequantise(&block, &mut out);
        assert_eq!((out[15], out[16]), (6.5, 0.0)); // 0.5 * 15 - 1, 0.5 * 2 - 1
        let mut block = half(0.25).to_vec();
        block.extend([0xff; 32]);
        QuantType::Q8_0.dequantise(&block, &mut out);
        assert_eq!(out, [-0.25; 32]); // 0.25 * -1
    }

    #[test]
    fn a_width_that_is_no_multiple_of_the_block_has_no_size() {
        assert_eq!(QuantType::Q4_1.bytes_for(576), Some(360));
        assert_eq!(QuantType::Q4_1.bytes_for(33), None);
    }
}
