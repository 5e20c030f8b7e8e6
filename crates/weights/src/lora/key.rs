//! The spellings of LoRA keys by common trainers.

/// What a key of a file is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    Factor {
        module: String,
        role: Role,
    },
    /// What is added to a whole tensor of the module.
    Difference {
        module: String,
        of: Whole,
    },
    /// A way of changing a module that is not the product of two matrices.
    Unsupported(&'static str),
    /// A text encoder's, or nothing that we know.
    Unknown,
}

/// What a tensor is in the change of its module. Products are `up * down`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// A LoRA's.
    Down,
    Up,
    Alpha,
    /// DoRA's.
    Magnitude,
    /// The first or the second product of a LoHa.
    HadaUp(Side),
    HadaDown(Side),
    /// The left or the right matrix of a LoKr: whole, or a product.
    Lokr(Side),
    LokrUp(Side),
    LokrDown(Side),
    /// LyCORIS' OFT: blocks that turn rows, and what the turned rows are multiplied with.
    RowBlocks,
    RowLengths,
    /// PEFT's OFT: blocks that turn columns.
    ColumnBlocks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    First,
    Second,
}

/// A tensor of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whole {
    /// The weight, or the module itself if it is one tensor.
    Weight,
    Bias,
}

/// What goes before a module's name: PEFT's wrapper, ComfyUI's, diffusers', adapters' names,
/// kohya's, LyCORIS', and those of torch. Each is a word of names; where a name has dots or any
/// number of underscores between words, all of them mean the same.
const PREFIXES: [&str; 14] = [
    "base_model_model",
    "model_diffusion_model",
    "diffusion_model",
    "transformer",
    "default",
    "lora_unet",
    "lora_transformer",
    "lora_dit",
    "lora_model",
    "lycoris",
    "unet",
    "dit",
    "module",
    "orig_mod",
];

/// Prefixes of other models that a file may change as well.
const TEXT_ENCODERS: [&str; 11] = [
    "text_encoder",
    "text_encoders",
    "text_encoder_2",
    "text_model",
    "lora_te",
    "lora_te1",
    "lora_te2",
    "lora_te3",
    "lora_text_encoder",
    "lycoris_text_encoder",
    "te",
];

/// What stands between a module's name and `weight`, if that is there.
const MARKERS: [(&str, Role); 23] = [
    (".lora_A", Role::Down),
    (".lora_B", Role::Up),
    (".lora_down", Role::Down),
    (".lora_up", Role::Up),
    (".lora.down", Role::Down),
    (".lora.up", Role::Up),
    (".lora_linear_layer.down", Role::Down),
    (".lora_linear_layer.up", Role::Up),
    (".dora_scale", Role::Magnitude),
    (".lora_magnitude_vector", Role::Magnitude),
    (".hada_w1_a", Role::HadaUp(Side::First)),
    (".hada_w1_b", Role::HadaDown(Side::First)),
    (".hada_w2_a", Role::HadaUp(Side::Second)),
    (".hada_w2_b", Role::HadaDown(Side::Second)),
    (".lokr_w1", Role::Lokr(Side::First)),
    (".lokr_w1_a", Role::LokrUp(Side::First)),
    (".lokr_w1_b", Role::LokrDown(Side::First)),
    (".lokr_w2", Role::Lokr(Side::Second)),
    (".lokr_w2_a", Role::LokrUp(Side::Second)),
    (".lokr_w2_b", Role::LokrDown(Side::Second)),
    (".oft_blocks", Role::RowBlocks),
    (".rescale", Role::RowLengths),
    (".oft_R", Role::ColumnBlocks),
];

/// Ends of keys that are differences of whole tensors, as ComfyUI reads them. Norms have names of
/// their own in some files.
const DIFFERENCES: [(&str, Whole); 4] = [
    (".diff", Whole::Weight),
    (".diff_b", Whole::Bias),
    (".w_norm", Whole::Weight),
    (".b_norm", Whole::Bias),
];

/// Parts of keys by which other methods are known.
const OTHERS: [(&str, &str); 10] = [
    (".set_weight", "a replacement of weights"),
    (".glora_", "GLoRA"),
    ("boft_", "BOFT"),
    (".lokr_t", "a LoKr with a Tucker core"),
    (".hada_t", "a LoHa with a Tucker core"),
    (".oft_diag", "an OFT of one vector"),
    (".oft_embedding_R", "an OFT of an embedding table"),
    (".lora_mid.", "a LoCon with a third factor"),
    (".lora_embedding_", "a LoRA of an embedding table"),
    ("vera_lambda_", "VeRA"),
];

pub(super) fn parse(key: &str) -> Key {
    let bare = after(key, "base_model_model").unwrap_or(key);
    if TEXT_ENCODERS.iter().any(|prefix| after(bare, prefix).is_some()) {
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
        if !rest.is_empty() && !rest.starts_with('.') {
            continue;
        }
        // PEFT puts the adapter's name before `weight`; a tensor of its own has neither.
        let last = rest.rsplit_once('.').map_or(rest, |(_adapter, last)| last);
        return match last {
            "weight" | "" => factor(module, role),
            "bias" => Key::Unsupported("a LoRA with biases"),
            _ => Key::Unknown,
        };
    }
    let difference = DIFFERENCES.iter().find_map(|(end, of)| Some((key.strip_suffix(end)?, *of)));
    match difference {
        Some((module, of)) => Key::Difference { module: strip(module).to_owned(), of },
        None => Key::Unknown,
    }
}

/// One spelling for names that differ in dots and underscores only.
pub fn flat(module: &str) -> String {
    let words: Vec<&str> = module.split(is_separator).filter(|word| !word.is_empty()).collect();
    words.join("_")
}

fn is_separator(c: char) -> bool {
    matches!(c, '.' | '_')
}

fn strip(module: &str) -> &str {
    let mut module = module.trim_start_matches(is_separator);
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| after(module, prefix)) {
        module = rest;
    }
    module.strip_suffix(".default").unwrap_or(module)
}

/// The rest of a name that begins with these words.
fn after<'a>(name: &'a str, words: &str) -> Option<&'a str> {
    let mut rest = name;
    for word in words.split('_') {
        let next = rest.strip_prefix(word)?;
        rest = next.trim_start_matches(is_separator);
        if rest.len() == next.len() {
            return None;
        }
    }
    Some(rest).filter(|rest| !rest.is_empty())
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
            ("module.layers.0.attention.to_q.lora_A.weight", to_q(Role::Down)),
            ("_orig_mod.transformer.layers.0.attention.to_q.lora_A.weight", to_q(Role::Down)),
            ("layers.0.attention.to_q.lora_A", to_q(Role::Down)),
            ("unet.layers.0.attention.to_q.lora.up.weight", to_q(Role::Up)),
            (
                "lora_unet__layers_0_attention_to_q.lora_down.weight",
                factor("layers_0_attention_to_q", Role::Down),
            ),
            (
                "lora_unet__layers__0__attention__to_q.lora_up.weight",
                factor("layers__0__attention__to_q", Role::Up),
            ),
            (
                "lora_transformer__layers_0_attention_to_q.alpha",
                factor("layers_0_attention_to_q", Role::Alpha),
            ),
            (
                "lycoris_layers_0_attention_to_q.lora_down.weight",
                factor("layers_0_attention_to_q", Role::Down),
            ),
            (
                "lora_unet_diffusion_model_layers_0_attention_to_q.lora_down.weight",
                factor("layers_0_attention_to_q", Role::Down),
            ),
            (
                "lora_unet_layers_0_attention_to_q.lora_down.weight",
                factor("layers_0_attention_to_q", Role::Down),
            ),
            (
                "lora_unet_layers_0_attention_qkv.alpha",
                factor("layers_0_attention_qkv", Role::Alpha),
            ),
            ("diffusion_model.layers.0.attention.to_q.dora_scale", to_q(Role::Magnitude)),
            (
                "base_model.model.layers.0.attention.to_q.lora_magnitude_vector.default.weight",
                to_q(Role::Magnitude),
            ),
            ("transformer.layers.0.attention.to_q.lora_magnitude_vector", to_q(Role::Magnitude)),
            (
                "lycoris_layers_0_attention_to_q.hada_w2_b",
                factor("layers_0_attention_to_q", Role::HadaDown(Side::Second)),
            ),
            ("diffusion_model.layers.0.attention.to_q.lokr_w1", to_q(Role::Lokr(Side::First))),
            (
                "lora_unet_layers_0_attention_to_q.oft_blocks",
                factor("layers_0_attention_to_q", Role::RowBlocks),
            ),
            ("base_model.model.layers.0.attention.to_q.oft_R.weight", to_q(Role::ColumnBlocks)),
            ("diffusion_model.layers.0.attention.to_q.lokr_w2_a", to_q(Role::LokrUp(Side::Second))),
        ] {
            assert_eq!(parse(key), expected, "{key}");
        }
    }

    #[test]
    fn differences_are_of_weights_or_biases() {
        for (key, module, of) in [
            (
                "diffusion_model.layers.0.attention_norm1.diff",
                "layers.0.attention_norm1",
                Whole::Weight,
            ),
            ("lora_unet__cap_embedder_1.diff_b", "cap_embedder_1", Whole::Bias),
            ("x_pad_token.diff", "x_pad_token", Whole::Weight),
            ("layers.0.ffn_norm1.w_norm", "layers.0.ffn_norm1", Whole::Weight),
        ] {
            assert_eq!(parse(key), Key::Difference { module: module.into(), of }, "{key}");
        }
    }

    #[test]
    fn spellings_are_one() {
        for name in
            ["layers.0.attention.to_q", "layers_0_attention_to_q", "layers__0__attention.to.q"]
        {
            assert_eq!(flat(name), "layers_0_attention_to_q");
        }
        assert_eq!(strip("transformer"), "transformer", "nothing would be left");
        assert_eq!(strip("transformers.x"), "transformers.x", "another word");
    }

    #[test]
    fn other_methods_are_named_and_strangers_told_apart() {
        for (key, kind) in [
            ("lora_unet_layers_0_attention_to_q.oft_diag", "an OFT of one vector"),
            ("lora_unet_layers_0_attention_to_q.lokr_t2", "a LoKr with a Tucker core"),
            ("lora_unet_layers_0_attention_to_q.hada_t1", "a LoHa with a Tucker core"),
            ("diffusion_model.layers.0.attention.to_q.set_weight", "a replacement of weights"),
            ("transformer.layers.0.attention.to_q.lora_B.bias", "a LoRA with biases"),
        ] {
            assert_eq!(parse(key), Key::Unsupported(kind), "{key}");
        }
        for key in [
            "text_encoder.layers.0.self_attn.q_proj.lora_A.weight",
            "lora_te_layers_0_mlp.alpha",
            "lora_te__layers_0_mlp.lora_down.weight",
            "lora_te1_text_model_encoder_layers_0_mlp.lokr_w1",
            "text_encoders.qwen3_4b.transformer.model.layers.0.mlp.lora_A.weight",
            "text_encoder.layers.0.mlp.diff",
            "step",
            "layers.0.attention.to_q.weight",
        ] {
            assert_eq!(parse(key), Key::Unknown, "{key}");
        }
    }
}
