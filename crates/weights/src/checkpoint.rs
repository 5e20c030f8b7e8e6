//! One part of a model: a folder with safetensors files, sharded or not.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor, safetensors::MmapedSafetensors};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{LoadError, Overlay};

/// Files of one part, mapped into memory; tensors are read when asked for.
pub struct Checkpoint {
    folder: PathBuf,
    files: MmapedSafetensors,
    device: Device,
    dtype: DType,
}

/// Tensors under a prefix of a checkpoint, as the model's modules ask for them.
#[derive(Clone)]
pub struct Weights {
    checkpoint: Arc<Checkpoint>,
    prefix: String,
    overlay: Arc<Overlay>,
}

/// `*.safetensors.index.json`: which shard holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens `folder/stem.safetensors`, or the shards that `folder/stem.safetensors.index.json`
    /// names. Tensors will be made on `device` in `dtype`.
    pub fn open(
        folder: &Path,
        stem: &str,
        device: &Device,
        dtype: DType,
    ) -> Result<Weights, LoadError> {
        let paths = files(folder, stem)?;
        let invalid = |cause: candle_core::Error| LoadError::Invalid {
            path: if paths.len() == 1 { paths[0].clone() } else { folder.to_owned() },
            cause: cause.to_string(),
        };
        // SAFETY: the files are mapped read-only. Whoever changes a checkpoint while it is
        // being read can make us see torn values, or end the process if it shrinks; weights are
        // written once and replaced by renaming, which leaves our mapping alone.
        #[expect(unsafe_code, reason = "mapping a file is unsafe; this is the one place that does")]
        let files = unsafe { MmapedSafetensors::multi(&paths) }.map_err(invalid)?;
        let checkpoint = Self { folder: folder.to_owned(), files, device: device.clone(), dtype };
        Ok(Weights {
            checkpoint: Arc::new(checkpoint),
            prefix: String::new(),
            overlay: Arc::default(),
        })
    }
}

impl Weights {
    /// The tensors under `name.`.
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        let prefix = if self.prefix.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.prefix)
        };
        Self { prefix, ..self.clone() }
    }

    /// The tensor `name`, if it has this shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let checkpoint = &self.checkpoint;
        let (name, path) = (self.pp(name).prefix, checkpoint.folder.clone());
        let expected = shape.to_vec();
        let Ok(view) = checkpoint.files.get(&name) else {
            return Err(LoadError::MissingTensor { path, name, expected });
        };
        if view.shape() != shape {
            return Err(LoadError::Shape { path, name, found: view.shape().to_vec(), expected });
        }
        let base = checkpoint.files.load(&name, &checkpoint.device)?;
        self.overlay.fuse(&name, base, checkpoint.dtype)
    }

    /// The same files with other changes on top.
    pub fn with_overlay(&self, overlay: Arc<Overlay>) -> Self {
        Self { overlay, ..self.clone() }
    }

    /// What is put on top of the files.
    pub fn overlay(&self) -> &Arc<Overlay> {
        &self.overlay
    }

    /// True when some tensor lies under this prefix.
    pub fn has(&self, name: &str) -> bool {
        self.checkpoint.files.get(&self.pp(name).prefix).is_ok()
    }

    /// Where the tensors go.
    pub fn device(&self) -> &Device {
        &self.checkpoint.device
    }

    /// What they become.
    pub fn dtype(&self) -> DType {
        self.checkpoint.dtype
    }
}

/// Reads `folder/config.json` or another JSON file of a model.
pub fn read_config<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let text =
        fs::read_to_string(path).map_err(|cause| LoadError::Io { path: path.to_owned(), cause })?;
    serde_json::from_str(&text)
        .map_err(|e| LoadError::Invalid { path: path.to_owned(), cause: e.to_string() })
}

fn files(folder: &Path, stem: &str) -> Result<Vec<PathBuf>, LoadError> {
    let single = folder.join(format!("{stem}.safetensors"));
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join(format!("{stem}.safetensors.index.json"));
    if !index.is_file() {
        let what = format!("{stem}.safetensors (or its .index.json)");
        return Err(LoadError::NotAModel { path: folder.to_owned(), what });
    }
    let shards: BTreeSet<String> = read_config::<Index>(&index)?.weight_map.into_values().collect();
    shards
        .into_iter()
        .map(|shard| {
            // The name comes from a file; it must not lead out of the folder.
            if Path::new(&shard).components().count() != 1 || shard == ".." {
                return Err(LoadError::Invalid {
                    path: index.clone(),
                    cause: format!("bad shard name '{shard}'"),
                });
            }
            let path = folder.join(shard);
            if path.is_file() {
                Ok(path)
            } else {
                Err(LoadError::NotAModel {
                    path: folder.to_owned(),
                    what: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                })
            }
        })
        .collect()
}
