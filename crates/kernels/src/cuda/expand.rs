//! Expansion of packed weights.

use candle_core::{Result, Tensor, bail, cuda_backend::cudarc};
use half::{bf16, f16};

use super::{
    Expander,
    source::Source,
    tensor::{address, blocks, launch},
};
use crate::{Format, PackedRows, accelerated::PackedKernels};

/// Values of a vector that a thread stores.
const VECTOR: usize = 8;
const THREADS: u32 = 256;

impl PackedKernels for Expander {
    /// Rows are whole vectors, and values of plain types are aligned to vectors themselves.
    fn expands(&self, format: Format, columns: usize) -> bool {
        let Some(bytes) = format.row_bytes(columns) else { return false };
        let aligned = match format {
            Format::F32 | Format::F16 | Format::Bf16 => bytes.is_multiple_of(16),
            // Read as words of two bytes; the scales of rows begin them.
            Format::Nvfp4 | Format::E4m3 | Format::E5m2 | Format::Int8 { .. } => {
                bytes.is_multiple_of(2)
            }
            _ => true,
        };
        let group = match format {
            Format::Int8 { group } => group == 0 || (VECTOR..=4096).contains(&usize::from(group)),
            _ => true,
        };
        aligned && group && columns > 0 && columns.is_multiple_of(VECTOR)
    }

    fn expand(
        &self,
        packed: &PackedRows,
        first: usize,
        turn: Option<usize>,
        out: &Tensor,
    ) -> Result<()> {
        let (all, columns) = out.dims2()?;
        let PackedRows { format, rows, bytes } = packed;
        let Some(row_bytes) = format.row_bytes(columns) else {
            bail!("rows of {columns} columns in {}", format.name());
        };
        let fits = first + rows <= all && bytes.elem_count() == rows * row_bytes;
        if !fits || !self.expands(*format, columns) || !out.is_contiguous() {
            bail!("packed rows that do not fit the matrix they are expanded into");
        }
        let Self { gpu, half } = self;
        let to = if *half { address::<f16>(out)? } else { address::<bf16>(out)? };
        if !to.is_multiple_of(16) {
            bail!("a matrix at {to}, which is not aligned to vectors");
        }
        let vectors = columns / VECTOR;
        let group = match format {
            Format::Int8 { group } => usize::from(*group),
            _ => 0,
        };
        let across = match group {
            0 => vectors.div_ceil(THREADS as usize),
            group => columns / group,
        };
        launch!(
            gpu,
            gpu.function(Source::Expand { format: *format, half: *half }, "expand")?,
            blocks((*rows, across, 1), THREADS, 0)?,
            address::<u8>(bytes)?,
            to,
            row_bytes as u64,
            *rows as u32,
            vectors as u32,
            first as u32,
            all as u32,
            turn.unwrap_or(0) as u32,
        )
    }
}
