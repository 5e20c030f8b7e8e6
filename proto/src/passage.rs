//! A tensor that is passed on chunk by chunk, and checked on its way.

use crate::{
    tensor::{DType, MAX_CHUNK_BYTES, TensorError, announced},
    v1,
};

/// Checks header and chunks of one tensor without keeping it: whoever passes on what it did not
/// check is blamed for it.
#[derive(Debug)]
pub struct Passage {
    dtype: DType,
    shape: Vec<u64>,
    expected: u64,
    arrived: u64,
    /// The first bytes of a value that the last chunk cut.
    cut: Vec<u8>,
}

impl Passage {
    /// Begins with a header; `limit` bounds what it may announce, in bytes.
    ///
    /// # Errors
    ///
    /// [`TensorError`] if the dtype is missing or unknown, if the sizes contradict each other, or
    /// if they exceed `limit`.
    pub fn begin(header: &v1::TensorHeader, limit: u64) -> Result<Self, TensorError> {
        let (dtype, expected) = announced(header, limit)?;
        let shape = header.shape.clone();
        Ok(Self { dtype, shape, expected, arrived: 0, cut: Vec::new() })
    }

    /// Length of each axis, the outermost first.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Checks the next chunk.
    ///
    /// # Errors
    ///
    /// [`TensorError`] if the chunk is empty or too large, exceeds the announced size, or holds NaN
    /// or infinite values.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), TensorError> {
        if chunk.is_empty() {
            return Err(TensorError::EmptyChunk);
        }
        if chunk.len() > MAX_CHUNK_BYTES {
            return Err(TensorError::ChunkTooLarge(chunk.len()));
        }
        self.arrived += chunk.len() as u64;
        if self.arrived > self.expected {
            return Err(TensorError::Overrun(self.expected));
        }
        let size = self.dtype.size();
        let mut chunk = chunk;
        if !self.cut.is_empty() {
            let (rest, after) = chunk.split_at(chunk.len().min(size - self.cut.len()));
            self.cut.extend_from_slice(rest);
            chunk = after;
            if self.cut.len() == size {
                let value = std::mem::take(&mut self.cut);
                self.check_finite(&value)?;
            }
        }
        let whole = chunk.len() - chunk.len() % size;
        self.check_finite(&chunk[..whole])?;
        self.cut.extend_from_slice(&chunk[whole..]);
        Ok(())
    }

    /// True when every announced byte has passed.
    pub fn is_complete(&self) -> bool {
        self.arrived == self.expected
    }

    /// Whole values: finite ones have an exponent that is not all ones.
    fn check_finite(&self, values: &[u8]) -> Result<(), TensorError> {
        let finite = match self.dtype {
            DType::F32 => {
                values.chunks_exact(4).all(|v| u16::from_le_bytes([v[2], v[3]]) & 0x7f80 != 0x7f80)
            }
            DType::Bf16 => {
                values.chunks_exact(2).all(|v| u16::from_le_bytes([v[0], v[1]]) & 0x7f80 != 0x7f80)
            }
            DType::F16 => {
                values.chunks_exact(2).all(|v| u16::from_le_bytes([v[0], v[1]]) & 0x7c00 != 0x7c00)
            }
        };
        if finite { Ok(()) } else { Err(TensorError::NotFinite) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    const SPECIAL: [f32; 6] = [0.0, -1.5, 65504.0, 6e-8, f32::NAN, f32::NEG_INFINITY];

    /// Passes a tensor on in chunks of this size.
    fn pass(tensor: &Tensor, size: usize) -> Result<(), TensorError> {
        let mut passage = Passage::begin(&tensor.header(), 1 << 20)?;
        for chunk in tensor.bytes().chunks(size) {
            assert!(!passage.is_complete());
            passage.push(chunk)?;
        }
        assert!(passage.is_complete());
        Ok(())
    }

    #[test]
    fn every_value_is_checked_however_it_is_cut() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for at in 0..SPECIAL.len() {
                let mut values = [1.0_f32; 7];
                values[at] = SPECIAL[at];
                let tensor = Tensor::from_f32(&values, vec![7], dtype).expect("seven");
                for size in 1..=28 {
                    assert_eq!(pass(&tensor, size), tensor.check_finite(), "{dtype} {at} {size}");
                }
            }
        }
    }

    #[test]
    fn what_contradicts_its_header_is_refused() {
        let tensor = Tensor::from_f32(&[1.0; 4], vec![2, 2], DType::F32).expect("four");
        let header = tensor.header();
        let begin = |header| Passage::begin(&header, 16);
        let mut passage = begin(header.clone()).expect("fits");
        assert_eq!(passage.push(&[]), Err(TensorError::EmptyChunk));
        assert_eq!(passage.push(&[0; 17]), Err(TensorError::Overrun(16)));
        let wrong = v1::TensorHeader { total_bytes: 12, ..header.clone() };
        assert!(matches!(begin(wrong), Err(TensorError::Inconsistent { .. })));
        let wrong = v1::TensorHeader { dtype: 9, ..header.clone() };
        assert!(matches!(begin(wrong), Err(TensorError::UnknownDType(9))));
        let small = Passage::begin(&header, 15);
        assert!(matches!(small, Err(TensorError::TooLarge { bytes: 16, limit: 15 })));
    }
}
