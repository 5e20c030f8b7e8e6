//! The configuration of a part: from its `config.json`, or by the shapes of its tensors.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::{LoadError, PartFiles, Schema, Weights, config_file::read_config};

/// Hyperparameters of a part.
pub trait PartConfig: DeserializeOwned {
    /// What its `config.json` may say.
    const SCHEMA: Schema;

    /// The configuration that the tensors' shapes show, with the released model's values for the
    /// rest.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a tensor is missing, or its shape is not that of such a model.
    fn of(weights: &Weights) -> Result<Self, LoadError>;
    /// True when both describe tensors of the same shapes.
    fn same_shapes(&self, other: &Self) -> bool;
    /// Checks that the part's implementation supports the configuration.
    ///
    /// # Errors
    ///
    /// The reason, if it does not.
    fn check(&self) -> Result<(), String>;
}

/// The configuration of a part. In a folder of diffusers it is `config.json`. A single file has
/// none; there it is the `config.json` of `model`, the model's own folder of that part, if the
/// file's tensors have its shapes, and what the shapes tell otherwise.
///
/// # Errors
///
/// [`LoadError`] if the file cannot be read, is not a valid configuration, or if the tensors have
/// no shapes of such a model.
pub fn part_config<C: PartConfig>(
    part: &PartFiles,
    model: &Path,
    weights: &Weights,
) -> Result<C, LoadError> {
    let (config, path) = match part {
        PartFiles::Folder { folder, .. } => read(folder)?,
        PartFiles::File(file) => {
            let told = C::of(weights)?;
            let models = model.join(CONFIG).is_file().then(|| read::<C>(model)).transpose()?;
            match models {
                Some((config, path)) if config.same_shapes(&told) => (config, path),
                _ => (told, file.clone()),
            }
        }
    };
    tracing::debug!(part = %part.path().display(), configuration = %path.display(), "read the configuration of a part");
    config.check().map_err(|cause| LoadError::Invalid { path, cause })?;
    Ok(config)
}

const CONFIG: &str = "config.json";

fn read<C: PartConfig>(folder: &Path) -> Result<(C, PathBuf), LoadError> {
    if !folder.is_dir() {
        let what = "this folder of it".into();
        return Err(LoadError::NotAModel { path: folder.to_owned(), what });
    }
    let path = folder.join(CONFIG);
    Ok((read_config(&path, &C::SCHEMA)?, path))
}
