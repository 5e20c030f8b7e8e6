//! The text encoder's names: bare, under `model.`, inside files with more than one model, and as GGUF
//! files have them.

use llm_dit_weights::{Part, names::own};

/// What programs put before the text encoder's own names in such a file. ComfyUI names the encoder
/// behind its prefix, and its wrapper behind that.
const PREFIX: &str = "text_encoder.";
const COMFY: &str = "text_encoders.";
const WRAPPER: &str = "transformer.";

/// Before everything but the language-model head, in transformers' causal models.
const MODEL: &str = "model.";

/// Before a layer's number and its tensors in GGUF files.
const GGUF_LAYER: &str = "blk.";

/// Modules at the top, as GGUF files and transformers call them.
const GGUF_TOP: [(&str, &str); 3] =
    [("token_embd", "embed_tokens"), ("output_norm", "norm"), ("output", "lm_head")];

/// Modules of a layer, likewise.
const GGUF_LAYERS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The bare name of a tensor, if `name` is a GGUF file's.
fn of_gguf(name: &str) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    let find = |table: &[(&str, &'static str)], module: &str| {
        table.iter().find(|(theirs, _)| *theirs == module).map(|(_, ours)| *ours)
    };
    match module.strip_prefix(GGUF_LAYER) {
        None => Some(format!("{}.{kind}", find(&GGUF_TOP, module)?)),
        Some(rest) => {
            let (layer, module) = rest.split_once('.')?;
            Some(format!("layers.{layer}.{}.{kind}", find(&GGUF_LAYERS, module)?))
        }
    }
}

/// The bare names for the tensors of a checkpoint.
pub fn naming(names: &[&str]) -> Vec<Vec<Part>> {
    let part = |name: &str| {
        let bare = || name.strip_prefix(MODEL).unwrap_or(name).to_owned();
        vec![Part::whole(of_gguf(name).unwrap_or_else(bare))]
    };
    let comfy = names.iter().find_map(|name| comfy_prefix(name)).unwrap_or(COMFY);
    let own = own(names, &[&format!("{comfy}{WRAPPER}"), comfy, PREFIX]);
    own.into_iter().map(|name| name.map(part).unwrap_or_default()).collect()
}

/// `text_encoders.qwen3_4b.`, however the encoder is written, if a name begins so.
fn comfy_prefix(name: &str) -> Option<&str> {
    let (encoder, rest) = name.strip_prefix(COMFY)?.split_once('.')?;
    let is_ours = encoder.to_lowercase().replace('_', "").contains("qwen3");
    is_ours.then(|| &name[..name.len() - rest.len()])
}

/// True for tensors that no encoding reads: the language-model head, and a mark that ComfyUI leaves.
pub fn is_unused(name: &str) -> bool {
    name == "lm_head.weight" || name == "logit_scale"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_gguf_files_become_bare_names() {
        for (theirs, ours) in [
            ("token_embd.weight", "embed_tokens.weight"),
            ("output_norm.weight", "norm.weight"),
            ("blk.17.attn_q_norm.weight", "layers.17.self_attn.q_norm.weight"),
            ("blk.0.attn_output.weight", "layers.0.self_attn.o_proj.weight"),
            ("blk.35.ffn_norm.weight", "layers.35.post_attention_layernorm.weight"),
            ("blk.3.ffn_down.weight", "layers.3.mlp.down_proj.weight"),
        ] {
            assert_eq!(naming(&[theirs]), [[Part::whole(ours)]], "{theirs}");
        }
        let head = &naming(&["output.weight"])[0][0].name;
        assert!(is_unused(head), "{head}");
        for unknown in ["blk.0.attn_qkv.weight", "blk.0", "output"] {
            assert_eq!(naming(&[unknown]), [[Part::whole(unknown)]]);
        }
    }

    #[test]
    fn every_spelling_becomes_the_bare_name() {
        for name in [
            "norm.weight",
            "model.norm.weight",
            "text_encoders.qwen3_4b.transformer.model.norm.weight",
            "text_encoders.qwen3_4b.model.norm.weight",
            "text_encoders.qwen_3_4b.transformer.model.norm.weight",
            "text_encoder.model.norm.weight",
        ] {
            assert_eq!(naming(&[name]), [[Part::whole("norm.weight")]], "{name}");
            let others = [name, "x_embedder.weight", "vae.decoder.conv_in.weight"];
            let ours = &naming(&others)[0];
            assert_eq!(ours[..], [Part::whole("norm.weight")], "{name} beside others");
            assert!(naming(&others)[2].is_empty(), "{name} beside others");
        }
    }
}
