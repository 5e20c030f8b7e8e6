//! The spellings of LoRA keys by common trainers.

/// What a key of a file is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    Factor {
        module: String,
        role: Role,
    },
    /// A way of changing a module that is not the product of two matrices.
    Unsupported(&'static str),
    /// A text encoder's, or nothing that we know.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Up,
    Down,
    Alpha,
}

/// What goes before a module's name: PEFT's wrapper, ComfyUI's, diffusers', adapters' names,
/// kohya's and LyCORIS'.
const PREFIXES: [&str; 8] = [
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "default.",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
];

/// Prefixes of other models that a file may change as well.
const TEXT_ENCODERS: [&str; 6] =
    ["text_encoder", "text_encoders.", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_"];

/// What stands between a module's name and `weight`.
const MARKERS: [(&str, Role); 8] = [
    (".lora_A.", Role::Down),
    (".lora_B.", Role::Up),
    (".lora_down.", Role::Down),
    (".lora_up.", Role::Up),
    (".lora.down.", Role::Down),
    (".lora.up.", Role::Up),
    (".lora_linear_layer.down.", Role::Down),
    (".lora_linear_layer.up.", Role::Up),
];

/// Parts of keys by which other methods are known.
const OTHERS: [(&str, &str); 8] = [
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    (".lokr_", "LoKr"),
    (".hada_", "LoHa"),
    (".oft_", "OFT"),
    (".lora_mid.", "a LoCon with a third factor"),
    (".lora_embedding_", "a LoRA of an embedding table"),
    ("vera_lambda_", "VeRA"),
];

pub(super) fn parse(key: &str) -> Key {
    let bare = key.strip_prefix("base_model.model.").unwrap_or(key);
    if TEXT_ENCODERS.iter().any(|prefix| bare.starts_with(prefix)) {
        return Key::Unknown;
    }
    if let Some((_, kind)) = OTHERS.iter().find(|(part, _)| key.contains(part)) {
        return Key::Unsupported(kind);
    }
    let factor = |module: &str, role| Key::Factor { module: strip(module).to_owned(), role };
    if let Some(module) = key.strip_suffix(".alpha") {
        return factor(module, Role::Alpha);
    }
    for (marker, role) in MARKERS {
        let Some((module, rest)) = key.split_once(marker) else { continue };
        // PEFT puts the adapter's name before `weight`.
        let rest = rest.rsplit_once('.').map_or(rest, |(_adapter, last)| last);
        return match rest {
            "weight" => factor(module, role),
            "bias" => Key::Unsupported("a LoRA with biases"),
            _ => Key::Unknown,
        };
    }
    if key.ends_with(".diff") || key.ends_with(".diff_b") {
        return Key::Unsupported("a full difference of weights");
    }
    Key::Unknown
}

/// One spelling for names that differ in dots and underscores only.
pub fn flat(module: &str) -> String {
    module.replace('.', "_")
}

fn strip(mut module: &str) -> &str {
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| module.strip_prefix(prefix)) {
        module = rest;
    }
    module.strip_suffix(".default").unwrap_or(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factor(module: &str, role: Role) -> Key {
        Key::Factor { module: module.to_owned(), role }
    }

    #[test]
    fn every_spelling_is_read() {
        let to_q = |role| factor("layers.0.attention.to_q", role);
        for (key, expected) in [
            ("transformer.layers.0.attention.to_q.lora_A.weight", to_q(Role::Down)),
            ("transformer.layers.0.attention.to_q.lora_B.default.weight", to_q(Role::Up)),
            ("diffusion_model.layers.0.attention.to_q.lora_A.weight", to_q(Role::Down)),
            ("base_model.model.layers.0.attention.to_q.lora_B.weight", to_q(Role::Up)),
            ("model.diffusion_model.layers.0.attention.to_q.alpha", to_q(Role::Alpha)),
            ("default.layers.0.attention.to_q.lora_A.weight", to_q(Role::Down)),
            ("layers.0.attention.to_q.default.lora_A.weight", to_q(Role::Down)),
            ("layers.0.attention.to_q.lora_up.weight", to_q(Role::Up)),
            ("layers.0.attention.to_q.lora.down.weight", to_q(Role::Down)),
            (
                "lora_unet_layers_0_attention_to_q.lora_down.weight",
                factor("layers_0_attention_to_q", Role::Down),
            ),
            (
                "lora_unet_layers_0_attention_qkv.alpha",
                factor("layers_0_attention_qkv", Role::Alpha),
            ),
        ] {
            assert_eq!(parse(key), expected, "{key}");
        }
    }

    #[test]
    fn other_methods_are_named_and_strangers_told_apart() {
        for (key, kind) in [
            ("diffusion_model.layers.0.attention.to_q.dora_scale", "DoRA"),
            ("lora_unet_layers_0_attention_to_q.lokr_w1", "LoKr"),
            ("lora_unet_layers_0_attention_to_q.hada_w1_a", "LoHa"),
            ("diffusion_model.layers.0.attention.to_q.diff_b", "a full difference of weights"),
            ("transformer.layers.0.attention.to_q.lora_B.bias", "a LoRA with biases"),
        ] {
            assert_eq!(parse(key), Key::Unsupported(kind), "{key}");
        }
        for key in [
            "text_encoder.layers.0.self_attn.q_proj.lora_A.weight",
            "lora_te_layers_0_mlp.alpha",
            "step",
            "layers.0.attention.to_q.weight",
        ] {
            assert_eq!(parse(key), Key::Unknown, "{key}");
        }
    }
}
