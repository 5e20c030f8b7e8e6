//! The transformer's tensors, which a LoRA can change.

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

/// All tensors by name, with their shapes.
pub fn tensors(config: &Config) -> BTreeMap<String, Vec<usize>> {
    let layers = linear_layers(config).into_iter();
    let mut tensors: BTreeMap<String, Vec<usize>> = layers
        .flat_map(|(name, [outs, ins])| {
            // The projections of a block have no bias.
            let is_plain = name.contains(".attention.") || name.contains(".feed_forward.");
            let bias = (!is_plain).then(|| (format!("{name}.bias"), vec![outs]));
            [(format!("{name}.weight"), vec![outs, ins])].into_iter().chain(bias)
        })
        .collect();
    let mut add = |name: String, shape| tensors.insert(name, shape);
    add("cap_embedder.0.weight".to_owned(), vec![config.cap_feat_dim]);
    for pad in ["x_pad_token", "cap_pad_token"] {
        add(pad.to_owned(), vec![1, config.dim]);
    }
    for (block, _) in blocks(config) {
        for norm in ["attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"] {
            add(format!("{block}.{norm}.weight"), vec![config.dim]);
        }
        for norm in ["norm_q", "norm_k"] {
            add(format!("{block}.attention.{norm}.weight"), vec![config.head_dim()]);
        }
    }
    tensors
}

/// Names of modules in the native tree, where they differ from diffusers'. What each is there,
/// [`names::canonical`] knows.
pub fn native_modules(config: &Config) -> Vec<String> {
    let top = ["x_embedder", "final_layer.adaLN_modulation.1", "final_layer.linear"];
    let mut native: Vec<String> = top.map(str::to_owned).into();
    for (block, _) in blocks(config) {
        let inner = ["qkv", "out", "q_norm", "k_norm"];
        native.extend(inner.map(|name| format!("{block}.attention.{name}")));
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
