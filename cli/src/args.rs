//! Flags that commands share.

use std::path::PathBuf;

use clap::Args;
use llm_dit_chat::Chat;
use llm_dit_params::{GenerateOptions, Prompt};
use llm_dit_proto::DType;
use llm_dit_weights::DeviceChoice;

use crate::error::CliError;

/// The second to last, as Z-Image was trained with.
pub const DEFAULT_HIDDEN_LAYER: i32 = -2;
pub const DEFAULT_MAX_TOKENS: usize = 512;

/// Which model, where and how.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// Diffusers folder with model_index.json [default: the demo model]
    #[arg(long, value_name = "DIR")]
    pub model_path: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// What to compute in: f32, bf16 or f16 [default: f32 on the CPU, else bf16]
    #[arg(long)]
    pub dtype: Option<DType>,
}

/// The other parts of the conversation that the prompt is put into.
#[derive(Clone, Debug, Args)]
pub struct ChatArgs {
    /// System prompt: how to draw
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub system_prompt: String,
    /// Content of the think block
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub thinking_content: String,
    /// Beginning of the assistant's answer
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub assistant_content: String,
    /// Write a think block even when it is empty
    #[arg(long, alias = "enable-thinking")]
    pub force_think_block: bool,
    /// Which of the text encoder's hidden states to use, as transformers counts them
    #[arg(long, value_name = "INDEX", allow_hyphen_values = true, default_value_t = DEFAULT_HIDDEN_LAYER)]
    pub hidden_layer: i32,
    /// Longer prompts are cut, and it is said so
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_TOKENS)]
    pub max_tokens: usize,
}

/// `llm-dit generate`
#[derive(Clone, Debug, Args)]
#[command(after_help = GENERATE_EXAMPLES)]
pub struct GenerateArgs {
    /// What to draw; not needed with --load-embeddings
    pub prompt: Option<String>,
    /// Where to write the picture (PNG)
    #[arg(short, long, value_name = "FILE", default_value = "image.png")]
    pub output: PathBuf,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Names the initial noise, as in PyTorch on the CPU [default: random, and reported]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Pixels, a multiple of 16 [default: the model's]
    #[arg(long)]
    pub width: Option<u32>,
    /// Pixels, a multiple of 16 [default: the model's]
    #[arg(long)]
    pub height: Option<u32>,
    /// Forward passes of the transformer [default: the model's]
    #[arg(long, alias = "num-inference-steps")]
    pub steps: Option<u32>,
    /// Classifier-free guidance, pred + G * (pred - negative); 0 is off [default: the model's]
    #[arg(long, value_name = "G")]
    pub guidance_scale: Option<f32>,
    /// Clamp the guided prediction's norm to this multiple of the unguided one's
    #[arg(long, value_name = "K")]
    pub cfg_normalization: Option<f32>,
    /// No guidance once 1 - sigma exceeds this
    #[arg(long, value_name = "T")]
    pub cfg_truncation: Option<f32>,
    /// Time shift of the sigma grid [default: the model's]
    #[arg(long)]
    pub shift: Option<f64>,
    /// What guidance leads away from
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub negative_prompt: String,
    #[command(flatten)]
    pub chat: ChatArgs,
    /// Ask a gateway instead of computing here, such as http://127.0.0.1:7860
    #[arg(long, value_name = "URL", env = "LLM_DIT_GATEWAY")]
    pub gateway: Option<String>,
    /// Use these embeddings instead of a prompt: safetensors with `embeddings` (tokens, width) and,
    /// for guidance, `negative_embeddings`
    #[arg(long, value_name = "FILE")]
    pub load_embeddings: Option<PathBuf>,
    /// Also write the embeddings
    #[arg(long, value_name = "FILE")]
    pub save_embeddings: Option<PathBuf>,
    /// Start from this noise instead of the seed's: safetensors with `latents` (16, H/8, W/8)
    #[arg(long, value_name = "FILE")]
    pub latents: Option<PathBuf>,
    /// Also write the final latents
    #[arg(long, value_name = "FILE")]
    pub output_latents: Option<PathBuf>,
    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

const GENERATE_EXAMPLES: &str = "\
Examples:
  llm-dit generate \"a red apple on a blue background\"
  llm-dit generate \"a wizard\" --seed 42 --width 384 --height 256 --output wizard.png
  llm-dit generate \"a peacock\" --guidance-scale 1.5 --negative-prompt \"blurry\"
  llm-dit generate \"a rocket\" --gateway http://127.0.0.1:7860

Encode on one machine, draw on another:
  llm-dit encode \"a rocket\" --output rocket.safetensors
  llm-dit generate --load-embeddings rocket.safetensors";

/// `llm-dit encode`
#[derive(Clone, Debug, Args)]
pub struct EncodeArgs {
    /// What to draw; several prompts become `embeddings`, `embeddings_1`, `embeddings_2`, ...
    #[arg(required = true)]
    pub prompts: Vec<String>,
    /// Where to write the embeddings (safetensors)
    #[arg(short, long, value_name = "FILE", default_value = "embeddings.safetensors")]
    pub output: PathBuf,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub chat: ChatArgs,
    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

impl ChatArgs {
    /// The conversation around a prompt.
    pub fn chat(&self, prompt: Prompt) -> Chat {
        Chat {
            user: prompt.into_string(),
            system: self.system_prompt.clone(),
            thinking: self.thinking_content.clone(),
            assistant: self.assistant_content.clone(),
            force_think_block: self.force_think_block,
        }
    }
}

impl GenerateArgs {
    pub fn options(&self) -> GenerateOptions {
        GenerateOptions {
            width: self.width,
            height: self.height,
            steps: self.steps,
            seed: self.seed,
            guidance_scale: self.guidance_scale,
            cfg_normalization: self.cfg_normalization,
            cfg_truncation: self.cfg_truncation,
            shift: self.shift,
        }
    }

    /// The prompt, if one is needed.
    pub fn prompt(&self) -> Result<Option<Prompt>, CliError> {
        match (&self.prompt, &self.load_embeddings) {
            (Some(_), Some(_)) => {
                Err(CliError::Usage("give a prompt or --load-embeddings, not both".into()))
            }
            (None, Some(_)) => Ok(None),
            (Some(prompt), None) => Prompt::parse(prompt).map(Some).map_err(CliError::usage),
            (None, None) => Err(CliError::Usage(
                "say what to draw: llm-dit generate \"a red apple\" (or give --load-embeddings)"
                    .into(),
            )),
        }
    }
}
