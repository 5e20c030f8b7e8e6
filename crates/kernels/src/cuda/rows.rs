//! Norms, rotations and activations.

use candle_core::{Result, Tensor, cuda_backend::cudarc};
use half::bf16;

use super::{
    Gpu,
    source::Source,
    tensor::{Ends, Rows, address, blocks, launch, optional},
};
use crate::{Attention, NextNorm, Pairing, QkNorm, Rope};

/// Columns of a vector.
const VECTOR: usize = 8;

/// Vectors that a thread of `rows.cu` holds at most.
const MOST_VECTORS: usize = 8;

impl Gpu {
    pub(super) fn rms_norm(
        &self,
        x: &Tensor,
        weight: &Tensor,
        scale: Option<&Tensor>,
        seq_lens: &[usize],
        eps: f64,
    ) -> Result<Option<Tensor>> {
        let (rows, width) = x.dims2()?;
        let (Some(source), Some(ends)) = (row_source(width), Ends::new(seq_lens)) else {
            return Ok(None);
        };
        let x = self.dense::<bf16>(x)?;
        let weight = self.dense::<bf16>(weight)?;
        let scale = Rows::optional(self, scale)?;
        let out = self.empty::<bf16>(x.dims())?;
        launch!(
            self,
            self.function(source, "rms_norm")?,
            blocks((rows, 1, 1), Source::ROW_THREADS, 0)?,
            address::<bf16>(&x)?,
            address::<bf16>(&weight)?,
            scale.address,
            scale.stride,
            address::<bf16>(&out)?,
            (width / VECTOR) as i32,
            eps as f32,
            ends,
        )?;
        Ok(Some(out))
    }

    /// `x + gate * rms_norm(y)`, and the next sublayer's norm of it.
    #[expect(clippy::too_many_arguments, reason = "the operands of one formula")]
    pub(super) fn residual_gate_norm(
        &self,
        x: &Tensor,
        y: &Tensor,
        weight: &Tensor,
        gate: Option<&Tensor>,
        next: Option<&NextNorm<'_>>,
        seq_lens: &[usize],
        eps: f64,
    ) -> Result<Option<(Tensor, Option<Tensor>)>> {
        let (rows, width) = x.dims2()?;
        let (Some(source), Some(ends)) = (row_source(width), Ends::new(seq_lens)) else {
            return Ok(None);
        };
        let dense = |t: &Tensor| self.dense::<bf16>(t);
        let (x, y, weight) = (dense(x)?, dense(y)?, dense(weight)?);
        let gate = Rows::optional(self, gate)?;
        let next_weight = next.map(|n| dense(n.weight)).transpose()?;
        let next_scale = Rows::optional(self, next.and_then(|n| n.scale))?;
        let out = self.empty::<bf16>(x.dims())?;
        let normed = next.map(|_| self.empty::<bf16>(x.dims())).transpose()?;
        let vectors = (width / VECTOR) as i32;
        launch!(
            self,
            self.function(source, "residual_gate_norm")?,
            blocks((rows, 1, 1), Source::ROW_THREADS, 0)?,
            address::<bf16>(&x)?,
            address::<bf16>(&y)?,
            address::<bf16>(&weight)?,
            gate.address,
            gate.stride,
            address::<bf16>(&out)?,
            optional::<bf16>(next_weight.as_ref())?,
            next_scale.address,
            next_scale.stride,
            optional::<bf16>(normed.as_ref())?,
            vectors,
            eps as f32,
            ends,
        )?;
        Ok(Some((out, normed)))
    }

    /// `x + y`, and the norm of it.
    pub(super) fn add_rms_norm(
        &self,
        x: &Tensor,
        y: &Tensor,
        weight: &Tensor,
        eps: f64,
    ) -> Result<Option<(Tensor, Tensor)>> {
        let (rows, width) = x.dims2()?;
        let Some(source) = row_source(width) else { return Ok(None) };
        let dense = |t: &Tensor| self.dense::<bf16>(t);
        let (x, y, weight) = (dense(x)?, dense(y)?, dense(weight)?);
        let (out, normed) = (self.empty::<bf16>(x.dims())?, self.empty::<bf16>(x.dims())?);
        launch!(
            self,
            self.function(source, "add_rms_norm")?,
            blocks((rows, 1, 1), Source::ROW_THREADS, 0)?,
            address::<bf16>(&x)?,
            address::<bf16>(&y)?,
            address::<bf16>(&out)?,
            address::<bf16>(&weight)?,
            address::<bf16>(&normed)?,
            (width / VECTOR) as i32,
            eps as f32,
        )?;
        Ok(Some((out, normed)))
    }

    pub(super) fn layer_norm_scale(
        &self,
        x: &Tensor,
        scale: &Tensor,
        seq_lens: &[usize],
        eps: f64,
    ) -> Result<Option<Tensor>> {
        let (rows, width) = x.dims2()?;
        let (Some(source), Some(ends)) = (row_source(width), Ends::new(seq_lens)) else {
            return Ok(None);
        };
        let (x, scale) = (self.dense::<bf16>(x)?, Rows::new(self, scale)?);
        let out = self.empty::<bf16>(x.dims())?;
        let vectors = (width / VECTOR) as i32;
        launch!(
            self,
            self.function(source, "layer_norm")?,
            blocks((rows, 1, 1), Source::ROW_THREADS, 0)?,
            address::<bf16>(&x)?,
            scale.address,
            scale.stride,
            address::<bf16>(&out)?,
            vectors,
            eps as f32,
            ends,
        )?;
        Ok(Some(out))
    }

    /// Writes where `qkv` lies: the caller has given it away.
    pub(super) fn qk_norm_rope(
        &self,
        norm: &QkNorm,
        attention: &Attention,
        qkv: Tensor,
        rope: &Rope,
    ) -> Result<std::result::Result<Tensor, Tensor>> {
        let Attention { heads, kv_heads, head_dim, .. } = *attention;
        let lanes = head_dim / VECTOR;
        let halves = norm.pairing == Pairing::Halves;
        let fits = head_dim.is_multiple_of(VECTOR)
            && lanes.is_power_of_two()
            && (if halves { 2 } else { 1 }..=32).contains(&lanes);
        if !fits {
            return Ok(Err(qkv));
        }
        let qkv = self.dense::<bf16>(&qkv)?;
        let (q, k) = (self.dense::<bf16>(&norm.q_weight)?, self.dense::<bf16>(&norm.k_weight)?);
        let (cos, sin) = (self.dense::<f32>(&rope.cos)?, self.dense::<f32>(&rope.sin)?);
        let tokens = qkv.dim(0)?;
        let threads = tokens * (heads + kv_heads) * lanes;
        launch!(
            self,
            self.function(Source::Heads { head: head_dim as u32, halves }, "qk_norm_rope")?,
            blocks((threads.div_ceil(256), 1, 1), 256, 0)?,
            address::<bf16>(&qkv)?,
            address::<bf16>(&q)?,
            address::<bf16>(&k)?,
            address::<f32>(&cos)?,
            address::<f32>(&sin)?,
            tokens as i32,
            heads as i32,
            kv_heads as i32,
            norm.eps as f32,
        )?;
        Ok(Ok(qkv))
    }

    /// Of rows of eight gates, eight ups, and so on.
    pub(super) fn swiglu_interleaved(&self, gate_up: &Tensor) -> Result<Tensor> {
        let (rows, both) = gate_up.dims2()?;
        let gate_up = self.dense::<bf16>(gate_up)?;
        let out = self.empty::<bf16>(&[rows, both / 2])?;
        let vectors = rows * both / 2 / VECTOR;
        launch!(
            self,
            self.function(Source::Pointwise, "swiglu")?,
            blocks((vectors.div_ceil(256), 1, 1), 256, 0)?,
            address::<bf16>(&gate_up)?,
            address::<bf16>(&out)?,
            vectors as u64,
        )?;
        Ok(out)
    }
}

/// `None` for widths that are no whole vectors or more than a block holds.
fn row_source(width: usize) -> Option<Source> {
    let threads = Source::ROW_THREADS as usize;
    let vectors = (width / VECTOR).div_ceil(threads).next_power_of_two();
    (width.is_multiple_of(VECTOR) && width > 0 && vectors <= MOST_VECTORS)
        .then_some(Source::Rows { vectors: vectors as u32 })
}
