//! Flags that several commands share.

mod chat;
mod gateway;
mod given;
mod margins;
#[cfg(feature = "local")]
pub mod model;
mod output;

use std::path::PathBuf;

use clap::Args;
use diffusion_service::LoraArgs;
use llm_dit_comfyui::Part;
use llm_dit_heylook::args::ApiArgs;
use llm_dit_params::{GenerateOptions, generation_fields};
use llm_dit_recipe::Settings;

use crate::{
    error::CliError,
    local::{BatchArgs, ModelArgs},
};

pub use chat::{
    ChatArgs, DEFAULT_HIDDEN_LAYER, DEFAULT_MAX_TOKENS, LibraryArgs, PartArgs, TruncationArgs,
};
pub use gateway::GatewayArgs;
pub use given::Given;
pub use margins::Margins;
pub use output::{OutputArgs, PreviewWhen};

/// Headings in the help of `generate`.
const FILES: &str = "Files";
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
#[command(after_long_help = GENERATE_EXAMPLES)]
pub struct GenerateCommand {
    #[command(flatten)]
    pub args: GenerateArgs,
    /// Print a line of JSON on stdout for each image: its path, seed, size, times and more
    #[arg(long, help_heading = FILES)]
    pub json: bool,
}

/// What is asked of images, and where from.
#[derive(Clone, Debug, Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub given: Given,
    /// The prompt; - reads it from stdin, as does a pipe without a prompt. Optional with
    /// --load-embeddings, --from or --prompts
    pub prompt: Option<String>,
    #[command(flatten, next_help_heading = FILES)]
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
    #[arg(short, long, value_name = "FILE", help_heading = PICTURE)]
    pub image: Option<PathBuf>,
    /// Mask of the init image: white is regenerated, black is kept pixel by pixel. Any size; it is
    /// stretched to the image
    #[arg(long, value_name = "FILE", help_heading = PICTURE)]
    pub mask: Option<PathBuf>,
    /// Enlarge the init image by so many pixels on each side, as in left=64,right=64,top=0,bottom=32,
    /// and generate the new part. Takes the place of --mask
    #[arg(long, value_name = "SIDES", help_heading = PICTURE)]
    pub outpaint: Option<Margins>,
    /// Read the initial noise instead of deriving it from the seed: safetensors with `latents` (16,
    /// H/8, W/8)
    #[arg(long, value_name = "FILE", help_heading = TENSORS)]
    pub latents: Option<PathBuf>,
    /// Also write the final latents to this file
    #[arg(long, value_name = "FILE", help_heading = TENSORS)]
    pub output_latents: Option<PathBuf>,
    /// Print no progress: only errors, and for each image its name and its seed
    #[arg(short, long, help_heading = FILES)]
    pub quiet: bool,
}

const GENERATE_EXAMPLES: &str = "\
Examples:
  llm-dit generate \"a red apple on a blue background\"
  llm-dit generate \"a wizard\" --seed 42 --width 384 --height 256 --output wizard.png
  llm-dit generate \"a peacock\" --guidance-scale 1.5 --negative-prompt \"blurry\"
  llm-dit generate \"a rocket\" --gateway http://127.0.0.1:7860
  llm-dit generate \"a watercolour\" --image photo.jpg --strength 0.7
  llm-dit generate \"a red door\" --image house.png --mask door.png
  llm-dit generate \"a fox\" --num-images 4 --output \"fox-{seed}.webp\"
  llm-dit generate --prompts prompts.txt --output-dir pictures
  llm-dit generate --from image.png --steps 20

Encode on one machine, generate on another:
  llm-dit encode \"a rocket\" --output rocket.safetensors
  llm-dit generate --load-embeddings rocket.safetensors";

/// `llm-dit encode`
#[derive(Clone, Debug, Args)]
pub struct EncodeArgs {
    /// Prompts; - reads one from stdin, as does a pipe without a prompt. The tensors are named
    /// `embeddings`, `embeddings_1`, `embeddings_2`, ...
    pub prompts: Vec<String>,
    /// Output file for the embeddings (safetensors); - is stdout [default: the next free name of
    /// embeddings.safetensors, embeddings-2.safetensors, ...]
    // The key generation.output is about images, so this is another id.
    #[arg(id = "encode_output", short = 'o', long = "output", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print a JSON object on stdout: the file, its tensors and truncated tokens
    #[arg(long)]
    pub json: bool,
    #[command(flatten, next_help_heading = "Model")]
    pub model: ModelArgs,
    #[command(flatten, next_help_heading = "Chat template")]
    pub chat: ChatArgs,
    #[command(flatten, next_help_heading = "Remote text encoder")]
    pub api: ApiArgs,
    /// Print no progress: only errors, and the name of the file
    #[arg(short, long)]
    pub quiet: bool,
}

impl GenerateArgs {
    /// Puts paths in place of the names of downloaded models and of ComfyUI's files.
    ///
    /// # Errors
    ///
    /// [`CliError`] if they are not there.
    pub fn locate(&mut self, note: impl Fn(&str)) -> Result<(), CliError> {
        let elsewhere = self.api.api_url.is_some() && !self.api.local_encoder;
        let encodes = self.load_embeddings.is_none() && !elsewhere;
        let parts = if encodes { &Part::ALL[..] } else { &[Part::Dit, Part::Vae] };
        self.model = self.model.located(parts, note)?;
        self.lora = self.model.located_loras(std::mem::take(&mut self.lora))?;
        Ok(())
    }

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
            truncate: self.chat.truncation.truncate.map(|truncate| truncate.to_string()),
            image: path(&self.image),
            mask: path(&self.mask),
            outpaint: self.outpaint.map(|margins| margins.to_string()),
            load_embeddings: path(&self.load_embeddings),
            latents: path(&self.latents),
            ..self.image_options.options().into()
        }
    }
}
