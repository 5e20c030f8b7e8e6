//! Flags that several commands share.

mod chat;
mod gateway;
mod given;
mod output;

use std::path::{Path, PathBuf};

use clap::Args;
use diffusion_service::{BatchArgs, LoraArgs, engine::LoraChoice};
use llm_dit_heylook::args::ApiArgs;
use llm_dit_params::{GenerateOptions, generation_fields};
use llm_dit_proto::DType;
use llm_dit_qwen3::EncoderOptions;
use llm_dit_recipe::Settings;
use llm_dit_weights::{DeviceChoice, args::OffloadArgs, encoder_folder};
use llm_dit_z_image::{DiffusionOptions, vae::Tiling};

use crate::error::CliError;

pub use chat::{ChatArgs, DEFAULT_HIDDEN_LAYER, DEFAULT_MAX_TOKENS, LibraryArgs, PartArgs};
pub use gateway::GatewayArgs;
pub use given::Given;
pub use output::{OutputArgs, PreviewWhen};

/// Which model to load, on which devices and in which dtypes.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// Model folder in the diffusers layout, with model_index.json. If the three paths below
    /// provide all weights, a folder with tokenizer/ is enough [default: the demo model]
    #[arg(long, value_name = "DIR")]
    pub model_path: Option<PathBuf>,
    /// Transformer weights to use instead of those in --model-path: a diffusers folder, or a
    /// safetensors file of ComfyUI or of the model's authors
    #[arg(long, value_name = "FILE")]
    pub dit_path: Option<PathBuf>,
    /// Text encoder weights, likewise. --model-path still provides the tokenizer
    #[arg(long, value_name = "FILE")]
    pub text_encoder_path: Option<PathBuf>,
    /// VAE weights, likewise
    #[arg(long, value_name = "FILE")]
    pub vae_path: Option<PathBuf>,
    /// Device: auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Device of the text encoder [default: --device]
    #[arg(long, value_name = "DEVICE")]
    pub text_encoder_device: Option<DeviceChoice>,
    /// Device of the transformer [default: --device]
    #[arg(long, value_name = "DEVICE")]
    pub dit_device: Option<DeviceChoice>,
    /// Device of the VAE [default: the transformer's]
    #[arg(long, value_name = "DEVICE")]
    pub vae_device: Option<DeviceChoice>,
    /// Compute dtype: f32, bf16 or f16 [default: f32 on the CPU, bf16 elsewhere]
    #[arg(long)]
    pub dtype: Option<DType>,
    /// Compute dtype of the text encoder [default: --dtype]
    #[arg(long, value_name = "DTYPE")]
    pub text_encoder_dtype: Option<DType>,
    /// Compute dtype of the VAE [default: bf16 on CUDA, f32 elsewhere]
    #[arg(long, value_name = "DTYPE")]
    pub vae_dtype: Option<DType>,
    /// When to decode and encode images in overlapping VAE tiles: auto (if the VAE would need more
    /// than 6 GiB), on (if the image is larger than one tile) or off
    #[arg(long, value_name = "WHEN", default_value_t = Tiling::Auto)]
    pub vae_tiling: Tiling,
    #[command(flatten)]
    pub offload: OffloadArgs,
}

/// Headings in the help of `generate`.
const PICTURE: &str = "Image";
const TENSORS: &str = "Tensors (safetensors files)";

macro_rules! image_args {
    (generation {
        $($(#[doc = $doc:literal])* $name:ident: $type:ty,
            serde [$($serde:tt)*], flag [$($flag:tt)*], schema [$($schema:tt)*];)*
    }) => {
        /// What is asked of an image in numbers and names.
        #[derive(Clone, Debug, Default, Args)]
        pub struct ImageArgs {
            $($(#[doc = $doc])* #[arg(long, help_heading = PICTURE, $($flag)*)]
            pub $name: Option<$type>,)*
        }

        impl ImageArgs {
            fn options(&self) -> GenerateOptions {
                GenerateOptions { $($name: self.$name.clone()),* }
            }
        }
    };
}

generation_fields!(image_args! {});

/// `llm-dit generate`
#[derive(Clone, Debug, Args)]
#[command(after_help = GENERATE_EXAMPLES)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub given: Given,
    /// The prompt. Optional with --load-embeddings, --from or --prompts
    pub prompt: Option<String>,
    #[command(flatten, next_help_heading = "Files")]
    pub files: OutputArgs,
    /// Name of the model, which must be one that is there; a gateway's are at /v1/models
    #[arg(id = "model", long, value_name = "NAME", help_heading = "Model")]
    pub model_name: Option<String>,
    #[command(flatten, next_help_heading = "Model")]
    pub model: ModelArgs,
    #[command(flatten)]
    pub batch: BatchArgs,
    #[command(flatten)]
    pub image_options: ImageArgs,
    /// Prompt to guide away from; has no effect without guidance
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, help_heading = PICTURE)]
    pub negative_prompt: String,
    #[command(flatten, next_help_heading = "Chat template")]
    pub chat: ChatArgs,
    #[command(flatten, next_help_heading = "LoRA")]
    pub lora: LoraArgs,
    #[command(flatten, next_help_heading = "Remote text encoder")]
    pub api: ApiArgs,
    #[command(flatten, next_help_heading = "Gateway")]
    pub gateway: GatewayArgs,
    /// Read embeddings instead of encoding a prompt: safetensors with `embeddings` (tokens, width)
    /// and, for guidance, `negative_embeddings`
    #[arg(long, value_name = "FILE", help_heading = TENSORS)]
    pub load_embeddings: Option<PathBuf>,
    /// Also write the embeddings to this file
    #[arg(long, value_name = "FILE", help_heading = TENSORS)]
    pub save_embeddings: Option<PathBuf>,
    /// Init image for image-to-image: PNG, JPEG or WebP
    #[arg(long, value_name = "FILE", help_heading = PICTURE)]
    pub image: Option<PathBuf>,
    /// Read the initial noise instead of deriving it from the seed: safetensors with `latents` (16,
    /// H/8, W/8)
    #[arg(long, value_name = "FILE", help_heading = TENSORS)]
    pub latents: Option<PathBuf>,
    /// Also write the final latents to this file
    #[arg(long, value_name = "FILE", help_heading = TENSORS)]
    pub output_latents: Option<PathBuf>,
    /// Print errors only
    #[arg(short, long)]
    pub quiet: bool,
}

const GENERATE_EXAMPLES: &str = "\
Examples:
  llm-dit generate \"a red apple on a blue background\"
  llm-dit generate \"a wizard\" --seed 42 --width 384 --height 256 --output wizard.png
  llm-dit generate \"a peacock\" --guidance-scale 1.5 --negative-prompt \"blurry\"
  llm-dit generate \"a rocket\" --gateway http://127.0.0.1:7860
  llm-dit generate \"a watercolour\" --image photo.jpg --strength 0.7
  llm-dit generate \"a fox\" --num-images 4 --output \"fox-{seed}.webp\"
  llm-dit generate --prompts prompts.txt --output-dir pictures
  llm-dit generate --from image.png --steps 20

Encode on one machine, generate on another:
  llm-dit encode \"a rocket\" --output rocket.safetensors
  llm-dit generate --load-embeddings rocket.safetensors";

/// `llm-dit encode`
#[derive(Clone, Debug, Args)]
pub struct EncodeArgs {
    /// Prompts. The tensors are named `embeddings`, `embeddings_1`, `embeddings_2`, ...
    #[arg(required = true)]
    pub prompts: Vec<String>,
    /// Output file for the embeddings (safetensors)
    #[arg(short, long, value_name = "FILE", default_value = "embeddings.safetensors")]
    pub output: PathBuf,
    #[command(flatten, next_help_heading = "Model")]
    pub model: ModelArgs,
    #[command(flatten, next_help_heading = "Chat template")]
    pub chat: ChatArgs,
    #[command(flatten, next_help_heading = "Remote text encoder")]
    pub api: ApiArgs,
    /// Print errors only
    #[arg(short, long)]
    pub quiet: bool,
}

impl ModelArgs {
    /// The model's folder.
    pub fn folder(&self) -> Result<PathBuf, CliError> {
        encoder_folder(self.model_path.as_deref(), self.text_encoder_path.as_deref())
            .map_err(CliError::failed)
    }

    /// Options of the model folder's text encoder.
    pub fn encoder(&self, folder: &Path) -> EncoderOptions {
        EncoderOptions {
            model_path: folder.to_owned(),
            text_encoder_path: self.text_encoder_path.clone(),
            device: self.text_encoder_device.unwrap_or(self.device),
            dtype: self.text_encoder_dtype.or(self.dtype),
            residency: self.offload.residency(),
        }
    }

    /// Options of the transformer and the VAE.
    pub fn diffusion(&self, folder: &Path, loras: Vec<LoraChoice>) -> DiffusionOptions {
        DiffusionOptions {
            model_path: folder.to_owned(),
            dit_path: self.dit_path.clone(),
            vae_path: self.vae_path.clone(),
            device: self.dit_device.unwrap_or(self.device),
            vae_device: self.vae_device,
            dtype: self.dtype,
            vae_dtype: self.vae_dtype,
            vae_tiling: self.vae_tiling,
            residency: self.offload.residency(),
            loras,
        }
    }
}

impl GenerateArgs {
    /// The settings of one image, defaults included.
    pub fn settings(&self) -> Settings {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned());
        let parts = &self.chat.parts;
        Settings {
            prompt: self.prompt.clone(),
            negative_prompt: Some(self.negative_prompt.clone()),
            template: parts.template.clone(),
            system_prompt: parts.system_prompt.clone(),
            thinking_content: parts.thinking_content.clone(),
            assistant_content: parts.assistant_content.clone(),
            enable_thinking: parts.enable_thinking,
            force_think_block: Some(parts.force_think_block),
            strip_quotes: Some(parts.strip_quotes),
            raw_special_tokens: Some(parts.raw_special_tokens),
            hidden_layer: Some(self.chat.hidden_layer),
            max_tokens: Some(self.chat.max_tokens),
            image: path(&self.image),
            load_embeddings: path(&self.load_embeddings),
            latents: path(&self.latents),
            ..self.image_options.options().into()
        }
    }
}
