//! Writing new keys or values into their rows of a cache, in place.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};

/// Writes `values[i]` into row `rows[i]` of `pool`.
///
/// # Shapes
/// `pool`: `(slots, kv_heads, head_dim)`; `values`: `(tokens, kv_heads, head_dim)` of the
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
        for (i, &row) in rows.iter().enumerate() {
            pool.slice_set(&values.narrow(0, i, 1)?, 0, row as usize)?;
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
        let (Some((to, _)), Some((from, _))) =
            (pool_layout.contiguous_offsets(), values_layout.contiguous_offsets())
        else {
            bail!("kv_write: operands must be contiguous")
        };
        let width = pool_layout.shape().elem_count() / pool_layout.shape().dims()[0].max(1);
        macro_rules! copy {
            ($pool:expr, $values:expr) => {
                for (i, &row) in self.rows.iter().enumerate() {
                    let (to, from) = (to + row as usize * width, from + i * width);
                    $pool[to..to + width].copy_from_slice(&$values[from..from + width]);
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
