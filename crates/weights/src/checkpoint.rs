//! One part of a model: the tensors of its source under the model's own names.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor};
use llm_dit_kernels::{Matrix, Packed, SideBranch};
use parking_lot::Mutex;

use crate::{
    LoadError, Naming, Overlay, Packing, PartFiles, Precision,
    file_source::FileSource,
    loading::Loading,
    metadata::Metadata,
    source::{SharedScratch, Target, TensorSource, TensorSpan, Wanted, squeezed},
};

/// Names in a message before it says "and N more".
const NAMED: usize = 5;

/// A source of one part's tensors, and how far its loading has come.
pub struct Checkpoint {
    path: PathBuf,
    source: Box<dyn TensorSource>,
    /// What has been asked for, in which shapes.
    taken: Mutex<BTreeMap<String, Vec<usize>>>,
    loading: Mutex<Loading>,
    device: Device,
    precision: Precision,
    /// Whether matrices that are smaller as they are stored stay so.
    packed: bool,
    scratch: SharedScratch,
}

/// Tensors under a prefix of a checkpoint, as the model's modules ask for them.
#[derive(Clone)]
pub struct Weights {
    checkpoint: Arc<Checkpoint>,
    prefix: String,
    overlay: Arc<Overlay>,
}

impl Checkpoint {
    /// Maps the files. Tensors will be made on `device` in these types; those that are smaller as they are
    /// stored stay so where `packing` says it.
    ///
    /// # Errors
    ///
    /// Where a file is missing or is not whole, or two tensors have one name.
    pub fn open(
        part: &PartFiles,
        naming: Naming,
        device: &Device,
        precision: impl Into<Precision>,
        packing: Packing,
    ) -> Result<Weights, LoadError> {
        let precision = precision.into();
        let source = FileSource::open(part, naming)?;
        let expanded = source.entries().values().map(|span| expanded_bytes(span, precision)).sum();
        let packed = packing.is_packed(expanded, device);
        if packed {
            tracing::info!(
                path = %part.path().display(),
                expanded_bytes = expanded,
                "weights stay packed in memory where that is smaller"
            );
        }
        Ok(Self::with(part.path(), Box::new(source), device, precision, packed))
    }

    /// The tensors of a source; `path` is what messages call it.
    pub(crate) fn of(
        path: &Path,
        source: Box<dyn TensorSource>,
        device: &Device,
        precision: Precision,
    ) -> Weights {
        Self::with(path, source, device, precision, false)
    }

    fn with(
        path: &Path,
        source: Box<dyn TensorSource>,
        device: &Device,
        precision: Precision,
        packed: bool,
    ) -> Weights {
        let checkpoint = Self {
            path: path.to_owned(),
            source,
            taken: Mutex::default(),
            loading: Mutex::default(),
            device: device.clone(),
            precision,
            packed,
            scratch: SharedScratch::default(),
        };
        Weights { checkpoint: Arc::new(checkpoint), prefix: String::new(), overlay: Arc::default() }
    }
}

/// What a tensor takes as values of its type.
fn expanded_bytes(span: &TensorSpan, precision: Precision) -> u64 {
    let values = span.shape().iter().product::<usize>();
    let dtype = if is_matrix(span) { precision.matrices } else { precision.activations };
    (values * dtype.size_in_bytes()) as u64
}

fn is_matrix(span: &TensorSpan) -> bool {
    squeezed(&span.shape()).len() == 2
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

    /// The tensor `name`, if it has this shape, on [`Self::device`] in [`Self::dtype`].
    ///
    /// # Errors
    ///
    /// Where it is missing or has another shape, or cannot be read.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        self.stack(&[(name, shape)])
    }

    /// Several tensors as one, one after the other along the first axis; their other axes agree.
    ///
    /// # Errors
    ///
    /// See [`Self::get`].
    pub fn stack(&self, parts: &[(&str, &[usize])]) -> Result<Tensor, LoadError> {
        let dtype = self.precision().activations;
        self.take(parts, dtype, |source, parts, target| source.tensor(parts, target))
    }

    /// The tensor `name` as what a layer multiplies with, if it has the shape `[out, in]`.
    ///
    /// # Errors
    ///
    /// See [`Self::get`].
    pub fn matrix(&self, name: &str, shape: &[usize; 2]) -> Result<Matrix, LoadError> {
        self.stack_matrix(&[(name, shape)])
    }

    /// Several matrices as one, one's rows after the other's.
    ///
    /// # Errors
    ///
    /// See [`Self::get`].
    pub fn stack_matrix(&self, parts: &[(&str, &[usize; 2])]) -> Result<Matrix, LoadError> {
        let wanted: Vec<(&str, &[usize])> =
            parts.iter().map(|(name, shape)| (*name, &shape[..])).collect();
        let dtype = self.precision().matrices;
        let matrix =
            self.take(&wanted, dtype, |source, parts, target| source.matrix(parts, target))?;
        Ok(matrix.with_side(self.beside(parts)?))
    }

    /// What positive prompts have beside these matrices.
    fn beside(&self, parts: &[(&str, &[usize; 2])]) -> Result<Option<SideBranch>, LoadError> {
        let (overlay, dtype) = (&*self.overlay, self.dtype());
        let names = parts.iter().map(|(name, _)| self.pp(name).prefix).collect::<Vec<_>>();
        if !names.iter().any(|name| overlay.has_beside(name)) {
            return Ok(None);
        }
        for ((name, shape), full) in parts.iter().zip(&names) {
            if overlay.has_beside(full) && overlay.may_overflow(full, dtype)? {
                // Fails where the sum does.
                self.with_overlay(Arc::new(overlay.in_one_pass())).get(name, &shape[..])?;
            }
        }
        let rows = names.iter().zip(parts).map(|(name, (_, [rows, _]))| (name.as_str(), *rows));
        overlay.side_branch(&rows.collect::<Vec<_>>(), true, self.device(), dtype)
    }

    /// The matrix `name`, if it has the shape `[rows, columns]`, of which a few rows are wanted at a
    /// time. Where it is packed, they are read from its file.
    ///
    /// # Errors
    ///
    /// See [`Self::get`].
    pub fn table(&self, name: &str, shape: &[usize; 2]) -> Result<Matrix, LoadError> {
        let dtype = self.precision().matrices;
        self.take(&[(name, shape)], dtype, |source, parts, target| source.table(parts, target))
    }

    /// Whether [`Self::get`] would find the tensor, without reading it.
    ///
    /// # Errors
    ///
    /// See [`Self::get`].
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<(), LoadError> {
        let wanted = Wanted { name: self.pp(name).prefix, shape };
        self.checkpoint.source.check(&wanted)
    }

    fn take<T>(
        &self,
        parts: &[(&str, &[usize])],
        dtype: DType,
        read: impl FnOnce(&dyn TensorSource, &[Wanted<'_>], &Target<'_>) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        let Checkpoint { source, device, loading, packed, scratch, .. } = &*self.checkpoint;
        let parts: Vec<Wanted<'_>> = parts
            .iter()
            .map(|&(name, shape)| Wanted { name: self.pp(name).prefix, shape })
            .collect();
        let (overlay, activations) = (&*self.overlay, self.dtype());
        let target =
            Target { device, dtype, activations, overlay, loading, packed: *packed, scratch };
        let made = read(&**source, &parts, &target)?;
        let taken = parts.into_iter().map(|part| (part.name, part.shape.to_vec()));
        self.checkpoint.taken.lock().extend(taken);
        Ok(made)
    }

    /// To be called when everything was loaded: refuses tensors that nothing asked for, except
    /// those that the model is known not to read. Then everything is on the device.
    pub fn finish(&self, unused: impl Fn(&str) -> bool) -> Result<(), LoadError> {
        let checkpoint = &*self.checkpoint;
        let taken = checkpoint.taken.lock();
        let entries = checkpoint.source.entries().iter();
        let extra = entries.filter(|(name, _)| !taken.contains_key(*name) && !unused(name));
        // By the file's names, of which one may be several of the model's.
        let extra: BTreeSet<&str> = extra.map(|(_, span)| &*span.name).collect();
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
        checkpoint.loading.lock().finish(&checkpoint.path, &checkpoint.device)
    }

    /// The tensors that were asked for so far, with their shapes.
    pub fn asked(&self) -> BTreeMap<String, Vec<usize>> {
        self.checkpoint.taken.lock().clone()
    }

    /// What the tensors that were asked for so far take in their files.
    pub fn stored_bytes(&self) -> u64 {
        let checkpoint = &*self.checkpoint;
        let taken = checkpoint.taken.lock();
        let entries = taken.keys().filter_map(|name| checkpoint.source.entries().get(name));
        entries.map(|span| span.len() as u64).sum()
    }

    /// What all tensors of the files take once they are loaded; 0 without files.
    pub fn loaded_bytes(&self) -> u64 {
        let (packed, expanded) = self.bytes_by_form();
        if self.checkpoint.packed { packed } else { expanded }
    }

    /// What all tensors of the files take once they are loaded, with matrices that stay packed where
    /// the device can compute with those, and without.
    pub fn bytes_by_form(&self) -> (u64, u64) {
        let Checkpoint { source, precision, device, .. } = &*self.checkpoint;
        let spans = || source.entries().values();
        let expanded = |span: &TensorSpan| expanded_bytes(span, *precision);
        let runs = |span: &TensorSpan| {
            let Some((format, columns)) = span.packed_format() else { return false };
            Packed::runs_on(device, precision.matrices, format, columns).unwrap_or(false)
        };
        let (mut kept, mut largest) = (0, 0);
        for span in spans() {
            let (bytes, wide) = (span.len() as u64, expanded(span));
            if is_matrix(span) && bytes < wide && runs(span) {
                kept += bytes;
                largest = largest.max(wide);
            } else {
                kept += wide;
            }
        }
        // What is expanded at a time is of two matrices at most that are as large.
        let all = spans().map(expanded).sum::<u64>();
        (all.min(kept + 2 * largest), all)
    }

    /// What a GGUF file says besides its tensors.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.checkpoint.source.metadata()
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
        let span = self.checkpoint.source.entries().get(&self.pp(name).prefix)?;
        Some(squeezed(&span.shape()).to_vec())
    }

    /// How many modules there are under this prefix that are called 0, 1, 2 and so on.
    pub fn count(&self) -> usize {
        let within = format!("{}.", self.prefix);
        let indices = self.checkpoint.source.entries().keys().filter_map(|name| {
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

    /// What tensors become that are no matrices: the type of activations.
    pub fn dtype(&self) -> DType {
        self.precision().activations
    }

    /// What tensors become.
    pub fn precision(&self) -> Precision {
        self.checkpoint.precision
    }

    /// The folder or file they come from.
    pub fn path(&self) -> &Path {
        &self.checkpoint.path
    }
}
