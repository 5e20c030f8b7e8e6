//! Tensors of safetensors files, mapped into memory and read when asked for.

use std::{collections::BTreeMap, path::PathBuf};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};

use crate::{
    LoadError, Naming, PartFiles, foreign,
    mapped::Mapped,
    names::Part,
    overlay::Overlay,
    read::{Value, append, append_tensor, load},
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
        let mut found: Vec<TensorSpan> = Vec::new();
        for path in part.paths()? {
            let (file, tensors) = Mapped::open(&path, files.len())?;
            found.extend(tensors);
            files.push(file);
        }
        let names: Vec<&str> = found.iter().map(|span| &*span.name).collect();
        let parts = naming(&names);
        let own = || found.iter().zip(&parts).filter(|(_, parts)| !parts.is_empty());
        if let Some((sort, span)) = own().find_map(|(span, _)| Some((sort(span, &files)?, span))) {
            let (path, tensor) = (files[span.file].path.clone(), span.name.to_string());
            return Err(LoadError::Quantized { path, tensor, sort });
        }
        let mut entries: BTreeMap<String, TensorSpan> = BTreeMap::new();
        for (span, parts) in own() {
            let name = &span.name;
            for Part { name: canonical, rows } in parts {
                let rows = *rows;
                let span = TensorSpan { rows, ..span.clone() };
                if let Some(first) = entries.insert(canonical.clone(), span) {
                    let cause =
                        format!("'{}' and '{name}' are two names of one tensor", first.name);
                    return Err(LoadError::Invalid { path: part.path().to_owned(), cause });
                }
            }
        }
        Ok(Self { path: part.path().to_owned(), files, entries })
    }

    fn span(&self, wanted: &Wanted<'_>) -> Result<&TensorSpan, LoadError> {
        let mut expected = wanted.shape.to_vec();
        let Some(span) = self.entries.get(&wanted.name) else {
            let (path, name) = (self.path.clone(), wanted.name.clone());
            return Err(LoadError::MissingTensor { path, name, expected });
        };
        let (path, name) = (|| self.files[span.file].path.clone(), || span.name.to_string());
        if !span.fits(wanted.shape) {
            if let (Some(rows), Some(first)) = (span.rows, expected.first_mut()) {
                *first *= rows.of;
            }
            let found = span.whole.clone();
            return Err(LoadError::Shape { path: path(), name: name(), found, expected });
        }
        if !is_float(span.dtype) {
            let dtype = format!("{:?}", span.dtype);
            return Err(LoadError::Type { path: path(), name: name(), dtype });
        }
        Ok(span)
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
                let base = self.read(span, shape, |view| load(view, &Device::Cpu))?;
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

/// The types that are read. Whole numbers are the packed form of something else.
fn is_float(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F8_E4M3 | Dtype::F8_E5M2
    )
}

/// The sort of quantized weights that this tensor is a part of. What a file's metadata say counts
/// for its small types only: a file may hold several models.
fn sort(span: &TensorSpan, files: &[Mapped]) -> Option<&'static str> {
    let small = !matches!(span.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16);
    let file = || files[span.file].quantized.filter(|_| small);
    foreign::quantized(&span.name).or_else(file)
}

impl TensorSource for SafetensorsSource {
    fn entries(&self) -> &BTreeMap<String, TensorSpan> {
        &self.entries
    }

    fn check(&self, wanted: &Wanted<'_>) -> Result<(), LoadError> {
        self.span(wanted).map(drop)
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
