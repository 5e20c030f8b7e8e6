//! The formats in which rows of weights are packed, and their expansion to f32.

use half::{bf16, f16};

use super::{blocks, scaled, super_blocks};

/// How the weights of a row are packed. Each row stands for itself, so rows can be cut out, put in
/// another order, and put behind rows of other formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    /// fp8 with four bits of exponent (e4m3fn), behind [`Self::HEADER`] bytes with the row's scale.
    E4m3,
    /// fp8 with five bits of exponent, likewise.
    E5m2,
    /// Signed bytes, likewise; rotated in groups of so many columns, a power of four, or 0: not at all.
    Int8 {
        group: u16,
    },
    /// Blocks of 16 values of e2m1 behind their scale in e4m3fn; the rows have scales as well.
    Nvfp4,
    /// Blocks of 32 values of e4m3fn behind their scale, a power of two.
    Mxfp8,
}

impl Format {
    /// Bytes before the values of a row that has a scale of its own: the scale in f32, and nothing.
    /// They are a vector, so that the values are aligned as the row is.
    pub const HEADER: usize = 16;

    /// Formats of ggml.
    pub const GGML: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
    ];

    /// Formats with scales beside the values; of rotated ones those of the usual groups.
    pub const SCALED: [Self; 7] = [
        Self::E4m3,
        Self::E5m2,
        Self::Int8 { group: 0 },
        Self::Int8 { group: 64 },
        Self::Int8 { group: 256 },
        Self::Nvfp4,
        Self::Mxfp8,
    ];

    /// Values of a block, and its bytes.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 | Self::Iq4Nl => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
            Self::Iq4Xs => (256, 136),
            Self::E4m3 | Self::E5m2 | Self::Int8 { .. } => (1, 1),
            Self::Nvfp4 => (16, 9),
            Self::Mxfp8 => (32, 33),
        }
    }

    /// Bytes before a row's blocks.
    pub fn header(self) -> usize {
        match self {
            Self::E4m3 | Self::E5m2 | Self::Int8 { .. } | Self::Nvfp4 => Self::HEADER,
            _ => 0,
        }
    }

    /// Columns that a row is a multiple of.
    pub fn multiple(self) -> usize {
        match self {
            Self::Int8 { group } => usize::from(group).max(1),
            _ => self.block().0,
        }
    }

    /// Bytes of a row of so many columns; `None` if it is no whole number of blocks, or more than
    /// this machine counts.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let (values, bytes) = self.block();
        if !columns.is_multiple_of(self.multiple()) {
            return None;
        }
        (columns / values).checked_mul(bytes)?.checked_add(self.header())
    }

    /// What the field calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Nl => "IQ4_NL",
            Self::Iq4Xs => "IQ4_XS",
            Self::E4m3 => "float8_e4m3fn",
            Self::E5m2 => "float8_e5m2",
            Self::Int8 { group: 0 } => "int8_tensorwise",
            Self::Int8 { .. } => "int8_tensorwise with convrot",
            Self::Nvfp4 => "nvfp4",
            Self::Mxfp8 => "mxfp8",
        }
    }

    /// Expands a row. `row` has [`Self::row_bytes`] for as many columns as `out` has values; what is
    /// missing of either is left out.
    pub fn expand(self, row: &[u8], out: &mut [f32]) {
        let scale = row.first_chunk().map_or(1.0, |bytes| f32::from_le_bytes(*bytes));
        let blocks = row.get(self.header()..).unwrap_or_default();
        match self {
            Self::F32 => each(blocks, out, |b, out: &mut [f32; 1]| *out = [f32::from_le_bytes(*b)]),
            Self::F16 => {
                each(blocks, out, |b, out: &mut [f32; 1]| *out = [f16::from_le_bytes(*b).to_f32()]);
            }
            Self::Bf16 => each(blocks, out, |b, out: &mut [f32; 1]| {
                *out = [bf16::from_le_bytes(*b).to_f32()];
            }),
            Self::Q4_0 => each(blocks, out, blocks::q4_0),
            Self::Q4_1 => each(blocks, out, blocks::q4_1),
            Self::Q5_0 => each(blocks, out, blocks::q5_0),
            Self::Q5_1 => each(blocks, out, blocks::q5_1),
            Self::Q8_0 => each(blocks, out, blocks::q8_0),
            Self::Q2K => each(blocks, out, super_blocks::q2_k),
            Self::Q3K => each(blocks, out, super_blocks::q3_k),
            Self::Q4K => each(blocks, out, super_blocks::q4_k),
            Self::Q5K => each(blocks, out, super_blocks::q5_k),
            Self::Q6K => each(blocks, out, super_blocks::q6_k),
            Self::Iq4Nl => each(blocks, out, blocks::iq4_nl),
            Self::Iq4Xs => each(blocks, out, super_blocks::iq4_xs),
            Self::E4m3 => {
                each(blocks, out, |[b], out: &mut [f32; 1]| *out = [scaled::e4m3(*b) * scale]);
            }
            Self::E5m2 => {
                each(blocks, out, |[b], out: &mut [f32; 1]| *out = [scaled::e5m2(*b) * scale]);
            }
            Self::Int8 { group: 0 } => {
                each(blocks, out, |[b], out: &mut [f32; 1]| *out = [f32::from(*b as i8) * scale]);
            }
            Self::Int8 { group } => {
                each(blocks, out, |[b], out: &mut [f32; 1]| *out = [f32::from(*b as i8)]);
                scaled::rotate(out, usize::from(group), scale);
            }
            Self::Nvfp4 => each(blocks, out, |b, out| scaled::nvfp4(b, out, scale)),
            Self::Mxfp8 => each(blocks, out, scaled::mxfp8),
        }
    }
}

/// Block by block.
fn each<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    expand: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    let values = out.as_chunks_mut::<VALUES>().0;
    for (block, values) in bytes.as_chunks::<BYTES>().0.iter().zip(values) {
        expand(block, values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_are_too_odd() {
        for format in Format::GGML.into_iter().chain(Format::SCALED) {
            let columns = format.multiple().max(format.block().0);
            let bytes = format.row_bytes(columns).expect("whole blocks");
            for fill in [0, 0x7f, 0x80, 0xff] {
                let row = vec![fill; bytes];
                let mut out = vec![0.0; columns];
                format.expand(&row, &mut out);
                for short in [0, 1, bytes / 2, bytes - 1] {
                    format.expand(&row[..short], &mut out);
                }
                format.expand(&row, &mut out[..columns / 2]);
            }
        }
    }

    #[test]
    fn a_row_is_whole_blocks() {
        assert_eq!(Format::Q4K.row_bytes(512), Some(288));
        assert_eq!(Format::Q4K.row_bytes(192), None);
        assert_eq!(Format::Q8_0.row_bytes(192), Some(204));
        assert_eq!(Format::E4m3.row_bytes(5), Some(21));
        assert_eq!(Format::Int8 { group: 64 }.row_bytes(96), None);
        assert_eq!(Format::F32.row_bytes(usize::MAX), None);
    }
}
