//! Files that commands read and write: tensors as safetensors.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use llm_dit_files::Staged;
use llm_dit_proto::{DType, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use sha2::{Digest as _, Sha256};

use crate::{error::CliError, stdin};

/// Checks, before any work, that a file could be written later.
///
/// # Errors
///
/// [`CliError::Usage`] if the path cannot be an output file.
pub fn check_writable(path: &Path) -> Result<(), CliError> {
    if llm_dit_files::is_stdout(path) && io::stdout().is_terminal() {
        let why = "stdout is a terminal; redirect it, or name a file with --output";
        return Err(CliError::Usage(why.to_owned()));
    }
    llm_dit_files::check_writable(path).map_err(CliError::usage)
}

/// Writes a file, all of it or nothing.
///
/// # Errors
///
/// [`CliError`] if the file cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    llm_dit_files::write(path, bytes).map_err(CliError::failed)
}

/// Reads a file that a flag names.
///
/// # Errors
///
/// [`CliError`] if the file cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    fs::read(path).map_err(|e| CliError::Usage(format!("cannot read {}: {e}", path.display())))
}

/// Reads a text file that a flag names. `-` is standard input.
///
/// # Errors
///
/// [`CliError`] if the file cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, CliError> {
    if path == Path::new(stdin::STDIN) {
        return stdin::read();
    }
    llm_dit_text::read(path)
        .map_err(|e| CliError::Usage(format!("cannot read {}: {e}", path.display())))
}

/// What names a file's content in a recipe.
pub fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

/// Writes named tensors as safetensors, with `metadata` in the file's header.
///
/// # Errors
///
/// [`CliError`] if the file cannot be written.
pub fn stage_tensors(
    path: &Path,
    tensors: &[(String, &Tensor)],
    metadata: HashMap<String, String>,
) -> Result<Staged, CliError> {
    let fail = |e: safetensors::SafeTensorError| {
        CliError::Failed(format!("cannot write {}: {e}", path.display()))
    };
    let views: BTreeMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, tensor)| {
            let dtype = match tensor.dtype() {
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::Bf16 => Dtype::BF16,
            };
            Ok((name.as_str(), TensorView::new(dtype, tensor.shape().to_vec(), tensor.bytes())?))
        })
        .collect::<Result<_, _>>()
        .map_err(fail)?;
    let metadata = (!metadata.is_empty()).then_some(metadata);
    let file = safetensors::serialize(views, metadata).map_err(fail)?;
    llm_dit_files::stage(path, &file).map_err(CliError::failed)
}

/// Tensors of a safetensors file.
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl TensorFile {
    /// Reads a safetensors file and checks its header.
    ///
    /// # Errors
    ///
    /// [`CliError`] if the file cannot be read or is not a safetensors file.
    pub fn open(path: &Path) -> Result<Self, CliError> {
        let file = Self { path: path.to_owned(), bytes: read(path)? };
        file.parse().map(drop)?;
        Ok(file)
    }

    /// The tensor of this name; `None` if the file has none.
    ///
    /// # Errors
    ///
    /// [`CliError`] if its dtype is not F32, BF16 or F16.
    pub fn get(&self, name: &str) -> Result<Option<Tensor>, CliError> {
        let tensors = self.parse()?;
        let Ok(view) = tensors.tensor(name) else { return Ok(None) };
        let fail = |why: String| {
            CliError::Usage(format!("tensor '{name}' in {}: {why}", self.path.display()))
        };
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            other => return Err(fail(format!("has dtype {other:?}; F32, BF16 or F16 is needed"))),
        };
        let tensor = Tensor::new(dtype, view.shape().to_vec(), Bytes::copy_from_slice(view.data()));
        tensor.map(Some).map_err(|e| fail(e.to_string()))
    }

    /// The tensor of this name, which must be there.
    ///
    /// # Errors
    ///
    /// [`CliError`], with the names of the tensors that are there, if it is missing; or as
    /// [`Self::get`].
    pub fn require(&self, name: &str) -> Result<Tensor, CliError> {
        self.get(name)?.ok_or_else(|| {
            let found = self.parse().map(|t| t.names().join(", ")).unwrap_or_default();
            CliError::Usage(format!(
                "{} has no tensor '{name}'; it has: {found}",
                self.path.display()
            ))
        })
    }

    fn parse(&self) -> Result<SafeTensors<'_>, CliError> {
        SafeTensors::deserialize(&self.bytes).map_err(|e| {
            CliError::Usage(format!("{} is not a valid safetensors file: {e}", self.path.display()))
        })
    }
}

/// The same values under a shape without leading axes of 1 beyond `rank`.
///
/// # Errors
///
/// [`CliError`] if shape and values do not fit, which leading axes of 1 cannot cause.
pub fn squeeze(tensor: Tensor, rank: usize) -> Result<Tensor, CliError> {
    let mut shape = tensor.shape();
    while shape.len() > rank && shape[0] == 1 {
        shape = &shape[1..];
    }
    Tensor::new(tensor.dtype(), shape.to_vec(), tensor.bytes().clone()).map_err(CliError::failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back_and_wrong_files_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        let tensor =
            Tensor::from_f32(&[1.0, 2.0, 3.0, 4.0], vec![1, 2, 2], DType::Bf16).expect("whole");
        stage_tensors(&path, &[("embeddings".into(), &tensor)], HashMap::new())
            .expect("staged")
            .publish()
            .expect("written");
        let file = TensorFile::open(&path).expect("readable");
        assert_eq!(file.require("embeddings").expect("there"), tensor);
        assert_eq!(squeeze(tensor, 2).expect("valid").shape(), [2, 2]);
        let error = file.require("latents").expect_err("not there").to_string();
        assert!(error.contains("it has: embeddings"), "{error}");

        fs::write(&path, b"not safetensors at all").expect("written");
        let error = TensorFile::open(&path).map(drop).expect_err("corrupt").to_string();
        assert!(error.contains("not a valid safetensors file"), "{error}");
        assert!(TensorFile::open(&folder.path().join("none")).is_err());
    }
}
