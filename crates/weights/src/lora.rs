//! LoRA files: low-rank changes of modules, under the names that their writers chose.
//!
//! Every trainer spells keys in its own way. Here they become modules with two factors and a scale.
//! The crate of the model knows what the modules are called in it, and whether they fit.

mod adapter;
mod error;
mod header;
mod key;

use std::{collections::BTreeMap, path::Path};

use candle_core::{DType, Device, Tensor};

use self::{
    adapter::AdapterConfig,
    header::{FileSpan, Header},
    key::{Key, Role},
};
pub use self::{
    error::LoraError,
    key::{Whole, flat},
};
use crate::overlay::is_finite;

/// A LoRA file whose header has been read and checked; factors are read when asked for.
#[derive(Debug)]
pub struct LoraFile {
    header: Header,
    modules: Vec<LoraModule>,
    differences: Vec<Difference>,
    unknown_keys: Vec<String>,
}

/// A changed module of a file.
#[derive(Clone, Debug)]
pub struct LoraModule {
    /// Without prefixes. Dots may be underscores, as kohya's tools write them.
    pub name: String,
    /// The file's own key of the factor `down`, for messages.
    pub key: String,
    pub outs: usize,
    pub ins: usize,
    pub rank: usize,
    /// What the file says of it, if it does.
    pub alpha: Option<f64>,
    /// `alpha / rank`, or what the file has instead.
    pub scale: f64,
    up: String,
    down: String,
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

/// What was found of one module, by key.
#[derive(Default)]
struct Found {
    name: String,
    up: Option<String>,
    down: Option<String>,
    alpha: Option<String>,
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
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        let mut unknown_keys = Vec::new();
        let mut differences: BTreeMap<(String, Whole), Difference> = BTreeMap::new();
        for key in header.keys() {
            match key::parse(key) {
                Key::Factor { module, role } => {
                    let entry = found.entry(key::flat(&module)).or_default();
                    entry.name = module;
                    let slot = match role {
                        Role::Up => &mut entry.up,
                        Role::Down => &mut entry.down,
                        Role::Alpha => &mut entry.alpha,
                    };
                    if let Some(first) = slot.replace(key.to_owned()) {
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
        for found in found.into_values() {
            match found {
                Found { name, up: Some(up), down: Some(down), alpha } => {
                    modules.push(LoraModule::new(&header, &config, name, up, down, alpha)?);
                }
                // An alpha that belongs to nothing changes nothing.
                Found { up: None, down: None, alpha, .. } => unknown_keys.extend(alpha),
                Found { up, down, .. } => {
                    let lacks = if up.is_none() { "up (or B)" } else { "down (or A)" };
                    let key = up.or(down).unwrap_or_default();
                    return Err(LoraError::Incomplete { file: label.into(), key, lacks });
                }
            }
        }
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

    /// `(up, down)` of one of this file's modules, as matrices of finite values.
    ///
    /// # Errors
    ///
    /// [`LoraError`] if the file cannot be read or if a value is not finite.
    pub fn factors(&self, module: &LoraModule) -> Result<(Tensor, Tensor), LoraError> {
        let read = |key: &str, rows: usize, cols: usize| {
            let backend = |e: candle_core::Error| LoraError::Backend(e.to_string());
            self.finite(key)?.reshape((rows, cols)).map_err(backend)
        };
        Ok((
            read(&module.up, module.outs, module.rank)?,
            read(&module.down, module.rank, module.ins)?,
        ))
    }

    /// The values of one of this file's differences, finite.
    ///
    /// # Errors
    ///
    /// As [`LoraFile::factors`].
    pub fn values(&self, difference: &Difference) -> Result<Tensor, LoraError> {
        self.finite(&difference.key)
    }

    fn finite(&self, key: &str) -> Result<Tensor, LoraError> {
        let tensor = self.header.tensor(key)?;
        if is_finite(&tensor).map_err(|e| LoraError::Backend(e.to_string()))? {
            Ok(tensor)
        } else {
            Err(LoraError::NotFinite { file: self.label().into(), key: key.into() })
        }
    }
}

impl LoraModule {
    fn new(
        header: &Header,
        config: &AdapterConfig,
        name: String,
        up: String,
        down: String,
        alpha: Option<String>,
    ) -> Result<Self, LoraError> {
        let ([outs, rank], [down_rank, ins]) = (matrix(header, &up)?, matrix(header, &down)?);
        if rank != down_rank {
            return Err(header
                .invalid(format!("'{up}' has rank {rank}, but '{down}' has rank {down_rank}")));
        }
        let own = alpha.map(|key| scalar(header, &key)).transpose()?;
        let (alpha, scale) = match own {
            Some(alpha) => (Some(alpha), alpha / rank as f64),
            None => (config.alpha(&name), config.scale(&name, rank)),
        };
        if !scale.is_finite() {
            return Err(LoraError::NotFinite { file: header.label().into(), key: down });
        }
        Ok(Self { name, key: down.clone(), outs, ins, rank, alpha, scale, up, down })
    }
}

/// Rows and columns. A convolution of 1 x 1, as some tools write linear layers, is a matrix too.
fn matrix(header: &Header, key: &str) -> Result<[usize; 2], LoraError> {
    let FileSpan { shape, .. } = header.span(key)?;
    match shape[..] {
        [rows, cols] | [rows, cols, 1, 1] if rows > 0 && cols > 0 => Ok([rows, cols]),
        _ => Err(header.invalid(format!("'{key}' has shape {shape:?}, but must be a matrix"))),
    }
}

fn scalar(header: &Header, key: &str) -> Result<f64, LoraError> {
    let values = header.tensor(key)?.to_dtype(DType::F64).and_then(|x| x.flatten_all());
    let values = values.and_then(|x| x.to_vec1::<f64>());
    match values.map_err(|e| LoraError::Backend(e.to_string()))?[..] {
        [value] if value.is_finite() => Ok(value),
        [_] => Err(LoraError::NotFinite { file: header.label().into(), key: key.into() }),
        _ => Err(header.invalid(format!("'{key}' must be one number"))),
    }
}

/// Where tensors of files are made; they move to a model's device when they are fused.
const DEVICE: Device = Device::Cpu;

#[cfg(test)]
mod tests;
