//! `encoder-service`: serves Qwen3 embeddings, computed on this machine or by heylookitsanllm.

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::Parser;
use llm_dit_comfyui::{Found, Part, find};
use llm_dit_engine::plan::{Course, Plan};
use llm_dit_heylook::args::ApiArgs;
use llm_dit_hub::CacheArgs;
use llm_dit_memory::MemoryArgs;
use llm_dit_proto::DType;
use llm_dit_qwen3::{EncoderOptions, load, measure};
use llm_dit_serving::{
    Grace,
    args::ListenArgs,
    boot::{ServiceArgs, boot},
    probe::{Protocol, ServiceCommand},
    shutdown,
    telemetry::LogArgs,
};
use llm_dit_settings::Program;
use llm_dit_weights::{DeviceChoice, args::OffloadArgs, encoder_folder};

use crate::{EncoderHandle, EncoderLimits, run};

/// Serves a Qwen3 text encoder over gRPC: prompts in, embeddings for Z-Image out
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<ServiceCommand<50051>>,
    /// Diffusers folder with text_encoder/ and tokenizer/, or ORG/NAME of a model from `llm-dit
    /// pull` [default: the demo model]
    #[arg(long, value_name = "DIR")]
    model_path: Option<PathBuf>,
    /// Text encoder weights to use instead of those in --model-path: a file or folder. The tokenizer
    /// is that of --model-path, else the built-in one of Qwen3
    #[arg(long, value_name = "FILE")]
    text_encoder_path: Option<PathBuf>,
    /// Device: auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Compute dtype: f32, bf16 or f16 [default: f32 on the CPU, bf16 elsewhere]
    #[arg(long)]
    dtype: Option<DType>,
    /// ComfyUI folder, or its models folder, to take the text encoder from if no path names it
    #[arg(long, value_name = "DIR")]
    comfyui: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    offload: OffloadArgs,
    /// Maximum number of queued requests; further ones are rejected and told when to retry
    #[arg(long, value_name = "N", default_value_t = EncoderLimits::default().queue_capacity)]
    queue_capacity: usize,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    listen: ListenArgs<50051>,
    #[command(flatten)]
    grace: Grace,
    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  encoder-service
      The demo model; listens on http://127.0.0.1:50051
  encoder-service --model-path ~/models/Z-Image-Turbo --device metal --host 0.0.0.0 \\
      --tls-cert mac.pem --tls-key mac-key.pem --keys services.keys
      On a Mac, for a diffusion service on another machine:
      diffusion-service --encoder https://MAC:50051 --tls-ca ca.pem --service-key service.key
  encoder-service --api-url http://mac:8000 --api-model Qwen3-4B
      Loads no model: forwards requests to heylookitsanllm on a Mac

Every flag has an environment variable: LLM_DIT_ and the flag's name in capitals (LLM_DIT_PORT=8080).
Most flags have a key in the configuration file (see docs/guide/configuration.md).

SIGINT or SIGTERM lets running requests finish, then exits; a second one exits at once.
Exit status: 0 after a shutdown, 64 for a wrong command line, 1 for any other failure.";

impl ServiceArgs for Args {
    const PROGRAM: Program = Program::Encoder;

    fn log(&self) -> &LogArgs {
        &self.log
    }

    fn subcommand(&self) -> Option<impl Future<Output = ExitCode>> {
        let ServiceCommand::Health(health) = self.command.as_ref()?;
        Some(health.run(Protocol::Grpc))
    }
}

/// Runs the program with the command line of this process.
pub async fn main() -> ExitCode {
    boot(serve).await
}

async fn serve(args: Args) -> Result<(), Box<dyn Error>> {
    // Binds first: a port in use is reported before gigabytes are read.
    let bound = args.listen.bind().await?;
    let limits = EncoderLimits {
        queue_capacity: args.queue_capacity,
        grace: args.grace,
        ..Default::default()
    };
    let handle = match args.api.encoder()? {
        Some(encoder) => {
            let encoder = encoder.with_dtype(args.dtype);
            EncoderHandle::heylook(encoder, limits)?
        }
        None => load_local(&args, limits)?,
    };
    let handle = handle.with_memory(args.memory.budget());
    run(bound, handle, shutdown::on_signal()?).await?;
    Ok(())
}

fn load_local(args: &Args, limits: EncoderLimits) -> Result<EncoderHandle, Box<dyn Error>> {
    let locate =
        |path: &Option<PathBuf>| path.as_deref().map(|path| args.cache.locate(path)).transpose();
    let given = Found { text_encoder: args.text_encoder_path.clone(), ..Found::default() };
    let found = match &args.comfyui {
        Some(folder) => find(folder, &[Part::TextEncoder], &given)?,
        None => given,
    };
    let (named, text_encoder_path) = (locate(&args.model_path)?, locate(&found.text_encoder)?);
    let options = EncoderOptions {
        model_path: encoder_folder(named.as_deref(), text_encoder_path.as_deref())?,
        text_encoder_path,
        device: args.device,
        dtype: args.dtype,
        residency: args.offload.residency(),
        packing: args.offload.weights,
    };
    let path = options.text_encoder_path.as_ref().unwrap_or(&options.model_path);
    tracing::info!(path = %path.display(), device = %options.device, "loading");
    let plan = args.offload.plan(&measure(&options)?, Course::Service, 1, None)?;
    plan.iter().flat_map(Plan::lines).for_each(|line| tracing::info!("{line}"));
    let options = options.planned(plan.as_ref());
    let (engine, tokenizer) = load(&options)?;
    let handle = EncoderHandle::spawn(engine, tokenizer, limits)?;
    let info = handle.info();
    tracing::info!(model = info.model, device = info.device, dtype = %info.dtype, "loaded");
    Ok(handle)
}
