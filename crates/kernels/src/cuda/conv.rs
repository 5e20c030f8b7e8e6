//! Convolutions as products whose rows are pixels, and the norm before them. Channels last.

use std::sync::OnceLock;

use candle_core::{DType, Result, Tensor, cuda_backend::cudarc};
use half::bf16;

use super::{
    Gpu,
    matmul::{Args, Tiles, matrix},
    source::{Kind, Source, Tiling},
    tensor::{TensorMap, address, blocks, launch},
};
use crate::{ConvInput, GroupNorm, accelerated::ConvKernel};

/// Pixels of a tile in each direction.
const TILE_X: usize = 16;
const TILE_Y: usize = 8;

/// Channels of the result come in multiples of this; spare ones are cut off.
const ALIGNED: usize = 8;

/// Pixels whose sums a block of the group norm makes at least.
const STRETCH: usize = 256;

/// A convolution on the GPU.
#[derive(Debug)]
pub(super) struct Convolution {
    /// `(out, in, k, k)`.
    weight: Tensor,
    /// `(out)`.
    bias: Tensor,
    /// `None` where there is no kernel for it.
    three_by_three: Option<ConvWeights>,
}

/// A 3x3 convolution's weight as the kernel reads it.
#[derive(Debug)]
struct ConvWeights {
    /// `(out, 9 * in)`, taps row by row; `out` and `in` filled up with zeros.
    plain: Tensor,
    /// `(out)`.
    bias: Tensor,
    /// For doubled inputs: an output pixel of each parity sees 2x2 pixels of the small picture, and
    /// its weights are sums of the nine. `(out, 4 * in)` for each row parity and column parity.
    phases: OnceLock<[Tensor; 4]>,
    /// `(out, in, 3, 3)`.
    weight: Tensor,
}

/// Whether a convolution's input is doubled first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upsampling {
    No,
    Twice,
}

/// What a kernel reads of its input for one output pixel.
#[derive(Clone, Copy)]
struct Taps {
    side: usize,
    offset_x: i32,
    offset_y: i32,
}

impl Convolution {
    pub(super) fn new(weight: &Tensor, bias: &Tensor, stride: usize) -> Result<Self> {
        let three_by_three = if stride == 1 { ConvWeights::new(weight, bias)? } else { None };
        Ok(Self { weight: weight.clone(), bias: bias.clone(), three_by_three })
    }
}

impl ConvKernel for Convolution {
    fn forward(&self, input: &ConvInput<'_>, residual: Option<&Tensor>) -> Result<Option<Tensor>> {
        let Some(gpu) = Gpu::of(input.x)? else { return Ok(None) };
        let normed = input.norm.map(|norm| gpu.group_norm(norm, input.x, true)).transpose()?;
        let x = match &normed {
            None => input.x,
            Some(Some(normed)) => normed,
            Some(None) => return Ok(None),
        };
        let (n, height, width, channels) = x.dims4()?;
        match &self.three_by_three {
            Some(weights) => {
                let upsampling = if input.upsample { Upsampling::Twice } else { Upsampling::No };
                gpu.conv3x3(x, weights, upsampling, residual)
            }
            // One tap is a product of pixels with the weight.
            None if self.weight.dim(2)? == 1 && residual.is_none() && !input.upsample => {
                let outs = self.weight.dim(0)?;
                let weight = self.weight.reshape((outs, channels))?;
                let rows = x.reshape((n * height * width, channels))?;
                let out = gpu.matmul(&rows, &weight, Some(&self.bias), false)?;
                out.map(|out| out.reshape((n, height, width, outs))).transpose()
            }
            None => Ok(None),
        }
    }
}

impl ConvWeights {
    /// `weight`: `(out, in, 3, 3)`. `None` where there is no kernel for it.
    fn new(weight: &Tensor, bias: &Tensor) -> Result<Option<Self>> {
        let (outs, _, rows, columns) = weight.dims4()?;
        let supported = Gpu::of(weight)?.is_some_and(|gpu| gpu.is_hopper());
        if !supported || (rows, columns) != (3, 3) || bias.dims() != [outs] {
            return Ok(None);
        }
        let spare = outs.next_multiple_of(ALIGNED) - outs;
        Ok(Some(Self {
            plain: pack(weight)?,
            bias: bias.pad_with_zeros(0, 0, spare)?.contiguous()?,
            phases: OnceLock::new(),
            weight: weight.clone(),
        }))
    }

    fn phases(&self) -> Result<&[Tensor; 4]> {
        if let Some(phases) = self.phases.get() {
            return Ok(phases);
        }
        let phase = |row: usize, column: usize| {
            let folded = fold(&fold(&self.weight.to_dtype(DType::F32)?, 2, row)?, 3, column)?;
            pack(&folded.to_dtype(self.weight.dtype())?)
        };
        let phases = [phase(0, 0)?, phase(0, 1)?, phase(1, 0)?, phase(1, 1)?];
        Ok(self.phases.get_or_init(|| phases))
    }
}

/// Three taps on a doubled axis are two on the small one: at even places the last two fall on the
/// same pixel, at odd ones the first two.
fn fold(weight: &Tensor, axis: usize, parity: usize) -> Result<Tensor> {
    let tap = |i: usize| weight.narrow(axis, i, 1);
    let (first, second) =
        if parity == 0 { (tap(0)?, (tap(1)? + tap(2)?)?) } else { ((tap(0)? + tap(1)?)?, tap(2)?) };
    Tensor::cat(&[first, second], axis)
}

/// `(out, in, k, k)` to `(out, k * k * in)`, both filled up with zeros.
fn pack(weight: &Tensor) -> Result<Tensor> {
    let (outs, ins, rows, columns) = weight.dims4()?;
    let spare_ins = ins.next_multiple_of(Tiling::DEPTH as usize) - ins;
    let spare_outs = outs.next_multiple_of(ALIGNED) - outs;
    weight
        .permute((0, 2, 3, 1))?
        .pad_with_zeros(3, 0, spare_ins)?
        .pad_with_zeros(0, 0, spare_outs)?
        .reshape((outs + spare_outs, rows * columns * (ins + spare_ins)))?
        .contiguous()
}

impl Gpu {
    /// `x` and `residual`: `(n, height, width, channels)`.
    fn conv3x3(
        &self,
        x: &Tensor,
        weights: &ConvWeights,
        upsampling: Upsampling,
        residual: Option<&Tensor>,
    ) -> Result<Option<Tensor>> {
        let (n, height, width, channels) = x.dims4()?;
        let (outs, _, _, _) = weights.weight.dims4()?;
        let padded = weights.plain.dim(0)?;
        // The copy engine's strides are multiples of 16 bytes; a residual has no spare channels.
        if !channels.is_multiple_of(8) || (residual.is_some() && padded != outs) {
            return Ok(None);
        }
        let x = self.dense::<bf16>(x)?;
        let residual = residual.map(|r| self.dense::<bf16>(r)).transpose()?;
        let out = match upsampling {
            Upsampling::No => {
                let out = self.empty::<bf16>(&[n, height, width, padded])?;
                let taps = Taps { side: 3, offset_x: -1, offset_y: -1 };
                let to = Pixels::all(&out, height, width)?;
                self.conv(&x, &weights.plain, &weights.bias, taps, residual.as_ref(), to)?;
                out
            }
            Upsampling::Twice => {
                if residual.is_some() {
                    return Ok(None);
                }
                let out = self.empty::<bf16>(&[n, 2 * height, 2 * width, padded])?;
                for (i, weight) in weights.phases()?.iter().enumerate() {
                    let (row, column) = (i / 2, i % 2);
                    let taps =
                        Taps { side: 2, offset_x: column as i32 - 1, offset_y: row as i32 - 1 };
                    let to = Pixels::parity(&out, height, width, row, column)?;
                    self.conv(&x, weight, &weights.bias, taps, None, to)?;
                }
                out
            }
        };
        if padded == outs { Ok(Some(out)) } else { out.narrow(3, 0, outs).map(Some) }
    }

    fn conv(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        taps: Taps,
        residual: Option<&Tensor>,
        to: Pixels,
    ) -> Result<()> {
        let (n, height, width, channels) = x.dims4()?;
        let (outs, depth) = weight.dims2()?;
        let depth_step = Tiling::DEPTH as usize;
        let channel_steps = channels.div_ceil(depth_step);
        if depth != taps.side * taps.side * channel_steps * depth_step {
            candle_core::bail!(
                "{channels} channels for a convolution of weight {:?}",
                weight.dims()
            );
        }
        if residual.is_some_and(|r| r.dims() != [n, height, width, outs]) {
            candle_core::bail!("residual does not have the output's shape");
        }
        let (tiles_x, tiles_y) = (width.div_ceil(TILE_X), height.div_ceil(TILE_Y));
        let row_tiles = n * tiles_x * tiles_y;
        let widths: &[u32] = match outs {
            0..=64 => &[64],
            65..=128 => &[128, 64],
            _ => &[256, 128],
        };
        let tiling = self.choose(Kind::Conv, widths, row_tiles, outs);
        let (tile_y, b_tile) = if tiling.share_a {
            (TILE_Y / 2, tiling.columns)
        } else {
            (TILE_Y, tiling.columns / 2)
        };
        let row = channels * 2;
        let map_a = TensorMap::new(
            address::<bf16>(x)?,
            &[channels, width, height, n],
            &[row, width * row, height * width * row],
            &[Tiling::DEPTH, TILE_X as u32, tile_y as u32, 1],
        )?;
        let map_b = matrix(address::<bf16>(weight)?, outs, depth, b_tile)?;
        let pixels = |pixels: &Pixels| {
            let tile = [Tiling::DEPTH, TILE_X as u32, (TILE_Y / 2) as u32, 1];
            TensorMap::new(pixels.address, &[outs, width, height, n], &pixels.strides, &tile)
        };
        let map_c = pixels(&to)?;
        let map_r = match residual {
            Some(residual) => pixels(&Pixels::all(residual, height, width)?)?,
            None => map_c,
        };
        let args = Args {
            m_tiles: 0,
            n_tiles: 0,
            k_steps: (taps.side * taps.side * channel_steps) as i32,
            group: 0,
            tiles_x: tiles_x as i32,
            tiles_y: tiles_y as i32,
            channel_steps: channel_steps as i32,
            taps_x: taps.side as i32,
            offset_x: taps.offset_x,
            offset_y: taps.offset_y,
            columns: outs as i32,
            residual: i32::from(residual.is_some()),
            bias: address::<bf16>(bias)?,
        };
        let tiles = Tiles { rows: row_tiles, columns: outs.div_ceil(tiling.columns as usize) };
        self.launch_tiles(tiling, tiles, [map_a, map_b, map_c, map_r], args)
    }

    /// The norm, with SiLU after it if asked.
    pub(super) fn group_norm(
        &self,
        norm: &GroupNorm,
        x: &Tensor,
        activate: bool,
    ) -> Result<Option<Tensor>> {
        let (n, height, width, channels) = x.dims4()?;
        let vectors = channels / 8;
        if !channels.is_multiple_of(8) || vectors > 256 || !channels.is_multiple_of(norm.groups) {
            return Ok(None);
        }
        let x = self.dense::<bf16>(x)?;
        let (weight, bias) = (self.dense::<bf16>(&norm.weight)?, self.dense::<bf16>(&norm.bias)?);
        let pixels = height * width;
        // Enough blocks to fill the GPU, of whole rounds of their lanes.
        let lanes = 256 / vectors;
        let most = (8 * self.properties.multiprocessors).div_ceil(n);
        let stretch = pixels.div_ceil(most).max(STRETCH.min(pixels)).next_multiple_of(lanes);
        let stretches = pixels.div_ceil(stretch);
        let partial = self.empty::<f32>(&[n, stretches, channels, 2])?;
        let affine = self.empty::<f32>(&[n, channels, 2])?;
        let out = self.empty::<bf16>(x.dims())?;
        let in_group = channels / norm.groups;
        launch!(
            self,
            self.function(Source::GroupNorm, "group_sums")?,
            blocks((stretches, n, 1), 256, (lanes * channels * 8) as u32)?,
            address::<bf16>(&x)?,
            address::<f32>(&partial)?,
            pixels as i32,
            vectors as i32,
            stretch as i32,
        )?;
        launch!(
            self,
            self.function(Source::GroupNorm, "group_affine")?,
            blocks((norm.groups, n, 1), 256, 0)?,
            address::<f32>(&partial)?,
            address::<bf16>(&weight)?,
            address::<bf16>(&bias)?,
            address::<f32>(&affine)?,
            stretches as i32,
            channels as i32,
            in_group as i32,
            (pixels * in_group) as f64,
            norm.eps as f32,
        )?;
        let total = n * pixels * vectors;
        launch!(
            self,
            self.function(Source::GroupNorm, "group_apply")?,
            blocks((total.div_ceil(256), 1, 1), 256, 0)?,
            address::<bf16>(&x)?,
            address::<f32>(&affine)?,
            address::<bf16>(&out)?,
            total as u64,
            (pixels * vectors) as u64,
            vectors as i32,
            i32::from(activate),
        )?;
        Ok(Some(out))
    }
}

/// Where the pixels of a result go.
struct Pixels {
    address: u64,
    /// In bytes: from a pixel to the next, from a row to the next, from a picture to the next.
    strides: [usize; 3],
}

impl Pixels {
    fn all(out: &Tensor, height: usize, width: usize) -> Result<Self> {
        let pixel = out.dim(3)? * 2;
        let strides = [pixel, width * pixel, height * width * pixel];
        Ok(Self { address: address::<bf16>(out)?, strides })
    }

    /// Every other pixel of every other row of a picture twice as high and wide.
    fn parity(
        out: &Tensor,
        height: usize,
        width: usize,
        row: usize,
        column: usize,
    ) -> Result<Self> {
        let pixel = out.dim(3)? * 2;
        let line = 2 * width * pixel;
        Ok(Self {
            address: address::<bf16>(out)? + (row * line + column * pixel) as u64,
            strides: [2 * pixel, 2 * line, 2 * height * line],
        })
    }
}
