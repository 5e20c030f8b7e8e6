//! Scales that lie beside the weights in ComfyUI's layouts, and rows of weights with theirs in them.

use std::ops::Range;

use llm_dit_kernels::Format;

/// What the stored values of a matrix are multiplied by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scales {
    pub rows: RowScales,
    pub blocks: Option<BlockScales>,
}

/// Of whole rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RowScales {
    All(f32),
    Each(Vec<f32>),
}

/// A byte for each block of columns, in the matrix's file: in tiles of 128 rows by 4 blocks, as cuBLAS
/// reads them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BlockScales {
    pub bytes: Range<usize>,
    pub per_row: usize,
}

/// Rows and columns of a tile of scales.
const TILE: (usize, usize) = (128, 4);

impl Scales {
    /// Weights that are stored as they are.
    pub fn none() -> Self {
        Self { rows: RowScales::All(1.0), blocks: None }
    }

    fn row(&self, row: usize) -> f32 {
        match &self.rows {
            RowScales::All(scale) => *scale,
            RowScales::Each(scales) => scales.get(row).copied().unwrap_or(0.0),
        }
    }

    /// Rows from `first` on as [`Format`] has them: each with its scales before or between its values.
    /// `values` are what the file has of them, `blocks` the scales of all blocks.
    pub fn pack(
        &self,
        format: Format,
        columns: usize,
        values: &[u8],
        first: usize,
        blocks: &[u8],
    ) -> Vec<u8> {
        let row_bytes = stored_row_bytes(format, columns);
        let rows = values.chunks_exact(row_bytes.max(1));
        let mut packed = Vec::with_capacity(
            format.row_bytes(columns).unwrap_or_default().saturating_mul(rows.len()),
        );
        let per_row = self.blocks.as_ref().map_or(0, |blocks| blocks.per_row);
        for (row, values) in (first..).zip(rows) {
            if format.header() > 0 {
                packed.extend(self.row(row).to_le_bytes());
                packed.extend([0; Format::HEADER - 4]);
            }
            if per_row == 0 {
                packed.extend(values);
                continue;
            }
            for (block, values) in values.chunks_exact(row_bytes / per_row).enumerate() {
                packed.push(blocks.get(tiled(row, block, per_row)).copied().unwrap_or(0));
                packed.extend(values);
            }
        }
        packed
    }
}

/// Bytes of a row as ComfyUI stores it, without scales.
pub(crate) fn stored_row_bytes(format: Format, columns: usize) -> usize {
    match format {
        Format::Nvfp4 => columns / 2,
        _ => columns,
    }
}

/// Bytes of the scales of so many rows of so many blocks each: whole tiles.
pub(crate) fn tiled_bytes(rows: usize, per_row: usize) -> Option<usize> {
    rows.checked_next_multiple_of(TILE.0)?.checked_mul(per_row.checked_next_multiple_of(TILE.1)?)
}

/// Where the scale of a block is.
fn tiled(row: usize, block: usize, per_row: usize) -> usize {
    let tile = row / TILE.0 * per_row.div_ceil(TILE.1) + block / TILE.1;
    let within = row % TILE.0;
    tile * TILE.0 * TILE.1 + within % 32 * 16 + within / 32 * 4 + block % TILE.1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_block_has_a_byte_of_its_own() {
        let all: BTreeSet<usize> =
            (0..256).flat_map(|row| (0..8).map(move |block| tiled(row, block, 8))).collect();
        assert_eq!((all.len(), all.last()), (2048, Some(&2047)));
        assert_eq!((tiled(33, 1, 4), tiled(0, 4, 8), tiled(128, 0, 5)), (21, 512, 1024));
        assert_eq!(tiled_bytes(129, 5), Some(256 * 8));
    }

    #[test]
    fn rows_carry_their_scales() {
        let scales = Scales { rows: RowScales::Each(vec![0.0, 2.0, 3.0]), blocks: None };
        let packed = scales.pack(Format::E4m3, 2, &[7, 8, 9, 10], 1, &[]);
        let row = |scale: f32, values: [u8; 2]| {
            [&scale.to_le_bytes()[..], &[0; 12], &values[..]].concat()
        };
        assert_eq!(packed, [row(2.0, [7, 8]), row(3.0, [9, 10])].concat());

        let blocks = Some(BlockScales { bytes: 0..512, per_row: 2 });
        let scales = Scales { rows: RowScales::All(0.5), blocks };
        let tile: Vec<u8> = (0..=255).cycle().take(512).collect();
        let packed = scales.pack(Format::Nvfp4, 32, &[1; 16], 32, &tile);
        // Row 32 is the second of four quarters.
        let expected = [&0.5f32.to_le_bytes()[..], &[0; 12], &[4], &[1; 8], &[5], &[1; 8]].concat();
        assert_eq!(packed, expected);
    }
}
