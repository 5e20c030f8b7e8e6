//! The body of `POST /api/generate`.

use llm_dit_params::{GenerateOptions, GenerateParams, Prompt};
use llm_dit_proto::v1;
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
    system_prompt: Option<String>,
    #[serde(default)]
    thinking_content: Option<String>,
    #[serde(default)]
    assistant_content: Option<String>,
    #[serde(default)]
    force_think_block: Option<bool>,
    /// What the Python program called `force_think_block`.
    #[serde(default)]
    enable_thinking: Option<bool>,
}

/// A body whose texts have been checked.
#[derive(Debug)]
pub(crate) struct GenerateRequest {
    pub chat: v1::Chat,
    pub negative_prompt: String,
    pub options: GenerateOptions,
}

impl GenerateBody {
    pub const FIELDS: [&str; 16] = [
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
        "system_prompt",
        "thinking_content",
        "assistant_content",
        "force_think_block",
        "enable_thinking",
    ];

    pub fn check(self) -> Result<GenerateRequest, Error> {
        let prompt = Prompt::parse(self.prompt)?;
        let negative = Prompt::parse_negative(self.negative_prompt.unwrap_or_default())?;
        let wants_block = |flag: Option<bool>| flag.unwrap_or(false);
        Ok(GenerateRequest {
            chat: v1::Chat {
                user: prompt.into_string(),
                system: self.system_prompt.unwrap_or_default(),
                thinking: self.thinking_content.unwrap_or_default(),
                assistant: self.assistant_content.unwrap_or_default(),
                force_think_block: wants_block(self.force_think_block)
                    || wants_block(self.enable_thinking),
            },
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
        prompt: None,
        negative_prompt: None,
        return_latents: false,
    }
}
