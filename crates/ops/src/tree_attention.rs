//! The one attention: a token sees its own segment causally, and all its ancestors.
//!
//! The CPU kernel walks a query's path in tiles of 64 positions with a running softmax,
//! so no score matrix exists. Tiles begin at multiples of 64 positions whatever the
//! segments, pages or chunks are, and sums run in one order: a query's result is bitwise
//! the same in a full pass, a chunked prefill, a decode step, alone or in a batch.

use crate::layout::{QueryPath, TreeLayout};
use crate::rows::{Shared, as_f32, dtype_of, from_f32};
use crate::simd::{Simd, dispatch, dots, exp};
use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// What a layer's attention does beside the tree.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionConfig {
    /// Multiplies the scores; usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// A query sees this many last positions, its own among them; none is all.
    pub window: Option<usize>,
    /// `cap * tanh(score / cap)` on the scaled scores, where a model has it.
    pub softcap: Option<f32>,
}

/// Attention over a forest of segments.
///
/// Several query heads share a key-value head (`heads` is a multiple of `kv_heads`).
///
/// # Shapes
/// `q`: `(layout.n_queries(), heads, head_dim)`; `k`, `v`: `(rows, kv_heads, head_dim)`
/// with `rows >= layout.n_keys()` -> as `q`.
/// # Source
/// Vaswani et al. 2017; the running softmax is Dao et al. 2022, arXiv:2205.14135.
/// # Errors
/// Shapes that do not fit the layout, or a dtype that has no kernel.
pub fn tree_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &TreeLayout,
    config: AttentionConfig,
) -> Result<Tensor> {
    check(q, k, v, layout, config)?;
    if !q.device().is_cpu() {
        return tree_attention_ref(q, k, v, layout, config);
    }
    let op = TreeAttention { layout: layout.clone(), config };
    q.contiguous()?.apply_op3(&rows_in_place(k)?, &rows_in_place(v)?, op)
}

/// The plain twin of [`tree_attention`]: all scores at once under a dense mask; computes
/// in f32.
///
/// # Errors
/// As [`tree_attention`].
pub fn tree_attention_ref(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &TreeLayout,
    config: AttentionConfig,
) -> Result<Tensor> {
    check(q, k, v, layout, config)?;
    let (queries, heads, head_dim) = q.dims3()?;
    let (_, kv_heads, _) = k.dims3()?;
    let n_keys = layout.n_keys();
    let group = heads / kv_heads;
    let by_head = |x: &Tensor| -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?.narrow(0, 0, n_keys)?;
        let x = x.unsqueeze(2)?.expand((n_keys, kv_heads, group, head_dim))?;
        x.reshape((n_keys, heads, head_dim))?.transpose(0, 1)?.contiguous()
    };
    let q_heads = q.to_dtype(DType::F32)?.transpose(0, 1)?.contiguous()?; // (heads, queries, dim)
    let scores = q_heads.matmul(&by_head(k)?.transpose(1, 2)?)?; // (heads, queries, keys)
    let mut scores = (scores * f64::from(config.scale))?;
    if let Some(cap) = config.softcap {
        scores = ((scores / f64::from(cap))?.tanh()? * f64::from(cap))?;
    }
    let mut mask = vec![f32::NEG_INFINITY; queries * n_keys];
    for path in layout.paths() {
        for i in 0..path.queries {
            let (first, last) = visible(path.first_position() + i, config.window);
            for &row in &path.key_rows[first..=last] {
                mask[(path.query_start + i) * n_keys + row as usize] = 0.0;
            }
        }
    }
    let mask = Tensor::from_vec(mask, (1, queries, n_keys), q.device())?;
    let scores = scores.broadcast_add(&mask)?;
    let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    let weights = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
    weights.matmul(&by_head(v)?)?.transpose(0, 1)?.contiguous()?.to_dtype(q.dtype())
}

fn check(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &TreeLayout,
    config: AttentionConfig,
) -> Result<()> {
    let (queries, heads, head_dim) = q.dims3()?;
    let (rows, kv_heads, key_dim) = k.dims3()?;
    let fits = queries == layout.n_queries()
        && rows >= layout.n_keys()
        && kv_heads > 0
        && heads.is_multiple_of(kv_heads)
        && key_dim == head_dim
        && k.dims() == v.dims();
    if !fits {
        bail!(
            "tree_attention: q {:?}, k {:?}, v {:?} for {} queries and {} key rows",
            q.dims(),
            k.dims(),
            v.dims(),
            layout.n_queries(),
            layout.n_keys()
        )
    }
    if heads / kv_heads > MAX_ROWS {
        bail!("tree_attention: {heads} heads over {kv_heads}; at most {MAX_ROWS} may share one")
    }
    if config.window == Some(0) {
        bail!("tree_attention: a window of 0 sees nothing")
    }
    Ok(())
}

/// Keys or values as they lie, if only rows and heads are strided: a cache that keeps each
/// head's rows together is read in place.
fn rows_in_place(x: &Tensor) -> Result<Tensor> {
    let in_place = x.dtype() == DType::F32 && x.stride()[2] == 1;
    if in_place { Ok(x.clone()) } else { x.contiguous() }
}

/// First and last position that a query at `position` sees.
fn visible(position: usize, window: Option<usize>) -> (usize, usize) {
    (window.map_or(0, |w| (position + 1).saturating_sub(w)), position)
}

/// Positions that are scored at a time.
const TILE: usize = 64;
/// Query-and-head rows of a task where a group of heads is not larger; they share each
/// tile of keys.
const TASK_ROWS: usize = 48;
/// Most rows of a task: one query of the largest group of heads.
const MAX_ROWS: usize = 256;

struct TreeAttention {
    layout: TreeLayout,
    config: AttentionConfig,
}

/// Some queries of one path, for one key-value head.
struct Task<'a> {
    path: &'a QueryPath,
    first: usize,
    last: usize,
    kv_head: usize,
}

/// Keys or values with the distances between rows and between heads.
#[derive(Clone, Copy)]
struct Strided<'a> {
    values: &'a [f32],
    row: usize,
    head: usize,
}

impl<'a> Strided<'a> {
    /// Reads `(rows, kv_heads, head_dim)`; `whole` holds the values where they must be
    /// widened first.
    fn new(
        storage: &'a CpuStorage,
        layout: &Layout,
        whole: &'a mut Vec<f32>,
    ) -> Result<Strided<'a>> {
        let (rows, kv_heads, head_dim) = layout.shape().dims3()?;
        if let CpuStorage::F32(values) = storage {
            let (row, head) = (layout.stride()[0], layout.stride()[1]);
            let last = rows.saturating_sub(1) * row + kv_heads.saturating_sub(1) * head;
            let values = &values[layout.start_offset()..];
            if layout.stride()[2] != 1 || values.len() < last + head_dim {
                bail!("tree_attention: head elements must be contiguous")
            }
            return Ok(Strided { values, row, head });
        }
        *whole = as_f32("tree_attention", storage, layout)?.into_owned();
        Ok(Strided { values: whole, row: kv_heads * head_dim, head: head_dim })
    }
}

/// The operands and their widths.
#[derive(Clone, Copy)]
struct Operands<'a> {
    q: &'a [f32],
    k: Strided<'a>,
    v: Strided<'a>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    config: AttentionConfig,
}

impl CustomOp3 for TreeAttention {
    fn name(&self) -> &'static str {
        "tree_attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, heads, head_dim) = q_layout.shape().dims3()?;
        let (_, kv_heads, _) = k_layout.shape().dims3()?;
        let (mut wide_k, mut wide_v) = (Vec::new(), Vec::new());
        let operands = Operands {
            q: &as_f32(self.name(), q, q_layout)?,
            k: Strided::new(k, k_layout, &mut wide_k)?,
            v: Strided::new(v, v_layout, &mut wide_v)?,
            heads,
            kv_heads,
            head_dim,
            config: self.config,
        };
        let group = heads / kv_heads;
        let block = (TASK_ROWS / group).max(1);
        let mut tasks = Vec::new();
        let mut scores = 0;
        for path in self.layout.paths() {
            for first in (0..path.queries).step_by(block) {
                let last = (first + block).min(path.queries);
                scores += (path.first_position() + last) * (last - first) * heads;
                tasks.extend((0..kv_heads).map(|kv_head| Task { path, first, last, kv_head }));
            }
        }
        let mut out = vec![0f32; operands.q.len()];
        let to = Shared(out.as_mut_ptr());
        if scores * head_dim < 1 << 16 || rayon::current_num_threads() == 1 {
            let mut scratch = Vec::new();
            for task in &tasks {
                // SAFETY: `out` is as long as `q`; tasks write disjoint queries and heads.
                unsafe { attend(&operands, task, to, &mut scratch) };
            }
        } else {
            tasks.par_iter().with_max_len(1).for_each_init(Vec::new, |scratch, task| {
                // SAFETY: as above.
                unsafe { attend(&operands, task, to, scratch) };
            });
        }
        Ok((from_f32(self.name(), out, dtype_of(q))?, q_layout.shape().clone()))
    }
}

dispatch! {
    /// # Safety
    /// `out` has room for all queries; nobody else writes this task's queries and heads.
    unsafe fn attend = attend_kernel(
        operands: &Operands<'_>, task: &Task<'_>, out: Shared<f32>, scratch: &mut Vec<f32>,
    )
}

#[inline(always)]
unsafe fn attend_kernel<S: Simd>(
    operands: &Operands<'_>,
    task: &Task<'_>,
    out: Shared<f32>,
    scratch: &mut Vec<f32>,
) {
    let Operands { q, k, v, heads, kv_heads, head_dim, config } = *operands;
    let group = heads / kv_heads;
    let rows = (task.last - task.first) * group;
    let padded = head_dim.next_multiple_of(16);
    scratch.clear();
    scratch.resize(rows * (TILE + padded + 3), 0.0);
    let (scores, rest) = scratch.split_at_mut(rows * TILE);
    let (acc, rest) = rest.split_at_mut(rows * padded);
    let (tops, rest) = rest.split_at_mut(rows);
    let (sums, corrections) = rest.split_at_mut(rows);
    tops.fill(f32::NEG_INFINITY);

    let first_position = task.path.first_position() + task.first;
    let mut query_offsets = [0usize; MAX_ROWS];
    for (row, offset) in query_offsets[..rows].iter_mut().enumerate() {
        let query = task.path.query_start + task.first + row / group;
        *offset = (query * heads + task.kv_head * group + row % group) * head_dim;
    }
    let (mut key_offsets, mut value_offsets) = ([0usize; TILE], [0usize; TILE]);

    let begin = visible(first_position, config.window).0 / TILE * TILE;
    let end = task.path.first_position() + task.last;
    for tile in (begin..end).step_by(TILE) {
        let keys = TILE.min(end - tile);
        for (i, &key) in task.path.key_rows[tile..tile + keys].iter().enumerate() {
            key_offsets[i] = key as usize * k.row + task.kv_head * k.head;
            value_offsets[i] = key as usize * v.row + task.kv_head * v.head;
        }
        // The next tile is on its way from memory while this one is worked on.
        for &key in task.path.key_rows[tile + keys..].iter().take(TILE) {
            let key_at = key as usize * k.row + task.kv_head * k.head;
            let value_at = key as usize * v.row + task.kv_head * v.head;
            let mut line = 0;
            while line < head_dim {
                // SAFETY: inside `k` and `v`, as every offset here.
                unsafe {
                    S::prefetch(k.values.as_ptr().add(key_at + line));
                    S::prefetch(v.values.as_ptr().add(value_at + line));
                }
                line += 16;
            }
        }
        let (queries, keys_at) = (&query_offsets[..rows], &key_offsets[..keys]);
        // SAFETY: the offsets stay inside `q`, `k` and `v`: the layout was checked against
        // their shapes; `scores` has `rows * TILE` elements, `acc` has `rows * padded`.
        unsafe { score_tile::<S>(q, k.values, queries, keys_at, head_dim, scores) };
        for row in 0..rows {
            let scores = &mut scores[row * TILE..(row + 1) * TILE];
            let (first, last) = visible(first_position + row / group, config.window);
            let from = first.saturating_sub(tile).min(keys);
            let to = (last + 1).saturating_sub(tile).min(keys);
            scores[..from].fill(f32::NEG_INFINITY);
            scores[to..].fill(f32::NEG_INFINITY);
            let mut top = [tops[row]; 16];
            for chunk in scores.chunks_exact_mut(16) {
                for (score, top) in chunk.iter_mut().zip(&mut top) {
                    *score *= config.scale;
                    if let Some(cap) = config.softcap {
                        *score = cap * (*score / cap).tanh();
                    }
                    *top = if *score > *top { *score } else { *top };
                }
            }
            let top = top.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            if from >= to {
                // Nothing of this tile is visible: the row keeps what it has.
                scores.fill(0.0);
                corrections[row] = 1.0;
                continue;
            }
            scores[..from].fill(f32::NEG_INFINITY);
            scores[to..].fill(f32::NEG_INFINITY);
            let mut lanes = [0f32; 16];
            for chunk in scores.chunks_exact_mut(16) {
                for (score, lane) in chunk.iter_mut().zip(&mut lanes) {
                    *score = exp(*score - top);
                    *lane += *score;
                }
            }
            corrections[row] = exp(tops[row] - top);
            sums[row] = sums[row] * corrections[row] + lanes.iter().sum::<f32>();
            tops[row] = top;
        }
        // SAFETY: as above.
        unsafe {
            let values_at = &value_offsets[..keys];
            gather_values::<S>(v.values, scores, corrections, values_at, head_dim, acc);
        };
    }
    for row in 0..rows {
        let scale = 1.0 / sums[row];
        for (d, x) in acc[row * padded..][..head_dim].iter().enumerate() {
            // SAFETY: this task alone writes this query's head.
            unsafe { *out.at(query_offsets[row] + d) = x * scale };
        }
    }
}

/// `scores[row][i] = q[row] . k[i]` for a tile of keys.
///
/// # Safety
/// At each offset there are `head_dim` elements.
#[inline(always)]
unsafe fn score_tile<S: Simd>(
    q: &[f32],
    k: &[f32],
    queries: &[usize],
    keys: &[usize],
    head_dim: usize,
    scores: &mut [f32],
) {
    let mut first = 0;
    while first < keys.len() {
        let n = 4.min(keys.len() - first);
        let mut key = [k.as_ptr(); 4];
        for (j, key) in key.iter_mut().enumerate() {
            // Past the last key it is read again and its score dropped.
            // SAFETY: the caller vouches for the offsets.
            *key = unsafe { k.as_ptr().add(keys[first + j.min(n - 1)]) };
        }
        let mut row = 0;
        macro_rules! tile {
            ($mr:literal) => {{
                let mut query = [q.as_ptr(); $mr];
                for (i, query) in query.iter_mut().enumerate() {
                    // SAFETY: the caller vouches for the offsets.
                    *query = unsafe { q.as_ptr().add(queries[row + i]) };
                }
                // SAFETY: rows of `head_dim` elements.
                let sums = unsafe { dots::<S, $mr>(query, key, head_dim) };
                for (i, sums) in sums.iter().enumerate() {
                    let to = &mut scores[(row + i) * TILE + first..][..4];
                    to.copy_from_slice(sums);
                }
                row += $mr;
            }};
        }
        while row + 6 <= queries.len() {
            tile!(6);
        }
        while row + 3 <= queries.len() {
            tile!(3);
        }
        while row < queries.len() {
            tile!(1);
        }
        first += 4;
    }
}

/// `acc[row] = acc[row] * corrections[row] + sum_i scores[row][i] * v[i]`.
///
/// # Safety
/// At each offset there are `head_dim` elements; `acc` has as many rows as `corrections`,
/// of `head_dim` rounded up to 16.
#[inline(always)]
unsafe fn gather_values<S: Simd>(
    v: &[f32],
    scores: &[f32],
    corrections: &[f32],
    values: &[usize],
    head_dim: usize,
    acc: &mut [f32],
) {
    let padded = head_dim.next_multiple_of(16);
    let mut first = 0;
    while first < head_dim {
        // Several vectors of a row at once where they are whole: a row is read in one go.
        let wide = if S::LANES == 16 { 4 } else { 2 };
        let columns = if first + wide * S::LANES <= head_dim { wide } else { 1 };
        let part = S::LANES.min(head_dim - first);
        let mut row = 0;
        macro_rules! tile {
            ($mr:literal, $columns:literal) => {{
                // SAFETY: as the caller vouches; `padded >= first + columns * LANES`.
                unsafe {
                    let to = acc.as_mut_ptr().add(row * padded + first);
                    let weights = scores.as_ptr().add(row * TILE);
                    let mut sums = [[S::zero(); $columns]; $mr];
                    for i in 0..$mr {
                        let correction = S::splat(corrections[row + i]);
                        for c in 0..$columns {
                            let kept = S::load(to.add(i * padded + c * S::LANES));
                            sums[i][c] = S::fma(kept, correction, S::zero());
                        }
                    }
                    for (key, &offset) in values.iter().enumerate() {
                        let from = v.as_ptr().add(offset + first);
                        let mut value = [S::zero(); $columns];
                        for c in 0..$columns {
                            value[c] = if part == S::LANES {
                                S::load(from.add(c * S::LANES))
                            } else {
                                S::load_part(from, part)
                            };
                        }
                        for i in 0..$mr {
                            let weight = S::splat(*weights.add(i * TILE + key));
                            for c in 0..$columns {
                                sums[i][c] = S::fma(value[c], weight, sums[i][c]);
                            }
                        }
                    }
                    for i in 0..$mr {
                        for c in 0..$columns {
                            S::store(to.add(i * padded + c * S::LANES), sums[i][c]);
                        }
                    }
                }
                row += $mr;
            }};
        }
        macro_rules! rows {
            ($columns:literal) => {{
                while row + 4 <= corrections.len() {
                    tile!(4, $columns);
                }
                while row + 3 <= corrections.len() {
                    tile!(3, $columns);
                }
                while row < corrections.len() {
                    tile!(1, $columns);
                }
            }};
        }
        match columns {
            4 => rows!(4),
            2 => rows!(2),
            _ => rows!(1),
        }
        first += columns * S::LANES;
    }
}
