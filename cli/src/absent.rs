//! Replaces `local.rs` in builds without the engines: flags of the engines are unknown, and
//! commands that need them say how to get a build that has them.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::Args;
use diffusion_service::LoraArgs;
use llm_dit_chat::ChatTokenizer;
use llm_dit_comfyui::Part;
use llm_dit_engine::text::TextEncoder;
use llm_dit_params::ModelDefaults;
use llm_dit_proto::DType;
use tokio_util::sync::CancellationToken;

use crate::{args::GenerateArgs, error::CliError, generate::Studio};

/// No flags.
#[derive(Clone, Copy, Debug, Default, Args)]
#[group(skip)]
pub struct NoFlags {}

/// Flags of the local engines; none in this build.
pub type ModelArgs = NoFlags;
/// Flags of local batches; none in this build.
pub type BatchArgs = NoFlags;
/// Flags of access to the gateway; none in this build.
pub type AccessArgs = NoFlags;
/// Flags of the gateway's OpenAI API; none in this build.
pub type OpenAiArgs = NoFlags;
/// Flags of the gateway's jobs; none in this build.
pub type JobArgs = NoFlags;

/// Flags of a command that is not built in, whatever they are.
#[derive(Clone, Debug, Args)]
pub struct AnyFlags {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Flags of `serve`, which this build refuses.
pub type ServeArgs = AnyFlags;
/// Flags of `bench`, which this build refuses.
pub type BenchArgs = AnyFlags;
/// Flags of `doctor`, which this build refuses.
pub type DoctorArgs = AnyFlags;

impl ModelArgs {
    /// The model's folder, which this build cannot use.
    ///
    /// # Errors
    ///
    /// Always: this build has no engines.
    pub fn folder(&self) -> Result<PathBuf, CliError> {
        Err(absent("encode without --api-url"))
    }

    /// The same: this build has no paths to find.
    ///
    /// # Errors
    ///
    /// None.
    pub fn located(&self, _: &[Part], _: impl Fn(&str)) -> Result<Self, CliError> {
        Ok(*self)
    }

    /// The same: this build has no cache to find them in.
    ///
    /// # Errors
    ///
    /// None.
    pub fn located_loras(&self, lora: LoraArgs) -> Result<LoraArgs, CliError> {
        Ok(lora)
    }

    /// `None`: this build has no folder of ComfyUI.
    pub fn loras(&self) -> Option<PathBuf> {
        None
    }

    /// None is chosen: this build has no such flags.
    pub fn encoder_dtype(&self) -> Option<DType> {
        None
    }

    /// Does nothing: this build has no dtypes to choose.
    pub fn take_dtype(&mut self, _: &str) {}

    /// `None`: this build knows no model.
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

/// Refuses to serve.
///
/// # Errors
///
/// Always: this build has no engines.
pub async fn serve(_: ServeArgs) -> Result<(), CliError> {
    Err(absent("serve"))
}

/// Refuses to measure.
///
/// # Errors
///
/// Always: this build has no engines.
pub async fn bench(_: BenchArgs) -> Result<(), CliError> {
    Err(absent("bench"))
}

/// Refuses to examine this machine.
///
/// # Errors
///
/// Always: this build has no engines.
pub fn doctor(_: &DoctorArgs) -> Result<(), CliError> {
    Err(absent("doctor"))
}

/// Refuses to generate without a gateway.
///
/// # Errors
///
/// Always: this build has no engines.
pub fn open<'a>(
    _: &'a GenerateArgs,
    _: &'a CancellationToken,
) -> Result<Box<dyn Studio + 'a>, CliError> {
    Err(absent("generate without --gateway"))
}

/// Refuses to load an encoder.
///
/// # Errors
///
/// Always: this build has no engines.
pub fn load_encoder(
    _: &ModelArgs,
    _: &Path,
) -> Result<(Box<dyn TextEncoder>, ChatTokenizer), CliError> {
    Err(absent("encode without --api-url"))
}

/// The folder that the flag names. This build has no demo model.
///
/// # Errors
///
/// [`CliError::Usage`] if no folder is named.
pub fn model_folder(named: Option<&Path>) -> Result<PathBuf, CliError> {
    named.map(Path::to_owned).ok_or_else(|| {
        CliError::Usage("give the folder with the model's tokenizer/ as --model-path DIR".into())
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{Cli, Command};

    fn parse(words: &[&str]) -> Result<Command, clap::Error> {
        Cli::try_parse_from([&["llm-dit"], words].concat()).map(|cli| cli.command)
    }

    #[tokio::test]
    async fn what_needs_the_engines_says_how_to_get_them() {
        let Ok(Command::Serve(args)) = parse(&["serve", "--port", "1", "--model-path", "x"]) else {
            panic!("any flags are taken");
        };
        let error = serve(*args).await.expect_err("no engines").to_string();
        assert!(error.contains("serve needs the engines") && error.contains("`local`"), "{error}");
        let Ok(Command::Generate(args)) = parse(&["generate", "a fox"]) else {
            panic!("a prompt is enough");
        };
        let error = open(&args.args, &CancellationToken::new()).map(drop).expect_err("no engines");
        assert!(error.to_string().contains("generate without --gateway"), "{error}");
        assert!(parse(&["generate", "a fox", "--gateway", "http://127.0.0.1:1"]).is_ok());
    }
}
