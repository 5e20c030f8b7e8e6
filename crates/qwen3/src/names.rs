//! The text encoder's names: bare, under `model.`, and inside files with more than one model.

use llm_dit_weights::{Part, names::own};

/// What programs put before the text encoder's own names in such a file.
const PREFIXES: [&str; 3] =
    ["text_encoders.qwen3_4b.transformer.", "text_encoders.qwen3_4b.", "text_encoder."];

/// Before everything but the language-model head, in transformers' causal models.
const MODEL: &str = "model.";

/// The bare names for the tensors of a checkpoint.
pub fn naming(names: &[&str]) -> Vec<Vec<Part>> {
    let part = |name: &str| vec![Part::whole(name.strip_prefix(MODEL).unwrap_or(name))];
    let own = own(names, &PREFIXES);
    own.into_iter().map(|name| name.map(part).unwrap_or_default()).collect()
}

/// True for tensors that no encoding reads: the language-model head.
pub fn is_unused(name: &str) -> bool {
    name == "lm_head.weight"
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
            "text_encoder.model.norm.weight",
        ] {
            assert_eq!(naming(&[name]), [[Part::whole("norm.weight")]], "{name}");
        }
    }
}
