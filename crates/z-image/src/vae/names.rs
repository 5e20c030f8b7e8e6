//! The autoencoder's names: as its authors and ComfyUI write them, and as diffusers does.
//!
//! Everything behind this module speaks of diffusers' names only.

use llm_dit_weights::{Part, names::own};

/// What programs put before the autoencoder's own names in a file with more than one model.
const PREFIXES: [&str; 3] = ["first_stage_model.", "vae.", "autoencoder."];

/// Modules whose name is another one in diffusers, wherever they stand.
const MODULES: [(&str, &str); 8] = [
    ("mid.block_1.", "mid_block.resnets.0."),
    ("mid.block_2.", "mid_block.resnets.1."),
    ("mid.attn_1.norm.", "mid_block.attentions.0.group_norm."),
    ("mid.attn_1.q.", "mid_block.attentions.0.to_q."),
    ("mid.attn_1.k.", "mid_block.attentions.0.to_k."),
    ("mid.attn_1.v.", "mid_block.attentions.0.to_v."),
    ("mid.attn_1.proj_out.", "mid_block.attentions.0.to_out.0."),
    ("norm_out.", "conv_norm_out."),
];

/// diffusers' names for the tensors of a checkpoint.
pub fn naming(names: &[&str]) -> Vec<Vec<Part>> {
    let own = own(names, &PREFIXES);
    // The authors count the decoder's levels from the pixels, diffusers from the latents.
    let levels = own.iter().flatten().filter_map(|name| Some(level(name)?.0 + 1)).max();
    let levels = levels.unwrap_or(0);
    let part = |name: &str| vec![Part::whole(canonical(name, levels))];
    own.into_iter().map(|name| name.map(part).unwrap_or_default()).collect()
}

/// The level of a tensor of the authors' decoder, and the rest of its name.
fn level(name: &str) -> Option<(usize, &str)> {
    let (level, rest) = name.strip_prefix("decoder.up.")?.split_once('.')?;
    Some((level.parse().ok()?, rest))
}

fn canonical(name: &str, levels: usize) -> String {
    if let Some((level, rest)) = level(name) {
        let index = levels - 1 - level;
        let rest = inner(rest, "upsample.conv.", "upsamplers.0.conv.");
        return format!("decoder.up_blocks.{index}.{rest}");
    }
    if let Some((level, rest)) =
        name.strip_prefix("encoder.down.").and_then(|rest| rest.split_once('.'))
    {
        let rest = inner(rest, "downsample.conv.", "downsamplers.0.conv.");
        return format!("encoder.down_blocks.{level}.{rest}");
    }
    let Some((half, rest)) = name.split_once('.') else { return name.to_owned() };
    let renamed = MODULES.iter().find_map(|(from, to)| Some((to, rest.strip_prefix(from)?)));
    match renamed {
        Some((to, rest)) => format!("{half}.{to}{rest}"),
        None => name.to_owned(),
    }
}

/// Inside a level.
fn inner(rest: &str, from: &str, to: &str) -> String {
    match (rest.strip_prefix("block."), rest.strip_prefix(from)) {
        (Some(block), _) => {
            format!("resnets.{}", block.replacen("nin_shortcut", "conv_shortcut", 1))
        }
        (None, Some(conv)) => format!("{to}{conv}"),
        (None, None) => rest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(names: &[&str]) -> Vec<String> {
        let parts = naming(names).into_iter();
        parts.map(|p| p.first().map(|p| p.name.clone()).unwrap_or_default()).collect()
    }

    #[test]
    fn the_authors_names_become_diffusers_names() {
        let pairs = [
            ("decoder.conv_in.weight", "decoder.conv_in.weight"),
            ("decoder.mid.block_1.conv1.bias", "decoder.mid_block.resnets.0.conv1.bias"),
            ("decoder.mid.attn_1.norm.weight", "decoder.mid_block.attentions.0.group_norm.weight"),
            ("encoder.mid.attn_1.q.weight", "encoder.mid_block.attentions.0.to_q.weight"),
            ("encoder.mid.attn_1.proj_out.bias", "encoder.mid_block.attentions.0.to_out.0.bias"),
            ("decoder.up.3.block.0.norm1.weight", "decoder.up_blocks.0.resnets.0.norm1.weight"),
            (
                "decoder.up.0.block.1.nin_shortcut.weight",
                "decoder.up_blocks.3.resnets.1.conv_shortcut.weight",
            ),
            ("decoder.up.2.upsample.conv.bias", "decoder.up_blocks.1.upsamplers.0.conv.bias"),
            ("encoder.down.1.block.0.conv2.bias", "encoder.down_blocks.1.resnets.0.conv2.bias"),
            (
                "encoder.down.0.downsample.conv.weight",
                "encoder.down_blocks.0.downsamplers.0.conv.weight",
            ),
            ("decoder.norm_out.weight", "decoder.conv_norm_out.weight"),
        ];
        let (native, diffusers): (Vec<&str>, Vec<&str>) = pairs.into_iter().unzip();
        assert_eq!(one(&native), diffusers);
        for prefix in PREFIXES {
            let prefixed: Vec<String> = native.iter().map(|n| format!("{prefix}{n}")).collect();
            let prefixed: Vec<&str> = prefixed.iter().map(String::as_str).collect();
            assert_eq!(one(&prefixed), diffusers);
        }
        assert_eq!(one(&diffusers), diffusers);
    }

    #[test]
    fn another_models_tensors_are_left_alone() {
        let names = ["vae.decoder.conv_in.bias", "model.diffusion_model.x_embedder.bias"];
        assert_eq!(one(&names), ["decoder.conv_in.bias", ""]);
    }
}
