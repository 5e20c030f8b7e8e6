//! Tensors of files, mapped into memory and read when asked for.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use llm_dit_kernels::{
    Format, Matrix, Packed, PackedRows, SideBranch, Value, dequantize, expand_rows,
};
use safetensors::{Dtype, tensor::TensorView};

use crate::{
    LoadError, Naming, PartFiles, comfy, foreign,
    mapped::Mapped,
    metadata::Metadata,
    names::Part,
    overlay::Overlay,
    read::{append, append_tensor, load},
    rows::MappedRows,
    source::{Encoding, Target, TensorSource, TensorSpan, Wanted, cat},
};

/// The files of one part.
pub(crate) struct FileSource {
    path: PathBuf,
    files: Vec<Arc<Mapped>>,
    entries: BTreeMap<String, TensorSpan>,
}

impl FileSource {
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
            files.push(Arc::new(file));
        }
        let names: Vec<&str> = found.iter().map(|span| &*span.name).collect();
        let parts = naming(&names);
        let own = found.into_iter().zip(parts).filter(|(_, parts)| !parts.is_empty());
        let own = comfy::join(own.collect(), &files)?;
        if let Some((sort, span)) =
            own.iter().find_map(|(span, _)| Some((sort(span, &files)?, span)))
        {
            let (path, tensor) = (files[span.file].path.clone(), span.name.to_string());
            return Err(LoadError::Quantized { path, tensor, sort });
        }
        let mut entries: BTreeMap<String, TensorSpan> = BTreeMap::new();
        for (span, parts) in own {
            let name = &span.name;
            for Part { name: canonical, rows } in parts {
                let span = TensorSpan { rows, ..span.clone() };
                if let Some(first) = entries.insert(canonical, span) {
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
        if let Encoding::Plain(dtype) = span.encoding
            && !is_float(dtype)
        {
            let dtype = format!("{dtype:?}");
            return Err(LoadError::Type { path: path(), name: name(), dtype });
        }
        Ok(span)
    }

    /// Looks at a tensor whose values lie one after the other, under a shape of as many values.
    fn view<T>(
        &self,
        span: &TensorSpan,
        dtype: Dtype,
        shape: &[usize],
        look: impl FnOnce(&TensorView<'_>) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        let file = &self.files[span.file];
        file.read(span.range(), |bytes| {
            let view = TensorView::new(dtype, shape.to_vec(), bytes).map_err(|e| {
                LoadError::Invalid { path: file.path.clone(), cause: e.to_string() }
            })?;
            look(&view)
        })
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
                let base = self.base(span, shape)?;
                append_tensor(&overlay.fuse(name, base, T::DTYPE)?, &mut values)?;
            } else {
                self.append(span, shape, &mut values)?;
            }
        }
        let mut shape = parts[0].0.shape.to_vec();
        if let Some(first) = shape.first_mut() {
            *first = parts.iter().map(|(wanted, _)| wanted.shape[0]).sum();
        }
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// Appends a tensor's values on the host.
    fn append<T: Value>(
        &self,
        span: &TensorSpan,
        shape: &[usize],
        out: &mut Vec<T>,
    ) -> Result<(), LoadError> {
        match &span.encoding {
            Encoding::Plain(dtype) => self.view(span, *dtype, shape, |view| Ok(append(view, out)?)),
            Encoding::Packed { format, columns, .. } => {
                let from = out.len();
                out.resize(from + shape.iter().product::<usize>(), T::zero());
                let out = &mut out[from..];
                self.files[span.file].rows(span, |bytes| {
                    expand_rows(*format, *columns, bytes, out);
                    Ok(())
                })
            }
        }
    }

    /// A tensor on the host as a change is added to it: in its own type, if it has one.
    fn base(&self, span: &TensorSpan, shape: &[usize]) -> Result<Tensor, LoadError> {
        match &span.encoding {
            Encoding::Plain(dtype) => {
                self.view(span, *dtype, shape, |view| Ok(load(view, &Device::Cpu)?))
            }
            Encoding::Packed { .. } => {
                let mut values: Vec<f32> = Vec::new();
                self.append(span, shape, &mut values)?;
                Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
            }
        }
    }

    fn on_device(
        &self,
        parts: &[(&Wanted<'_>, &TensorSpan)],
        target: &Target<'_>,
    ) -> Result<Tensor, LoadError> {
        let tensors = parts
            .iter()
            .map(|(wanted, span)| {
                let base = self.upload(wanted, span, target)?;
                target.overlay.fuse(&wanted.name, base, target.dtype)
            })
            .collect::<Result<Vec<_>, LoadError>>()?;
        cat(&tensors)
    }

    /// A tensor on a device that is not the host: in the type it is stored in, or expanded. What is
    /// changed afterwards is in f32.
    fn upload(
        &self,
        wanted: &Wanted<'_>,
        span: &TensorSpan,
        target: &Target<'_>,
    ) -> Result<Tensor, LoadError> {
        let Target { device, dtype, .. } = *target;
        match &span.encoding {
            Encoding::Plain(dtype) => self.view(span, *dtype, wanted.shape, |view| {
                Ok(target.loading.lock().upload(view, device)?)
            }),
            Encoding::Packed { .. } if target.overlay.changes(&wanted.name) => {
                Ok(self.base(span, wanted.shape)?.to_device(device)?)
            }
            Encoding::Packed { format, columns, .. } => {
                if Packed::runs_on(device, dtype, *format, *columns)? {
                    let rows = self.packed_rows(span, *format, *columns, target)?;
                    return Ok(dequantize(&[rows], *columns, dtype)?.reshape(wanted.shape)?);
                }
                let values = match dtype {
                    DType::BF16 => self.values::<bf16>(span, wanted.shape)?,
                    DType::F16 => self.values::<f16>(span, wanted.shape)?,
                    _ => self.values::<f32>(span, wanted.shape)?,
                };
                Ok(values.to_device(device)?)
            }
        }
    }

    /// A tensor on the host, rounded once.
    fn values<T: Value>(&self, span: &TensorSpan, shape: &[usize]) -> Result<Tensor, LoadError> {
        let mut values: Vec<T> = Vec::new();
        self.append(span, shape, &mut values)?;
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// A tensor's rows as they are packed, on the device.
    fn packed_rows(
        &self,
        span: &TensorSpan,
        format: Format,
        columns: usize,
        target: &Target<'_>,
    ) -> Result<PackedRows, LoadError> {
        let bytes = self.files[span.file].rows(span, |bytes| {
            if target.device.is_cpu() {
                return Ok(Tensor::from_slice(bytes, bytes.len(), &Device::Cpu)?);
            }
            let path = || self.files[span.file].path.clone();
            let view = TensorView::new(Dtype::U8, vec![bytes.len()], bytes);
            let view =
                view.map_err(|e| LoadError::Invalid { path: path(), cause: e.to_string() })?;
            Ok(target.loading.lock().upload(&view, target.device)?)
        })?;
        let rows = span.shape().iter().product::<usize>() / columns.max(1);
        Ok(PackedRows::new(format, rows, columns, bytes)?)
    }

    /// Matrices as one that stays packed; `None` if they are no smaller so, or cannot be expanded on
    /// their device one at a time.
    fn packed(
        &self,
        parts: &[(&Wanted<'_>, &TensorSpan)],
        target: &Target<'_>,
    ) -> Result<Option<Packed>, LoadError> {
        let &Target { device, dtype, overlay, .. } = target;
        let columns = parts[0].0.shape.last().copied().unwrap_or(1);
        let (mut packed, mut expanded) = (0, 0);
        let mut formats = Vec::new();
        for (wanted, span) in parts {
            let Some((format, width)) = span.packed_format() else { return Ok(None) };
            let row = format.row_bytes(width).filter(|_| width == columns);
            let Some(row) = row else { return Ok(None) };
            let runs = Packed::runs_on(device, dtype, format, columns)?;
            if !runs || !overlay.is_low_rank(&wanted.name) {
                return Ok(None);
            }
            let rows = wanted.shape[0];
            packed += rows * row;
            expanded += rows * columns * dtype.size_in_bytes();
            formats.push(format);
        }
        if packed >= expanded {
            return Ok(None);
        }
        let mut rows = Vec::new();
        for ((_, span), format) in parts.iter().zip(&formats) {
            rows.push(self.packed_rows(span, *format, columns, target)?);
        }
        let side = self.side_branch(parts, target)?;
        let packed = Packed::new(rows, columns, dtype, target.scratch.get())?;
        Ok(Some(packed.with_side(side)))
    }

    /// What the overlay adds to products with these matrices, one's rows after the other's.
    fn side_branch(
        &self,
        parts: &[(&Wanted<'_>, &TensorSpan)],
        target: &Target<'_>,
    ) -> Result<Option<SideBranch>, LoadError> {
        let changes = parts.iter().map(|(wanted, _)| (&*wanted.name, wanted.shape[0]));
        let changes: Vec<_> = changes.collect();
        let side =
            target.overlay.side_branch(&changes, false, target.device, target.activations)?;
        for (wanted, span) in parts {
            if target.overlay.may_overflow(&wanted.name, target.dtype)? {
                // Fails where the sum does.
                let base = self.base(span, wanted.shape)?;
                target.overlay.fuse(&wanted.name, base, target.dtype)?;
            }
        }
        Ok(side)
    }

    fn spans<'a>(
        &self,
        parts: &'a [Wanted<'a>],
    ) -> Result<Vec<(&'a Wanted<'a>, &TensorSpan)>, LoadError> {
        parts.iter().map(|wanted| Ok((wanted, self.span(wanted)?))).collect()
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
fn sort(span: &TensorSpan, files: &[Arc<Mapped>]) -> Option<&'static str> {
    let Encoding::Plain(dtype) = span.encoding else { return None };
    let small = !matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16);
    let file = || files[span.file].quantized.filter(|_| small);
    foreign::quantized(&span.name).or_else(file)
}

impl TensorSource for FileSource {
    fn entries(&self) -> &BTreeMap<String, TensorSpan> {
        &self.entries
    }

    fn check(&self, wanted: &Wanted<'_>) -> Result<(), LoadError> {
        self.span(wanted).map(drop)
    }

    fn tensor(&self, parts: &[Wanted<'_>], target: &Target<'_>) -> Result<Tensor, LoadError> {
        let parts = self.spans(parts)?;
        target.loading.lock().read(parts.iter().map(|(_, span)| span.len()).sum());
        match (target.device, target.dtype) {
            (Device::Cpu, DType::F32) => self.on_host::<f32>(&parts, target.overlay),
            (Device::Cpu, DType::BF16) => self.on_host::<bf16>(&parts, target.overlay),
            (Device::Cpu, DType::F16) => self.on_host::<f16>(&parts, target.overlay),
            _ => self.on_device(&parts, target),
        }
    }

    fn matrix(&self, parts: &[Wanted<'_>], target: &Target<'_>) -> Result<Matrix, LoadError> {
        if target.packed {
            let spans = self.spans(parts)?;
            if let Some(packed) = self.packed(&spans, target)? {
                target.loading.lock().read(spans.iter().map(|(_, span)| span.len()).sum());
                return Ok(Matrix::Packed(packed));
            }
        }
        self.tensor(parts, target).map(Matrix::Dense)
    }

    fn table(&self, parts: &[Wanted<'_>], target: &Target<'_>) -> Result<Matrix, LoadError> {
        let [wanted] = parts else { return self.matrix(parts, target) };
        let span = self.span(wanted)?;
        let is_packed = target.packed || matches!(span.encoding, Encoding::Packed { .. });
        let format = span.packed_format().filter(|(_, columns)| {
            is_packed
                && wanted.shape.last() == Some(columns)
                && !target.overlay.changes(&wanted.name)
        });
        let Some((format, columns)) = format else { return self.matrix(parts, target) };
        let file = Arc::clone(&self.files[span.file]);
        let rows = Arc::new(MappedRows { file, span: span.clone(), format, columns });
        Ok(Matrix::Stored { rows, dtype: target.dtype, device: target.device.clone() })
    }

    fn metadata(&self) -> Option<&Metadata> {
        self.files.iter().find_map(|file| file.metadata.as_deref())
    }
}
