//! The place of every token: lengths after padding, and three-axis positions.
//!
//! A caption's tokens, pads included, are at (1 + i, 0, 0). The image's are at
//! (padded caption length + 1, row, column), its pads at (0, 0, 0). Pads are attended.

use candle_core::{Device, Error, Result, Tensor};
use llm_dit_kernels::Rope;

use super::config::{Config, PATCH};

/// Captions and images are padded to a multiple of this many tokens.
pub const MULTIPLE: usize = 32;

type Position = [usize; 3];

/// Lengths of the items of a batch.
#[derive(Clone)]
pub struct Layout {
    channels: usize,
    items: Vec<Item>,
}

#[derive(Clone)]
struct Item {
    caption: usize,
    height: usize,
    width: usize,
}

/// Cosines and sines for every position of every axis.
#[derive(Clone)]
pub struct RopeTables {
    axes: Vec<Axis>,
}

#[derive(Clone)]
struct Axis {
    pairs: usize,
    /// `(positions, pairs)` each.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Item {
    fn caption_padded(&self) -> usize {
        self.caption.next_multiple_of(MULTIPLE)
    }

    fn patches(&self) -> usize {
        (self.height / PATCH) * (self.width / PATCH)
    }

    fn image_padded(&self) -> usize {
        self.patches().next_multiple_of(MULTIPLE)
    }

    fn caption_positions(&self) -> impl Iterator<Item = Position> {
        (0..self.caption_padded()).map(|i| [1 + i, 0, 0])
    }

    fn image_positions(&self) -> impl Iterator<Item = Position> {
        let (first, cols) = (self.caption_padded() + 1, self.width / PATCH);
        let pads = self.image_padded() - self.patches();
        (0..self.patches())
            .map(move |i| [first, i / cols, i % cols])
            .chain(std::iter::repeat_n([0, 0, 0], pads))
    }
}

impl Layout {
    /// Layout of items with these caption lengths in tokens and latent sizes `(height, width)`.
    ///
    /// # Errors
    ///
    /// Fails if the two counts differ, if a caption or picture is empty, if a size is no multiple
    /// of `PATCH`, or if a position exceeds the rotary axes.
    pub fn new(config: &Config, captions: &[usize], sizes: &[(usize, usize)]) -> Result<Self> {
        if captions.is_empty() || captions.len() != sizes.len() {
            return Err(Error::Msg(format!(
                "{} captions for {} sizes",
                captions.len(),
                sizes.len()
            )));
        }
        let items = captions.iter().zip(sizes);
        let items: Vec<Item> =
            items.map(|(&caption, &(height, width))| Item { caption, height, width }).collect();
        for item in &items {
            let odd = !item.height.is_multiple_of(PATCH) || !item.width.is_multiple_of(PATCH);
            if item.caption == 0 || item.patches() == 0 || odd {
                let Item { caption, height, width } = item;
                return Err(Error::Msg(format!(
                    "caption of {caption} tokens, latents of {height}x{width}"
                )));
            }
            let last = [item.caption_padded() + 1, item.height / PATCH - 1, item.width / PATCH - 1];
            if last.iter().zip(&config.axes_lens).any(|(last, len)| last >= len) {
                return Err(Error::Msg(format!(
                    "position {last:?} is outside the rotary axes {:?}",
                    config.axes_lens
                )));
            }
        }
        Ok(Self { channels: config.in_channels, items })
    }

    /// Whether a forward does the same to both: captions matter by their padded lengths alone.
    pub fn same_shape(&self, other: &Self) -> bool {
        let shape = |item: &Item| (item.caption_padded(), item.height, item.width);
        self.items.iter().map(shape).eq(other.items.iter().map(shape))
    }

    /// Checks the latents, `(channels, height, width)` each, and the number of times against the
    /// items.
    ///
    /// # Errors
    ///
    /// Fails if a count or a shape differs.
    pub fn check(&self, latents: &[Tensor], times: usize) -> Result<()> {
        if latents.len() != self.items.len() || times != self.items.len() {
            candle_core::bail!(
                "{} latents and {times} times for {} items",
                latents.len(),
                self.items.len()
            );
        }
        for (latents, item) in latents.iter().zip(&self.items) {
            if latents.dims() != [self.channels, item.height, item.width] {
                candle_core::bail!(
                    "latents of shape {:?} for {}x{}",
                    latents.dims(),
                    item.height,
                    item.width
                );
            }
        }
        Ok(())
    }

    /// Height and width of an item's latents.
    pub fn size(&self, item: usize) -> (usize, usize) {
        (self.items[item].height, self.items[item].width)
    }

    /// Padded caption length of each item, in tokens.
    pub fn caption_lens(&self) -> Vec<usize> {
        self.items.iter().map(Item::caption_padded).collect()
    }

    /// Image tokens of each item, without padding.
    pub fn image_tokens(&self) -> Vec<usize> {
        self.items.iter().map(Item::patches).collect()
    }

    /// Padded image length of each item, in tokens.
    pub fn image_lens(&self) -> Vec<usize> {
        self.items.iter().map(Item::image_padded).collect()
    }

    /// Padded length of each item's image and caption together, in tokens.
    pub fn unified_lens(&self) -> Vec<usize> {
        self.items.iter().map(|i| i.image_padded() + i.caption_padded()).collect()
    }

    /// Positions of all caption tokens, item by item.
    pub fn caption_positions(&self) -> impl Iterator<Item = Position> {
        self.items.iter().flat_map(Item::caption_positions)
    }

    /// Positions of all image tokens, item by item.
    pub fn image_positions(&self) -> impl Iterator<Item = Position> {
        self.items.iter().flat_map(Item::image_positions)
    }

    /// Positions of all tokens, item by item, the image's before the caption's.
    pub fn unified_positions(&self) -> impl Iterator<Item = Position> {
        self.items.iter().flat_map(|i| i.image_positions().chain(i.caption_positions()))
    }
}

impl RopeTables {
    /// Frequencies in f64, angles rounded to f32, as the oracle does.
    pub fn new(config: &Config) -> Self {
        let axis = |(&dim, &len): (&usize, &usize)| {
            let pairs = dim / 2;
            let frequency = |i: usize| 1.0 / config.rope_theta.powf((2 * i) as f64 / dim as f64);
            let angles: Vec<f32> = (0..len * pairs)
                .map(|i| ((i / pairs) as f64 * frequency(i % pairs)) as f32)
                .collect();
            let cos = angles.iter().map(|a| a.cos()).collect();
            let sin = angles.iter().map(|a| a.sin()).collect();
            Axis { pairs, cos, sin }
        };
        Self { axes: config.axes_dims.iter().zip(&config.axes_lens).map(axis).collect() }
    }

    /// Rotations for packed tokens at these positions.
    ///
    /// # Errors
    ///
    /// Fails if the device fails.
    pub fn rope(&self, positions: impl Iterator<Item = Position>, device: &Device) -> Result<Rope> {
        let (mut cos, mut sin, mut tokens) = (Vec::new(), Vec::new(), 0);
        for position in positions {
            tokens += 1;
            for (axis, at) in self.axes.iter().zip(position) {
                let row = at * axis.pairs..(at + 1) * axis.pairs;
                cos.extend_from_slice(&axis.cos[row.clone()]);
                sin.extend_from_slice(&axis.sin[row]);
            }
        }
        let shape = (tokens, self.axes.iter().map(|a| a.pairs).sum::<usize>());
        Ok(Rope {
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
        })
    }
}
