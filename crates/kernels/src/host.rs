//! Tensors of the CPU as slices.

use std::ops::Deref;

use candle_core::{CpuStorage, DType, Device, Error, Result, Storage, Tensor};
use parking_lot::RwLockReadGuard;

/// True where our own kernels run.
pub(crate) fn is_cpu(tensor: &Tensor) -> bool {
    matches!(tensor.device(), Device::Cpu)
}

/// A contiguous f32 tensor on the CPU; the same storage where it already is one.
pub(crate) struct Host(Tensor);

/// Its values, for as long as the guard lives.
pub(crate) struct Values<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    start: usize,
    len: usize,
}

impl Host {
    pub(crate) fn new(tensor: &Tensor) -> Result<Self> {
        Ok(Self(tensor.to_dtype(DType::F32)?.contiguous()?))
    }

    pub(crate) fn values(&self) -> Result<Values<'_>> {
        let (storage, layout) = self.0.storage_and_layout();
        if !matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))) {
            return Err(Error::Msg(
                "a CPU kernel was given a tensor that is not f32 on the CPU".into(),
            ));
        }
        Ok(Values { storage, start: layout.start_offset(), len: layout.shape().elem_count() })
    }
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.start + self.len],
            // `Host::values` made sure.
            _ => &[],
        }
    }
}

/// A kernel's result as a tensor of the type its input had.
pub(crate) fn output(values: Vec<f32>, shape: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)
}

/// Checks that packed sequences cover all rows, so that no kernel reads past the end.
pub(crate) fn check_seq_lens(seq_lens: &[usize], rows: usize) -> Result<()> {
    let sum: usize = seq_lens.iter().sum();
    if sum == rows {
        Ok(())
    } else {
        Err(Error::Msg(format!(
            "packed lengths {seq_lens:?} add up to {sum}, but there are {rows} rows"
        )))
    }
}
