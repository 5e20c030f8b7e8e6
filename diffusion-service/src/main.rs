//! `diffusion-service`: the Z-Image DiT and VAE on this machine, embeddings from anywhere.

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::Parser;
use diffusion_service::{BatchArgs, DiffusionHandle, LoraArgs, ServiceLimits, run};
use llm_dit_proto::DType;
use llm_dit_serving::{
    Grace, Remote,
    args::{CredentialsArgs, ListenArgs},
    boot::{ServiceArgs, boot},
    client, shutdown,
    telemetry::LogArgs,
};
use llm_dit_settings::Program;
use llm_dit_weights::{DeviceChoice, args::OffloadArgs, model_folder};
use llm_dit_z_image::{DiffusionOptions, load, vae::Tiling};

/// Serves the Z-Image diffusion transformer over gRPC: embeddings or prompts in, pictures out
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Args {
    /// Diffusers folder with transformer/, vae/ and scheduler/ [default: the demo model]
    #[arg(long, value_name = "DIR")]
    model_path: Option<PathBuf>,
    /// Transformer in its own file or folder, instead of the one in --model-path
    #[arg(long, value_name = "FILE")]
    dit_path: Option<PathBuf>,
    /// VAE likewise
    #[arg(long, value_name = "FILE")]
    vae_path: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// What the DiT computes in: f32, bf16 or f16 [default: f32 on the CPU, else bf16]
    #[arg(long)]
    dtype: Option<DType>,
    /// Where the VAE computes [default: --device]
    #[arg(long, value_name = "DEVICE")]
    vae_device: Option<DeviceChoice>,
    /// What the VAE computes in [default: f32]
    #[arg(long, value_name = "DTYPE")]
    vae_dtype: Option<DType>,
    /// When the VAE works on a picture in overlapping tiles: auto (where it would take more than
    /// 6 GiB otherwise), on (where it is larger than a tile) or off
    #[arg(long, value_name = "WHEN", default_value_t = Tiling::Auto)]
    vae_tiling: Tiling,
    #[command(flatten)]
    offload: OffloadArgs,
    /// Encoder service to fetch embeddings from when a request brings only a prompt
    #[arg(long, value_name = "URL", value_parser = client::service_url)]
    encoder: Option<String>,
    /// Pictures that may wait while one is made; more are told to try again
    #[arg(long, value_name = "N", default_value_t = ServiceLimits::default().queue_capacity)]
    queue_capacity: usize,
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    lora: LoraArgs,
    #[command(flatten)]
    listen: ListenArgs<50052>,
    #[command(flatten)]
    credentials: CredentialsArgs,
    #[command(flatten)]
    grace: Grace,
    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  diffusion-service
      The demo model on this machine, at http://127.0.0.1:50052
  diffusion-service --model-path ~/models/Z-Image-Turbo --device cuda \\
      --encoder https://MAC:50051 --tls-ca ca.pem --service-key service.key
      On a CUDA machine, with the text encoder on a Mac (see encoder-service --help)

Every flag can also be set by a variable, LLM_DIT_ and its name in capitals (LLM_DIT_PORT=8080), and
most of them in a configuration file (see docs/configuration.md).

SIGINT or SIGTERM finishes the running requests and ends; a second one ends at once.
Exit status: 0 after a shutdown, 64 for a wrong command line, 1 for anything else.";

impl ServiceArgs for Args {
    const PROGRAM: Program = Program::Diffusion;

    fn log(&self) -> &LogArgs {
        &self.log
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    boot(serve).await
}

async fn serve(args: Args) -> Result<(), Box<dyn Error>> {
    let credentials = args.credentials.read(&args.listen.identity)?;
    let encoder = args.encoder.map(|url| Remote::new("encoder", &url, &credentials)).transpose()?;
    // First the port, so that a taken one is known before gigabytes are read.
    let door = args.listen.bind().await?;
    let options = DiffusionOptions {
        model_path: model_folder(args.model_path.as_deref())?,
        dit_path: args.dit_path,
        vae_path: args.vae_path,
        device: args.device,
        vae_device: args.vae_device,
        dtype: args.dtype,
        vae_dtype: args.vae_dtype,
        vae_tiling: args.vae_tiling,
        residency: args.offload.residency(),
        loras: args.lora.choices()?,
    };
    let folder = args.lora.folder(llm_dit_z_image::summary)?;
    tracing::info!(path = %options.model_path.display(), device = %options.device, "loading");
    let engine = load(&options)?;
    let (queue_capacity, batch) = (args.queue_capacity, args.batch.limit());
    let limits = ServiceLimits { queue_capacity, batch, grace: args.grace, ..Default::default() };
    let handle = DiffusionHandle::spawn(engine, limits, encoder)?.with_loras_folder(folder);
    let info = handle.info();
    tracing::info!(model = info.model, device = info.device, dtype = %info.dtype, "loaded");
    run(door, handle, shutdown::on_signal()?).await?;
    Ok(())
}
