//! One part of a model: the tensors of its files under the model's own names.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{DType, Device, Tensor, safetensors::Load as _};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use serde::de::DeserializeOwned;

use crate::{
    LoadError, Naming, Overlay, PartFiles,
    loading::Loading,
    mapped::{Mapped, Stored},
    names::{Part, Rows},
    read::{Value, append, append_tensor},
    synthetic,
};

/// Names in a message before it says "and N more".
const NAMED: usize = 5;

/// Files of one part, mapped into memory; tensors are read when asked for.
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Mapped>,
    entries: BTreeMap<String, Entry>,
    /// Without files: every tensor is made up.
    synthetic: bool,
    /// What has been asked for, in which shapes.
    taken: Mutex<BTreeMap<String, Vec<usize>>>,
    loading: Mutex<Loading>,
    device: Device,
    dtype: DType,
}

/// A tensor of the model in a file.
struct Entry {
    file: usize,
    stored: Stored,
    rows: Option<Rows>,
}

/// Tensors under a prefix of a checkpoint, as the model's modules ask for them.
#[derive(Clone)]
pub struct Weights {
    checkpoint: Arc<Checkpoint>,
    prefix: String,
    overlay: Arc<Overlay>,
}

impl Checkpoint {
    /// Maps the files. Tensors will be made on `device` in `dtype`.
    pub fn open(
        part: &PartFiles,
        naming: Naming,
        device: &Device,
        dtype: DType,
    ) -> Result<Weights, LoadError> {
        let mut files = Vec::new();
        let mut found: Vec<(usize, String, Stored)> = Vec::new();
        for path in part.paths()? {
            let (file, tensors) = Mapped::open(&path)?;
            found.extend(tensors.into_iter().map(|(name, stored)| (files.len(), name, stored)));
            files.push(file);
        }
        let names: Vec<&str> = found.iter().map(|(_, name, _)| name.as_str()).collect();
        let parts = naming(&names);
        let mut entries = BTreeMap::new();
        for ((file, name, stored), parts) in found.iter().zip(parts) {
            for Part { name: canonical, rows } in parts {
                let entry = Entry { file: *file, stored: stored.clone(), rows };
                if entries.insert(canonical.clone(), entry).is_some() {
                    let cause =
                        format!("'{name}' is a second tensor for the model's '{canonical}'");
                    return Err(LoadError::Invalid { path: part.path().to_owned(), cause });
                }
            }
        }
        let checkpoint = Self {
            path: part.path().to_owned(),
            files,
            entries,
            synthetic: false,
            taken: Mutex::default(),
            loading: Mutex::default(),
            device: device.clone(),
            dtype,
        };
        Ok(checkpoint.whole())
    }

    /// One without files, see [`synthetic`].
    pub(crate) fn synthetic(label: &Path, device: &Device, dtype: DType) -> Weights {
        let checkpoint = Self {
            path: label.to_owned(),
            files: Vec::new(),
            entries: BTreeMap::new(),
            synthetic: true,
            taken: Mutex::default(),
            loading: Mutex::default(),
            device: device.clone(),
            dtype,
        };
        checkpoint.whole()
    }

    fn whole(self) -> Weights {
        Weights { checkpoint: Arc::new(self), prefix: String::new(), overlay: Arc::default() }
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<String, Vec<usize>>> {
        lock(&self.taken)
    }

    fn loading(&self) -> MutexGuard<'_, Loading> {
        lock(&self.loading)
    }
}

/// What a thread that panicked left is still whole: names, and buffers that wait for their copies.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    /// The shape that goes to the model: that of the share, if the file's tensor is divided.
    fn shape(&self) -> Vec<usize> {
        let mut shape = self.stored.shape.clone();
        if let (Some(rows), Some(first)) = (self.rows, shape.first_mut()) {
            *first /= rows.of;
        }
        shape
    }

    /// What it takes in its file.
    fn bytes(&self) -> usize {
        self.stored.len() / self.rows.map_or(1, |rows| rows.of)
    }

    /// True when the file's tensor is what the model's is to be, if need be under another shape:
    /// a 1x1 convolution is a matrix.
    fn fits(&self, expected: &[usize]) -> bool {
        let divides = match (self.rows, self.stored.shape.first()) {
            (Some(rows), Some(first)) => first.is_multiple_of(rows.of),
            (Some(_), None) => false,
            (None, _) => true,
        };
        let shape = self.shape();
        divides && (shape == expected || squeezed(&shape) == expected)
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
        self.stack(&[(name, shape)])
    }

    /// Several tensors as one, one after the other along the first axis; their other axes agree.
    pub fn stack(&self, parts: &[(&str, &[usize])]) -> Result<Tensor, LoadError> {
        let checkpoint = &*self.checkpoint;
        if checkpoint.synthetic {
            return self.make_up(parts);
        }
        let parts = parts
            .iter()
            .map(|(name, shape)| Ok((self.pp(name).prefix, *shape, self.entry(name, shape)?)))
            .collect::<Result<Vec<_>, LoadError>>()?;
        let stored = parts.iter().map(|(.., entry)| entry.bytes()).sum();
        checkpoint.loading().read(stored);
        let tensor = match (&checkpoint.device, checkpoint.dtype) {
            (Device::Cpu, DType::F32) => self.stack_host::<f32>(&parts)?,
            (Device::Cpu, DType::BF16) => self.stack_host::<bf16>(&parts)?,
            (Device::Cpu, DType::F16) => self.stack_host::<f16>(&parts)?,
            (device, _) => {
                let tensors = parts
                    .iter()
                    .map(|(name, shape, entry)| {
                        let upload =
                            |view: &TensorView<'_>| checkpoint.loading().upload(view, device);
                        let base = self.read(entry, shape, upload)?;
                        self.overlay.fuse(name, base, checkpoint.dtype)
                    })
                    .collect::<Result<Vec<_>, LoadError>>()?;
                match tensors.as_slice() {
                    [one] => one.clone(),
                    several => Tensor::cat(several, 0)?,
                }
            }
        };
        checkpoint.taken().extend(parts.into_iter().map(|(name, s, _)| (name, s.to_vec())));
        Ok(tensor)
    }

    /// [`Weights::stack`] without files.
    fn make_up(&self, parts: &[(&str, &[usize])]) -> Result<Tensor, LoadError> {
        let Checkpoint { device, dtype, .. } = &*self.checkpoint;
        let tensors = parts
            .iter()
            .map(|(name, shape)| {
                let name = self.pp(name).prefix;
                let base = synthetic::tensor(&name, shape, device, *dtype)?;
                let tensor = self.overlay.fuse(&name, base, *dtype)?;
                self.checkpoint.taken().insert(name, shape.to_vec());
                Ok(tensor)
            })
            .collect::<Result<Vec<_>, LoadError>>()?;
        match tensors.as_slice() {
            [one] => Ok(one.clone()),
            several => Ok(Tensor::cat(several, 0)?),
        }
    }

    /// Into one vector, value by value, so that nothing is in memory twice.
    fn stack_host<T: Value>(
        &self,
        parts: &[(String, &[usize], &Entry)],
    ) -> Result<Tensor, LoadError> {
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let mut values: Vec<T> = Vec::with_capacity(parts.iter().map(|(_, s, _)| count(s)).sum());
        for (name, shape, entry) in parts {
            if self.overlay.changes(name) {
                let base = self.read(entry, shape, |view| view.load(&Device::Cpu))?;
                append_tensor(&self.overlay.fuse(name, base, T::DTYPE)?, &mut values)?;
            } else {
                self.read(entry, shape, |view| append(view, &mut values))?;
            }
        }
        let mut shape = parts[0].1.to_vec();
        if let Some(first) = shape.first_mut() {
            *first = parts.iter().map(|(_, shape, _)| shape[0]).sum();
        }
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    fn entry(&self, name: &str, shape: &[usize]) -> Result<&Entry, LoadError> {
        let (name, path) = (self.pp(name).prefix, self.checkpoint.path.clone());
        let expected = shape.to_vec();
        match self.checkpoint.entries.get(&name) {
            None => Err(LoadError::MissingTensor { path, name, expected }),
            Some(entry) if !entry.fits(shape) => {
                Err(LoadError::Shape { path, name, found: entry.shape(), expected })
            }
            Some(entry) => Ok(entry),
        }
    }

    fn read<T>(
        &self,
        entry: &Entry,
        shape: &[usize],
        look: impl FnOnce(&TensorView<'_>) -> candle_core::Result<T>,
    ) -> Result<T, LoadError> {
        let rows = match entry.rows {
            Some(Rows { index, .. }) => {
                let share = entry.shape()[0];
                index * share..(index + 1) * share
            }
            None => 0..entry.stored.shape.first().copied().unwrap_or(1).max(1),
        };
        self.checkpoint.files[entry.file].read(&entry.stored, rows, shape, look)
    }

    /// To be called when everything was loaded: refuses tensors that nothing asked for, except
    /// those that the model is known not to read. Then everything is on the device.
    pub fn finish(&self, unused: impl Fn(&str) -> bool) -> Result<(), LoadError> {
        let checkpoint = &*self.checkpoint;
        let taken = checkpoint.taken();
        let extra: Vec<&str> = checkpoint
            .entries
            .keys()
            .map(String::as_str)
            .filter(|name| !taken.contains_key(*name) && !unused(name))
            .collect();
        if extra.is_empty() {
            return self.done();
        }
        let mut names: Vec<String> = extra.iter().take(NAMED).map(|n| format!("'{n}'")).collect();
        if extra.len() > NAMED {
            names.push(format!("and {} more", extra.len() - NAMED));
        }
        let path = checkpoint.path.clone();
        Err(LoadError::ExtraTensors { path, names: names.join(", ") })
    }

    /// As [`Weights::finish`], when only some tensors were read again.
    pub fn done(&self) -> Result<(), LoadError> {
        let checkpoint = &*self.checkpoint;
        checkpoint.loading().finish(&checkpoint.path, &checkpoint.device)
    }

    /// The tensors that were asked for so far, with their shapes.
    pub fn asked(&self) -> BTreeMap<String, Vec<usize>> {
        self.checkpoint.taken().clone()
    }

    /// What the tensors that were asked for so far take in their files.
    pub fn stored_bytes(&self) -> u64 {
        let checkpoint = &*self.checkpoint;
        let taken = checkpoint.taken();
        let entries = taken.keys().filter_map(|name| checkpoint.entries.get(name));
        entries.map(|entry| entry.bytes() as u64).sum()
    }

    /// The same files with other changes on top.
    pub fn with_overlay(&self, overlay: Arc<Overlay>) -> Self {
        Self { overlay, ..self.clone() }
    }

    /// What is put on top of the files.
    pub fn overlay(&self) -> &Arc<Overlay> {
        &self.overlay
    }

    /// The shape of the tensor `name`, if there is one; 1x1 convolutions as the matrices they are.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let entry = self.checkpoint.entries.get(&self.pp(name).prefix)?;
        Some(squeezed(&entry.shape()).to_vec())
    }

    /// How many modules there are under this prefix that are called 0, 1, 2 and so on.
    pub fn count(&self) -> usize {
        let within = format!("{}.", self.prefix);
        let indices = self.checkpoint.entries.keys().filter_map(|name| {
            let (index, _) = name.strip_prefix(&within)?.split_once('.')?;
            index.parse::<usize>().ok()
        });
        // No model has more tensors than usize counts.
        indices.max().map_or(0, |last| last.saturating_add(1))
    }

    /// Where the tensors go.
    pub fn device(&self) -> &Device {
        &self.checkpoint.device
    }

    /// What they become.
    pub fn dtype(&self) -> DType {
        self.checkpoint.dtype
    }

    /// The folder or file they come from.
    pub fn path(&self) -> &Path {
        &self.checkpoint.path
    }
}

/// Without axes of one value at the end, as long as a matrix remains.
fn squeezed(shape: &[usize]) -> &[usize] {
    let end = shape.iter().rposition(|&n| n != 1).map_or(0, |last| last + 1);
    if shape.len() > 2 { &shape[..end.max(2)] } else { shape }
}

/// Reads `folder/config.json` or another JSON file of a model.
pub fn read_config<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let text =
        fs::read_to_string(path).map_err(|cause| LoadError::Io { path: path.to_owned(), cause })?;
    serde_json::from_str(&text)
        .map_err(|e| LoadError::Invalid { path: path.to_owned(), cause: e.to_string() })
}
