//! Number of floating-point operations of each measured work, computed from the shapes alone.

use llm_dit_z_image::dit::{Config, MULTIPLE};

/// One forward pass for `batch` pictures of `side` pixels from captions of `text` tokens: the linear
/// layers and the two products of attention, a multiplication and an addition each. Padding is
/// computed and so counts. The caption's refiners run once a picture and are not part of it.
pub fn forward(config: &Config, latent_side: usize, text: usize, batch: usize) -> f64 {
    let padded = |tokens: usize| tokens.next_multiple_of(MULTIPLE) as f64;
    // Patches of 2 x 2.
    let patches = (latent_side / 2).pow(2);
    let (image, caption) = (padded(patches), padded(text));
    let (dim, ffn) = (config.dim as f64, config.ffn_dim() as f64);
    // q, k, v, out and the three matrices of the feed-forward layer.
    let parameters = 4.0 * dim * dim + 3.0 * dim * ffn;
    let block = |tokens: f64| 2.0 * parameters * tokens + 4.0 * tokens * tokens * dim;
    let edges = 2.0 * 2.0 * patches as f64 * dim * config.patch_dim() as f64;
    let blocks = config.n_layers as f64 * block(image + caption)
        + config.n_refiner_layers as f64 * block(image);
    batch as f64 * (blocks + edges)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 47.8 of linear layers and 8.7 of attention, with 0.09 of them in the caption's refiners.
    #[test]
    fn a_forward_at_1024_is_56_tflop() {
        let config = Config::z_image();
        let tflop = forward(&config, 128, 100, 1) / 1e12;
        assert!((tflop - 56.5).abs() < 0.1, "{tflop}");
        assert_eq!(forward(&config, 128, 128, 4), 4.0 * forward(&config, 128, 100, 1));
    }
}
