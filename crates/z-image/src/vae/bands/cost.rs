//! What the layers of an autoencoder take, and from that: which of them see the whole image, and how
//! many rows at a time the others see.
//!
//! Counted in values per pixel. `tests/tests/vae_memory.rs` compares the result with allocations.

use std::ops::Range;

use candle_core::{DType, Device};

use super::super::config::Config;

/// Rows beyond a band that a segment reads, above and below together: one for each of at most three
/// convolutions, and what a change of size rounds.
const HALO: u64 = 8;

/// Fewer rows are not worth their halo.
const MIN_ROWS: u64 = 8;

/// How a convolution's output relates to its input in height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Same,
    Double,
    Half,
}

/// Channels of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    pub kind: Kind,
    pub c_in: usize,
    pub c_out: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Conv(Scale),
    /// Group norm, SiLU and a convolution.
    NormConv,
    Resnet,
}

/// What operations take beside what they read and make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Ours for the CPU: scratch of a fixed size, norms on the way into it.
    Host,
    /// Ours for a GPU: scratch of a fixed size, and a copy of the input under its norm.
    Fused,
    /// candle's operators: a convolution copies every window of its input (im2col), and attention
    /// has a score for each pair of pixels.
    Composed,
}

/// The bytes that one value takes, and how it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    pub value_bytes: u64,
    pub kernels: Kernels,
    /// Whether activations that leave the device's memory are in other memory then.
    pub has_host: bool,
}

/// How one segment of layers is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Whole,
    /// In bands of so many rows, at the larger height of the segment's input and output. Input and
    /// output lie on the host if `on_host`, and on the device otherwise.
    Bands {
        rows: usize,
        on_host: bool,
    },
}

/// Layers that are computed together, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Indices of the layers.
    pub layers: Range<usize>,
    pub mode: Mode,
}

/// How all layers are computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub segments: Vec<Segment>,
    /// Bytes on the device at the widest place.
    pub peak: u64,
}

impl Config {
    /// The decoder's layers between its middle block and the image.
    pub(in super::super) fn decoder_layers(&self) -> Vec<Layer> {
        let channels: Vec<usize> = self.block_out_channels.iter().rev().copied().collect();
        let mut layers = Vec::new();
        for (i, &c_out) in channels.iter().enumerate() {
            let c_in = channels[i.saturating_sub(1)];
            layers.extend(resnets(c_in, c_out, self.layers_per_block + 1));
            if i + 1 < channels.len() {
                layers.push(Layer { kind: Kind::Conv(Scale::Double), c_in: c_out, c_out });
            }
        }
        let last = channels.last().copied().unwrap_or_default();
        layers.push(Layer { kind: Kind::NormConv, c_in: last, c_out: self.out_channels });
        layers
    }

    /// The encoder's layers between the image and its middle block.
    pub(in super::super) fn encoder_layers(&self) -> Vec<Layer> {
        let channels = &self.block_out_channels;
        let first = channels.first().copied().unwrap_or_default();
        let conv_in = Kind::Conv(Scale::Same);
        let mut layers = vec![Layer { kind: conv_in, c_in: self.in_channels, c_out: first }];
        for (i, &c_out) in channels.iter().enumerate() {
            let c_in = channels[i.saturating_sub(1)];
            layers.extend(resnets(c_in, c_out, self.layers_per_block));
            if i + 1 < channels.len() {
                layers.push(Layer { kind: Kind::Conv(Scale::Half), c_in: c_out, c_out });
            }
        }
        layers
    }
}

impl Config {
    /// Bytes of the middle block and the convolution before it, at the latents' size: the sum so far,
    /// its norm, queries, keys, values, and results.
    pub(in super::super) fn middle_bytes(&self, latents: (usize, usize), cost: Cost) -> u64 {
        let channels = self.block_out_channels.last().copied().unwrap_or_default() as u64;
        let pixels = latents.0 as u64 * latents.1 as u64;
        let values = pixels * (9 * channels + cost.kernels.extra(channels)) * cost.value_bytes;
        match cost.kernels {
            Kernels::Host | Kernels::Fused => values,
            // Scores in f32, scaled, and rounded.
            Kernels::Composed => values + pixels * pixels * (8 + cost.value_bytes),
        }
    }
}

impl Cost {
    /// Of `n` images in this type on this device.
    pub fn new(device: &Device, dtype: DType, n: usize) -> Self {
        let (bytes, kernels) = match device {
            // The kernels widen what is not f32.
            Device::Cpu => (DType::F32.size_in_bytes(), Kernels::Host),
            Device::Cuda(_) if dtype == DType::BF16 => (dtype.size_in_bytes(), Kernels::Fused),
            _ => (dtype.size_in_bytes(), Kernels::Composed),
        };
        Self { value_bytes: (bytes * n) as u64, kernels, has_host: !device.is_cpu() }
    }
}

fn resnets(c_in: usize, c_out: usize, count: usize) -> impl Iterator<Item = Layer> {
    (0..count).map(move |i| {
        let c_in = if i == 0 { c_in } else { c_out };
        Layer { kind: Kind::Resnet, c_in, c_out }
    })
}

impl Layer {
    fn has_norm(self) -> bool {
        !matches!(self.kind, Kind::Conv(_))
    }

    fn size_out(self, (height, width): (u64, u64)) -> (u64, u64) {
        match self.kind {
            Kind::Conv(Scale::Double) => (2 * height, 2 * width),
            Kind::Conv(Scale::Half) => (height / 2, width / 2),
            _ => (height, width),
        }
    }

    /// Values of the layer in one piece: what it reads, what lies between, what it makes.
    fn whole(self, size: (u64, u64), kernels: Kernels) -> u64 {
        let (c_in, c_out) = (self.c_in as u64, self.c_out as u64);
        let area = |(height, width): (u64, u64)| height * width;
        let (pixels, made) = (area(size), area(self.size_out(size)));
        let (held, read) = match self.kind {
            Kind::Conv(_) => (pixels * c_in + made * c_out, c_in),
            Kind::NormConv => (pixels * (c_in + 2 * c_out + kernels.normed(c_in)), c_in),
            Kind::Resnet => {
                let first = c_in + kernels.normed(c_in) + c_out;
                let second = c_in + kernels.normed(c_out) + 3 * c_out;
                (pixels * first.max(second), c_in.max(c_out))
            }
        };
        held + made * kernels.extra(read)
    }

    /// Values for each pixel of a band at the layer's larger side: what it reads, once more in f32
    /// under its norm, what lies between and what it makes.
    fn banded(self, kernels: Kernels) -> u64 {
        let (c_in, c_out) = (self.c_in as u64, self.c_out as u64);
        let (held, read) = match self.kind {
            Kind::Conv(_) => (2 * c_in + 2 * c_out, c_in),
            Kind::NormConv => (5 * c_in + 2 * c_out, c_in),
            Kind::Resnet => (5 * c_in + 4 * c_out, c_in.max(c_out)),
        };
        held + kernels.extra(read)
    }
}

impl Kernels {
    /// Values for each pixel of a copy of so many channels under their norm.
    fn normed(self, channels: u64) -> u64 {
        if self == Self::Host { 0 } else { channels }
    }

    /// Values for each pixel that is made, of a convolution that reads so many channels.
    fn extra(self, c_in: u64) -> u64 {
        match self {
            Self::Host | Self::Fused => 0,
            // Nine windows, and the input normed, enlarged and with its channels first.
            Self::Composed => 12 * c_in,
        }
    }
}

impl Schedule {
    /// For an input of these layers of this height and width. `budget`: bytes that may be taken on the
    /// device. What does not fit in any way is scheduled with the least that it can be; its
    /// [`Self::peak`] says so.
    pub fn new(layers: &[Layer], size: (usize, usize), cost: Cost, budget: u64) -> Self {
        let planned = Self::with(layers, size, cost, budget, true);
        if planned.peak <= budget {
            return planned;
        }
        // A segment that is computed whole may leave more than the next one has room beside.
        let banded = Self::with(layers, size, cost, budget, false);
        if banded.peak < planned.peak { banded } else { planned }
    }

    fn with(
        layers: &[Layer],
        size: (usize, usize),
        cost: Cost,
        budget: u64,
        may_be_whole: bool,
    ) -> Self {
        let mut size = (size.0 as u64, size.1 as u64);
        let (mut segments, mut peak) = (Vec::new(), 0);
        let mut before = Mode::Whole;
        for range in grouped(layers) {
            let whole_within = if may_be_whole { budget } else { 0 };
            let layers = &layers[range.clone()];
            let (mode, bytes, after) = segment(layers, size, cost, (budget, whole_within), before);
            segments.push(Segment { layers: range, mode });
            (size, before, peak) = (after, mode, peak.max(bytes));
        }
        Self { segments, peak }
    }

    /// Whether every layer sees the whole image.
    pub fn is_whole(&self) -> bool {
        self.segments.iter().all(|segment| segment.mode == Mode::Whole)
    }

    /// Rows of the smallest band, if there are bands.
    pub fn rows(&self) -> Option<usize> {
        let rows = |segment: &Segment| match segment.mode {
            Mode::Whole => None,
            Mode::Bands { rows, .. } => Some(rows),
        };
        self.segments.iter().filter_map(rows).min()
    }
}

/// A segment has one layer with norms, the changes of size before it, and the one to half the size
/// behind it: those are computed again with each pass, and never lie in memory as a whole.
fn grouped(layers: &[Layer]) -> Vec<Range<usize>> {
    let mut starts = vec![0];
    let mut has_norm = false;
    for (i, layer) in layers.iter().enumerate() {
        if has_norm && layer.kind != Kind::Conv(Scale::Half) {
            starts.push(i);
            has_norm = false;
        }
        has_norm |= layer.has_norm();
    }
    let ends = starts[1..].iter().copied().chain([layers.len()]);
    starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
}

/// How these layers are computed, the bytes that it takes, and the size of the result.
fn segment(
    layers: &[Layer],
    size: (u64, u64),
    cost: Cost,
    (budget, whole_within): (u64, u64),
    before: Mode,
) -> (Mode, u64, (u64, u64)) {
    let Cost { value_bytes, kernels, has_host } = cost;
    let (mut at, mut whole, mut finest, mut row) = (size, 0, size, 0);
    for layer in layers {
        let out = layer.size_out(at);
        whole = whole.max(layer.whole(at, kernels));
        finest = finest.max(out);
        row = row.max(layer.banded(kernels) * at.1.max(out.1));
        at = out;
    }
    let area = |(height, width): (u64, u64), channels: usize| height * width * channels as u64;
    let read = area(size, layers.first().map_or(0, |layer| layer.c_in)) * value_bytes;
    let made = area(at, layers.last().map_or(0, |layer| layer.c_out)) * value_bytes;
    let (whole, row) = (whole * value_bytes, row * value_bytes);
    // What was made in bands and lies on the host has to come back for this.
    if whole <= whole_within {
        return (Mode::Whole, whole, at);
    }
    // The bands of the input are dropped one by one, a whole one is not.
    let held = match before {
        Mode::Whole => read + made,
        Mode::Bands { .. } => read.max(made),
    };
    let least = row * (MIN_ROWS.min(finest.0) + HALO);
    let on_host = has_host && held + least > budget;
    let held = if on_host { 0 } else { held };
    let rows = (budget.saturating_sub(held) / row.max(1)).saturating_sub(HALO);
    // Even, for a change of size.
    let rows = (rows / 2 * 2).max(MIN_ROWS).min(finest.0);
    let bytes = held + row * (rows + HALO).min(finest.0 + HALO);
    if whole <= bytes {
        return (Mode::Whole, whole, at);
    }
    (Mode::Bands { rows: rows as usize, on_host }, bytes, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: Cost = Cost { value_bytes: 2, kernels: Kernels::Fused, has_host: true };
    const GIB: f64 = (1u64 << 30) as f64;

    fn decode(side: usize, budget: u64, cost: Cost) -> Schedule {
        let config = Config::z_image();
        let latent = side / config.scale_factor();
        Schedule::new(&config.decoder_layers(), (latent, latent), cost, budget)
    }

    #[test]
    fn a_segment_has_one_layer_with_norms() {
        let config = Config::z_image();
        let (decoder, encoder) = (config.decoder_layers(), config.encoder_layers());
        assert_eq!(
            grouped(&decoder),
            [
                0..1,
                1..2,
                2..3,
                3..5,
                5..6,
                6..7,
                7..9,
                9..10,
                10..11,
                11..13,
                13..14,
                14..15,
                15..16
            ]
        );
        assert_eq!(grouped(&encoder), [0..2, 2..4, 4..5, 5..7, 7..8, 8..10, 10..11, 11..12]);
        assert_eq!((decoder.len(), encoder.len()), (16, 12));
    }

    #[test]
    fn what_fits_is_computed_whole() {
        let whole = decode(1024, u64::MAX, GPU);
        assert!(whole.is_whole() && whole.rows().is_none());
        assert_eq!(whole.peak as f64 / GIB, 1.5, "768 values of two bytes for each pixel");
        assert_eq!(decode(1024, whole.peak, GPU), whole);
        assert!(!decode(1024, whole.peak - 1, GPU).is_whole());
    }

    #[test]
    fn a_budget_is_kept_down_to_the_least() {
        for side in [512, 1024, 2048, 4096] {
            for kernels in [Kernels::Fused, Kernels::Composed] {
                let cost = Cost { kernels, ..GPU };
                let least = decode(side, 0, cost).peak;
                let whole = decode(side, u64::MAX, cost).peak;
                for budget in [least, 2 * least, whole / 2, whole] {
                    let peak = decode(side, budget, cost).peak;
                    assert!(peak <= budget.max(least), "{side}: {peak} of {budget}");
                }
                assert!(least < whole / 4, "{side}: {least} of {whole}");
            }
        }
        // The targets of a card of 8 GiB: 2048x2048 in 1.5 GiB.
        assert!(decode(2048, 3 << 29, GPU).peak <= 3 << 29);
    }

    #[test]
    fn a_smaller_budget_makes_smaller_bands() {
        let rows = |budget| decode(2048, budget, GPU).rows().expect("bands");
        assert!(rows(3 << 30) > rows(3 << 29) && rows(3 << 29) > rows(1 << 29));
    }

    #[test]
    fn on_the_host_nothing_leaves_for_elsewhere() {
        let host = Cost { value_bytes: 4, kernels: Kernels::Host, has_host: false };
        let least = decode(1024, 0, host);
        let all =
            least.segments.iter().all(|s| !matches!(s.mode, Mode::Bands { on_host: true, .. }));
        assert!(all && least.peak < decode(1024, u64::MAX, host).peak / 2);
    }
}
