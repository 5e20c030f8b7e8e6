//! `diffusion-service`: the Z-Image transformer and VAE on this machine; embeddings come from
//! requests or an encoder service.

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::Parser;
use llm_dit_comfyui::{Found, Part, find};
use llm_dit_engine::{
    observe_plan,
    plan::{Course, Plan},
};
use llm_dit_hub::CacheArgs;
use llm_dit_memory::MemoryArgs;
use llm_dit_proto::DType;
use llm_dit_serving::{
    Grace, Remote,
    args::{CredentialsArgs, ListenArgs},
    boot::{ServiceArgs, boot},
    client,
    probe::{Protocol, ServiceCommand},
    shutdown,
    telemetry::LogArgs,
};
use llm_dit_settings::Program;
use llm_dit_weights::{DeviceChoice, args::OffloadArgs, folder_of, model_folder};
use llm_dit_z_image::{DiffusionOptions, load_all, vae::Tiling};

use crate::{
    BatchArgs, DiffusionHandle, LoraArgs, ModelsArgs, ServiceLimits, engine::Engines, run,
};

/// Serves the Z-Image diffusion transformer over gRPC: embeddings or prompts in, images out
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<ServiceCommand<50052>>,
    /// Diffusers folder with transformer/, vae/ and scheduler/, or ORG/NAME of a model from
    /// `llm-dit pull` [default: the demo model]
    #[arg(long, value_name = "DIR")]
    model_path: Option<PathBuf>,
    /// Transformer weights to use instead of those in --model-path: a file or folder
    #[arg(long, value_name = "FILE")]
    dit_path: Option<PathBuf>,
    /// VAE weights to use instead of those in --model-path: a file or folder
    #[arg(long, value_name = "FILE")]
    vae_path: Option<PathBuf>,
    /// Device: auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Compute dtype of the transformer: f32, bf16 or f16 [default: f32 on the CPU, bf16 elsewhere]
    #[arg(long)]
    dtype: Option<DType>,
    /// Device of the VAE [default: --device]
    #[arg(long, value_name = "DEVICE")]
    vae_device: Option<DeviceChoice>,
    /// Compute dtype of the VAE [default: bf16 on CUDA, f32 elsewhere]
    #[arg(long, value_name = "DTYPE")]
    vae_dtype: Option<DType>,
    /// How the VAE decodes and encodes large images: auto (in bands of rows if the memory does not
    /// suffice for the whole; the same image), on (in the overlapping tiles of diffusers, if larger
    /// than one) or off (whole)
    #[arg(long, value_name = "WHEN", default_value_t = Tiling::Auto)]
    vae_tiling: Tiling,
    /// ComfyUI folder, or its models folder: provides the transformer and the VAE that no path names,
    /// and LoRAs
    #[arg(long, value_name = "DIR")]
    comfyui: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    models: ModelsArgs,
    #[command(flatten)]
    offload: OffloadArgs,
    /// Encoder service that encodes the prompts of requests without embeddings
    #[arg(long, value_name = "URL", value_parser = client::service_url)]
    encoder: Option<String>,
    /// Maximum number of queued images; further requests are rejected and told when to retry
    #[arg(long, value_name = "N", default_value_t = ServiceLimits::default().queue_capacity)]
    queue_capacity: usize,
    #[command(flatten)]
    memory: MemoryArgs,
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
      The demo model; listens on http://127.0.0.1:50052
  diffusion-service --model-path ~/models/Z-Image-Turbo --device cuda \\
      --encoder https://MAC:50051 --tls-ca ca.pem --service-key service.key
      On a CUDA machine, with the text encoder on a Mac (see encoder-service --help)

Every flag has an environment variable: LLM_DIT_ and the flag's name in capitals (LLM_DIT_PORT=8080).
Most flags have a key in the configuration file (see docs/guide/configuration.md).

SIGINT or SIGTERM lets running requests finish, then exits; a second one exits at once.
Exit status: 0 after a shutdown, 64 for a wrong command line, 1 for any other failure.";

impl ServiceArgs for Args {
    const PROGRAM: Program = Program::Diffusion;

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
    let credentials = args.credentials.read(&args.listen.identity)?;
    let encoder = args.encoder.map(|url| Remote::new("encoder", &url, &credentials)).transpose()?;
    // Binds first: a port in use is reported before gigabytes are read.
    let bound = args.listen.bind().await?;
    let models = args.models.located(&args.cache)?;
    let locate = |path: Option<PathBuf>| path.map(|path| args.cache.locate(&path)).transpose();
    let given = Found { dit: args.dit_path, vae: args.vae_path, ..Found::default() };
    let mut lora = args.lora;
    let found = match &args.comfyui {
        Some(folder) if models.models.is_empty() => {
            let found = find(folder, &[Part::Dit, Part::Vae], &given)?;
            tracing::info!("{}", found.told(&given));
            lora.loras_dir = lora.loras_dir.or_else(|| found.loras.clone());
            found
        }
        _ => given,
    };
    let lora = lora.located(&args.cache)?;
    let options = DiffusionOptions {
        model_path: match (models.models.first(), args.model_path, &found.dit) {
            (Some(model), ..) => model.path.clone(),
            // What belongs to a file is looked for beside it.
            (None, None, Some(dit)) if args.comfyui.is_some() || found.vae.is_some() => {
                folder_of(dit)
            }
            (None, named, _) => model_folder(locate(named)?.as_deref())?,
        },
        dit_path: locate(found.dit)?,
        vae_path: locate(found.vae)?,
        device: args.device,
        vae_device: args.vae_device,
        dtype: args.dtype,
        vae_dtype: args.vae_dtype,
        vae_tiling: args.vae_tiling,
        residency: args.offload.residency(),
        packing: args.offload.weights,
        loras: lora.choices()?,
        ..Default::default()
    };
    let (models, budget) = (models.named(), models.model_memory);
    let parts = llm_dit_z_image::measure(&options, &models, budget, None)?;
    let plan = args.offload.plan(&parts, Course::Service, usize::MAX, args.batch.images())?;
    plan.iter().flat_map(Plan::lines).for_each(|line| tracing::info!("{line}"));
    let _observer = plan.as_ref().map(observe_plan);
    let options = options.planned(plan.as_ref());
    let folder = lora.folder()?;
    tracing::info!(path = %options.model_path.display(), device = %options.device, "loading");
    let engines = Engines::new(load_all(&options, models, budget.is_some())?, budget)?;
    let (queue_capacity, batch) = (args.queue_capacity, args.batch.planned(plan.as_ref()));
    let limits = ServiceLimits { queue_capacity, batch, grace: args.grace, ..Default::default() };
    let handle = DiffusionHandle::spawn_all(engines, limits, encoder)?
        .with_loras_folder(folder)
        .with_memory(args.memory.budget());
    let info = handle.info();
    tracing::info!(model = info.model, device = %info.device, dtype = %info.dtype, "loaded");
    run(bound, handle, shutdown::on_signal()?).await?;
    Ok(())
}
