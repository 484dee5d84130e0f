//! CPU kernels over `f32`, one source for AVX-512, AVX2 and everything else.
//!
//! A kernel is written once over the `Simd` trait and compiled for each instruction
//! set; [`Isa::get`] picks the widest that this processor has. Sums keep one order: an
//! element's products are added lane by lane along the reduced axis and the lanes are
//! folded by one fixed tree, whatever the tile around it. So `x * W` is bitwise the same
//! for a row alone and in a batch. Between instruction sets the last bits may differ.

use std::sync::OnceLock;

/// The instruction sets that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// 16 lanes and fused multiply-add.
    Avx512,
    /// 8 lanes and fused multiply-add.
    Avx2,
    /// 8 lanes as the compiler sees fit (SSE2, NEON).
    Portable,
}

impl Isa {
    /// The widest instruction set of this processor. `TROUPE_ISA=avx2|portable` narrows
    /// it, to compare results between machines.
    pub fn get() -> Isa {
        static ISA: OnceLock<Isa> = OnceLock::new();
        *ISA.get_or_init(|| {
            let wanted = std::env::var("TROUPE_ISA").unwrap_or_default();
            match (wanted.as_str(), detect()) {
                ("portable", _) => Isa::Portable,
                ("avx2", Isa::Avx512) => Isa::Avx2,
                (_, best) => best,
            }
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let wide = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (wide, avx2) {
        (true, true) => Isa::Avx512,
        (false, true) => Isa::Avx2,
        _ => Isa::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Portable
}

/// A vector of `f32` lanes.
///
/// # Safety
/// Methods may only run where the implementing instruction set is present, and pointers
/// must be valid for `LANES` elements.
pub(crate) unsafe trait Simd {
    type V: Copy;
    const LANES: usize;
    unsafe fn zero() -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn splat(x: f32) -> Self::V;
    /// `a * b + c`
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The sums of four vectors' lanes, each by the same tree.
    unsafe fn sum4(v: [Self::V; 4]) -> [f32; 4];
    /// Asks for the cache line at `p` ahead of its use, into the second-level cache: the
    /// first one is full of what is worked on now. Any address will do.
    #[inline(always)]
    unsafe fn prefetch(_p: *const f32) {}
    /// Loads `n < LANES` elements and zeros.
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self::V {
        let mut buffer = [0f32; 16];
        // SAFETY: the caller vouches for `n` elements at `p`; the buffer has 16.
        unsafe {
            std::ptr::copy_nonoverlapping(p, buffer.as_mut_ptr(), n);
            Self::load(buffer.as_ptr())
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Simd;
    use std::arch::x86_64::*;

    pub(crate) struct Avx512;
    pub(crate) struct Avx2;

    // SAFETY: only reached through `dispatch!`, which checks for the features.
    unsafe impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        #[inline(always)]
        unsafe fn prefetch(p: *const f32) {
            // SAFETY: a prefetch reads nothing that the program could see.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn zero() -> __m512 {
            // SAFETY: see the trait.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m512 {
            // SAFETY: see the trait.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m512) {
            // SAFETY: see the trait.
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            // SAFETY: see the trait.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: see the trait.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn sum4(v: [__m512; 4]) -> [f32; 4] {
            // SAFETY: see the trait.
            unsafe {
                // Spelled out: a closure would not be compiled for the instruction set.
                let a = _mm512_extractf32x8_ps::<1>(v[0]);
                let b = _mm512_extractf32x8_ps::<1>(v[1]);
                let c = _mm512_extractf32x8_ps::<1>(v[2]);
                let d = _mm512_extractf32x8_ps::<1>(v[3]);
                Avx2::sum4([
                    _mm256_add_ps(_mm512_castps512_ps256(v[0]), a),
                    _mm256_add_ps(_mm512_castps512_ps256(v[1]), b),
                    _mm256_add_ps(_mm512_castps512_ps256(v[2]), c),
                    _mm256_add_ps(_mm512_castps512_ps256(v[3]), d),
                ])
            }
        }
    }

    // SAFETY: only reached through `dispatch!`, which checks for the features.
    unsafe impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;
        #[inline(always)]
        unsafe fn prefetch(p: *const f32) {
            // SAFETY: a prefetch reads nothing that the program could see.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn zero() -> __m256 {
            // SAFETY: see the trait.
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m256 {
            // SAFETY: see the trait.
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m256) {
            // SAFETY: see the trait.
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            // SAFETY: see the trait.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: see the trait.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn sum4(v: [__m256; 4]) -> [f32; 4] {
            // SAFETY: see the trait.
            unsafe {
                let pairs = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
                let lower = _mm256_castps256_ps128(pairs);
                let sums = _mm_add_ps(lower, _mm256_extractf128_ps::<1>(pairs));
                let mut out = [0f32; 4];
                _mm_storeu_ps(out.as_mut_ptr(), sums);
                out
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Eight plain lanes; the compiler makes SSE2 or NEON of them.
pub(crate) struct Portable;

// SAFETY: needs no special instructions.
unsafe impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> [f32; 8] {
        [0.0; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 8] {
        // SAFETY: see the trait.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 8]) {
        // SAFETY: see the trait.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        let mut out = c;
        for i in 0..8 {
            out[i] += a[i] * b[i];
        }
        out
    }
    #[inline(always)]
    unsafe fn sum4(v: [[f32; 8]; 4]) -> [f32; 4] {
        let mut out = [0f32; 4];
        for (out, v) in out.iter_mut().zip(&v) {
            *out = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
        }
        out
    }
}

/// Calls `$kernel::<S>(...)` with the widest instruction set, compiled for it.
///
/// A kernel is `#[inline(always)]` and calls `Simd` from loops, never from closures or
/// iterator adaptors: those are functions of their own, compiled without the features, and
/// each instruction in them becomes a call (measured: 6 times slower).
macro_rules! dispatch {
    ($(#[$doc:meta])* $vis:vis unsafe fn $name:ident = $kernel:ident ( $($arg:ident : $ty:ty),* $(,)? )) => {
        $(#[$doc])*
        $vis unsafe fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                unsafe fn avx512($($arg: $ty),*) {
                    // SAFETY: compiled for the instruction set.
                    unsafe { $kernel::<$crate::simd::Avx512>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma")]
                unsafe fn avx2($($arg: $ty),*) {
                    // SAFETY: compiled for the instruction set.
                    unsafe { $kernel::<$crate::simd::Avx2>($($arg),*) }
                }
                match $crate::simd::Isa::get() {
                    // SAFETY: `Isa::get` found the features.
                    $crate::simd::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: `Isa::get` found the features.
                    $crate::simd::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::simd::Isa::Portable => {}
                }
            }
            // SAFETY: needs no special instructions.
            unsafe { $kernel::<$crate::simd::Portable>($($arg),*) }
        }
    };
    ($(#[$doc:meta])* $vis:vis fn $name:ident = $kernel:ident ( $($arg:ident : $ty:ty),* $(,)? )) => {
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) {
            $crate::simd::dispatch! { unsafe fn inner = $kernel($($arg: $ty),*) }
            // SAFETY: this kernel asks nothing of its arguments.
            unsafe { inner($($arg),*) }
        }
    };
}
pub(crate) use dispatch;

/// `MR x NR` inner products of rows of `x` with rows of `w`, over `k` elements.
///
/// # Safety
/// `x[i]` and `w[j]` point to `k` elements each.
#[inline(always)]
pub(crate) unsafe fn dots<S: Simd, const MR: usize>(
    x: [*const f32; MR],
    w: [*const f32; 4],
    k: usize,
) -> [[f32; 4]; MR] {
    // SAFETY: all reads are within `k` elements of a row.
    unsafe {
        let mut acc = [[S::zero(); 4]; MR];
        let whole = k - k % S::LANES;
        let mut at = 0;
        while at < whole {
            let wv: [S::V; 4] = [
                S::load(w[0].add(at)),
                S::load(w[1].add(at)),
                S::load(w[2].add(at)),
                S::load(w[3].add(at)),
            ];
            for i in 0..MR {
                let xv = S::load(x[i].add(at));
                for j in 0..4 {
                    acc[i][j] = S::fma(xv, wv[j], acc[i][j]);
                }
            }
            at += S::LANES;
        }
        if at < k {
            let wv: [S::V; 4] = [
                S::load_part(w[0].add(at), k - at),
                S::load_part(w[1].add(at), k - at),
                S::load_part(w[2].add(at), k - at),
                S::load_part(w[3].add(at), k - at),
            ];
            for i in 0..MR {
                let xv = S::load_part(x[i].add(at), k - at);
                for j in 0..4 {
                    acc[i][j] = S::fma(xv, wv[j], acc[i][j]);
                }
            }
        }
        let mut sums = [[0f32; 4]; MR];
        for i in 0..MR {
            sums[i] = S::sum4(acc[i]);
        }
        sums
    }
}

/// Operands of [`gemm_rows`]: `y[i * y_stride + j] = x[i] . w[j]`.
///
/// `x` has `m` rows of `k` elements at stride `x_stride`, `w` has `n` rows of `k` without
/// gaps, `y` has room for `m` rows of `n` at stride `y_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Gemm {
    pub(crate) x: *const f32,
    pub(crate) x_stride: usize,
    pub(crate) m: usize,
    pub(crate) w: *const f32,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) y: *mut f32,
    pub(crate) y_stride: usize,
}

/// # Safety
/// The operands are as [`Gemm`] says, and nobody else writes those parts of `y`.
#[inline(always)]
unsafe fn gemm_kernel<S: Simd>(gemm: Gemm) {
    let Gemm { x, x_stride, m, w, n, k, y, y_stride } = gemm;
    // SAFETY: indices stay below m, n and k.
    unsafe {
        let mut row = 0;
        while row < m {
            let rows = (m - row).min(6);
            let mut col = 0;
            while col < n {
                let cols = (n - col).min(4);
                // Past the last row of `w` the last one is read again and its sum dropped.
                let mut wr = [w; 4];
                for (j, wr) in wr.iter_mut().enumerate() {
                    *wr = w.add((col + j.min(cols - 1)) * k);
                }
                macro_rules! tile {
                    ($mr:literal) => {{
                        let mut xr = [x; $mr];
                        for (i, xr) in xr.iter_mut().enumerate() {
                            *xr = x.add((row + i) * x_stride);
                        }
                        let sums = dots::<S, $mr>(xr, wr, k);
                        for (i, sums) in sums.iter().enumerate() {
                            let to = y.add((row + i) * y_stride + col);
                            std::ptr::copy_nonoverlapping(sums.as_ptr(), to, cols);
                        }
                    }};
                }
                match rows {
                    6 => tile!(6),
                    5 => tile!(5),
                    4 => tile!(4),
                    3 => tile!(3),
                    2 => tile!(2),
                    _ => tile!(1),
                }
                col += cols;
            }
            row += rows;
        }
    }
}

dispatch! {
    /// `y = x * w^T` over raw rows.
    ///
    /// # Safety
    /// The operands are as [`Gemm`] says, and nobody else writes those parts of `y`.
    pub(crate) unsafe fn gemm_rows = gemm_kernel(gemm: Gemm)
}

/// `e^x` to about 2 units in the last place, for `x <= 88`; below -87 it is 0.
///
/// Cephes' `expf`: `x = n ln 2 + r`, `e^r` by a polynomial of degree 5 on
/// `|r| <= ln 2 / 2`, then the exponent is put in place. Branch-free, so a loop over it
/// becomes vector code.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let clamped = x.clamp(-87.0, 88.0);
    let n = (clamped * LOG2_E + ROUND) - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    let scale = f32::from_bits(((n as i32 + 127) as u32) << 23);
    if x < -87.0 { 0.0 } else { y * scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        let mut worst = 0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(worst < 3e-7, "relative error {worst}");
        assert_eq!((exp(-100.0), exp(f32::NEG_INFINITY), exp(0.0)), (0.0, 0.0, 1.0));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn a_row_alone_is_bitwise_the_row_in_a_batch() {
        let (m, n, k) = (13, 11, 123);
        let value = |i: usize| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0;
        let x: Vec<f32> = (0..m * k).map(value).collect();
        let w: Vec<f32> = (0..n * k).map(|i| value(i + 77)).collect();
        let mut batch = vec![0f32; m * n];
        let (xp, wp) = (x.as_ptr(), w.as_ptr());
        let all = Gemm { x: xp, x_stride: k, m, w: wp, n, k, y: batch.as_mut_ptr(), y_stride: n };
        // SAFETY: the slices above have these sizes.
        unsafe { gemm_rows(all) };
        for i in 0..m {
            let mut alone = vec![0f32; n];
            let one = Gemm { x: x[i * k..].as_ptr(), m: 1, y: alone.as_mut_ptr(), ..all };
            // SAFETY: as above.
            unsafe { gemm_rows(one) };
            assert_eq!(alone, batch[i * n..(i + 1) * n]);
            for j in 0..n {
                let terms = (0..k).map(|c| f64::from(x[i * k + c]) * f64::from(w[j * k + c]));
                assert!((terms.sum::<f64>() - f64::from(alone[j])).abs() < 1e-4);
            }
        }
    }
}
