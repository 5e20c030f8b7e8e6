//! What a gateway is asked.

use llm_dit_recipe::Settings;

/// Settings that are not the gateway's to know: they name files of this machine, or are in the chat
/// already.
const LOCAL: [&str; 9] = [
    "template",
    "force_think_block",
    "strip_quotes",
    "hidden_layer",
    "max_tokens",
    "image",
    "strength",
    "load_embeddings",
    "latents",
];

/// Body of `POST /api/generate`; what is unset is left to the model.
pub(super) fn body(settings: &Settings) -> Settings {
    settings.clone().only(|name| !LOCAL.contains(&name)).without_blanks()
}
