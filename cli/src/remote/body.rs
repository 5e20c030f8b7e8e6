//! What a gateway is asked.

use llm_dit_recipe::Settings;
use serde::Serialize;

/// Body of `POST /api/generate`; what is unset is left to the model.
#[derive(Serialize)]
pub(super) struct Body<'a> {
    prompt: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    negative_prompt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guidance_scale: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cfg_normalization: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cfg_truncation: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shift: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduler: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    system_prompt: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    thinking_content: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    assistant_content: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    enable_thinking: Option<bool>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    raw_special_tokens: bool,
}

impl<'a> From<&'a Settings> for Body<'a> {
    fn from(settings: &'a Settings) -> Self {
        Self {
            prompt: text(&settings.prompt),
            negative_prompt: text(&settings.negative_prompt),
            width: settings.width,
            height: settings.height,
            steps: settings.steps,
            seed: settings.seed,
            guidance_scale: settings.guidance_scale,
            cfg_normalization: settings.cfg_normalization,
            cfg_truncation: settings.cfg_truncation,
            shift: settings.shift,
            scheduler: settings.scheduler.as_deref(),
            system_prompt: text(&settings.system_prompt),
            thinking_content: text(&settings.thinking_content),
            assistant_content: text(&settings.assistant_content),
            enable_thinking: settings.enable_thinking,
            raw_special_tokens: settings.raw_special_tokens.unwrap_or_default(),
        }
    }
}

fn text(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}
