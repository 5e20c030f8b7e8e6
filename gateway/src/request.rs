//! The body of `POST /api/generate`.

use llm_dit_chat::{Chat, ChatOptions};
use llm_dit_params::{GenerateOptions, GenerateParams, Prompt};
use llm_dit_proto::v1;
use llm_dit_templates::Library;
use serde::Deserialize;

use crate::error::Error;

/// Everything but the prompt is optional and takes the model's default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GenerateBody {
    prompt: String,
    #[serde(default)]
    negative_prompt: Option<String>,
    #[serde(default)]
    width: Option<u32>,
    #[serde(default)]
    height: Option<u32>,
    #[serde(default, alias = "num_inference_steps")]
    steps: Option<u32>,
    #[serde(default)]
    seed: Option<u64>,
    #[serde(default)]
    guidance_scale: Option<f32>,
    #[serde(default)]
    cfg_normalization: Option<f32>,
    #[serde(default)]
    cfg_truncation: Option<f32>,
    #[serde(default)]
    shift: Option<f64>,
    #[serde(default)]
    scheduler: Option<String>,
    #[serde(default)]
    template: Option<String>,
    #[serde(default)]
    system_prompt: Option<String>,
    #[serde(default)]
    thinking_content: Option<String>,
    #[serde(default)]
    assistant_content: Option<String>,
    #[serde(default)]
    force_think_block: Option<bool>,
    #[serde(default)]
    enable_thinking: Option<bool>,
    #[serde(default)]
    strip_quotes: Option<bool>,
    #[serde(default)]
    raw_special_tokens: Option<bool>,
}

/// A body whose texts have been checked.
#[derive(Debug)]
pub(crate) struct GenerateRequest {
    pub chat: Chat,
    pub negative_prompt: String,
    pub options: GenerateOptions,
}

impl GenerateBody {
    pub const FIELDS: [&str; 20] = [
        "prompt",
        "negative_prompt",
        "width",
        "height",
        "steps",
        "num_inference_steps",
        "seed",
        "guidance_scale",
        "cfg_normalization",
        "cfg_truncation",
        "shift",
        "scheduler",
        "template",
        "system_prompt",
        "thinking_content",
        "assistant_content",
        "force_think_block",
        "enable_thinking",
        "strip_quotes",
        "raw_special_tokens",
    ];

    pub fn check(self, templates: &Library) -> Result<GenerateRequest, Error> {
        let mut prompt = Prompt::parse(self.prompt)?;
        if self.strip_quotes.unwrap_or(false) {
            prompt = prompt.without_quotes()?;
        }
        let negative = Prompt::parse_negative(self.negative_prompt.unwrap_or_default())?;
        let mut around = ChatOptions {
            system: self.system_prompt,
            thinking: self.thinking_content,
            assistant: self.assistant_content,
            enable_thinking: self.enable_thinking,
            force_think_block: self.force_think_block.unwrap_or(false),
            raw_special_tokens: self.raw_special_tokens.unwrap_or(false),
        };
        if let Some(name) = self.template {
            around = templates.get(&name)?.fill(around);
        }
        Ok(GenerateRequest {
            chat: around.chat(prompt.into_string()),
            negative_prompt: negative.into_string(),
            options: GenerateOptions {
                width: self.width,
                height: self.height,
                steps: self.steps,
                seed: self.seed,
                guidance_scale: self.guidance_scale,
                cfg_normalization: self.cfg_normalization,
                cfg_truncation: self.cfg_truncation,
                shift: self.shift,
                scheduler: self.scheduler.as_deref().map(str::parse).transpose()?,
                strength: None,
            },
        })
    }
}

/// Checked parameters for the wire.
pub(crate) fn params(params: &GenerateParams) -> v1::GenerateParams {
    v1::GenerateParams {
        width: Some(params.width),
        height: Some(params.height),
        steps: Some(params.steps),
        seed: Some(params.seed),
        guidance_scale: Some(params.guidance_scale),
        cfg_normalization: params.cfg_normalization,
        cfg_truncation: params.cfg_truncation,
        shift: Some(params.shift),
        scheduler: Some(params.scheduler.to_string()),
        strength: None,
        preview: None,
        prompt: None,
        negative_prompt: None,
        return_latents: false,
    }
}
