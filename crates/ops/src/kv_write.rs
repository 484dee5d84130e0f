//! Writing new keys or values into their rows of a cache, in place.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};

/// Writes `values[i]` into row `rows[i]` of `pool`.
///
/// # Shapes
/// `pool`: `(slots, kv_heads, head_dim)`, in any order of slots and heads in memory;
/// `values`: `(tokens, kv_heads, head_dim)` of the
/// same dtype; `rows`: one slot for each token.
/// # Errors
/// Shapes that do not fit, or a row outside the pool.
pub fn kv_write(pool: &Tensor, values: &Tensor, rows: &[u32]) -> Result<()> {
    let (slots, kv_heads, head_dim) = pool.dims3()?;
    if values.dims() != [rows.len(), kv_heads, head_dim] {
        bail!("kv_write: values {:?} for {} rows of {:?}", values.dims(), rows.len(), pool.dims())
    }
    if let Some(row) = rows.iter().find(|&&row| row as usize >= slots) {
        bail!("kv_write: row {row} of a pool of {slots}")
    }
    if !pool.device().is_cpu() {
        let by_head = !pool.is_contiguous();
        for (i, &row) in rows.iter().enumerate() {
            let value = values.narrow(0, i, 1)?;
            if by_head {
                let (pool, value) = (pool.transpose(0, 1)?, value.transpose(0, 1)?);
                pool.slice_set(&value.contiguous()?, 1, row as usize)?;
            } else {
                pool.slice_set(&value, 0, row as usize)?;
            }
        }
        return Ok(());
    }
    pool.inplace_op2(&values.contiguous()?, &KvWrite { rows: rows.to_vec() })
}

struct KvWrite {
    rows: Vec<u32>,
}

impl InplaceOp2 for KvWrite {
    fn name(&self) -> &'static str {
        "kv_write"
    }

    fn cpu_fwd(
        &self,
        pool: &mut CpuStorage,
        pool_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<()> {
        let Some((from, _)) = values_layout.contiguous_offsets() else {
            bail!("kv_write: values must be contiguous")
        };
        let (_, kv_heads, head_dim) = pool_layout.shape().dims3()?;
        let [row_stride, head_stride, 1] = *pool_layout.stride() else {
            bail!("kv_write: the pool's head elements must be contiguous")
        };
        let start = pool_layout.start_offset();
        macro_rules! copy {
            ($pool:expr, $values:expr) => {
                for (i, &row) in self.rows.iter().enumerate() {
                    for head in 0..kv_heads {
                        let to = start + row as usize * row_stride + head * head_stride;
                        let from = from + (i * kv_heads + head) * head_dim;
                        $pool[to..to + head_dim].copy_from_slice(&$values[from..from + head_dim]);
                    }
                }
            };
        }
        match (pool, values) {
            (CpuStorage::F32(pool), CpuStorage::F32(values)) => copy!(pool, values),
            (CpuStorage::BF16(pool), CpuStorage::BF16(values)) => copy!(pool, values),
            (CpuStorage::F16(pool), CpuStorage::F16(values)) => copy!(pool, values),
            _ => bail!("kv_write: pool and values differ in dtype"),
        }
        Ok(())
    }
}
