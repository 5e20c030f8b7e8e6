//! The demo model in other forms: sharded, under native names, in single files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;

use llm_dit_testkit::repository;

use crate::goldens::Goldens;

/// Tensors of a checkpoint, by name.
#[derive(Clone, Debug, Default)]
pub struct State(pub BTreeMap<String, Stored>);

/// One tensor as it lies in a file.
#[derive(Clone, Debug)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

/// `native_names.json`: native name to diffusers' names for its rows.
#[derive(Deserialize)]
pub struct NativeNames {
    pub dit: BTreeMap<String, Vec<String>>,
    pub vae: BTreeMap<String, Vec<String>>,
}

impl NativeNames {
    /// # Panics
    /// Without the golden there is nothing to test.
    pub fn open() -> Self {
        let text = fs::read_to_string(Goldens::folder().join("native_names.json"));
        serde_json::from_str(&text.expect("the golden")).expect("a list of names")
    }
}

/// The weights of a part of the demo model.
///
/// # Panics
/// Without them there is nothing to test.
pub fn demo_file(part: &str) -> PathBuf {
    let stem = if part == "text_encoder" { "model" } else { "diffusion_pytorch_model" };
    repository("models/demo").join(part).join(format!("{stem}.safetensors"))
}

impl State {
    /// # Panics
    /// When there is no such file.
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).expect("a file");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let stored = |view: TensorView<'_>| Stored {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        };
        Self(file.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect())
    }

    /// # Panics
    /// When the disk is full.
    pub fn write(&self, path: &Path) {
        let views = self.0.iter().map(|(name, stored)| {
            let view = TensorView::new(stored.dtype, stored.shape.clone(), &stored.data);
            (name, view.expect("a tensor"))
        });
        safetensors::serialize_to_file(views, None, path).expect("written");
    }

    /// Under native names: parts that are one tensor there follow each other row by row.
    ///
    /// # Panics
    /// When the names are not this model's.
    pub fn native(&self, names: &BTreeMap<String, Vec<String>>) -> Self {
        let whole = |parts: &Vec<String>| {
            let parts: Vec<&Stored> = parts.iter().map(|part| &self.0[part]).collect();
            let mut shape = parts[0].shape.clone();
            shape[0] = parts.iter().map(|part| part.shape[0]).sum();
            let data = parts.iter().flat_map(|part| part.data.clone()).collect();
            Stored { dtype: parts[0].dtype, shape, data }
        };
        Self(names.iter().map(|(name, parts)| (name.clone(), whole(parts))).collect())
    }

    /// With something before every name.
    pub fn prefixed(&self, prefix: &str) -> Self {
        let prefixed =
            |(name, stored): (&String, &Stored)| (format!("{prefix}{name}"), stored.clone());
        Self(self.0.iter().map(prefixed).collect())
    }

    /// Both together.
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}
