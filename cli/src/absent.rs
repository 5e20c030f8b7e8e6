//! In place of `local.rs` where the engines are not built in: flags about them are unknown, and what
//! needs them says how to get them.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::Args;
use llm_dit_chat::{Chat, ChatTokenizer};
use llm_dit_engine::text::TextEncoder;
use llm_dit_params::ModelDefaults;
use llm_dit_recipe::Lora;
use tokio_util::sync::CancellationToken;

use crate::{args::GenerateArgs, error::CliError, generate::Studio};

/// No flags.
#[derive(Clone, Copy, Debug, Default, Args)]
#[group(skip)]
pub struct NoFlags {}

pub type ModelArgs = NoFlags;
pub type BatchArgs = NoFlags;
pub type LoraArgs = NoFlags;
pub type AccessArgs = NoFlags;
pub type JobArgs = NoFlags;

/// Flags of a command that is not built in, whatever they are.
#[derive(Clone, Debug, Args)]
pub struct AnyFlags {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

pub type ServeArgs = AnyFlags;
pub type BenchArgs = AnyFlags;

impl ModelArgs {
    pub fn folder(&self) -> Result<PathBuf, CliError> {
        Err(absent("encode without --api-url"))
    }

    pub fn take_dtype(&mut self, _: &str) {}

    pub fn known(&self) -> Option<(PathBuf, String, ModelDefaults)> {
        None
    }
}

fn absent(what: &str) -> CliError {
    CliError::Usage(format!(
        "{what} needs the engines, and this llm-dit was built without them; build one with the cargo \
         feature `local`, which is on by default"
    ))
}

pub async fn serve(_: ServeArgs) -> Result<(), CliError> {
    Err(absent("serve"))
}

pub async fn bench(_: BenchArgs) -> Result<(), CliError> {
    Err(absent("bench"))
}

pub fn open<'a>(
    _: &'a GenerateArgs,
    _: &'a CancellationToken,
) -> Result<Box<dyn Studio + 'a>, CliError> {
    Err(absent("generate without --gateway"))
}

pub fn load_encoder(
    _: &ModelArgs,
    _: &Path,
) -> Result<(Box<dyn TextEncoder>, ChatTokenizer), CliError> {
    Err(absent("encode without --api-url"))
}

/// There is no demo model to fall back to.
pub fn model_folder(named: Option<&Path>) -> Result<PathBuf, CliError> {
    named.map(Path::to_owned).ok_or_else(|| {
        CliError::Usage("give the folder with the model's tokenizer/ as --model-path DIR".into())
    })
}

/// Trigger words come with LoRAs, of which there are none here.
pub fn with_triggers(chat: Chat, _: &LoraArgs) -> Chat {
    chat
}

pub fn take_loras(_: &mut LoraArgs, _: &[Lora]) -> Result<(), CliError> {
    Err(absent("a picture with LoRAs"))
}
