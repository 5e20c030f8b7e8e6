//! A large image through the autoencoder in bands of rows, with the result of the whole.
//!
//! Convolutions read one row beyond a band. Statistics of group norms are of the whole image, so a
//! segment of layers passes over its input once for each of its norms, to gather them, and once more
//! to compute its output: what lies between is computed again instead of being kept. Only the inputs
//! and outputs of segments lie in memory as a whole, the ones dropped band by band as the others grow,
//! on the device or on the host. There are no seams, since nothing is blended and nothing is computed
//! from a part of the image only ([decision 22](../../../../docs/decisions/0022-device-memory.md)).

mod chunk;
mod cost;
mod statistics;

use std::{collections::VecDeque, ops::Range};

use candle_core::{Device, Result, Tensor};
use llm_dit_kernels::{Conv2d, ConvInput, GroupNorm};

pub use self::cost::{Cost, Kernels, Mode, Scale, Schedule};
use self::{
    chunk::Chunk,
    statistics::{Affine, Statistics},
};
use super::blocks::Resnet;

/// A layer of the autoencoder.
#[derive(Clone, Copy)]
pub(super) enum Layer<'a> {
    Conv(&'a Conv2d, Scale),
    NormConv(&'a GroupNorm, &'a Conv2d),
    Resnet(&'a Resnet),
}

/// An activation as bands `(n, rows, width, channels)` from the top.
pub(super) struct Bands {
    /// Each with its first row.
    bands: VecDeque<(usize, Tensor)>,
    height: usize,
    /// Where they are needed.
    device: Device,
}

/// Passes an image through layers as the schedule says, which was made for them.
///
/// # Errors
///
/// Fails if shapes do not fit, or if the device fails.
pub(super) fn run(layers: &[Layer<'_>], schedule: &Schedule, x: Bands) -> Result<Bands> {
    let mut x = x;
    for segment in &schedule.segments {
        let layers = &layers[segment.layers.clone()];
        x = match segment.mode {
            Mode::Whole => {
                let (device, whole) = (x.device.clone(), x.into_whole()?);
                let made = layers.iter().try_fold(whole, |x, layer| layer.forward(x))?;
                Bands::whole(made, device)?
            }
            Mode::Bands { rows, on_host } => in_bands(layers, x, rows, on_host)?,
        };
    }
    Ok(x)
}

/// One pass for each norm, and one for the result.
fn in_bands(layers: &[Layer<'_>], mut x: Bands, rows: usize, on_host: bool) -> Result<Bands> {
    let device = if on_host { Device::Cpu } else { x.device.clone() };
    if on_host {
        x.move_to(&device)?;
    }
    let mut known: Vec<Affine> = Vec::new();
    let finest = heights(layers, x.height).max().unwrap_or(x.height);
    // Of a pass that ends at another height.
    let rows_at = |height: usize| (rows * height / finest.max(1)).max(1);
    for (through, norm) in norms(layers) {
        let height = heights(&layers[..through], x.height).last().unwrap_or(x.height);
        let mut statistics = Statistics::default();
        for band in cut(height, rows_at(height)) {
            let chunk = x.chunk(reads(&layers[..=through], band.clone(), x.height))?;
            let chunk = forward(&layers[..=through], chunk, &known)?;
            statistics.add(norm, &chunk.rows(&band)?.contiguous()?)?;
        }
        known.push(statistics.affine(norm)?);
    }
    let height = heights(layers, x.height).last().unwrap_or(x.height);
    let mut made = Bands { bands: VecDeque::new(), height, device: x.device.clone() };
    for band in cut(height, rows_at(height)) {
        let read = reads(layers, band.clone(), x.height);
        x.drop_before(read.start)?;
        let chunk = forward(layers, x.chunk(read)?, &known)?;
        // Without the rows around them, which a view would keep.
        let rows = chunk.rows(&band)?.force_contiguous()?;
        made.bands.push_back((band.start, rows.to_device(&device)?));
    }
    Ok(made)
}

/// Of a height: bands of so many rows.
fn cut(height: usize, rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..height).step_by(rows.max(1)).map(move |from| from..height.min(from + rows.max(1)))
}

/// The norms of layers, each with the index of its layer.
fn norms<'a>(layers: &[Layer<'a>]) -> Vec<(usize, &'a GroupNorm)> {
    let of = |(i, layer): (usize, &Layer<'a>)| match *layer {
        Layer::Conv(..) => vec![],
        Layer::NormConv(norm, _) => vec![(i, norm)],
        Layer::Resnet(resnet) => vec![(i, &resnet.norm1), (i, &resnet.norm2)],
    };
    layers.iter().enumerate().flat_map(of).collect()
}

/// The height after each of the layers.
fn heights(layers: &[Layer<'_>], height: usize) -> impl Iterator<Item = usize> {
    layers.iter().scan(height, |height, layer| {
        *height = layer.scale().height(*height);
        Some(*height)
    })
}

/// Rows of the input that rows of the output are computed from, or more.
fn reads(layers: &[Layer<'_>], out: Range<usize>, height: usize) -> Range<usize> {
    let before: Vec<usize> = std::iter::once(height).chain(heights(layers, height)).collect();
    layers.iter().zip(before).rev().fold(out, |out, (layer, height)| match layer {
        Layer::Resnet(_) => Scale::Same.reads(Scale::Same.reads(out, height), height),
        layer => layer.scale().reads(out, height),
    })
}

/// Through layers with the norms that are known, up to the input of the first one that is not.
fn forward(layers: &[Layer<'_>], mut chunk: Chunk, known: &[Affine]) -> Result<Chunk> {
    let mut known = known.iter();
    for layer in layers {
        chunk = match *layer {
            Layer::Conv(conv, scale) => chunk.convolved(conv, scale, None)?,
            Layer::NormConv(_, conv) => match known.next() {
                Some(norm) => chunk.activated(norm)?.convolved(conv, Scale::Same, None)?,
                None => return Ok(chunk),
            },
            Layer::Resnet(resnet) => {
                let Some(norm1) = known.next() else { return Ok(chunk) };
                let hidden = chunk.activated(norm1)?.convolved(&resnet.conv1, Scale::Same, None)?;
                let Some(norm2) = known.next() else { return Ok(hidden) };
                let residual = match &resnet.conv_shortcut {
                    Some(conv) => chunk.pointwise(conv)?,
                    None => chunk,
                };
                let hidden = hidden.activated(norm2)?;
                hidden.convolved(&resnet.conv2, Scale::Same, Some(&residual))?
            }
        };
    }
    Ok(chunk)
}

impl Layer<'_> {
    fn scale(&self) -> Scale {
        match self {
            Self::Conv(_, scale) => *scale,
            Self::NormConv(..) | Self::Resnet(_) => Scale::Same,
        }
    }

    /// All rows at once.
    fn forward(&self, x: Tensor) -> Result<Tensor> {
        match self {
            Self::Conv(conv, Scale::Double) => conv.forward(&ConvInput::upsampled(&x), None),
            Self::Conv(conv, _) => conv.forward(&ConvInput::plain(&x), None),
            Self::NormConv(norm, conv) => conv.forward(&ConvInput::normed(&x, norm), None),
            Self::Resnet(resnet) => resnet.forward(x),
        }
    }
}

impl Bands {
    /// `(n, height, width, channels)` in one band.
    ///
    /// # Errors
    ///
    /// Fails unless the tensor has four axes.
    pub fn whole(x: Tensor, device: Device) -> Result<Self> {
        let height = x.dim(1)?;
        Ok(Self { bands: VecDeque::from([(0, x)]), height, device })
    }

    /// All rows on the device.
    ///
    /// # Errors
    ///
    /// Fails if the device fails.
    pub fn into_whole(self) -> Result<Tensor> {
        let device = self.device.clone();
        let whole = self.join()?;
        whole.to_device(&device)
    }

    /// All rows, where they are.
    ///
    /// # Errors
    ///
    /// Fails if the device fails.
    pub fn join(mut self) -> Result<Tensor> {
        if self.bands.len() == 1
            && let Some((_, x)) = self.bands.pop_front()
        {
            return Ok(x);
        }
        let bands: Vec<Tensor> = self.bands.into_iter().map(|(_, x)| x).collect();
        Tensor::cat(&bands, 1)
    }

    /// These rows on the device.
    fn chunk(&self, rows: Range<usize>) -> Result<Chunk> {
        let mut parts = Vec::new();
        for (start, x) in &self.bands {
            let (from, to) = (rows.start.max(*start), rows.end.min(start + x.dim(1)?));
            if from < to {
                let rows = x.narrow(1, from - start, to - from)?;
                parts.push(match x.device().same_device(&self.device) {
                    true => rows,
                    // The storage of a view is copied as a whole.
                    false => rows.force_contiguous()?.to_device(&self.device)?,
                });
            }
        }
        let x = if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(&parts, 1)? };
        Ok(Chunk { x, start: rows.start, height: self.height })
    }

    /// All bands to where they are kept.
    fn move_to(&mut self, device: &Device) -> Result<()> {
        for (_, x) in &mut self.bands {
            *x = x.to_device(device)?;
        }
        Ok(())
    }

    /// Lets go of bands that lie above this row.
    fn drop_before(&mut self, row: usize) -> Result<()> {
        while let Some((start, x)) = self.bands.front()
            && start + x.dim(1)? <= row
        {
            self.bands.pop_front();
        }
        Ok(())
    }
}
