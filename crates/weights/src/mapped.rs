//! One file of weights mapped into memory, and the reading of its tensors.

use std::{
    fs::{self, File},
    io::ErrorKind,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::{Advice, Mmap, UncheckedAdvice};
use safetensors::{SafeTensors, tensor};

use crate::{
    LoadError,
    foreign::{self, START},
    gguf, header,
    metadata::Metadata,
    source::{Encoding, TensorSpan},
};

/// A mapped file. Pages that were read are given back, so that a model that is loaded lies in
/// memory once and not a second time as the file's pages.
#[derive(Debug)]
pub(crate) struct Mapped {
    pub path: PathBuf,
    map: Mmap,
    /// To ask for its length: pages behind the end of a file that became shorter end the process.
    file: File,
    /// What its metadata say of quantized weights.
    pub quantized: Option<&'static str>,
    /// What they say of ComfyUI's quantized layers, as JSON.
    pub layers: Option<String>,
    /// Of a GGUF file.
    pub metadata: Option<Arc<Metadata>>,
}

impl Mapped {
    /// The file, and its tensors that have values; it is the part's file number `file`.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if the file cannot be opened or mapped, or is not a complete file of weights.
    pub fn open(path: &Path, file: usize) -> Result<(Self, Vec<TensorSpan>), LoadError> {
        let (map, opened) = map(path)?;
        let invalid = |cause: String| LoadError::Invalid { path: path.to_owned(), cause };
        let path = path.to_owned();
        if map.starts_with(gguf::MAGIC) {
            let header = gguf::read(&map, file).map_err(invalid)?;
            let metadata = Some(Arc::new(header.metadata));
            let mapped = Self { path, map, file: opened, quantized: None, layers: None, metadata };
            return Ok((mapped, header.tensors));
        }
        let Header { tensors, quantized, layers } = safetensors(&map, file).map_err(invalid)?;
        let mapped = Self { path, map, file: opened, quantized, layers, metadata: None };
        Ok((mapped, tensors))
    }

    /// Looks at bytes of the file, and lets go of their pages.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if the file became shorter; the error of `look` otherwise.
    pub fn read<T>(
        &self,
        bytes: Range<usize>,
        look: impl FnOnce(&[u8]) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        self.check_length()?;
        self.announce(&bytes);
        let looked = look(&self.map[bytes.clone()])?;
        self.give_back(bytes);
        Ok(looked)
    }

    /// Likewise for bytes of which a few are wanted now and then: no more of the file is read in
    /// advance, and their pages stay.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn peek<T>(
        &self,
        bytes: Range<usize>,
        look: impl FnOnce(&[u8]) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        self.check_length()?;
        look(&self.map[bytes])
    }

    /// That the file still has the length that was mapped. One that is cut while it is read is not
    /// noticed in time.
    fn check_length(&self) -> Result<(), LoadError> {
        let about = self.file.metadata();
        let about = about.map_err(|cause| LoadError::Io { path: self.path.clone(), cause })?;
        let (now, mapped) = (about.len(), self.map.len());
        if now >= mapped as u64 {
            return Ok(());
        }
        let cause = format!(
            "it had {mapped} bytes when it was opened and has {now} now; put the whole file back and restart, and replace files by renaming"
        );
        Err(LoadError::Invalid { path: self.path.clone(), cause })
    }

    /// A disk is faster when it knows all that will be wanted than when it hears of page after page.
    fn announce(&self, bytes: &Range<usize>) {
        if let Err(error) = self.map.advise_range(Advice::WillNeed, bytes.start, bytes.len()) {
            tracing::debug!(%error, "madvise of a mapped file failed");
        }
    }

    fn give_back(&self, bytes: Range<usize>) {
        // SAFETY: the mapping is of a file and read-only, so a page that is given up is read from
        // the file again when it is touched again.
        #[expect(unsafe_code, reason = "giving up mapped pages is unsafe for writable mappings")]
        let done = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, bytes.start, bytes.len())
        };
        if let Err(error) = done {
            // It only costs memory.
            tracing::debug!(%error, "failed to release mapped pages");
        }
    }
}

/// The file in memory, page by page as it is read.
///
/// # Errors
///
/// [`LoadError`] if there is no such file, or it is none of weights.
pub(crate) fn map(path: &Path) -> Result<(Mmap, File), LoadError> {
    check_extension(path)?;
    let io = |cause: std::io::Error| match cause.kind() {
        ErrorKind::NotFound => LoadError::NoFile { path: path.to_owned() },
        _ => LoadError::Io { path: path.to_owned(), cause },
    };
    let invalid = |cause: &str| LoadError::Invalid { path: path.to_owned(), cause: cause.into() };
    // Before it is opened: opening a FIFO waits for somebody to write.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(invalid("it is not a regular file"));
    }
    let opened = File::open(path).map_err(io)?;
    // SAFETY: the file is mapped read-only. A program that changes a checkpoint while it is
    // being read can make us see torn values, or end the process if the file shrinks; weights
    // are written once and replaced by renaming, which leaves our mapping alone.
    #[expect(unsafe_code, reason = "mapping a file is unsafe; this is the one place that does")]
    let map = unsafe { Mmap::map(&opened) }.map_err(io)?;
    match foreign::format(&map[..map.len().min(START)]) {
        Some(what) => Err(invalid(what)),
        None => Ok((map, opened)),
    }
}

/// What the header of a safetensors file says.
struct Header {
    tensors: Vec<TensorSpan>,
    quantized: Option<&'static str>,
    layers: Option<String>,
}

fn safetensors(map: &[u8], file: usize) -> Result<Header, String> {
    let not_ours = |e: safetensors::SafeTensorError| {
        let text = header::text(map).unwrap_or_default();
        match serde_json::from_slice::<tensor::Metadata>(text) {
            Err(error) if !text.is_empty() => header::problem(text, &error),
            _ => format!("it is not a whole safetensors file ({e})"),
        }
    };
    // Checks that the tensors lie inside the file, too.
    SafeTensors::deserialize(map).map_err(not_ours)?;
    let (header, metadata) = SafeTensors::read_metadata(map).map_err(not_ours)?;
    // The header's length itself takes eight bytes.
    let start = header + 8;
    let mut tensors: Vec<TensorSpan> = metadata
        .tensors()
        .into_iter()
        // Marks that some programs leave, such as `v_pred`.
        .filter(|(_, info)| !info.shape.contains(&0))
        .map(|(name, info)| {
            let (from, to) = info.data_offsets;
            let bytes = start + from..start + to;
            let (name, encoding) = (name.into(), Encoding::Plain(info.dtype));
            TensorSpan { name, file, encoding, whole: info.shape.clone(), bytes, rows: None }
        })
        .collect();
    // The library has no order; messages about the first of something need one.
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let keys = metadata.metadata().iter().flatten().map(|(key, _)| key);
    let quantized = keys.into_iter().find_map(|key| foreign::quantized_metadata(key));
    let layers =
        metadata.metadata().as_ref().and_then(|all| all.get(foreign::COMFY_LAYERS)).cloned();
    Ok(Header { tensors, quantized, layers })
}

/// What other programs' weights are called, and why they are not read here.
fn check_extension(path: &Path) -> Result<(), LoadError> {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if !matches!(extension.as_str(), "bin" | "pt" | "pth" | "ckpt") {
        return Ok(());
    }
    let cause = "files of this kind can run code when they are read; use a safetensors file";
    Err(LoadError::Invalid { path: path.to_owned(), cause: cause.into() })
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs};

    use safetensors::{Dtype, serialize_to_file, tensor::TensorView};

    use super::*;

    #[test]
    fn a_file_that_became_shorter_is_an_error_and_no_end_of_the_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        let values = vec![0; 1 << 16];
        let view = TensorView::new(Dtype::U8, vec![values.len()], &values).expect("fits");
        let tensors = HashMap::from([("x".to_owned(), view)]);
        serialize_to_file(&tensors, None, &path).expect("written");
        let (mapped, tensors) = Mapped::open(&path, 0).expect("opens");
        let span = &tensors[0];
        let read = || mapped.read(span.range(), |bytes| Ok(bytes.to_vec()));
        assert_eq!(read().expect("is whole"), values);
        let whole = fs::read(&path).expect("reads");
        File::options().write(true).open(&path).and_then(|f| f.set_len(4096)).expect("cut");
        let error = read().expect_err("is cut").to_string();
        assert!(error.contains("4096") && error.contains("x.safetensors"), "{error}");
        fs::write(&path, whole).expect("put back");
        assert_eq!(read().expect("is whole again"), values);
    }
}
