//! What an image takes beside the weights, by its size.
//!
//! The counts for the CPU follow its kernels: they compute in f32 and widen what has another type for
//! as long as they read it.

use candle_core::DType;
use llm_dit_engine::{image::BatchLimit, plan::Work};
use llm_dit_kernels::composed::MOST_SCORES;

use crate::{
    dit,
    vae::{self, Cost, Kernels, Tiling},
};

const F32: u64 = 4;

/// The caption that is planned for, in tokens: the longest that is not cut.
const CAPTION: u64 = 512;

/// The largest image that is planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Largest {
    pub width: u32,
    pub height: u32,
    pub is_guided: bool,
}

/// Bytes at the widest place of a transformer block, for so many tokens of all items together.
pub(crate) fn transformer_bytes(
    config: &dit::Config,
    cost: Cost,
    dtype: DType,
    tokens: u64,
) -> u64 {
    let (dim, ffn) = (config.dim as u64, config.ffn_dim() as u64);
    let value = dtype.size_in_bytes() as u64;
    if cost.kernels != Kernels::Host {
        return on_gpu(config, cost, tokens);
    }
    // The sum so far and its norm before and after the attention, and the attention's result.
    let held = 5 * dim * value;
    if dtype == DType::F32 {
        // Gates, ups, and their product.
        return tokens * (held + 3 * ffn * F32);
    }
    // The widened input, weight and result of the layer that makes gates and ups; or those and their
    // product, both in either width.
    let product = tokens * (held + dim * F32 + 2 * ffn * F32) + 2 * ffn * dim * F32;
    let gated = tokens * (held + 2 * ffn * (value + F32) + ffn * F32);
    product.max(gated)
}

/// The same on a GPU: what is held, gates, ups and their product, and a quarter of that for what the
/// allocator cannot use. Composed of operators, norms are in f32, and attention has a score for each
/// pair of tokens, up to a number.
fn on_gpu(config: &dit::Config, cost: Cost, tokens: u64) -> u64 {
    let (dim, ffn) = (config.dim as u64, config.ffn_dim() as u64);
    let values = tokens * (4 * dim + 4 * ffn) * cost.value_bytes;
    match cost.kernels {
        Kernels::Host | Kernels::Fused => values,
        Kernels::Composed => {
            let scores = (config.n_heads as u64 * tokens * tokens).min(MOST_SCORES as u64);
            values + tokens * 4 * dim * F32 + scores * (8 + cost.value_bytes)
        }
    }
}

/// What the released Z-Image takes for an image of this width and height, on a GPU that has kernels of
/// ours, in bf16.
pub fn released_work(largest: Largest) -> Work {
    let cost = Cost { value_bytes: 2, kernels: Kernels::Fused, has_host: true };
    let (config, vae_config) = (dit::Config::z_image(), vae::Config::z_image());
    work((&config, cost, DType::BF16), (&vae_config, cost), Tiling::Auto, largest)
}

/// What an image of this width and height takes, to plan with.
pub(crate) fn work(
    (config, dit_cost, dtype): (&dit::Config, Cost, DType),
    (vae_config, cost): (&vae::Config, Cost),
    tiling: Tiling,
    largest: Largest,
) -> Work {
    let Largest { width, height, is_guided } = largest;
    let side = |pixels: u32| pixels as usize / vae_config.scale_factor() / dit::PATCH;
    let image = (side(width) * side(height)).next_multiple_of(dit::MULTIPLE) as u64;
    let decode =
        |budget| tiling.decode_bytes(vae_config, cost, (height as usize, width as usize), budget);
    let passes = if is_guided { 2 } else { 1 };
    Work {
        encode: 0,
        denoise: transformer_bytes(config, dit_cost, dtype, passes * (image + CAPTION)),
        units: BatchLimit::units(width, height, is_guided),
        decode: decode(u64::MAX),
        decode_least: decode(0),
    }
}
