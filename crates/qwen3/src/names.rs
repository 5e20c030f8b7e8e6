//! The text encoder's names: bare, under `model.`, and inside files with more than one model.

use llm_dit_weights::{Part, names::own};

/// What programs put before the text encoder's own names in such a file. ComfyUI names the encoder
/// behind its prefix, and its wrapper behind that.
const PREFIX: &str = "text_encoder.";
const COMFY: &str = "text_encoders.";
const WRAPPER: &str = "transformer.";

/// Before everything but the language-model head, in transformers' causal models.
const MODEL: &str = "model.";

/// The bare names for the tensors of a checkpoint.
pub fn naming(names: &[&str]) -> Vec<Vec<Part>> {
    let part = |name: &str| vec![Part::whole(name.strip_prefix(MODEL).unwrap_or(name))];
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
