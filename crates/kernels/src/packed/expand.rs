//! Expansion on the host: rows by several threads, f32 arithmetic, and one rounding.

use candle_core::{
    CpuStorage, Error, InplaceOp1, Layout, Result, Storage, Tensor, WithDType, bail,
};
use half::{bf16, f16};
use rayon::prelude::*;

use super::{Format, PackedRows};

/// A type to compute in on the host.
pub trait Value: WithDType {
    /// The nearest value.
    fn from_f32(value: f32) -> Self;

    /// See [`Format::expand`]; `wide` has room for the row in f32.
    fn expand_row(format: Format, row: &[u8], out: &mut [Self], wide: &mut Vec<f32>) {
        wide.resize(out.len(), 0.0);
        format.expand(row, wide);
        for (out, wide) in out.iter_mut().zip(wide) {
            *out = Self::from_f32(*wide);
        }
    }
}

impl Value for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }

    fn expand_row(format: Format, row: &[u8], out: &mut [Self], _: &mut Vec<f32>) {
        format.expand(row, out);
    }
}

impl Value for bf16 {
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Value for f16 {
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// Expands whole rows of `columns` columns into as many values. Bytes or values that are no whole row
/// are left out.
pub fn expand_rows<T: Value>(format: Format, columns: usize, bytes: &[u8], out: &mut [T]) {
    let Some(row_bytes) = format.row_bytes(columns) else { return };
    let rows = bytes.par_chunks_exact(row_bytes.max(1)).with_min_len(share(columns));
    out.par_chunks_exact_mut(columns.max(1))
        .zip(rows)
        .for_each_init(Vec::new, |wide, (out, row)| T::expand_row(format, row, out, wide));
}

/// Rows that are worth a thread's while.
fn share(columns: usize) -> usize {
    ((1 << 14) / columns.max(1)).max(1)
}

/// Expands all parts into `out`, `(rows, columns)` on the host; with `turn`, the two halves of the
/// rows in turns.
pub(super) fn on_host(
    parts: &[PackedRows],
    columns: usize,
    turn: Option<usize>,
    out: &Tensor,
) -> Result<()> {
    out.inplace_op1(&Expansion { parts, columns, turn })
}

struct Expansion<'a> {
    parts: &'a [PackedRows],
    columns: usize,
    turn: Option<usize>,
}

impl InplaceOp1 for Expansion<'_> {
    fn name(&self) -> &'static str {
        "expand"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((from, to)) = layout.contiguous_offsets() else {
            bail!("packed weights are expanded into contiguous memory only");
        };
        match storage {
            CpuStorage::F32(values) => self.run(&mut values[from..to]),
            CpuStorage::BF16(values) => self.run(&mut values[from..to]),
            CpuStorage::F16(values) => self.run(&mut values[from..to]),
            _ => bail!("packed weights are expanded to f32, bf16 or f16"),
        }
    }
}

impl Expansion<'_> {
    fn run<T: Value>(&self, out: &mut [T]) -> Result<()> {
        let guards: Vec<_> =
            self.parts.iter().map(|part| part.bytes.storage_and_layout()).collect();
        let mut parts = Vec::new();
        let mut all = 0;
        for (part, (storage, layout)) in self.parts.iter().zip(&guards) {
            let bytes = match (&**storage, layout.contiguous_offsets()) {
                (Storage::Cpu(CpuStorage::U8(bytes)), Some((from, to))) => &bytes[from..to],
                _ => return Err(Error::Msg("packed weights of another device".into())),
            };
            let row_bytes = part.format.row_bytes(self.columns).unwrap_or_default();
            parts.push((all, part.format, bytes, row_bytes));
            all += part.rows;
        }
        // The row that goes to this place.
        let source = |place: usize| match self.turn {
            Some(turn) => {
                let (pair, within) = (place / (2 * turn), place % (2 * turn));
                within / turn * (all / 2) + pair * turn + within % turn
            }
            None => place,
        };
        out.par_chunks_exact_mut(self.columns.max(1))
            .with_min_len(share(self.columns))
            .enumerate()
            .for_each_init(Vec::new, |wide, (place, out)| {
                let row = source(place);
                let part = parts.iter().rfind(|(first, ..)| *first <= row);
                let Some(&(first, format, bytes, row_bytes)) = part else { return };
                let from = (row - first) * row_bytes;
                let row = bytes.get(from..from + row_bytes).unwrap_or_default();
                T::expand_row(format, row, out, wide);
            });
        Ok(())
    }
}
