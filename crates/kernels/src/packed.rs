//! Weights that stay packed on their device and are expanded for each product, into memory that is
//! used again.

mod blocks;
mod expand;
mod format;
mod scaled;
mod scratch;
mod super_blocks;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

pub use expand::{Value, expand_rows};
pub use format::Format;
pub use scratch::Scratch;

use crate::{SideBranch, accelerated, host, product};

/// Rows in one format, on a device.
#[derive(Clone, Debug)]
pub struct PackedRows {
    pub(crate) format: Format,
    pub(crate) rows: usize,
    /// `rows * format.row_bytes(columns)`, of type u8.
    pub(crate) bytes: Tensor,
}

/// A matrix `(out, in)` of packed rows, which may be of several formats one after the other.
#[derive(Clone, Debug)]
pub struct Packed {
    parts: Vec<PackedRows>,
    rows: usize,
    columns: usize,
    dtype: DType,
    device: Device,
    scratch: Arc<Scratch>,
    /// See [`Self::in_turns`].
    turn: Option<usize>,
    side: Option<SideBranch>,
}

impl PackedRows {
    /// # Errors
    ///
    /// Where `bytes` are not those of so many rows.
    pub fn new(format: Format, rows: usize, columns: usize, bytes: Tensor) -> Result<Self> {
        let expected = format.row_bytes(columns).and_then(|row| row.checked_mul(rows));
        if expected != Some(bytes.elem_count()) || bytes.dtype() != DType::U8 {
            let (found, name) = (bytes.elem_count(), format.name());
            bail!("{found} bytes for {rows} rows of {columns} columns in {name}");
        }
        Ok(Self { format, rows, bytes: bytes.flatten_all()?.contiguous()? })
    }
}

impl Packed {
    /// True where rows of this format and width can be expanded on the device itself, to `dtype`.
    ///
    /// # Errors
    ///
    /// Where the device does not say what it is.
    pub fn runs_on(device: &Device, dtype: DType, format: Format, columns: usize) -> Result<bool> {
        if device.is_cpu() {
            return Ok(matches!(dtype, DType::F32 | DType::BF16 | DType::F16));
        }
        let kernels = accelerated::packed_on(device, dtype)?;
        Ok(kernels.is_some_and(|kernels| kernels.expands(format, columns)))
    }

    /// Rows one after the other, to be expanded to `dtype`. `scratch` is shared by all matrices that
    /// are not used at one time; it grows to the largest.
    ///
    /// # Errors
    ///
    /// Where there are no rows, or the device has no memory for the scratch.
    pub fn new(
        parts: Vec<PackedRows>,
        columns: usize,
        dtype: DType,
        scratch: Arc<Scratch>,
    ) -> Result<Self> {
        let Some(first) = parts.first() else { bail!("a packed matrix without rows") };
        let device = first.bytes.device().clone();
        let rows = parts.iter().map(|part| part.rows).sum::<usize>();
        scratch.reserve(rows * columns, dtype, &device)?;
        Ok(Self { parts, rows, columns, dtype, device, scratch, turn: None, side: None })
    }

    /// The same with this added to its products.
    #[must_use]
    pub fn with_side(self, side: Option<SideBranch>) -> Self {
        Self { side, ..self }
    }

    /// The same values, expanded with the first half of the rows and the second in turns of `turn`
    /// rows each. What is stored stays in order.
    pub(crate) fn in_turns(&self, turn: usize) -> Self {
        Self { turn: Some(turn), ..self.clone() }
    }

    /// True where products have something added.
    pub(crate) fn has_side(&self) -> bool {
        self.side.is_some()
    }

    /// `x W^T + bias`, with what is added. The rows are in the order in which they are stored.
    pub(crate) fn product(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let out = self.expanded(None, |weight| product::linear(x, weight, bias))?;
        match &self.side {
            Some(side) => side.add(out, x),
            None => Ok(out),
        }
    }

    /// Does something with the values in turns, in the scratch.
    pub(crate) fn with_turns<T>(&self, work: impl FnOnce(&Tensor) -> Result<T>) -> Result<T> {
        self.expanded(self.turn, work)
    }

    fn expanded<T>(
        &self,
        turn: Option<usize>,
        work: impl FnOnce(&Tensor) -> Result<T>,
    ) -> Result<T> {
        let shape = (self.rows, self.columns);
        self.scratch.with(shape, self.dtype, &self.device, |out| {
            expand(&self.parts, turn, out)?;
            work(out)
        })
    }

    /// All values, in memory of their own.
    ///
    /// # Errors
    ///
    /// Where the device has no memory for them.
    pub fn dequantize(&self) -> Result<Tensor> {
        let out = Tensor::zeros((self.rows, self.columns), self.dtype, &self.device)?;
        expand(&self.parts, self.turn, &out)?;
        Ok(out)
    }

    /// `(out, in)`.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// What it is expanded to.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where it lies.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes that it takes on its device.
    pub fn stored_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.elem_count()).sum()
    }
}

/// Packed rows as values, one part after the other. See [`Packed::runs_on`].
///
/// # Errors
///
/// Where the device has no memory for them, or does not know the format.
pub fn dequantize(parts: &[PackedRows], columns: usize, dtype: DType) -> Result<Tensor> {
    let Some(first) = parts.first() else { bail!("a packed matrix without rows") };
    let rows = parts.iter().map(|part| part.rows).sum::<usize>();
    let out = Tensor::zeros((rows, columns), dtype, first.bytes.device())?;
    expand(parts, None, &out)?;
    Ok(out)
}

/// Expands rows into those of `out`, all of them; with `turn`, the two halves in turns.
fn expand(parts: &[PackedRows], turn: Option<usize>, out: &Tensor) -> Result<()> {
    if host::is_cpu(out) {
        return expand::on_host(parts, out.dim(1)?, turn, out);
    }
    let Some(kernels) = accelerated::packed_on(out.device(), out.dtype())? else {
        bail!("no kernels on this device expand packed weights");
    };
    let mut first = 0;
    for part in parts {
        kernels.expand(part, first, turn, out)?;
        first += part.rows;
    }
    Ok(())
}
