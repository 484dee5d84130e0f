//! Every fused op against its plain twin, over odd shapes and every dtype.

use candle_core::{DType, Device, Result, Tensor};
use troupe_ops::weight::QuantWeight;
use troupe_ops::{
    AttentionConfig, QuantType, RopeAngles, Segment, TreeLayout, Weight, embedding, kv_write,
    linear, linear_logprob, linear_logprob_ref, linear_ref, residual_add, residual_add_ref,
    rms_norm, rms_norm_ref, rope, rope_ref, swiglu, swiglu_ref, tree_attention, tree_attention_ref,
};

const CPU: Device = Device::Cpu;
const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Reproducible values in (-1, 1).
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_vec(values(shape.iter().product(), seed), shape, &CPU).unwrap()
}

/// Rounding of the compute dtype decides: the fused op rounds once, the twin at each step.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => 2e-2,
        DType::F16 => 2e-3,
        _ => 2e-5,
    }
}

fn check(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.dims(), want.dims(), "{what}: shape");
    assert_eq!(got.dtype(), want.dtype(), "{what}: dtype");
    let flat = |t: &Tensor| -> Vec<f32> {
        t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    for (i, (a, b)) in flat(got).into_iter().zip(flat(want)).enumerate() {
        let close = (a - b).abs() <= tolerance * (1.0 + b.abs());
        assert!(close, "{what}: element {i} is {a}, the twin says {b}");
    }
}

#[test]
fn linear_dense() -> Result<()> {
    for (rows, width, out) in [(1, 7, 5), (3, 41, 123), (7, 123, 41), (65, 64, 130), (0, 8, 8)] {
        for x_type in DTYPES {
            for w_type in DTYPES {
                let x = (tensor(&[rows, width], 1) * 0.5)?.to_dtype(x_type)?;
                let w = Weight::dense((tensor(&[out, width], 2) * 0.2)?.to_dtype(w_type)?)?;
                let bias = tensor(&[out], 3);
                let wide = x.to_dtype(DType::F32)?;
                let want = linear_ref(&wide, &w, Some(&bias))?.to_dtype(x_type)?;
                let got = linear(&x, &w, Some(&bias))?;
                check(
                    &format!("{rows}x{width}x{out} {x_type:?} {w_type:?}"),
                    &got,
                    &want,
                    tolerance(x_type),
                );
                check("no bias", &linear(&wide, &w, None)?, &linear_ref(&wide, &w, None)?, 2e-5);
            }
        }
    }
    Ok(())
}

fn quantised(kind: QuantType, rows: usize, cols: usize) -> Weight {
    let n = kind.bytes_for(cols).unwrap() * rows;
    let mut bytes: Vec<u8> = values(n, 9).iter().map(|x| (x * 127.0) as i8 as u8).collect();
    for block in bytes.chunks_exact_mut(kind.block_bytes()) {
        block[..2].copy_from_slice(&half::f16::from_f32(0.01).to_le_bytes());
        if kind == QuantType::Q4_1 {
            block[2..4].copy_from_slice(&half::f16::from_f32(-0.07).to_le_bytes());
        }
    }
    Weight::Quant(QuantWeight::new(kind, rows, cols, bytes, &CPU).unwrap())
}

#[test]
fn linear_and_embedding_quantised() -> Result<()> {
    for kind in [QuantType::Q4_0, QuantType::Q4_1, QuantType::Q8_0] {
        for (rows, width, out) in [(1, 32, 3), (5, 576, 41), (33, 96, 70)] {
            let (x, w) = (tensor(&[rows, width], 4), quantised(kind, out, width));
            check(kind.name(), &linear(&x, &w, None)?, &linear_ref(&x, &w, None)?, 2e-5);
            let dense = w.to_dense(DType::F32)?;
            let ids = [2u32, 0, 2];
            let want = dense.index_select(&Tensor::new(&ids, &CPU)?, 0)?;
            check("embedding", &embedding(&w, &ids, DType::F32)?, &want, 0.0);
        }
    }
    let w = quantised(QuantType::Q8_0, 4, 32);
    assert!(embedding(&w, &[4], DType::F32).unwrap_err().to_string().contains("token id 4"));
    assert!(QuantWeight::new(QuantType::Q8_0, 4, 33, vec![0; 136], &CPU).is_err());
    Ok(())
}

#[test]
fn a_row_is_bitwise_the_same_in_every_batch() -> Result<()> {
    let weights = [
        Weight::dense(tensor(&[123, 96], 2))?,
        Weight::dense(tensor(&[123, 96], 2).to_dtype(DType::BF16)?)?,
        quantised(QuantType::Q4_1, 123, 96),
    ];
    for w in &weights {
        let x = tensor(&[70, 96], 1);
        let whole = linear(&x, w, None)?.to_vec2::<f32>()?;
        for row in [0, 13, 69] {
            let alone = linear(&x.narrow(0, row, 1)?, w, None)?.to_vec2::<f32>()?;
            assert_eq!(alone[0], whole[row], "{} row {row}", w.format());
        }
    }
    Ok(())
}

#[test]
fn rms_norm_twin() -> Result<()> {
    for shape in [vec![1, 7], vec![5, 123], vec![3, 4, 16], vec![130, 576]] {
        for dtype in DTYPES {
            let x = tensor(&shape, 5).to_dtype(dtype)?;
            let w = tensor(&shape[shape.len() - 1..], 6);
            let (got, want) = (rms_norm(&x, &w, 1e-5)?, rms_norm_ref(&x, &w, 1e-5)?);
            check("rms_norm", &got, &want, tolerance(dtype));
        }
    }
    let zeros = Tensor::zeros((2, 8), DType::F32, &CPU)?;
    let got = rms_norm(&zeros, &Tensor::ones(8, DType::F32, &CPU)?, 1e-5)?;
    assert_eq!(got.to_vec2::<f32>()?, [[0.0; 8]; 2]);
    Ok(())
}

#[test]
fn rope_twin() -> Result<()> {
    for (tokens, heads, dim) in [(1, 1, 2), (7, 3, 64), (41, 2, 6)] {
        let positions: Vec<u32> = (0..tokens as u32).map(|i| i * 37 % 1000).collect();
        let frequencies: Vec<f32> = (0..dim / 2).map(|i| 0.9f32.powi(i as i32)).collect();
        let angles = RopeAngles::new(&positions, &frequencies, 1.0, &CPU)?;
        for dtype in DTYPES {
            let x = tensor(&[tokens, heads, dim], 7).to_dtype(dtype)?;
            check("rope", &rope(&x, &angles)?, &rope_ref(&x, &angles)?, tolerance(dtype));
        }
    }
    // By hand: a quarter turn takes (1, 0) to (0, 1).
    let angles = RopeAngles::new(&[1], &[std::f32::consts::FRAC_PI_2], 1.0, &CPU)?;
    let x = Tensor::new(&[[[1f32, 0.0]]], &CPU)?;
    check("quarter turn", &rope(&x, &angles)?, &Tensor::new(&[[[0f32, 1.0]]], &CPU)?, 1e-6);
    Ok(())
}

#[test]
fn swiglu_twin() -> Result<()> {
    for shape in [[1, 7], [41, 123]] {
        for dtype in DTYPES {
            let gate = (tensor(&shape, 8) * 30.0)?.to_dtype(dtype)?;
            let up = tensor(&shape, 9).to_dtype(dtype)?;
            let (got, want) = (swiglu(&gate, &up)?, swiglu_ref(&gate, &up)?);
            check("swiglu", &got, &want, tolerance(dtype));
        }
    }
    Ok(())
}

/// A dialogue with a cached trunk, two alternatives that branch off, one continued, and
/// an unrelated sequence; key rows are out of order, with holes.
fn forest() -> TreeLayout {
    let s = |parent, key_start, len, queries| Segment { parent, key_start, len, queries };
    TreeLayout::new(vec![
        s(None, 100, 70, 0),
        s(Some(0), 0, 9, 9),
        s(Some(0), 20, 67, 67),
        s(Some(2), 12, 3, 1),
        s(None, 180, 5, 5),
        s(Some(4), 16, 0, 0),
        s(Some(5), 17, 2, 2),
    ])
    .unwrap()
}

#[test]
fn tree_attention_twin() -> Result<()> {
    for layout in [forest(), TreeLayout::sequences(&[1, 7, 130, 64]).unwrap()] {
        for (heads, kv_heads, dim) in [(1, 1, 7), (9, 3, 64), (4, 2, 16), (8, 1, 41)] {
            for (window, softcap) in [(None, None), (Some(8), None), (Some(70), Some(5.0))] {
                for dtype in DTYPES {
                    let scale = 1.0 / (dim as f32).sqrt();
                    let config = AttentionConfig { scale, window, softcap };
                    let q = (tensor(&[layout.n_queries(), heads, dim], 1) * 3.0)?;
                    let k = (tensor(&[layout.n_keys() + 3, kv_heads, dim], 2) * 3.0)?;
                    let v = tensor(&[layout.n_keys() + 3, kv_heads, dim], 3);
                    let (q, k, v) = (q.to_dtype(dtype)?, k.to_dtype(dtype)?, v.to_dtype(dtype)?);
                    let got = tree_attention(&q, &k, &v, &layout, config)?;
                    let by_head = |x: &Tensor| x.transpose(0, 1)?.contiguous()?.transpose(0, 1);
                    let (k_heads, v_heads) = (by_head(&k)?, by_head(&v)?);
                    let strided = tree_attention(&q, &k_heads, &v_heads, &layout, config)?;
                    check("by head", &strided, &got, 0.0);
                    let want = tree_attention_ref(&q, &k, &v, &layout, config)?;
                    check(
                        &format!("{heads}/{kv_heads} {dim} {window:?} {dtype:?}"),
                        &got,
                        &want,
                        tolerance(dtype),
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_decoded_token_is_bitwise_the_token_of_a_full_pass() -> Result<()> {
    let config = AttentionConfig { scale: 0.125, window: None, softcap: None };
    let n = 150;
    let q = tensor(&[n, 6, 64], 1);
    let (k, v) = (tensor(&[n, 2, 64], 2), tensor(&[n, 2, 64], 3));
    let full = tree_attention(&q, &k, &v, &TreeLayout::sequences(&[n]).unwrap(), config)?;
    for end in [1, 64, 65, 149] {
        // The same tokens as pages of 13 in a chain, only the last one a query.
        let mut segments = Vec::new();
        for start in (0..end).step_by(13) {
            let len = 13.min(end - start);
            let parent = segments.len().checked_sub(1);
            let queries = usize::from(start + len == end);
            segments.push(Segment { parent, key_start: start, len, queries });
        }
        let layout = TreeLayout::new(segments).unwrap();
        let one = tree_attention(&q.narrow(0, end - 1, 1)?, &k, &v, &layout, config)?;
        let (one, all) = (one.flatten_all()?, full.get(end - 1)?.flatten_all()?);
        assert_eq!(one.to_vec1::<f32>()?, all.to_vec1::<f32>()?, "position {}", end - 1);
    }
    Ok(())
}

#[test]
fn kv_write_puts_rows_where_told() -> Result<()> {
    let pool = Tensor::zeros((5, 2, 3), DType::F32, &CPU)?;
    let values = tensor(&[2, 2, 3], 1);
    kv_write(&pool, &values, &[4, 1])?;
    check("row 4", &pool.get(4)?, &values.get(0)?, 0.0);
    check("row 1", &pool.get(1)?, &values.get(1)?, 0.0);
    check("row 0", &pool.get(0)?, &Tensor::zeros((2, 3), DType::F32, &CPU)?, 0.0);
    // A pool that keeps heads together is written and read in place.
    let by_head = Tensor::zeros((2, 5, 3), DType::F32, &CPU)?.transpose(0, 1)?;
    kv_write(&by_head, &values, &[4, 1])?;
    check("by head", &by_head.contiguous()?, &pool, 0.0);
    assert!(kv_write(&pool, &values, &[5, 1]).unwrap_err().to_string().contains("row 5"));
    assert!(kv_write(&pool, &values, &[1]).is_err());
    Ok(())
}

#[test]
fn linear_logprob_twin() -> Result<()> {
    for (rows, width, vocab) in [(1, 7, 5), (41, 64, 320), (70, 32, 123)] {
        for temperature in [1.0, 0.7, 2.5] {
            for dtype in DTYPES {
                let hidden = (tensor(&[rows, width], 1) * 4.0)?;
                let w = Weight::dense(tensor(&[vocab, width], 2).to_dtype(dtype)?)?;
                let targets: Vec<u32> = (0..rows).map(|i| (i * 31 % vocab) as u32).collect();
                let got = linear_logprob(&hidden, &w, &targets, temperature)?;
                let want = linear_logprob_ref(&hidden, &w, &targets, temperature)?;
                check("log_prob", &got.log_prob, &want.log_prob, 2e-5);
                check("log_sum_exp", &got.log_sum_exp, &want.log_sum_exp, 2e-5);
                check("entropy", &got.entropy, &want.entropy, 2e-5);
            }
        }
    }
    let (hidden, w) = (tensor(&[1, 4], 1), Weight::dense(tensor(&[3, 4], 2))?);
    assert!(linear_logprob(&hidden, &w, &[3], 1.0).is_err());
    assert!(linear_logprob(&hidden, &w, &[0], 0.0).is_err());
    assert!(linear_logprob(&hidden, &w, &[0], f32::NAN).is_err());
    Ok(())
}

#[test]
fn linear_logprob_by_hand() -> Result<()> {
    // Logits (0, ln 3): probabilities 1/4 and 3/4.
    let hidden = Tensor::new(&[[1f32]], &CPU)?;
    let w = Weight::dense(Tensor::new(&[[0f32], [3f32.ln()]], &CPU)?)?;
    let out = linear_logprob(&hidden, &w, &[1], 1.0)?;
    let entropy = -(0.25f32 * 0.25f32.ln() + 0.75 * 0.75f32.ln());
    check("log_prob", &out.log_prob, &Tensor::new(&[0.75f32.ln()], &CPU)?, 1e-6);
    check("log_sum_exp", &out.log_sum_exp, &Tensor::new(&[4f32.ln()], &CPU)?, 1e-6);
    check("entropy", &out.entropy, &Tensor::new(&[entropy], &CPU)?, 1e-6);
    Ok(())
}

#[test]
fn residual_add_twin() -> Result<()> {
    for dtype in DTYPES {
        let (x, h) = (tensor(&[41, 123], 1).to_dtype(dtype)?, tensor(&[41, 123], 2));
        let h = h.to_dtype(dtype)?;
        check("residual_add", &residual_add(&x, &h)?, &residual_add_ref(&x, &h)?, 1e-2);
    }
    let x = candle_core::Var::from_tensor(&tensor(&[3, 5], 1))?;
    let sum = residual_add(&x, &tensor(&[3, 5], 2))?.sum_all()?;
    let grad = sum.backward()?.get(&x).unwrap().to_vec2::<f32>()?;
    assert_eq!(grad, [[1.0; 5]; 3]);
    Ok(())
}
