//! The only interface between operations and devices other than the CPU that have kernels of ours.
//!
//! An operation checks shapes, asks here, computes on the CPU or else is composed. So a device that
//! gets kernels implements [`DeviceKernels`] and is named in [`on`]; operations do not change.

use std::{fmt, sync::Arc};

use candle_core::{DType, Device, Result, Tensor};

use crate::{Attention, ConvInput, Format, GroupNorm, NextNorm, PackedRows, QkNorm, Rope};

/// The kernels of one device for one type. Shapes were checked by the operation. `None`: there is no
/// kernel for this shape, and the operation is composed.
pub(crate) trait DeviceKernels {
    /// See [`crate::Linear::forward`].
    fn linear(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Tensor>>;

    /// Rows of gates that [`Self::gated_linear`] wants before as many rows of ups, in turns: then the
    /// two values that belong together meet in one thread.
    fn gate_turn(&self) -> usize;

    /// See [`crate::GatedLinear::forward`]; `weight` has its rows in turns.
    fn gated_linear(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor>;

    /// See [`Attention::forward`].
    fn attention(
        &self,
        attention: &Attention,
        qkv: &Tensor,
        seq_lens: &[usize],
    ) -> Result<Option<Tensor>>;

    /// See [`QkNorm::forward`]. Writes where `qkv` lies; gives it back where there is no kernel.
    fn qk_norm_rope(
        &self,
        norm: &QkNorm,
        attention: &Attention,
        qkv: Tensor,
        rope: &Rope,
    ) -> Result<std::result::Result<Tensor, Tensor>>;

    /// See [`crate::rms_norm`] and [`crate::rms_norm_scale`].
    fn rms_norm(
        &self,
        x: &Tensor,
        weight: &Tensor,
        scale: Option<&Tensor>,
        seq_lens: &[usize],
        eps: f64,
    ) -> Result<Option<Tensor>>;

    /// See [`crate::residual_gate_norm_next`]: the sum, and `next` of it where there is one.
    #[expect(clippy::too_many_arguments, reason = "the operands of one formula")]
    fn residual_gate_norm(
        &self,
        x: &Tensor,
        y: &Tensor,
        weight: &Tensor,
        gate: Option<&Tensor>,
        next: Option<&NextNorm<'_>>,
        seq_lens: &[usize],
        eps: f64,
    ) -> Result<Option<(Tensor, Option<Tensor>)>>;

    /// See [`crate::add_rms_norm`].
    fn add_rms_norm(
        &self,
        x: &Tensor,
        y: &Tensor,
        weight: &Tensor,
        eps: f64,
    ) -> Result<Option<(Tensor, Tensor)>>;

    /// See [`crate::layer_norm_scale`].
    fn layer_norm_scale(
        &self,
        x: &Tensor,
        scale: &Tensor,
        seq_lens: &[usize],
        eps: f64,
    ) -> Result<Option<Tensor>>;

    /// See [`GroupNorm::forward`].
    fn group_norm(&self, norm: &GroupNorm, x: &Tensor) -> Result<Option<Tensor>>;

    /// A convolution's weight in the layout that the kernel reads; see [`crate::Conv2d::new`].
    fn conv2d(&self, weight: &Tensor, bias: &Tensor, stride: usize) -> Result<Arc<dyn ConvKernel>>;
}

/// The kernels of one device that expand packed weights to one type.
pub(crate) trait PackedKernels {
    /// Whether [`Self::expand`] knows rows of this format and width.
    fn expands(&self, format: Format, columns: usize) -> bool;

    /// Expands packed rows into those of `out` from row `first` on; with `turn`, to where they are
    /// when the first half of `out`'s rows and the second take turns.
    fn expand(
        &self,
        rows: &PackedRows,
        first: usize,
        turn: Option<usize>,
        out: &Tensor,
    ) -> Result<()>;
}

/// The kernels of one device for products of f16 values with f32 sums and f32 results.
pub(crate) trait HalfKernels {
    /// `x * factor` in f16, from f32. What is beyond the range becomes the largest value; NaN stays.
    fn narrow(&self, x: &Tensor, factor: f32) -> Result<Tensor>;

    /// `factor * a b^T`: `(batch, rows, depth)` and `(batch, columns, depth)` in f16 to
    /// `(batch, rows, columns)` in f32.
    fn product(&self, a: &Tensor, b: &Tensor, factor: f32) -> Result<Tensor>;
}

/// A convolution that was laid out for a device.
pub(crate) trait ConvKernel: fmt::Debug + Send + Sync {
    /// See [`crate::Conv2d::forward`].
    fn forward(&self, input: &ConvInput<'_>, residual: Option<&Tensor>) -> Result<Option<Tensor>>;
}

/// Kernels for tensors such as this one, if there are any.
pub(crate) fn of(tensor: &Tensor) -> Result<Option<Box<dyn DeviceKernels>>> {
    on(tensor.device(), tensor.dtype())
}

/// Kernels for tensors of this type on this device, if there are any.
pub(crate) fn on(device: &Device, dtype: DType) -> Result<Option<Box<dyn DeviceKernels>>> {
    #[cfg(feature = "cuda")]
    if let Some(gpu) = crate::cuda::Gpu::on(device, dtype)? {
        return Ok(Some(Box::new(gpu)));
    }
    let _ = (device, dtype);
    Ok(None)
}

/// Kernels that expand packed weights to this type on this device, if there are any.
pub(crate) fn packed_on(device: &Device, dtype: DType) -> Result<Option<Box<dyn PackedKernels>>> {
    #[cfg(feature = "cuda")]
    if let Some(expander) = crate::cuda::Expander::on(device, dtype)? {
        return Ok(Some(Box::new(expander)));
    }
    let _ = (device, dtype);
    Ok(None)
}

/// Kernels for f16 products on this device, if there are any.
pub(crate) fn half_on(device: &Device) -> Result<Option<Box<dyn HalfKernels>>> {
    #[cfg(feature = "cuda")]
    if let Some(gpu) = crate::cuda::HalfGpu::on(device)? {
        return Ok(Some(Box::new(gpu)));
    }
    let _ = device;
    Ok(None)
}
