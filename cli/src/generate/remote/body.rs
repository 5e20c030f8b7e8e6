//! The body of a gateway's request.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use llm_dit_recipe::{Lora, Settings};
use serde::Serialize;

use crate::{
    args::{DEFAULT_HIDDEN_LAYER, DEFAULT_MAX_TOKENS},
    generate::{item::Item, origin::SourceFile},
};

/// Settings that are not the gateway's to know: they name files of this machine, or are in the chat
/// already.
const LOCAL: [&str; 8] = [
    "template",
    "force_think_block",
    "strip_quotes",
    "image",
    "mask",
    "outpaint",
    "load_embeddings",
    "latents",
];

/// Body of `POST /api/generate`; what is unset is left to the model.
#[derive(Serialize)]
pub(super) struct Body<'a> {
    #[serde(flatten)]
    settings: Settings,
    /// The init image's file, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// Its mask, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    mask: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loras: Option<&'a [Lora]>,
}

impl<'a> Body<'a> {
    /// The body of a request, without settings that only this process can use.
    pub fn new(item: &Item, model: Option<&'a str>, loras: Option<&'a [Lora]>) -> Self {
        let text =
            |file: &Option<SourceFile>| file.as_ref().map(|file| STANDARD.encode(&file.bytes));
        let (image, mask) = (text(&item.image), text(&item.mask));
        let mut settings =
            item.settings.clone().only(|name| !LOCAL.contains(&name)).without_blanks();
        // Some encoders take neither, so what is usual is not asked for.
        settings.hidden_layer.take_if(|layer| *layer == DEFAULT_HIDDEN_LAYER);
        settings.max_tokens.take_if(|tokens| *tokens == DEFAULT_MAX_TOKENS);
        Self { settings, image, mask, model, loras }
    }
}
