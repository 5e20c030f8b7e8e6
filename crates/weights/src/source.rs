//! The interface between a checkpoint and a file format, or anything else that has named tensors.
//!
//! Implementations: files (`file_source.rs`) and random numbers (`synthetic.rs`). A source with packed
//! weights answers [`TensorSource::matrix`] with them packed, where [`Target::packed`] says so.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Weak},
};

use candle_core::{DType, Device, Tensor};
use llm_dit_kernels::{Format, Matrix, Scratch};
use parking_lot::Mutex;
use safetensors::Dtype;

use crate::{LoadError, Overlay, Rows, loading::Loading, metadata::Metadata, scales::Scales};

/// Tensors by the model's names.
pub(crate) trait TensorSource: Send + Sync {
    /// The tensors that there are. None for a source that makes up what it is asked for.
    fn entries(&self) -> &BTreeMap<String, TensorSpan>;

    /// Whether a tensor can be read in this shape, without reading it.
    ///
    /// # Errors
    ///
    /// Where it is missing or has another shape.
    fn check(&self, wanted: &Wanted<'_>) -> Result<(), LoadError>;

    /// Tensors as one, one after the other along the first axis; their other axes agree. There is at
    /// least one.
    ///
    /// # Errors
    ///
    /// Where a tensor is missing or has another shape, or cannot be read.
    fn tensor(&self, parts: &[Wanted<'_>], target: &Target<'_>) -> Result<Tensor, LoadError>;

    /// Likewise, as what a layer multiplies with.
    fn matrix(&self, parts: &[Wanted<'_>], target: &Target<'_>) -> Result<Matrix, LoadError> {
        self.tensor(parts, target).map(Matrix::Dense)
    }

    /// Likewise, as a table of which some rows are wanted at a time.
    ///
    /// # Errors
    ///
    /// As [`Self::tensor`].
    fn table(&self, parts: &[Wanted<'_>], target: &Target<'_>) -> Result<Matrix, LoadError> {
        self.matrix(parts, target)
    }

    /// What a GGUF file says besides its tensors.
    fn metadata(&self) -> Option<&Metadata> {
        None
    }
}

/// A tensor that is asked for: its full name, and the shape that it is to have.
pub(crate) struct Wanted<'a> {
    pub name: String,
    pub shape: &'a [usize],
}

/// Where tensors go, what they become, and what lies on top of them.
pub(crate) struct Target<'a> {
    pub device: &'a Device,
    pub dtype: DType,
    /// What these matrices are multiplied with.
    pub activations: DType,
    pub overlay: &'a Overlay,
    pub loading: &'a Mutex<Loading>,
    /// Whether matrices that are smaller as they are stored stay so.
    pub packed: bool,
    /// Where those are expanded.
    pub scratch: &'a SharedScratch,
}

/// The scratch of the matrices of a part that stay packed. It goes when they do.
#[derive(Default)]
pub(crate) struct SharedScratch(Mutex<Weak<Scratch>>);

impl SharedScratch {
    pub fn get(&self) -> Arc<Scratch> {
        let mut held = self.0.lock();
        held.upgrade().unwrap_or_else(|| {
            let scratch = Arc::default();
            *held = Arc::downgrade(&scratch);
            scratch
        })
    }
}

/// How a tensor's values are written.
#[derive(Clone, Debug)]
pub(crate) enum Encoding {
    /// One after the other.
    Plain(Dtype),
    /// In rows of so many columns.
    Packed { format: Format, columns: usize, scales: Option<Arc<Scales>> },
}

/// Where a tensor of the model lies: a tensor of a file, or a share of its rows.
#[derive(Clone, Debug)]
pub(crate) struct TensorSpan {
    /// What the file calls the tensor, whole.
    pub name: Arc<str>,
    /// Which of the part's files.
    pub file: usize,
    pub encoding: Encoding,
    /// The file's tensor, whole.
    pub whole: Vec<usize>,
    /// Where it lies in its file, whole.
    pub bytes: Range<usize>,
    pub rows: Option<Rows>,
}

impl TensorSpan {
    /// The shape that goes to the model: that of the share, if the file's tensor is divided.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.whole.clone();
        if let (Some(rows), Some(first)) = (self.rows, shape.first_mut()) {
            *first /= rows.of;
        }
        shape
    }

    /// The format in which its rows can stay packed, and their columns; `None` for types that have
    /// none.
    pub fn packed_format(&self) -> Option<(Format, usize)> {
        let dtype = match &self.encoding {
            Encoding::Packed { format, columns, .. } => return Some((*format, *columns)),
            Encoding::Plain(dtype) => dtype,
        };
        let format = match dtype {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::Bf16,
            Dtype::F8_E4M3 => Format::E4m3,
            Dtype::F8_E5M2 => Format::E5m2,
            _ => return None,
        };
        Some((format, squeezed(&self.whole).last().copied().unwrap_or(1)))
    }

    /// Bytes that it takes in its file.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.rows.map_or(1, |rows| rows.of)
    }

    /// Its bytes in the file. The whole divides into shares.
    pub fn range(&self) -> Range<usize> {
        let Some(Rows { index, of }) = self.rows else { return self.bytes.clone() };
        let all = self.whole.first().copied().unwrap_or(1).max(1);
        let share = self.bytes.len() / all * (all / of);
        self.bytes.start + index * share..self.bytes.start + (index + 1) * share
    }

    /// True when the file's tensor is what the model's is to be, if need be under another shape with
    /// the same values in the same order: a 1x1 convolution is a matrix, and some tools drop an axis
    /// of one value.
    pub fn fits(&self, expected: &[usize]) -> bool {
        let divides = match (self.rows, self.whole.first()) {
            (Some(rows), Some(first)) => first.is_multiple_of(rows.of),
            (Some(_), None) => false,
            (None, _) => true,
        };
        let shape = self.shape();
        let same = match self.rows {
            Some(_) => squeezed(&shape) == expected,
            None => wide(&shape).eq(wide(expected)),
        };
        divides && (shape == expected || same)
    }
}

/// The axes of more or fewer than one value.
fn wide(shape: &[usize]) -> impl Iterator<Item = usize> {
    shape.iter().copied().filter(|n| *n != 1)
}

/// Tensors one after the other along the first axis.
pub(crate) fn cat(tensors: &[Tensor]) -> Result<Tensor, LoadError> {
    match tensors {
        [one] => Ok(one.clone()),
        several => Ok(Tensor::cat(several, 0)?),
    }
}

/// Without axes of one value at the end, as long as a matrix remains.
pub(crate) fn squeezed(shape: &[usize]) -> &[usize] {
    let end = shape.iter().rposition(|&n| n != 1).map_or(0, |last| last + 1);
    if shape.len() > 2 { &shape[..end.max(2)] } else { shape }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(whole: &[usize], rows: Option<Rows>) -> TensorSpan {
        let bytes = 100..100 + 4 * whole.iter().product::<usize>();
        let (name, whole) = ("x".into(), whole.to_vec());
        TensorSpan { name, file: 0, encoding: Encoding::Plain(Dtype::F32), whole, bytes, rows }
    }

    #[test]
    fn a_share_of_the_rows_is_a_share_of_the_bytes() {
        let second = span(&[6, 5], Some(Rows { index: 1, of: 3 }));
        assert_eq!((second.shape(), second.len()), (vec![2, 5], 40));
        assert_eq!(second.range(), 140..180);
        assert!(second.fits(&[2, 5]) && !second.fits(&[6, 5]));
        assert!(!span(&[7, 5], Some(Rows { index: 0, of: 3 })).fits(&[2, 5]), "7 rows, 3 shares");
    }

    #[test]
    fn a_convolution_of_one_tap_is_a_matrix() {
        let tap = span(&[4, 3, 1, 1], None);
        assert!(tap.fits(&[4, 3]) && tap.fits(&[4, 3, 1, 1]) && !tap.fits(&[12]));
        assert_eq!(tap.range(), 100..148);
        assert_eq!(span(&[], None).range(), 100..104);
    }

    #[test]
    fn an_axis_of_one_value_may_be_missing_or_more() {
        assert!(span(&[192], None).fits(&[1, 192]) && span(&[1, 192], None).fits(&[192]));
        assert!(span(&[1, 1, 192], None).fits(&[1, 192]) && span(&[], None).fits(&[1]));
        assert!(!span(&[192, 2], None).fits(&[2, 192]) && !span(&[191], None).fits(&[1, 192]));
    }
}
