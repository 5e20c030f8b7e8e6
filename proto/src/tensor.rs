//! The checked view of a tensor on the wire.
//!
//! A [`Tensor`] can only be made whole and consistent: `bytes.len()` is the product of the shape
//! times the size of the type. An [`Assembler`] makes one from a header and chunks and refuses what
//! does not fit as soon as it is seen, so that a hostile sender cannot make us hold more than
//! the limit that we chose.

use bytes::{Bytes, BytesMut};
use half::{bf16, f16};
use llm_dit_fault::Fault;
use thiserror::Error;

use crate::v1;

/// Chunks that we send.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks that we accept.
pub const MAX_CHUNK_BYTES: usize = 1024 * 1024;
/// Axes a tensor may have.
pub const MAX_RANK: usize = 4;

/// How values are stored: little-endian, C order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

impl DType {
    /// Bytes a value takes.
    pub fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// The name used in flags, JSON and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// The wire's enum value, `None` for "unspecified".
    ///
    /// # Errors
    ///
    /// [`TensorError::UnknownDType`] for a value that this version does not know.
    pub fn from_wire(value: i32) -> Result<Option<Self>, TensorError> {
        match v1::Dtype::try_from(value) {
            Ok(v1::Dtype::Unspecified) => Ok(None),
            Ok(v1::Dtype::Bf16) => Ok(Some(Self::Bf16)),
            Ok(v1::Dtype::F16) => Ok(Some(Self::F16)),
            Ok(v1::Dtype::F32) => Ok(Some(Self::F32)),
            Err(_) => Err(TensorError::UnknownDType(value)),
        }
    }

    /// The value for the wire.
    pub fn to_wire(self) -> i32 {
        match self {
            Self::Bf16 => v1::Dtype::Bf16,
            Self::F16 => v1::Dtype::F16,
            Self::F32 => v1::Dtype::F32,
        }
        .into()
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for DType {
    type Err = TensorError;

    fn from_str(name: &str) -> Result<Self, TensorError> {
        match name {
            "bf16" | "bfloat16" => Ok(Self::Bf16),
            "f16" | "float16" => Ok(Self::F16),
            "f32" | "float32" => Ok(Self::F32),
            _ => Err(TensorError::UnknownDTypeName(name.to_owned())),
        }
    }
}

/// What is wrong with a tensor that arrived.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TensorError {
    #[error("unknown tensor dtype {0} on the wire; send 1 (bf16), 2 (f16) or 3 (f32)")]
    UnknownDType(i32),
    #[error("unknown dtype '{0}'; use f32, bf16 or f16")]
    UnknownDTypeName(String),
    #[error("tensor header without dtype")]
    MissingDType,
    #[error("tensor shape {0:?} must have 1 to {MAX_RANK} axes, none of them 0")]
    BadShape(Vec<u64>),
    #[error("tensor header says {declared} bytes, but shape {shape:?} of {dtype} takes {expected}")]
    Inconsistent { declared: u64, expected: u64, shape: Vec<u64>, dtype: DType },
    #[error("tensor of {bytes} bytes is over the limit of {limit}")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("a chunk is empty")]
    EmptyChunk,
    #[error("chunk of {0} bytes is over the limit of {MAX_CHUNK_BYTES}")]
    ChunkTooLarge(usize),
    #[error("tensor carries more bytes than the {0} that its header announced")]
    Overrun(u64),
    #[error("tensor was cut short: {got} of {expected} bytes arrived")]
    Truncated { got: u64, expected: u64 },
    #[error("tensor data arrived before any header")]
    NoHeader,
    #[error("tensor holds NaN or infinite values")]
    NotFinite,
}

impl From<TensorError> for Fault {
    fn from(error: TensorError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

/// A whole tensor as plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl Tensor {
    /// Takes `bytes` as a tensor of this shape, if they agree.
    ///
    /// # Errors
    ///
    /// [`TensorError`] if the number of bytes is not the one that shape and dtype need.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Result<Self, TensorError> {
        let wire: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        let expected = byte_len(dtype, &wire)?;
        if bytes.len() as u64 != expected {
            let declared = bytes.len() as u64;
            return Err(TensorError::Inconsistent { declared, expected, shape: wire, dtype });
        }
        Ok(Self { dtype, shape, bytes })
    }

    /// Rounds f32 values to `dtype`.
    ///
    /// # Errors
    ///
    /// [`TensorError`] if the number of values is not the shape's.
    pub fn from_f32(values: &[f32], shape: Vec<usize>, dtype: DType) -> Result<Self, TensorError> {
        let mut bytes = BytesMut::with_capacity(values.len() * dtype.size());
        match dtype {
            DType::F32 => values.iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes())),
            DType::Bf16 => values
                .iter()
                .for_each(|v| bytes.extend_from_slice(&bf16::from_f32(*v).to_le_bytes())),
            DType::F16 => values
                .iter()
                .for_each(|v| bytes.extend_from_slice(&f16::from_f32(*v).to_le_bytes())),
        }
        Self::new(dtype, shape, bytes.freeze())
    }

    /// Every value, widened to f32 (exact for all three types).
    pub fn to_f32(&self) -> Vec<f32> {
        let two = |b: &[u8]| [b[0], b[1]];
        match self.dtype {
            DType::F32 => self
                .bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            DType::Bf16 => {
                self.bytes.chunks_exact(2).map(|b| bf16::from_le_bytes(two(b)).to_f32()).collect()
            }
            DType::F16 => {
                self.bytes.chunks_exact(2).map(|b| f16::from_le_bytes(two(b)).to_f32()).collect()
            }
        }
    }

    /// Refuses NaN and infinities, which would spoil a whole picture silently.
    ///
    /// # Errors
    ///
    /// [`TensorError::NotFinite`] if a value is NaN or infinite.
    pub fn check_finite(&self) -> Result<(), TensorError> {
        if self.to_f32().iter().all(|v| v.is_finite()) {
            Ok(())
        } else {
            Err(TensorError::NotFinite)
        }
    }

    /// Type of the values.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Length of each axis, the outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values, row-major and little-endian.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The header that announces this tensor.
    pub fn header(&self) -> v1::TensorHeader {
        v1::TensorHeader {
            dtype: self.dtype.to_wire(),
            shape: self.shape.iter().map(|&n| n as u64).collect(),
            total_bytes: self.bytes.len() as u64,
        }
    }

    /// The same tensor with its bytes in another owner, such as one that counts them.
    ///
    /// # Panics
    ///
    /// If `owner` returns another number of bytes.
    #[must_use]
    pub fn map_bytes(self, owner: impl FnOnce(Bytes) -> Bytes) -> Self {
        let len = self.bytes.len();
        let bytes = owner(self.bytes);
        assert_eq!(bytes.len(), len, "the bytes of a tensor stay the same");
        Self { bytes, ..self }
    }

    /// The data in chunks for the wire; slices of one buffer, not copies.
    pub fn chunks(&self) -> impl Iterator<Item = Bytes> + use<> {
        chunks(self.bytes.clone())
    }
}

/// Any bytes in chunks of at most [`CHUNK_BYTES`]; slices of one buffer, not copies.
pub fn chunks(mut rest: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let size = rest.len().min(CHUNK_BYTES);
        (size > 0).then(|| rest.split_to(size))
    })
}

/// Appends a chunk. The capacity doubles as data arrives, but never exceeds `expected` bytes.
pub fn extend_within(data: &mut Vec<u8>, chunk: &[u8], expected: usize) {
    let needed = data.len() + chunk.len();
    if needed > data.capacity() {
        let capacity = expected.min(data.capacity() * 2).max(needed);
        data.reserve_exact(capacity - data.len());
    }
    data.extend_from_slice(chunk);
}

/// Collects the chunks of one tensor.
#[derive(Debug)]
pub struct Assembler {
    dtype: DType,
    shape: Vec<usize>,
    expected: usize,
    data: Vec<u8>,
}

impl Assembler {
    /// Begins with a header; `limit` bounds what it may announce, in bytes.
    ///
    /// # Errors
    ///
    /// [`TensorError`] if the dtype is missing or unknown, if the sizes contradict each other, or
    /// if they exceed `limit`.
    pub fn begin(header: &v1::TensorHeader, limit: u64) -> Result<Self, TensorError> {
        let (dtype, expected) = announced(header, limit)?;
        // Both fit: `expected` is at most `limit`, and every axis at most `expected`.
        let shape = header.shape.iter().map(|&n| n as usize).collect();
        // The buffer grows with what arrives; an announcement alone costs no memory.
        Ok(Self { dtype, shape, expected: expected as usize, data: Vec::new() })
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    ///
    /// [`TensorError`] if the chunk is too large or exceeds the announced size.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), TensorError> {
        if chunk.len() > MAX_CHUNK_BYTES {
            return Err(TensorError::ChunkTooLarge(chunk.len()));
        }
        if chunk.len() > self.expected - self.data.len() {
            return Err(TensorError::Overrun(self.expected as u64));
        }
        extend_within(&mut self.data, chunk, self.expected);
        Ok(())
    }

    /// True when every announced byte is there.
    pub fn is_complete(&self) -> bool {
        self.data.len() == self.expected
    }

    /// The tensor, if all of it arrived.
    ///
    /// # Errors
    ///
    /// [`TensorError::Truncated`] if bytes are missing.
    pub fn finish(self) -> Result<Tensor, TensorError> {
        if self.data.len() < self.expected {
            return Err(TensorError::Truncated {
                got: self.data.len() as u64,
                expected: self.expected as u64,
            });
        }
        Tensor::new(self.dtype, self.shape, self.data.into())
    }
}

/// Type and bytes of a tensor, if its header is right and announces no more than `limit`.
pub(crate) fn announced(
    header: &v1::TensorHeader,
    limit: u64,
) -> Result<(DType, u64), TensorError> {
    let dtype = DType::from_wire(header.dtype)?.ok_or(TensorError::MissingDType)?;
    let expected = byte_len(dtype, &header.shape)?;
    let declared = header.total_bytes;
    if declared != expected {
        let shape = header.shape.clone();
        return Err(TensorError::Inconsistent { declared, expected, shape, dtype });
    }
    if expected > limit {
        return Err(TensorError::TooLarge { bytes: expected, limit });
    }
    Ok((dtype, expected))
}

/// Bytes that a shape takes, if it is a shape.
fn byte_len(dtype: DType, shape: &[u64]) -> Result<u64, TensorError> {
    let bad = || TensorError::BadShape(shape.to_vec());
    if shape.is_empty() || shape.len() > MAX_RANK || shape.contains(&0) {
        return Err(bad());
    }
    shape.iter().try_fold(dtype.size() as u64, |n, &axis| n.checked_mul(axis)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(shape: &[u64], total_bytes: u64) -> v1::TensorHeader {
        v1::TensorHeader { dtype: DType::F32.to_wire(), shape: shape.to_vec(), total_bytes }
    }

    #[test]
    fn survives_chunks_that_split_values() {
        let tensor = Tensor::from_f32(&[1.0, -2.5, 3.25, 0.0, 5.0, 6.0], vec![2, 3], DType::F32)
            .expect("whole");
        let mut assembler = Assembler::begin(&tensor.header(), 1 << 20).expect("valid header");
        for chunk in tensor.bytes().chunks(5) {
            assembler.push(chunk).expect("fits");
        }
        assert_eq!(assembler.finish(), Ok(tensor));
    }

    #[test]
    fn a_buffer_never_has_more_than_the_announced_bytes() {
        let mut data = Vec::new();
        for chunk in [0u8; 1000].chunks(7) {
            extend_within(&mut data, chunk, 1000);
            assert!(data.capacity() <= 1000, "{}", data.capacity());
        }
        assert_eq!(data.len(), 1000);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let begin = |h: &v1::TensorHeader| Assembler::begin(h, 1000).map(drop);
        assert!(matches!(begin(&header(&[], 0)), Err(TensorError::BadShape(_))));
        assert!(matches!(begin(&header(&[2, 0], 0)), Err(TensorError::BadShape(_))));
        assert!(matches!(begin(&header(&[1, 1, 1, 1, 1], 4)), Err(TensorError::BadShape(_))));
        assert!(matches!(begin(&header(&[u64::MAX, 2], 8)), Err(TensorError::BadShape(_))));
        assert!(matches!(begin(&header(&[2, 3], 23)), Err(TensorError::Inconsistent { .. })));
        assert!(matches!(begin(&header(&[251], 1004)), Err(TensorError::TooLarge { .. })));
        let mut none = header(&[1], 4);
        none.dtype = 0;
        assert_eq!(begin(&none), Err(TensorError::MissingDType));
        none.dtype = 17;
        assert_eq!(begin(&none), Err(TensorError::UnknownDType(17)));

        let mut short = Assembler::begin(&header(&[2], 8), 1000).expect("valid header");
        short.push(&[0; 7]).expect("fits");
        assert_eq!(short.push(&[0; 2]), Err(TensorError::Overrun(8)));
        assert_eq!(short.finish(), Err(TensorError::Truncated { got: 7, expected: 8 }));
    }

    #[test]
    fn rounds_to_half_types_and_widens_back() {
        let values = [1.0f32, -0.5, 1000.0, 3.0e-3];
        for dtype in [DType::Bf16, DType::F16, DType::F32] {
            let tensor = Tensor::from_f32(&values, vec![4], dtype).expect("whole");
            for (a, b) in tensor.to_f32().iter().zip(values) {
                assert!((a - b).abs() <= b.abs() / 128.0, "{dtype}: {a} for {b}");
            }
            assert_eq!(dtype.name().parse(), Ok(dtype));
        }
        let nan = Tensor::from_f32(&[f32::NAN], vec![1], DType::Bf16).expect("whole");
        assert_eq!(nan.check_finite(), Err(TensorError::NotFinite));
    }

    #[test]
    fn chunks_are_bounded_and_complete() {
        let bytes = Bytes::from(vec![7; CHUNK_BYTES * 2 + 3]);
        let sizes: Vec<usize> = chunks(bytes).map(|c| c.len()).collect();
        assert_eq!(sizes, [CHUNK_BYTES, CHUNK_BYTES, 3]);
    }
}
