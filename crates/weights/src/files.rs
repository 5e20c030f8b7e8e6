//! Which files hold a part of a model.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{Kind, Library, LoadError, Rule, Schema, config_file::read_config};

/// A part of a model on disk: a folder as diffusers writes it, or one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartFiles {
    /// `stem.safetensors`, or shards by `stem.safetensors.index.json`; beside them `config.json`.
    Folder { folder: PathBuf, stem: &'static str },
    /// A safetensors file as ComfyUI and the model's authors write it.
    File(PathBuf),
}

/// `*.safetensors.index.json`: which shard holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

const INDEX: Schema = Schema {
    keys: &[("metadata", Rule::Ignored), ("weight_map", Rule::Needed(Kind::Texts))],
    library: Library::None,
};

impl PartFiles {
    /// The part's folder `name` in a model's folder, or what is given instead: such a folder, the
    /// folder of another model, or a file.
    pub fn find(model: &Path, name: &str, stem: &'static str, instead: Option<&Path>) -> Self {
        match instead {
            None => Self::Folder { folder: model.join(name), stem },
            Some(path) if !path.is_dir() => Self::File(path.to_owned()),
            Some(path) => {
                let inner = path.join(name);
                let folder = if inner.is_dir() { inner } else { path.to_owned() };
                Self::Folder { folder, stem }
            }
        }
    }

    /// The folder or file itself.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder { folder, .. } => folder,
            Self::File(path) => path,
        }
    }

    /// The safetensors files.
    pub(crate) fn paths(&self) -> Result<Vec<PathBuf>, LoadError> {
        match self {
            Self::Folder { folder, stem } => shards(folder, stem),
            Self::File(path) => Ok(vec![path.clone()]),
        }
    }
}

fn shards(folder: &Path, stem: &str) -> Result<Vec<PathBuf>, LoadError> {
    let single = folder.join(format!("{stem}.safetensors"));
    if single.is_file() {
        return Ok(vec![single]);
    }
    let missing = |what: String| LoadError::NotAModel { path: folder.to_owned(), what };
    let index = folder.join(format!("{stem}.safetensors.index.json"));
    if !index.is_file() {
        return Err(missing(format!("{stem}.safetensors (or its .index.json)")));
    }
    let shards: BTreeSet<String> =
        read_config::<Index>(&index, &INDEX)?.weight_map.into_values().collect();
    shards
        .into_iter()
        .map(|shard| {
            // The name comes from a file; it must not lead out of the folder.
            if Path::new(&shard).components().count() != 1 || shard == ".." {
                let cause = format!("bad shard name '{shard}'");
                return Err(LoadError::Invalid { path: index.clone(), cause });
            }
            let path = folder.join(&shard);
            if path.is_file() { Ok(path) } else { Err(missing(shard)) }
        })
        .collect()
}
