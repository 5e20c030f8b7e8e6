//! Convolutions by Hopper's own instructions: the copy engine gathers the pixels of a tap.

use candle_core::{Result, Tensor};
use half::bf16;

use super::{ConvWeights, Convolution};
use crate::{
    ConvInput,
    cuda::{
        Gpu,
        matmul::{Args, Tiles, matrix},
        source::{Kind, Tiling},
        tensor::{TensorMap, address},
    },
};

/// Pixels of a tile in each direction.
const TILE_X: usize = 16;
const TILE_Y: usize = 8;

/// What a kernel reads of its input for one output pixel.
#[derive(Clone, Copy)]
struct Taps {
    side: usize,
    offset_x: i32,
    offset_y: i32,
}

impl Convolution {
    /// The result with its spare channels. `None` where `conv.cu` is to do it.
    pub(super) fn on_hopper(
        &self,
        gpu: &Gpu,
        weights: &ConvWeights,
        input: &ConvInput<'_>,
        residual: Option<&Tensor>,
    ) -> Result<Option<Tensor>> {
        if self.stride != 1 || (input.upsample && (residual.is_some() || self.side != 3)) {
            return Ok(None);
        }
        let normed = match input.norm {
            Some(norm) => match gpu.group_norm(norm, input.x, true)? {
                Some(normed) => Some(normed),
                None => return Ok(None),
            },
            None => None,
        };
        let x = normed.as_ref().unwrap_or(input.x);
        match (self.side, input.upsample) {
            (3, false) => gpu.conv3x3(x, weights, residual).map(Some),
            (3, true) => gpu.conv_doubled(x, weights).map(Some),
            _ if residual.is_some() => Ok(None),
            // One tap is a product of pixels with the weight.
            _ => {
                let (n, height, width, channels) = x.dims4()?;
                let (outs, depth) = weights.plain.dims2()?;
                if channels != depth {
                    return Ok(None);
                }
                let rows = x.reshape((n * height * width, channels))?;
                let out = gpu.matmul(&rows, &weights.plain, Some(&weights.bias), false)?;
                out.map(|out| out.reshape((n, height, width, outs))).transpose()
            }
        }
    }
}

impl Gpu {
    /// `x` and `residual`: `(n, height, width, channels)`.
    fn conv3x3(
        &self,
        x: &Tensor,
        weights: &ConvWeights,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (n, height, width, _) = x.dims4()?;
        let x = self.dense::<bf16>(x)?;
        let residual = residual.map(|r| self.dense::<bf16>(r)).transpose()?;
        let out = self.empty::<bf16>(&[n, height, width, weights.plain.dim(0)?])?;
        let taps = Taps { side: 3, offset_x: -1, offset_y: -1 };
        let to = Pixels::all(&out, height, width)?;
        self.conv(&x, &weights.plain, &weights.bias, taps, residual.as_ref(), to)?;
        Ok(out)
    }

    /// Of `x` doubled in both directions: a convolution for each parity of its rows and columns.
    fn conv_doubled(&self, x: &Tensor, weights: &ConvWeights) -> Result<Tensor> {
        let (n, height, width, _) = x.dims4()?;
        let x = self.dense::<bf16>(x)?;
        let out = self.empty::<bf16>(&[n, 2 * height, 2 * width, weights.plain.dim(0)?])?;
        let phases = weights.phases()?;
        for i in 0..4 {
            let (row, column) = (i / 2, i % 2);
            let taps = Taps { side: 2, offset_x: column as i32 - 1, offset_y: row as i32 - 1 };
            let to = Pixels::parity(&out, height, width, row, column)?;
            self.conv(&x, &phases.get(i)?, &weights.bias, taps, None, to)?;
        }
        Ok(out)
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
