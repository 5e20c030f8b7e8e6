//! What the oracle computed, from `tests/goldens` or the folder named in `LLM_DIT_GOLDENS`.

use std::{
    collections::HashMap,
    env,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};

/// One file of goldens.
pub struct Goldens(HashMap<String, Tensor>);

impl Goldens {
    /// # Panics
    /// Without the file there is nothing to test against.
    pub fn open(name: &str) -> Self {
        let path = Self::folder().join(name);
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu);
        Self(tensors.unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    pub fn folder() -> PathBuf {
        env::var_os("LLM_DIT_GOLDENS")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens"), PathBuf::from)
    }

    /// The random-weight model.
    pub fn tiny() -> PathBuf {
        Self::folder().join("tiny")
    }

    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    pub fn tensor(&self, name: &str) -> Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no golden '{name}'")).clone()
    }

    pub fn values(&self, name: &str) -> Vec<f32> {
        let flat = self.tensor(name).to_dtype(DType::F32).and_then(|x| x.flatten_all());
        flat.and_then(|x| x.to_vec1()).expect("goldens are f32 on the CPU")
    }

    pub fn ids(&self, name: &str) -> Vec<u32> {
        let flat = self.tensor(name).to_dtype(DType::U32).and_then(|x| x.flatten_all());
        flat.and_then(|x| x.to_vec1()).expect("ids fit 32 bits")
    }
}

/// `|ours - expected| / |expected|`, in the Euclidean norm.
pub fn relative_error(ours: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(ours.len(), expected.len(), "lengths differ");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut ours.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut expected.iter().map(|&v| f64::from(v))).max(f64::MIN_POSITIVE)
}
