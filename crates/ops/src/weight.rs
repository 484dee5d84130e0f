//! A weight matrix as it is stored: dense in f32, bf16 or f16, or block-quantised.

use crate::quant::{QuantType, widen_bf16, widen_f16};
use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, bail};

/// A matrix `(out, in)` whose rows are contiguous along `in`.
#[derive(Debug, Clone)]
pub enum Weight {
    /// A tensor of f32, bf16 or f16.
    Dense(Tensor),
    /// Quantised blocks.
    Quant(QuantWeight),
}

/// Quantised rows.
#[derive(Debug, Clone)]
pub struct QuantWeight {
    kind: QuantType,
    rows: usize,
    cols: usize,
    bytes: Tensor, // (rows * row_bytes,), u8
}

impl QuantWeight {
    /// Takes the blocks of a `(rows, cols)` matrix.
    ///
    /// # Errors
    /// A width that is no multiple of the block, or a byte count that does not fit.
    pub fn new(
        kind: QuantType,
        rows: usize,
        cols: usize,
        bytes: Vec<u8>,
        device: &Device,
    ) -> Result<Self> {
        let wanted = kind.bytes_for(cols).and_then(|row| row.checked_mul(rows));
        if wanted != Some(bytes.len()) {
            let name = kind.name();
            bail!("{name} weight ({rows}, {cols}): {} bytes given, {wanted:?} needed", bytes.len())
        }
        let length = bytes.len();
        Ok(QuantWeight { kind, rows, cols, bytes: Tensor::from_vec(bytes, length, device)? })
    }
}

impl Weight {
    /// Wraps a dense matrix.
    ///
    /// # Errors
    /// A tensor that is not a contiguous matrix of f32, bf16 or f16.
    pub fn dense(tensor: Tensor) -> Result<Self> {
        tensor.dims2()?;
        if !matches!(tensor.dtype(), DType::F32 | DType::BF16 | DType::F16) {
            bail!("a weight of dtype {:?} is not supported", tensor.dtype())
        }
        Ok(Weight::Dense(tensor.contiguous()?))
    }

    /// `(out, in)`.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Weight::Dense(t) => (t.dims()[0], t.dims()[1]),
            Weight::Quant(q) => (q.rows, q.cols),
        }
    }

    /// The stored format: `f32`, `bf16`, `f16`, `Q4_1`, ...
    pub fn format(&self) -> &'static str {
        match self {
            Weight::Dense(t) => t.dtype().as_str(),
            Weight::Quant(q) => q.kind.name(),
        }
    }

    /// Bytes that the matrix takes.
    pub fn size_bytes(&self) -> usize {
        match self {
            Weight::Dense(t) => t.elem_count() * t.dtype().size_in_bytes(),
            Weight::Quant(q) => q.bytes.elem_count(),
        }
    }

    /// Where the matrix lies.
    pub fn device(&self) -> &Device {
        match self {
            Weight::Dense(t) => t.device(),
            Weight::Quant(q) => q.bytes.device(),
        }
    }

    /// The matrix in `dtype`, dequantised where it is not dense. `(out, in)`
    ///
    /// # Errors
    /// Those of candle.
    pub fn to_dense(&self, dtype: DType) -> Result<Tensor> {
        match self {
            Weight::Dense(t) => t.to_dtype(dtype),
            Weight::Quant(q) => {
                let bytes = q.bytes.to_vec1::<u8>()?;
                let mut values = vec![0f32; q.rows * q.cols];
                q.kind.dequantise(&bytes, &mut values);
                Tensor::from_vec(values, (q.rows, q.cols), q.bytes.device())?.to_dtype(dtype)
            }
        }
    }

    /// Calls `read` with something that gives rows of a CPU matrix in f32.
    pub(crate) fn with_rows<R>(&self, read: impl FnOnce(Rows<'_>) -> Result<R>) -> Result<R> {
        match self {
            Weight::Dense(t) => {
                let (storage, layout) = t.storage_and_layout();
                let (Storage::Cpu(cpu), Some((start, end))) =
                    (&*storage, layout.contiguous_offsets())
                else {
                    bail!("the weight is not a contiguous CPU matrix")
                };
                match cpu {
                    CpuStorage::F32(v) => read(Rows::F32(&v[start..end])),
                    CpuStorage::BF16(v) => read(Rows::Bf16(&v[start..end])),
                    CpuStorage::F16(v) => read(Rows::F16(&v[start..end])),
                    _ => bail!("a weight of dtype {:?} is not supported", t.dtype()),
                }
            }
            Weight::Quant(q) => {
                let (storage, layout) = q.bytes.storage_and_layout();
                let (Storage::Cpu(CpuStorage::U8(v)), Some((start, end))) =
                    (&*storage, layout.contiguous_offsets())
                else {
                    bail!("the quantised weight is not on the CPU")
                };
                read(Rows::Quant(q.kind, &v[start..end]))
            }
        }
    }
}

/// The rows of a matrix in CPU memory.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    F32(&'a [f32]),
    Bf16(&'a [half::bf16]),
    F16(&'a [half::f16]),
    Quant(QuantType, &'a [u8]),
}

impl<'a> Rows<'a> {
    /// Rows `start..end` of width `cols` in f32: in place where they are f32, else
    /// widened into `scratch`.
    pub(crate) fn get<'b>(
        &self,
        start: usize,
        end: usize,
        cols: usize,
        scratch: &'b mut Vec<f32>,
    ) -> &'b [f32]
    where
        'a: 'b,
    {
        if let Rows::F32(v) = self {
            return &v[start * cols..end * cols];
        }
        scratch.resize((end - start) * cols, 0.0);
        match self {
            Rows::F32(_) => {}
            Rows::Bf16(v) => widen_bf16(&v[start * cols..end * cols], scratch),
            Rows::F16(v) => widen_f16(&v[start * cols..end * cols], scratch),
            Rows::Quant(kind, v) => {
                let row = cols / kind.block_len() * kind.block_bytes();
                kind.dequantise(&v[start * row..end * row], scratch);
            }
        }
        scratch
    }
}
