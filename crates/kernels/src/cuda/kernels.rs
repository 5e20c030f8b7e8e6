//! The GPU's kernels behind the interface that operations use.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Gpu, conv::Convolution};
use crate::{
    Attention, GroupNorm, NextNorm, QkNorm, Rope,
    accelerated::{ConvKernel, DeviceKernels},
};

/// Gates that lie before as many ups in a weight: what a thread of `matmul.cu` and of `pointwise.cu`
/// reads as one vector.
const GATE_TURN: usize = 8;

/// Each method is the one of the same name beside the kernel.
impl DeviceKernels for Gpu {
    fn linear(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Tensor>> {
        self.matmul(x, weight, bias, false)
    }

    fn gate_turn(&self) -> usize {
        GATE_TURN
    }

    fn gated_linear(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        match self.matmul(x, weight, None, true)? {
            Some(out) => Ok(out),
            None => self.swiglu_interleaved(&x.matmul(&weight.t()?)?),
        }
    }

    fn attention(
        &self,
        attention: &Attention,
        qkv: &Tensor,
        seq_lens: &[usize],
    ) -> Result<Option<Tensor>> {
        Gpu::attention(self, attention, qkv, seq_lens)
    }

    fn qk_norm_rope(
        &self,
        norm: &QkNorm,
        attention: &Attention,
        qkv: Tensor,
        rope: &Rope,
    ) -> Result<std::result::Result<Tensor, Tensor>> {
        Gpu::qk_norm_rope(self, norm, attention, qkv, rope)
    }

    fn rms_norm(
        &self,
        x: &Tensor,
        weight: &Tensor,
        scale: Option<&Tensor>,
        seq_lens: &[usize],
        eps: f64,
    ) -> Result<Option<Tensor>> {
        Gpu::rms_norm(self, x, weight, scale, seq_lens, eps)
    }

    fn residual_gate_norm(
        &self,
        x: &Tensor,
        y: &Tensor,
        weight: &Tensor,
        gate: Option<&Tensor>,
        next: Option<&NextNorm<'_>>,
        seq_lens: &[usize],
        eps: f64,
    ) -> Result<Option<(Tensor, Option<Tensor>)>> {
        Gpu::residual_gate_norm(self, x, y, weight, gate, next, seq_lens, eps)
    }

    fn add_rms_norm(
        &self,
        x: &Tensor,
        y: &Tensor,
        weight: &Tensor,
        eps: f64,
    ) -> Result<Option<(Tensor, Tensor)>> {
        Gpu::add_rms_norm(self, x, y, weight, eps)
    }

    fn layer_norm_scale(
        &self,
        x: &Tensor,
        scale: &Tensor,
        seq_lens: &[usize],
        eps: f64,
    ) -> Result<Option<Tensor>> {
        Gpu::layer_norm_scale(self, x, scale, seq_lens, eps)
    }

    fn group_norm(&self, norm: &GroupNorm, x: &Tensor) -> Result<Option<Tensor>> {
        Gpu::group_norm(self, norm, x, false)
    }

    fn conv2d(&self, weight: &Tensor, bias: &Tensor, stride: usize) -> Result<Arc<dyn ConvKernel>> {
        Ok(Arc::new(Convolution::new(weight, bias, stride)?))
    }
}
