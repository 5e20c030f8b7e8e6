//! Tensors of safetensors files, mapped into memory and read when asked for.

use std::{collections::BTreeMap, path::PathBuf};

use candle_core::{DType, Device, Tensor, safetensors::Load as _};
use half::{bf16, f16};
use safetensors::tensor::TensorView;

use crate::{
    LoadError, Naming, PartFiles,
    mapped::Mapped,
    names::Part,
    overlay::Overlay,
    read::{Value, append, append_tensor},
    source::{Target, TensorSource, TensorSpan, Wanted, cat},
};

/// The files of one part.
pub(crate) struct SafetensorsSource {
    path: PathBuf,
    files: Vec<Mapped>,
    entries: BTreeMap<String, TensorSpan>,
}

impl SafetensorsSource {
    /// Maps the files, and asks `naming` what the model calls their tensors.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a file cannot be opened, or if two tensors map to one name of the model.
    pub fn open(part: &PartFiles, naming: Naming) -> Result<Self, LoadError> {
        let mut files = Vec::new();
        let mut found: Vec<(String, TensorSpan)> = Vec::new();
        for path in part.paths()? {
            let (file, tensors) = Mapped::open(&path, files.len())?;
            found.extend(tensors);
            files.push(file);
        }
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        let parts = naming(&names);
        let mut entries = BTreeMap::new();
        for ((name, span), parts) in found.iter().zip(parts) {
            for Part { name: canonical, rows } in parts {
                let span = TensorSpan { rows, ..span.clone() };
                if entries.insert(canonical.clone(), span).is_some() {
                    let cause =
                        format!("'{name}' is a second tensor for the model's '{canonical}'");
                    return Err(LoadError::Invalid { path: part.path().to_owned(), cause });
                }
            }
        }
        Ok(Self { path: part.path().to_owned(), files, entries })
    }

    fn span(&self, wanted: &Wanted<'_>) -> Result<&TensorSpan, LoadError> {
        let (path, name) = (|| self.path.clone(), || wanted.name.clone());
        let expected = wanted.shape.to_vec();
        match self.entries.get(&wanted.name) {
            None => Err(LoadError::MissingTensor { path: path(), name: name(), expected }),
            Some(span) if !span.fits(wanted.shape) => {
                Err(LoadError::Shape { path: path(), name: name(), found: span.shape(), expected })
            }
            Some(span) => Ok(span),
        }
    }

    fn read<T>(
        &self,
        span: &TensorSpan,
        shape: &[usize],
        look: impl FnOnce(&TensorView<'_>) -> candle_core::Result<T>,
    ) -> Result<T, LoadError> {
        self.files[span.file].read(span, shape, look)
    }

    /// Into one vector, value by value, so that nothing is in memory twice.
    fn on_host<T: Value>(
        &self,
        parts: &[(&Wanted<'_>, &TensorSpan)],
        overlay: &Overlay,
    ) -> Result<Tensor, LoadError> {
        let counts = parts.iter().map(|(wanted, _)| wanted.shape.iter().product::<usize>());
        let mut values: Vec<T> = Vec::with_capacity(counts.sum());
        for (Wanted { name, shape }, span) in parts {
            if overlay.changes(name) {
                let base = self.read(span, shape, |view| view.load(&Device::Cpu))?;
                append_tensor(&overlay.fuse(name, base, T::DTYPE)?, &mut values)?;
            } else {
                self.read(span, shape, |view| append(view, &mut values))?;
            }
        }
        let mut shape = parts[0].0.shape.to_vec();
        if let Some(first) = shape.first_mut() {
            *first = parts.iter().map(|(wanted, _)| wanted.shape[0]).sum();
        }
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    fn on_device(
        &self,
        parts: &[(&Wanted<'_>, &TensorSpan)],
        target: &Target<'_>,
    ) -> Result<Tensor, LoadError> {
        let tensors = parts
            .iter()
            .map(|(Wanted { name, shape }, span)| {
                let upload =
                    |view: &TensorView<'_>| target.loading.lock().upload(view, target.device);
                let base = self.read(span, shape, upload)?;
                target.overlay.fuse(name, base, target.dtype)
            })
            .collect::<Result<Vec<_>, LoadError>>()?;
        cat(&tensors)
    }
}

impl TensorSource for SafetensorsSource {
    fn entries(&self) -> &BTreeMap<String, TensorSpan> {
        &self.entries
    }

    fn tensor(&self, parts: &[Wanted<'_>], target: &Target<'_>) -> Result<Tensor, LoadError> {
        let parts = parts
            .iter()
            .map(|wanted| Ok((wanted, self.span(wanted)?)))
            .collect::<Result<Vec<_>, LoadError>>()?;
        target.loading.lock().read(parts.iter().map(|(_, span)| span.len()).sum());
        match (target.device, target.dtype) {
            (Device::Cpu, DType::F32) => self.on_host::<f32>(&parts, target.overlay),
            (Device::Cpu, DType::BF16) => self.on_host::<bf16>(&parts, target.overlay),
            (Device::Cpu, DType::F16) => self.on_host::<f16>(&parts, target.overlay),
            _ => self.on_device(&parts, target),
        }
    }
}
