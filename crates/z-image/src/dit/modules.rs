//! The transformer's linear layers, which a LoRA can change.

use std::collections::BTreeMap;

use super::{
    config::Config,
    embed::{FREQUENCIES, MID},
    names,
};

/// Linear layers by name, with `[out, in]` of their weights.
pub fn linear_layers(config: &Config) -> BTreeMap<String, [usize; 2]> {
    let (dim, ffn, adaln) = (config.dim, config.ffn_dim(), config.adaln_dim());
    let patch = config.patch_dim();
    let mut layers: BTreeMap<String, [usize; 2]> = [
        ("all_x_embedder.2-1", [dim, patch]),
        ("cap_embedder.1", [dim, config.cap_feat_dim]),
        ("t_embedder.mlp.0", [MID, FREQUENCIES]),
        ("t_embedder.mlp.2", [adaln, MID]),
        ("all_final_layer.2-1.adaLN_modulation.1", [dim, adaln]),
        ("all_final_layer.2-1.linear", [patch, dim]),
    ]
    .map(|(name, shape)| (name.to_owned(), shape))
    .into();
    for (block, modulated) in blocks(config) {
        let mut add = |name: &str, shape| layers.insert(format!("{block}.{name}"), shape);
        for name in ["to_q", "to_k", "to_v", "to_out.0"] {
            add(&format!("attention.{name}"), [dim, dim]);
        }
        add("feed_forward.w1", [ffn, dim]);
        add("feed_forward.w2", [dim, ffn]);
        add("feed_forward.w3", [ffn, dim]);
        if modulated {
            add("adaLN_modulation.0", [4 * dim, adaln]);
        }
    }
    layers
}

/// Names of the same layers in the native tree, where they differ from diffusers'. What each is
/// there, [`names::canonical`] knows.
pub fn native_layers(config: &Config) -> Vec<String> {
    let top = ["x_embedder", "final_layer.adaLN_modulation.1", "final_layer.linear"];
    let mut native: Vec<String> = top.map(str::to_owned).into();
    for (block, _) in blocks(config) {
        native.extend(["qkv", "out"].map(|name| format!("{block}.attention.{name}")));
    }
    debug_assert!(native.iter().all(|name| names::canonical(name)[0].name != *name));
    native
}

/// Blocks by name, and whether the time modulates them.
fn blocks(config: &Config) -> impl Iterator<Item = (String, bool)> {
    let stacks = [
        ("noise_refiner", config.n_refiner_layers, true),
        ("context_refiner", config.n_refiner_layers, false),
        ("layers", config.n_layers, true),
    ];
    stacks.into_iter().flat_map(|(stack, count, modulated)| {
        (0..count).map(move |i| (format!("{stack}.{i}"), modulated))
    })
}
