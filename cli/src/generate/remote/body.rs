//! The body of a gateway's request.

use llm_dit_recipe::{Lora, Settings};
use serde::Serialize;

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
#[derive(Serialize)]
pub(super) struct Body<'a> {
    #[serde(flatten)]
    settings: Settings,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loras: Option<&'a [Lora]>,
}

impl<'a> Body<'a> {
    /// The body of a request, without settings that only this process can use.
    pub fn new(settings: &Settings, model: Option<&'a str>, loras: Option<&'a [Lora]>) -> Self {
        let settings = settings.clone().only(|name| !LOCAL.contains(&name)).without_blanks();
        Self { settings, model, loras }
    }
}
