//! Large pictures in overlapping tiles, as diffusers' `AutoencoderKL` cuts and blends them.
//!
//! The memory that a decoder takes grows with the picture; in tiles it is a tile's, whatever the
//! picture's size. The price is some work done twice, and a picture that differs a little: norms and
//! attention see a tile, not the whole.

mod planes;

use std::{fmt, str::FromStr};

use candle_core::{DType, Result, Tensor};

use self::planes::Planes;
use super::{Config, Decoder, Encoder, Posterior};

/// What a part may take for its activations before `auto` cuts the picture. Two megapixels in f32,
/// four in half precision, with the autoencoder of Z-Image.
const BUDGET: u64 = 6 << 30;

/// A quarter of a tile is shared with its neighbour.
const OVERLAP: usize = 4;

/// Where a model does not say what it was trained on.
const SIDE: usize = 1024;

/// When pictures go through the autoencoder in tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiling {
    /// Those that would take much memory in one piece.
    #[default]
    Auto,
    /// All that are larger than one tile.
    On,
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
    /// [`Decoder::decode`], in tiles where this setting asks for them.
    ///
    /// # Errors
    ///
    /// As [`Decoder::decode`].
    pub fn decode(self, decoder: &Decoder, z: &Tensor) -> Result<Tensor> {
        let (config, scale) = (&decoder.config, decoder.config.scale_factor());
        let (n, _, height, width) = z.dims4()?;
        let side = config.tile_side();
        let pixels = (height * scale, width * scale);
        if !self.applies(config, pixels, n * decoder.dtype.size_in_bytes()) {
            return decoder.decode(z);
        }
        let cut = Cut::new(side / scale, side);
        let out = (n, config.out_channels, pixels.0, pixels.1);
        tiled(z, cut, out, |tile| decoder.decode(tile))
    }

    /// [`Encoder::encode`], in tiles where this setting asks for them.
    ///
    /// # Errors
    ///
    /// As [`Encoder::encode`].
    pub fn encode(self, encoder: &Encoder, pictures: &Tensor) -> Result<Posterior> {
        let (config, scale) = (&encoder.config, encoder.config.scale_factor());
        let (n, _, height, width) = pictures.dims4()?;
        let side = config.tile_side();
        if !self.applies(config, (height, width), n * encoder.dtype.size_in_bytes()) {
            return encoder.encode(pictures);
        }
        let cut = Cut::new(side, side / scale);
        let out = (n, 2 * config.latent_channels, height / scale, width / scale);
        encoder.posterior(&tiled(pictures, cut, out, |tile| encoder.moments(tile))?)
    }

    /// Bytes that the CPU kernels take at the widest place of [`Tiling::decode`] for a picture of
    /// this height and width.
    pub fn decode_bytes(
        self,
        config: &Config,
        dtype: DType,
        (height, width): (usize, usize),
    ) -> u64 {
        let values =
            |pixels: usize, count: usize| (pixels * count * DType::F32.size_in_bytes()) as u64;
        // What is made in f32, and the copy that has its channels first.
        let result = values(height * width, 2 * config.out_channels);
        if !self.applies(config, (height, width), dtype.size_in_bytes()) {
            return values(height * width, config.widest()).max(result);
        }
        let side = config.tile_side();
        result + values(side.min(height) * side.min(width), config.widest())
    }

    fn applies(self, config: &Config, (height, width): (usize, usize), bytes: usize) -> bool {
        let side = config.tile_side();
        let large = height > side || width > side;
        match self {
            Self::Off => false,
            Self::On => large,
            Self::Auto => large && config.peak(height, width, bytes) > BUDGET,
        }
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

    /// Values a pixel that the CPU kernels hold at the widest place: at full size the last block's
    /// first convolutions read the channels of the block before, and hold what they made, add and
    /// write. A kernel widens what is not f32, which comes to the same.
    fn widest(&self) -> usize {
        let channels = &self.block_out_channels;
        let first = channels.first().copied().unwrap_or_default();
        channels.get(1).copied().unwrap_or(first) + 3 * first
    }

    /// About what a picture takes at the widest place, in bytes: at full size the last block reads
    /// the channels of the one before, and its convolutions hold on to what they read, made and add.
    fn peak(&self, height: usize, width: usize, bytes_a_value: usize) -> u64 {
        let channels = &self.block_out_channels;
        let first = channels.first().copied().unwrap_or_default();
        let second = channels.get(1).copied().unwrap_or(first);
        (height * width) as u64 * (2 * (first + second) * bytes_a_value) as u64
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
    fn auto_cuts_what_takes_much_memory() {
        let config = Config::z_image();
        let auto = |height, width, bytes| Tiling::Auto.applies(&config, (height, width), bytes);
        assert!(!auto(1024, 1024, 4));
        assert!(!auto(1024, 2032, 4));
        assert!(auto(1536, 1536, 4));
        assert!(auto(2048, 2048, 4));
        assert!(!auto(2048, 2048, 2), "half precision takes half the memory");
        assert!(Tiling::On.applies(&config, (1024, 1040), 2));
        assert!(!Tiling::On.applies(&config, (1024, 1024), 4), "it is one tile");
        assert!(!Tiling::Off.applies(&config, (8192, 512), 4));
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
