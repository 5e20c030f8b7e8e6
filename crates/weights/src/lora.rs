//! LoRA files: changes of modules, under the names that their writers chose.
//!
//! Every trainer spells keys in its own way. Here they become modules, each with a change: two factors
//! (LoRA), products of them (LoHa, LoKr), lengths of rows (DoRA), rotations (OFT), or whole tensors.
//! The crate of the model knows what the modules are called in it, and whether they fit.

mod adapter;
mod error;
mod extent;
mod header;
mod key;
mod module;
mod rotation;

use std::{collections::BTreeMap, path::Path};

use candle_core::Device;

use self::{adapter::AdapterConfig, header::Header, key::Key, module::Parts};
pub use self::{
    error::LoraError,
    extent::Extent,
    key::{Whole, flat},
    module::LoraModule,
};
use crate::overlay::{Change, Delta};

/// A LoRA file whose header has been read and checked; factors are read when asked for.
#[derive(Debug)]
pub struct LoraFile {
    header: Header,
    modules: Vec<LoraModule>,
    differences: Vec<Difference>,
    unknown_keys: Vec<String>,
}

/// What a file adds to a whole tensor, such as a norm's weight.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The module's name, as [`LoraModule::name`].
    pub name: String,
    pub of: Whole,
    /// The file's own key.
    pub key: String,
    pub shape: Vec<usize>,
}

impl LoraFile {
    /// Reads the header. `label` is what messages call the file.
    ///
    /// # Errors
    ///
    /// [`LoraError`] if the file cannot be read, is not a safetensors file, or holds an adapter of
    /// an unsupported kind.
    pub fn open(path: &Path, label: &str) -> Result<Self, LoraError> {
        let header = Header::read(path, label)?;
        let config = AdapterConfig::of(path, &header)?;
        // By the names in one spelling, with the names as they are.
        let mut found: BTreeMap<String, (String, Parts)> = BTreeMap::new();
        let mut unknown_keys = Vec::new();
        let mut differences: BTreeMap<(String, Whole), Difference> = BTreeMap::new();
        for key in header.keys() {
            match key::parse(key) {
                Key::Factor { module, role } => {
                    let (name, parts) = found.entry(key::flat(&module)).or_default();
                    *name = module;
                    if let Some(first) = parts.insert(role, key.to_owned()) {
                        return Err(header.invalid(format!("'{first}' and '{key}' say the same")));
                    }
                }
                Key::Difference { module: name, of } => {
                    let (id, shape) = ((key::flat(&name), of), header.span(key)?.shape.clone());
                    let difference = Difference { name, of, key: key.to_owned(), shape };
                    if let Some(Difference { key: first, .. }) = differences.insert(id, difference)
                    {
                        return Err(header.invalid(format!("'{first}' and '{key}' say the same")));
                    }
                }
                Key::Unsupported(kind) => {
                    return Err(LoraError::Kind { file: label.into(), key: key.into(), kind });
                }
                Key::Unknown => unknown_keys.push(key.to_owned()),
            }
        }
        let mut modules = Vec::new();
        for (name, parts) in found.into_values() {
            // An alpha that belongs to nothing changes nothing.
            let keys: Vec<String> = parts.values().cloned().collect();
            match LoraModule::new(&header, &config, name, parts)? {
                Some(module) => modules.push(module),
                None => unknown_keys.extend(keys),
            }
        }
        config.check(&header, modules.iter().any(LoraModule::is_decomposed))?;
        let differences = differences.into_values().collect();
        Ok(Self { header, modules, differences, unknown_keys })
    }

    /// What messages call this file.
    pub fn label(&self) -> &str {
        self.header.label()
    }

    /// The linear layers that it changes, by the names of the file.
    pub fn modules(&self) -> &[LoraModule] {
        &self.modules
    }

    /// The whole tensors that it changes, likewise.
    pub fn differences(&self) -> &[Difference] {
        &self.differences
    }

    /// Keys that are no part of a change of the image model: a text encoder's, or unknown ones.
    pub fn unknown_keys(&self) -> &[String] {
        &self.unknown_keys
    }

    /// Bytes of the whole file.
    pub fn bytes(&self) -> u64 {
        self.header.bytes()
    }

    /// Largest rank of a module.
    pub fn rank(&self) -> usize {
        self.modules.iter().map(|module| module.rank).max().unwrap_or(0)
    }

    /// The one alpha of all modules, if it is one.
    pub fn alpha(&self) -> Option<f64> {
        let first = self.modules.first()?.alpha?;
        self.modules.iter().all(|module| module.alpha == Some(first)).then_some(first)
    }

    /// The change of one of this file's modules, of finite values. A `strength` of 1 is the file's.
    ///
    /// # Errors
    ///
    /// [`LoraError`] if the file cannot be read or if a value is not finite.
    pub fn change(&self, module: &LoraModule, strength: f64) -> Result<Change, LoraError> {
        module.change(&self.header, strength)
    }

    /// Likewise of one of its differences.
    ///
    /// # Errors
    ///
    /// As [`LoraFile::change`].
    pub fn whole(&self, difference: &Difference, strength: f64) -> Result<Change, LoraError> {
        let values = self.header.finite(&difference.key)?;
        Ok(Change::new(Delta::Full(values), strength))
    }
}

/// Where tensors of files are made; they move to a model's device when they are fused.
const DEVICE: Device = Device::Cpu;

#[cfg(test)]
mod tests;
