//! The tensors of the half that reads pictures, which is loaded when the first one comes: whether
//! they are there is to be known before.

use llm_dit_weights::{LoadError, Weights};

use super::config::Config;

/// Looks for every tensor of the encoder, without reading any.
///
/// # Errors
///
/// [`LoadError`] for the first one that is missing or has another shape.
pub fn check_encoder(config: &Config, weights: &Weights) -> Result<(), LoadError> {
    encoder_tensors(config).iter().try_for_each(|(name, shape)| weights.check(name, shape))
}

/// By name, with their shapes.
fn encoder_tensors(config: &Config) -> Vec<(String, Vec<usize>)> {
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        tensors.push((format!("encoder.{name}.weight"), shape.to_vec()));
        tensors.push((format!("encoder.{name}.bias"), shape[..1].to_vec()));
    };
    let channels = &config.block_out_channels;
    let Some(&last) = channels.last() else { return tensors };
    let mut resnet = |at: String, ins: usize, outs: usize| {
        add(format!("{at}.norm1"), &[ins]);
        add(format!("{at}.conv1"), &[outs, ins, 3, 3]);
        add(format!("{at}.norm2"), &[outs]);
        add(format!("{at}.conv2"), &[outs, outs, 3, 3]);
        if ins != outs {
            add(format!("{at}.conv_shortcut"), &[outs, ins, 1, 1]);
        }
    };
    for (level, &outs) in channels.iter().enumerate() {
        for layer in 0..config.layers_per_block {
            let ins = if layer == 0 { channels[level.saturating_sub(1)] } else { outs };
            resnet(format!("down_blocks.{level}.resnets.{layer}"), ins, outs);
        }
    }
    for layer in 0..2 {
        resnet(format!("mid_block.resnets.{layer}"), last, last);
    }
    // All levels but the last halve the sides.
    for (level, &outs) in channels[..channels.len() - 1].iter().enumerate() {
        add(format!("down_blocks.{level}.downsamplers.0.conv"), &[outs, outs, 3, 3]);
    }
    add("mid_block.attentions.0.group_norm".into(), &[last]);
    for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
        add(format!("mid_block.attentions.0.{projection}"), &[last, last]);
    }
    add("conv_in".into(), &[channels[0], config.in_channels, 3, 3]);
    add("conv_norm_out".into(), &[last]);
    add("conv_out".into(), &[2 * config.latent_channels, last, 3, 3]);
    tensors
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use candle_core::{DType, Device};
    use llm_dit_weights::{Checkpoint, Packing, PartFiles, part_config};

    use super::*;
    use crate::vae::{Encoder, names::naming};

    #[test]
    fn the_list_is_what_the_encoder_reads() {
        for model in ["tests/goldens/tiny", "models/demo"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(model);
            let part = PartFiles::find(&folder, "vae", "diffusion_pytorch_model", None);
            let weights =
                Checkpoint::open(&part, naming, &Device::Cpu, DType::F32, Packing::Expanded)
                    .expect("opens");
            let config: Config = part_config(&part, &folder, &weights).expect("a configuration");
            check_encoder(&config, &weights).expect("all there");
            Encoder::load(config.clone(), &weights).expect("loads");
            let plain = |shape: Vec<usize>| match shape[..] {
                [outs, ins, 1, 1] => vec![outs, ins],
                _ => shape,
            };
            let listed: BTreeMap<String, Vec<usize>> = encoder_tensors(&config)
                .into_iter()
                .map(|(name, shape)| (name, plain(shape)))
                .collect();
            let asked = weights.asked().into_iter().map(|(name, shape)| (name, plain(shape)));
            assert_eq!(listed, asked.collect());
        }
    }
}
