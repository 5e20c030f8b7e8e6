//! The transformer's names: as Z-Image's authors and ComfyUI write them, and as diffusers does.
//!
//! Checkpoints and LoRA files both come in either form. Everything behind this module speaks of
//! diffusers' names only.

use std::collections::BTreeSet;

use llm_dit_weights::{Part, Rows, names::own};

/// What programs put before the transformer's own names, longest first.
const PREFIXES: [&str; 3] = ["model.diffusion_model.", "diffusion_model.", "transformer."];

/// Modules at the top whose diffusers name says the patch sizes they are for.
const TOP: [(&str, &str); 2] =
    [("x_embedder", "all_x_embedder.2-1"), ("final_layer", "all_final_layer.2-1")];

/// Modules of an attention that have another name in diffusers.
const ATTENTION: [(&str, &str); 3] =
    [("out", "to_out.0"), ("q_norm", "norm_q"), ("k_norm", "norm_k")];

/// The parts of a fused `qkv`, in the order of its rows.
const QKV: [&str; 3] = ["to_q", "to_k", "to_v"];

/// diffusers' names for what a file calls `name`: a module (`layers.0.attention.qkv`) or a tensor
/// of it (`layers.0.attention.qkv.weight`). There is one name, except for a fused projection, whose
/// rows belong to three. A name that is diffusers' already, or unknown, is returned without its
/// prefix.
pub fn canonical(name: &str) -> Vec<Part> {
    let name = strip_prefix(name);
    let (first, rest) = split(name);
    if let Some(renamed) = rename(&TOP, first) {
        return vec![Part::whole(format!("{renamed}{rest}"))];
    }
    let Some((block, inside)) = name.split_once(".attention.") else {
        return vec![Part::whole(name)];
    };
    let (module, rest) = split(inside);
    if module == "qkv" {
        let part = |(index, to): (usize, &str)| Part {
            name: format!("{block}.attention.{to}{rest}"),
            rows: Some(Rows { index, of: QKV.len() }),
        };
        return QKV.into_iter().enumerate().map(part).collect();
    }
    match rename(&ATTENTION, module) {
        Some(renamed) => vec![Part::whole(format!("{block}.attention.{renamed}{rest}"))],
        None => vec![Part::whole(name)],
    }
}

/// [`canonical`] for the tensors of a checkpoint.
pub fn naming(names: &[&str]) -> Vec<Vec<Part>> {
    let own = own(names, &PREFIXES);
    let apart: BTreeSet<&str> = own.iter().filter_map(|name| Some(numbered((*name)?)?.0)).collect();
    let parts = |name: &str| match numbered(name) {
        Some((of, index)) => apart_of(of, index),
        None if apart.contains(name) => apart_of(name, 0),
        None => canonical(name),
    };
    own.into_iter().map(|name| name.map(parts).unwrap_or_default()).collect()
}

/// The name and the place of a projection that stable-diffusion.cpp wrote apart, as
/// `attention.qkv.weight`, `attention.qkv.weight.1` and `attention.qkv.weight.2`; `None` for the first,
/// and for other tensors.
fn numbered(name: &str) -> Option<(&str, usize)> {
    let (of, index) = name.rsplit_once('.')?;
    let index = index.parse().ok().filter(|index| (1..QKV.len()).contains(index))?;
    of.contains(".attention.qkv.").then_some((of, index))
}

/// The projection of this place under diffusers' name.
fn apart_of(name: &str, index: usize) -> Vec<Part> {
    let part = canonical(name).into_iter().nth(index);
    part.map(|part| Part::whole(part.name)).into_iter().collect()
}

/// `name` without the prefix that programs put before the transformer's names.
pub fn strip_prefix(name: &str) -> &str {
    PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

/// True for tensors that native files carry and no forward reads: a last norm of the caption
/// that Z-Image's authors left behind.
pub fn is_unused(canonical: &str) -> bool {
    canonical == "norm_final.weight"
}

fn rename(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(from, _)| *from == name).map(|(_, to)| *to)
}

/// The first module, and the rest with its dot.
fn split(name: &str) -> (&str, &str) {
    name.split_at(name.find('.').unwrap_or(name.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str) -> String {
        let parts = canonical(name);
        assert_eq!(parts.len(), 1, "{name}");
        assert_eq!(parts[0].rows, None, "{name}");
        parts[0].name.clone()
    }

    #[test]
    fn native_names_become_diffusers_names_with_and_without_prefix() {
        for (native, diffusers) in [
            ("x_embedder.weight", "all_x_embedder.2-1.weight"),
            ("x_embedder", "all_x_embedder.2-1"),
            ("final_layer.linear.bias", "all_final_layer.2-1.linear.bias"),
            (
                "final_layer.adaLN_modulation.1.weight",
                "all_final_layer.2-1.adaLN_modulation.1.weight",
            ),
            ("layers.7.attention.out.weight", "layers.7.attention.to_out.0.weight"),
            ("layers.7.attention.out", "layers.7.attention.to_out.0"),
            ("noise_refiner.0.attention.q_norm.weight", "noise_refiner.0.attention.norm_q.weight"),
            (
                "context_refiner.1.attention.k_norm.weight",
                "context_refiner.1.attention.norm_k.weight",
            ),
            // These have one name everywhere.
            ("layers.0.feed_forward.w1.weight", "layers.0.feed_forward.w1.weight"),
            ("layers.0.attention_norm1.weight", "layers.0.attention_norm1.weight"),
            ("layers.0.adaLN_modulation.0.bias", "layers.0.adaLN_modulation.0.bias"),
            ("cap_embedder.1.weight", "cap_embedder.1.weight"),
            ("x_pad_token", "x_pad_token"),
        ] {
            for prefix in ["", "model.diffusion_model.", "diffusion_model.", "transformer."] {
                assert_eq!(one(&format!("{prefix}{native}")), diffusers);
            }
        }
    }

    #[test]
    fn diffusers_names_stay() {
        for name in [
            "all_x_embedder.2-1.weight",
            "all_final_layer.2-1.adaLN_modulation.1.bias",
            "layers.0.attention.to_q.weight",
            "layers.0.attention.to_out.0.weight",
            "layers.0.attention.norm_q.weight",
            "t_embedder.mlp.0.weight",
            "somebody.elses.out.weight",
        ] {
            assert_eq!(one(name), name);
            assert_eq!(one(&one(name)), name);
        }
    }

    #[test]
    fn projections_that_are_numbered_are_whole() {
        let fused = "layers.1.attention.qkv.weight";
        let names = ["layers.0.attention.qkv.weight.1", "layers.0.attention.qkv.weight", fused];
        for prefix in ["", "model.diffusion_model."] {
            let names = names.map(|name| format!("{prefix}{name}"));
            let found = naming(&names.each_ref().map(String::as_str));
            assert_eq!(found[0], [Part::whole("layers.0.attention.to_k.weight")]);
            assert_eq!(found[1], [Part::whole("layers.0.attention.to_q.weight")]);
            assert_eq!(found[2], canonical(fused));
        }
        assert_eq!(naming(&["mlp.weight.1"]), [[Part::whole("mlp.weight.1")]]);
    }

    #[test]
    fn fused_projections_are_three_thirds() {
        for suffix in ["", ".weight", ".lora_B.weight"] {
            let parts =
                canonical(&format!("diffusion_model.noise_refiner.1.attention.qkv{suffix}"));
            let expected: Vec<Part> = ["to_q", "to_k", "to_v"]
                .into_iter()
                .enumerate()
                .map(|(index, to)| Part {
                    name: format!("noise_refiner.1.attention.{to}{suffix}"),
                    rows: Some(Rows { index, of: 3 }),
                })
                .collect();
            assert_eq!(parts, expected);
        }
    }
}
