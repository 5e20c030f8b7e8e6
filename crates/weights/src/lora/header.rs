//! The front of a safetensors file: which tensors it has and where.
//!
//! The file is not mapped into memory like a checkpoint: LoRA files are in folders where users
//! replace them by others of the same name, and a mapped file that shrinks would end the process.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use candle_core::{DType, Tensor};
use half::f16;
use parking_lot::Mutex;
use safetensors::{Dtype, tensor::Metadata};

use super::{DEVICE, LoraError};
use crate::{
    foreign::{self, START},
    header,
    overlay::is_finite,
};

/// As the format itself limits it.
const MAX_HEADER: u64 = 100_000_000;
/// The length that begins a file.
const LENGTH: u64 = 8;

#[derive(Debug)]
pub(super) struct Header {
    label: String,
    bytes: u64,
    /// Locked, since reading moves the position.
    file: Mutex<File>,
    tensors: BTreeMap<String, FileSpan>,
    metadata: BTreeMap<String, String>,
}

/// Where a tensor lies.
#[derive(Debug)]
pub(super) struct FileSpan {
    pub shape: Vec<usize>,
    dtype: Dtype,
    start: u64,
    len: usize,
}

impl Header {
    /// Reads and checks the header; `label` is what messages call the file.
    ///
    /// # Errors
    ///
    /// [`LoraError`] if the file cannot be read, is a pickle, or has no valid safetensors header.
    pub fn read(path: &Path, label: &str) -> Result<Self, LoraError> {
        let io = |cause: std::io::Error| match cause.kind() {
            ErrorKind::NotFound => LoraError::NotFound { file: label.to_owned() },
            _ => LoraError::Io { file: label.to_owned(), cause },
        };
        let invalid = |cause: String| LoraError::Invalid { file: label.to_owned(), cause };
        // Before it is opened: opening a FIFO waits for somebody to write.
        let about = fs::metadata(path).map_err(io)?;
        if !about.is_file() {
            return Err(invalid("it is not a regular file".into()));
        }
        let mut file = File::open(path).map_err(io)?;
        let pickled = |e: &str| ["bin", "pt", "pth", "ckpt"].contains(&e.to_lowercase().as_str());
        if path.extension().and_then(|e| e.to_str()).is_some_and(pickled) {
            return Err(LoraError::Pickle { file: label.to_owned() });
        }
        let bytes = about.len();
        let mut start = Vec::new();
        (&file).take(START as u64).read_to_end(&mut start).map_err(io)?;
        if let Some(what) = foreign::format(&start) {
            return Err(invalid(what.into()));
        }
        let length = start.first_chunk().ok_or_else(|| invalid("it is too short".into()))?;
        let length = u64::from_le_bytes(*length);
        file.seek(SeekFrom::Start(LENGTH)).map_err(io)?;
        if length > MAX_HEADER || length > bytes.saturating_sub(LENGTH) {
            return Err(invalid("it has no safetensors header".into()));
        }
        let mut text = vec![0; length as usize];
        file.read_exact(&mut text).map_err(io)?;
        let parsed: Metadata =
            serde_json::from_slice(&text).map_err(|e| invalid(header::problem(&text, &e)))?;
        let data = LENGTH + length;
        let mut tensors = BTreeMap::new();
        for (name, info) in parsed.tensors() {
            // Marks that some programs leave.
            if info.shape.contains(&0) {
                continue;
            }
            let (start, end) = info.data_offsets;
            let dtype = info.dtype;
            let count = info.shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
            let needed = count.and_then(|n| n.checked_mul(dtype.bitsize())).map(|n| n / 8);
            let inside = (end as u64).checked_add(data).is_some_and(|end| end <= bytes);
            if end < start || needed != Some(end - start) || !inside {
                return Err(invalid(format!(
                    "'{name}' extends past the end of the data; the file may be truncated"
                )));
            }
            let (shape, start) = (info.shape.clone(), data + start as u64);
            tensors.insert(name, FileSpan { shape, dtype, start, len: end - info.data_offsets.0 });
        }
        let metadata = parsed.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { label: label.to_owned(), bytes, file: Mutex::new(file), tensors, metadata })
    }

    /// What messages call the file.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The size of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// In alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A text that the writer put beside the tensors.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The place of this tensor in the file.
    ///
    /// # Errors
    ///
    /// [`LoraError::Invalid`] if the file has no such tensor.
    pub fn span(&self, key: &str) -> Result<&FileSpan, LoraError> {
        self.tensors.get(key).ok_or_else(|| self.invalid(format!("it has no '{key}'")))
    }

    /// The values of one tensor, in the type they are stored in, or a wider one for 8-bit floats.
    ///
    /// # Errors
    ///
    /// [`LoraError`] if the file has no such tensor, cannot be read, or stores it in an unsupported
    /// type.
    pub fn tensor(&self, key: &str) -> Result<Tensor, LoraError> {
        let FileSpan { shape, dtype, start, len } = self.span(key)?;
        let stored = match dtype {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::F8_E4M3 => DType::F8E4M3,
            // The upper byte of a half.
            Dtype::F8_E5M2 => DType::F16,
            // An alpha may be a whole number.
            Dtype::I64 if *len <= 8 => DType::I64,
            Dtype::I32 if *len <= 8 => DType::I32,
            _ => {
                let types = "F32, BF16, F16, F8_E4M3 and F8_E5M2 are read";
                return Err(self.invalid(format!("'{key}' has the type {dtype:?}; {types}")));
            }
        };
        let mut data = vec![0; *len];
        {
            let mut file = self.file.lock();
            let read = file.seek(SeekFrom::Start(*start)).and_then(|_| file.read_exact(&mut data));
            read.map_err(|cause| LoraError::Io { file: self.label.clone(), cause })?;
        }
        let tensor = match dtype {
            Dtype::F8_E5M2 => {
                let half = |byte: u8| f16::from_bits(u16::from(byte) << 8);
                Tensor::from_vec(data.into_iter().map(half).collect(), &**shape, &DEVICE)
            }
            Dtype::F8_E4M3 => Tensor::from_raw_buffer(&data, stored, shape, &DEVICE)
                .and_then(|narrow| narrow.to_dtype(DType::F32)),
            _ => Tensor::from_raw_buffer(&data, stored, shape, &DEVICE),
        };
        tensor.map_err(LoraError::backend)
    }

    /// [`Self::tensor`], all of whose values must be finite.
    ///
    /// # Errors
    ///
    /// As [`Self::tensor`]; [`LoraError::NotFinite`] if a value is not.
    pub fn finite(&self, key: &str) -> Result<Tensor, LoraError> {
        let tensor = self.tensor(key)?;
        if is_finite(&tensor).map_err(LoraError::backend)? {
            Ok(tensor)
        } else {
            Err(LoraError::NotFinite { file: self.label.clone(), key: key.into() })
        }
    }

    /// The error for a file that is not as the format demands.
    pub fn invalid(&self, cause: String) -> LoraError {
        LoraError::Invalid { file: self.label.clone(), cause }
    }
}
