//! How much of an image goes through the autoencoder at a time.
//!
//! The memory that a decoder takes grows with the image. `auto` keeps to a number of bytes, in
//! [`bands`](super::bands) where they do not suffice for the whole, and gives the image that the whole
//! gives. `on` cuts overlapping tiles and blends them, as diffusers' `AutoencoderKL` does: that is an
//! image that differs a little, since norms and attention see a tile, not the whole.

mod planes;

use std::{fmt, str::FromStr};

use candle_core::{Result, Tensor};

use self::planes::Planes;
use super::{
    Decoder, Encoder, Posterior,
    bands::{Cost, Schedule},
    config::Config,
};

/// A quarter of a tile is shared with its neighbour.
const OVERLAP: usize = 4;

/// Where a model does not say what it was trained on.
const SIDE: usize = 1024;

/// How large images go through the autoencoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiling {
    /// Whole where the memory suffices, and in bands of rows otherwise. The image is the same.
    #[default]
    Auto,
    /// In the tiles of diffusers, if they are larger than one.
    On,
    /// Whole.
    Off,
}

/// How one axis is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// What goes in: length of a tile, and from one tile to the next.
    tile: usize,
    step: usize,
    /// What comes out: length that is blended with the tile before, and that is kept.
    blend: usize,
    keep: usize,
}

impl Tiling {
    /// [`Decoder::decode`] as this setting asks for it; `auto` with at most so many bytes on the
    /// device beside the weights, as far as that is possible.
    ///
    /// # Errors
    ///
    /// As [`Decoder::decode`].
    pub fn decode(self, decoder: &Decoder, z: &Tensor, budget: u64) -> Result<Tensor> {
        let (config, scale) = (&decoder.config, decoder.config.scale_factor());
        let (n, _, height, width) = z.dims4()?;
        let pixels = (height * scale, width * scale);
        if !self.has_tiles(config, pixels) {
            return match self {
                Self::Auto => decoder.decode_within(z, budget),
                Self::On | Self::Off => decoder.decode(z),
            };
        }
        let side = config.tile_side();
        let cut = Cut::new(side / scale, side);
        let out = (n, config.out_channels, pixels.0, pixels.1);
        tiled(z, cut, out, |tile| decoder.decode(tile))
    }

    /// [`Encoder::encode`], likewise.
    ///
    /// # Errors
    ///
    /// As [`Encoder::encode`].
    pub fn encode(self, encoder: &Encoder, pictures: &Tensor, budget: u64) -> Result<Posterior> {
        let (config, scale) = (&encoder.config, encoder.config.scale_factor());
        let (n, _, height, width) = pictures.dims4()?;
        if !self.has_tiles(config, (height, width)) {
            return match self {
                Self::Auto => encoder.encode_within(pictures, budget),
                Self::On | Self::Off => encoder.encode(pictures),
            };
        }
        let side = config.tile_side();
        let cut = Cut::new(side, side / scale);
        let out = (n, 2 * config.latent_channels, height / scale, width / scale);
        encoder.posterior(&tiled(pictures, cut, out, |tile| encoder.moments(tile))?)
    }

    /// Bytes that [`Tiling::decode`] takes on the device beside the weights at the widest place, for
    /// an image of this height and width. More than `budget` if that does not suffice.
    pub fn decode_bytes(
        self,
        config: &Config,
        cost: Cost,
        size: (usize, usize),
        budget: u64,
    ) -> u64 {
        let scale = config.scale_factor();
        // The result in f32, and the copy that has its channels first.
        let result = (size.0 * size.1 * 2 * config.out_channels * size_of::<f32>()) as u64;
        let within = |size: (usize, usize), budget| {
            let latents = (size.0 / scale, size.1 / scale);
            let layers = Schedule::new(&config.decoder_layers(), latents, cost, budget);
            layers.peak.max(config.middle_bytes(latents, cost))
        };
        if self.has_tiles(config, size) {
            let side = config.tile_side();
            return result + within((side.min(size.0), side.min(size.1)), u64::MAX);
        }
        let budget = if self == Self::Auto { budget } else { u64::MAX };
        within(size, budget).max(result)
    }

    /// Rows that an image of this height and width is decoded in at a time, if not whole.
    pub fn rows(
        self,
        config: &Config,
        cost: Cost,
        size: (usize, usize),
        budget: u64,
    ) -> Option<usize> {
        let latents = (size.0 / config.scale_factor(), size.1 / config.scale_factor());
        match self {
            Self::Auto => Schedule::new(&config.decoder_layers(), latents, cost, budget).rows(),
            Self::On | Self::Off => self.has_tiles(config, size).then(|| config.tile_side()),
        }
    }

    fn has_tiles(self, config: &Config, (height, width): (usize, usize)) -> bool {
        let side = config.tile_side();
        self == Self::On && (height > side || width > side)
    }
}

impl Config {
    /// Pixels along a tile: what the model was trained on.
    fn tile_side(&self) -> usize {
        let good = |side: &usize| {
            (64..=2048).contains(side) && side.is_multiple_of(OVERLAP * self.scale_factor())
        };
        self.sample_size.filter(good).unwrap_or(SIDE)
    }
}

impl Cut {
    /// diffusers' rule. Both lengths are multiples of [`OVERLAP`].
    fn new(tile_in: usize, tile_out: usize) -> Self {
        let blend = tile_out / OVERLAP;
        Self { tile: tile_in, step: tile_in - tile_in / OVERLAP, blend, keep: tile_out - blend }
    }

    /// Where tiles begin and how long they are, of a picture of this length. The last ones are as
    /// short as it comes.
    fn tiles(self, length: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..length).step_by(self.step).map(move |from| (from, self.tile.min(length - from)))
    }
}

/// `(n, channels, height, width)` through `compute` in tiles, to what has the shape `out`, on the
/// host. No more is held than the result, one row's lower edges, and two tiles.
fn tiled(
    x: &Tensor,
    cut: Cut,
    out: (usize, usize, usize, usize),
    compute: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let mut whole = Planes::zeros(out);
    let mut above: Vec<Planes> = Vec::new();
    for (i, (top, rows)) in cut.tiles(height).enumerate() {
        let band = x.narrow(2, top, rows)?;
        let mut edges = Vec::with_capacity(above.len());
        let mut left: Option<Planes> = None;
        for (j, (start, cols)) in cut.tiles(width).enumerate() {
            let mut tile = Planes::read(&compute(&band.narrow(3, start, cols)?.contiguous()?)?)?;
            // In this order, and with neighbours that are blended already.
            if let Some(above) = above.get(j) {
                tile.blend_below(above, cut.blend);
            }
            if let Some(left) = &left {
                tile.blend_right_of(left, cut.blend);
            }
            whole.paste(&tile, i * cut.keep, j * cut.keep, cut.keep);
            edges.push(tile.lower_edge(cut.blend));
            left = Some(tile);
        }
        above = edges;
    }
    Tensor::from_vec(whole.values, out, &candle_core::Device::Cpu)
}

impl FromStr for Tiling {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("'{text}' is not one of auto, on and off")),
        }
    }
}

impl fmt::Display for Tiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_on_has_tiles() {
        let config = Config::z_image();
        assert!(Tiling::On.has_tiles(&config, (1024, 1040)));
        assert!(!Tiling::On.has_tiles(&config, (1024, 1024)), "it is one tile");
        assert!(!Tiling::Off.has_tiles(&config, (8192, 512)));
        assert!(!Tiling::Auto.has_tiles(&config, (8192, 512)));
    }

    #[test]
    fn tiles_are_the_models_size_and_cut_as_diffusers_cuts() {
        let side = |sample_size| {
            let mut config = Config::z_image();
            config.sample_size = sample_size;
            config.tile_side()
        };
        assert_eq!(
            [side(Some(512)), side(Some(1024)), side(Some(24)), side(None)],
            [512, 1024, 1024, 1024]
        );
        let cut = Cut::new(128, 1024);
        assert_eq!(cut, Cut { tile: 128, step: 96, blend: 256, keep: 768 });
        let tiles = |length| cut.tiles(length).collect::<Vec<_>>();
        assert_eq!(tiles(96), [(0, 96)]);
        assert_eq!(tiles(256), [(0, 128), (96, 128), (192, 64)]);
        assert_eq!(tiles(194), [(0, 128), (96, 98), (192, 2)]);
    }

    #[test]
    fn a_tiling_is_named_as_it_is_read() {
        for tiling in [Tiling::Auto, Tiling::On, Tiling::Off] {
            assert_eq!(tiling.to_string().parse(), Ok(tiling));
        }
        assert!("yes".parse::<Tiling>().expect_err("is none").contains("auto, on and off"));
    }
}
