//! Convolutions on any GPU since Ampere, by `conv.cu`: nothing is gathered, normed or doubled in memory
//! first.

use candle_core::{Result, Tensor, cuda_backend::cudarc};
use cudarc::driver::DeviceRepr;
use half::bf16;

use super::{ConvWeights, Convolution};
use crate::{
    ConvInput,
    cuda::{
        Gpu,
        source::{ConvTiling, Source, Tiling},
        tensor::{address, blocks, launch, optional},
    },
};

/// The kernel's `Args`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Args {
    x: u64,
    weight: u64,
    bias: u64,
    residual: u64,
    out: u64,
    affine: u64,
    channels: i32,
    chunks: i32,
    height: i32,
    width: i32,
    out_height: i32,
    out_width: i32,
    tiles_x: i32,
    tiles_y: i32,
    n_tiles: i32,
    columns: i32,
    depth: i32,
    tap: i32,
}

// SAFETY: plain numbers in the layout of `conv.cu`.
unsafe impl DeviceRepr for Args {}

impl Convolution {
    /// The result with its spare channels. `None` where there is no kernel for the norm.
    pub(super) fn implicit(
        &self,
        gpu: &Gpu,
        weights: &ConvWeights,
        input: &ConvInput<'_>,
        residual: Option<&Tensor>,
    ) -> Result<Option<Tensor>> {
        let x = gpu.dense::<bf16>(input.x)?;
        let (n, height, width, channels) = x.dims4()?;
        // With a single tap there are no steps in which the next channels could be normed.
        if let Some(norm) = input.norm
            && self.side == 1
        {
            let Some(normed) = gpu.group_norm(norm, &x, true)? else { return Ok(None) };
            let plain = ConvInput { x: &normed, norm: None, ..*input };
            return self.implicit(gpu, weights, &plain, residual);
        }
        // Only weights of 3x3 are summed for doubled pictures.
        if input.upsample && (self.side != 3 || self.stride != 1) {
            return Ok(None);
        }
        let affine = match input.norm {
            Some(norm) => match gpu.group_affine(norm, &x, 0.5)? {
                Some(affine) => Some(affine),
                None => return Ok(None),
            },
            None => None,
        };
        let weight = if input.upsample { weights.phases()? } else { &weights.plain };
        let side = if input.upsample { 2 } else { self.side };
        let columns = weights.plain.dim(0)?;
        let (out_height, out_width) = (height / self.stride, width / self.stride);
        let tap = channels.next_multiple_of(Tiling::DEPTH as usize);
        let depth = side * side * tap;
        if weight.elem_count() != columns * depth * if input.upsample { 4 } else { 1 } {
            candle_core::bail!(
                "{channels} channels for a convolution of {:?}",
                weights.weight.dims()
            );
        }
        let doubled = if input.upsample { 2 } else { 1 };
        let out = gpu.empty::<bf16>(&[n, doubled * out_height, doubled * out_width, columns])?;
        if residual.is_some_and(|residual| residual.dims() != out.dims()) {
            candle_core::bail!("residual does not have the output's shape {:?}", out.dims());
        }
        let residual = residual.map(|residual| gpu.dense::<bf16>(residual)).transpose()?;
        let (tile_x, tile_y) = ConvTiling::PIXELS;
        let (tiles_x, tiles_y) = (out_width.div_ceil(tile_x), out_height.div_ceil(tile_y));
        let row_tiles = n * tiles_x * tiles_y;
        let tiling = ConvTiling {
            columns: width_of(
                columns,
                row_tiles * doubled * doubled,
                gpu.properties.multiprocessors,
            ),
            side: side as u32,
            stride: self.stride as u32,
            norm: affine.is_some(),
            doubled: input.upsample,
            stages: gpu.kernels.conv_stages,
        };
        let n_tiles = columns.div_ceil(tiling.columns as usize);
        let args = Args {
            x: address::<bf16>(&x)?,
            weight: address::<bf16>(weight)?,
            bias: address::<bf16>(&weights.bias)?,
            residual: optional::<bf16>(residual.as_ref())?,
            out: address::<bf16>(&out)?,
            affine: optional::<f32>(affine.as_ref())?,
            channels: channels as i32,
            chunks: channels.div_ceil(ConvTiling::CHUNK as usize) as i32,
            height: height as i32,
            width: width as i32,
            out_height: out_height as i32,
            out_width: out_width as i32,
            tiles_x: tiles_x as i32,
            tiles_y: tiles_y as i32,
            n_tiles: n_tiles as i32,
            columns: columns as i32,
            depth: depth as i32,
            tap: tap as i32,
        };
        let shared = tiling.shared_bytes();
        if row_tiles > 0 {
            launch!(
                gpu,
                gpu.function_with(Source::Conv(tiling), "conv", shared)?,
                blocks((row_tiles * n_tiles, doubled * doubled, 1), ConvTiling::THREADS, shared)?,
                args,
            )?;
        }
        Ok(Some(out))
    }
}

/// Channels of a block: as many as there are, and half of 128 where whole blocks would leave
/// multiprocessors idle.
fn width_of(columns: usize, row_tiles: usize, multiprocessors: usize) -> u32 {
    match columns {
        0..=32 => 32,
        33..=64 => 64,
        _ if row_tiles * columns.div_ceil(128) < multiprocessors => 64,
        _ => 128,
    }
}
