//! `llm-dit serve`: runs the three services in one process, each on its own loopback port, so that
//! requests take the same path as between machines. With `--api-url` there is no encoder service: the
//! gateway asks the other machine.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
};

use clap::Args;
use diffusion_service::{
    BatchArgs, DiffusionHandle, LoraArgs, ModelsArgs, ServiceLimits, engine::Engines,
};
use encoder_service::{EncoderHandle, EncoderLimits};
use gateway::{
    AccessArgs, AccessOptions, EncoderTarget, Gateway, GatewayOptions, KeepArgs, KeepOptions,
    ModelAlias, OpenAiArgs, Storage,
};
use llm_dit_comfyui::Part;
use llm_dit_engine::{Turns, observe_plan, plan::Course};
use llm_dit_heylook::args::ApiArgs;
use llm_dit_memory::MemoryArgs;
use llm_dit_serving::{
    BoundListener, Credentials, Grace, Security,
    args::{ListenArgs, ListenError},
    security::{Key, Keys},
    shutdown,
    telemetry::{self, LogArgs},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{args::model::ModelArgs, error::CliError, vram::Wanted};

#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    listen: ListenArgs<7860>,
    #[command(flatten, next_help_heading = "Model")]
    model: ModelArgs,
    #[command(flatten, next_help_heading = "Model")]
    models: ModelsArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    openai: OpenAiArgs,
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten, next_help_heading = "Storage")]
    keep: KeepArgs,
    #[command(flatten, next_help_heading = "LoRA")]
    lora: LoraArgs,
    #[command(flatten, next_help_heading = "Remote text encoder")]
    api: ApiArgs,
    #[command(flatten)]
    grace: Grace,
    #[command(flatten, next_help_heading = "Log")]
    log: LogArgs,
}

pub async fn serve(args: ServeArgs) -> Result<(), CliError> {
    let traces = telemetry::init(&args.log, "llm-dit").map_err(CliError::failed)?;
    let served = run(args).await;
    traces.end().await;
    served
}

async fn run(mut args: ServeArgs) -> Result<(), CliError> {
    let parts = if args.models.models.is_empty() { &Part::ALL[..] } else { &[] };
    args.model = args.model.located(parts, |chosen| tracing::info!("{chosen}"))?;
    args.model.complete()?;
    args.lora.loras_dir = args.lora.loras_dir.take().or_else(|| args.model.loras());
    args.models = args.models.located(&args.model.cache).map_err(CliError::usage)?;
    // Binds first: a port in use is reported before gigabytes are read.
    let bound = args.listen.bind().await.map_err(|error| match error {
        ListenError::Bind { .. } => CliError::failed(error),
        ListenError::Security(_) | ListenError::Insecure { .. } => CliError::usage(error),
    })?;
    let (scheme, address) = (bound.scheme(), bound.address().map_err(CliError::failed)?);
    // So is a history that cannot be used.
    let keep = KeepOptions::from(args.keep);
    let storage = Storage::open(&keep).map_err(CliError::failed)?;
    // The text encoder is the default model's; all models of a service share it.
    let model_path = match args.models.models.first() {
        Some(model) => model.path.clone(),
        None => args.model.folder()?,
    };
    args.lora = args.model.located_loras(args.lora)?;
    let loras = args.lora.choices().map_err(CliError::usage)?;
    let loras_folder = args.lora.folder().map_err(CliError::usage)?;
    tracing::info!(path = %model_path.display(), device = %args.model.device, "loading");
    // The gateway asks heylookitsanllm itself, as the program `gateway` does.
    let heylook = args.api.encoder().map_err(CliError::usage)?;
    let heylook = heylook.map(|encoder| encoder.with_dtype(args.model.encoder_dtype()));
    let encoder_options = heylook.is_none().then(|| args.model.encoder(&model_path));
    let diffusion_options = args.model.diffusion(&model_path, loras);
    let models = args.models.named();
    let wanted = Wanted {
        encoder: encoder_options.as_ref(),
        diffusion: &diffusion_options,
        models: &models,
        model_memory: args.models.model_memory,
        course: Course::Service,
        batch: args.batch.images(),
        images: usize::MAX,
        largest: None,
    };
    let plans = wanted.plan(&args.model.offload)?;
    plans.lines().iter().for_each(|line| tracing::info!("{line}"));
    let _observer = plans.diffusion.as_ref().map(observe_plan);
    // Without a plan, the flag alone says that parts are loaded for each use.
    let turns = plans.takes_turns().then(Turns::default);
    let diffusion_options = diffusion_options.planned(plans.diffusion.as_ref());
    let encoder = match encoder_options {
        None => None,
        Some(options) => {
            let options = options.planned(plans.encoder.as_ref());
            let (engine, tokenizer) = load(move || llm_dit_qwen3::load(&options)).await?;
            let engine = match &turns {
                Some(turns) => turns.text_encoder(engine),
                None => engine,
            };
            let handle = EncoderHandle::spawn(engine, tokenizer, EncoderLimits::default());
            Some(handle.map_err(CliError::failed)?)
        }
    };
    // All services of this process share it.
    let memory = args.memory.budget();
    let encoder = encoder.map(|encoder| encoder.with_memory(memory.clone()));
    let budget = args.models.model_memory;
    let lazy = budget.is_some();
    let engines = load(move || llm_dit_z_image::load_all(&diffusion_options, models, lazy)).await?;
    let engines = match &turns {
        Some(turns) => engines.into_iter().map(|engine| turns.image_generator(engine)).collect(),
        None => engines,
    };
    let engines = Engines::new(engines, budget).map_err(CliError::usage)?;
    let limits =
        ServiceLimits { batch: args.batch.planned(plans.diffusion.as_ref()), ..Default::default() };
    let diffusion = DiffusionHandle::spawn_all(engines, limits, None)
        .map_err(CliError::failed)?
        .with_loras_folder(loras_folder)
        .with_memory(memory.clone());

    let description = diffusion.describe();
    let others = description.others.iter().map(|other| other.model.as_str());
    let names: Vec<&str> = std::iter::once(&*description.model).chain(others).collect();
    let model_aliases = args.openai.model_aliases;
    ModelAlias::check(&model_aliases, &names).map_err(CliError::usage)?;

    let stop = shutdown::on_signal().map_err(CliError::failed)?;
    let services = Services::start(encoder, diffusion, &stop).await?;
    let options = GatewayOptions {
        access: args.access.into(),
        model_aliases,
        heylook,
        grace: args.grace,
        memory,
        ..services.gateway(keep)
    };
    let served = async {
        let gateway = Gateway::open(bound, options, storage).await?;
        // Printed last: a script that waits for this line may send requests at once.
        println!("llm-dit is ready: {scheme}://{address}");
        gateway.run(stop).await
    };
    let served = served.await;
    services.end().await?;
    served.map_err(CliError::failed)
}

/// Encoder and diffusion services on loopback ports. They require an API key that only this process
/// knows, because other users of this machine can connect too. They run until the gateway has
/// answered all requests.
pub struct Services {
    encoder_url: Option<String>,
    diffusion_url: String,
    key: Key,
    tasks: Vec<JoinHandle<Result<(), CliError>>>,
    end: CancellationToken,
}

impl Services {
    /// Without `encoder`, the gateway gets embeddings elsewhere. A service that ends early fires `stop`.
    pub async fn start(
        encoder: Option<EncoderHandle>,
        diffusion: DiffusionHandle,
        stop: &CancellationToken,
    ) -> Result<Self, CliError> {
        let end = CancellationToken::new();
        let (diffusion_url, diffusion_listener) = loopback().await?;
        let key = Key::random();
        let bound = |listener| {
            let keys = Some(Keys::only("gateway", &key));
            BoundListener {
                security: Security { keys, tls: None },
                ..BoundListener::from(listener)
            }
        };
        let serving = diffusion_service::run(bound(diffusion_listener), diffusion, end.clone());
        let mut tasks = vec![spawn(serving, stop)];
        let mut encoder_url = None;
        if let Some(encoder) = encoder {
            let (url, listener) = loopback().await?;
            let serving = encoder_service::run(bound(listener), encoder, end.clone());
            tasks.push(spawn(serving, stop));
            encoder_url = Some(url);
        }
        Ok(Self { encoder_url, diffusion_url, key, tasks, end })
    }

    /// Options of a gateway in front of these services.
    pub fn gateway(&self, keep: KeepOptions) -> GatewayOptions {
        GatewayOptions {
            encoders: self.encoder_url.iter().cloned().map(EncoderTarget::local).collect(),
            diffusion: vec![self.diffusion_url.clone()],
            heylook: None,
            keep,
            access: AccessOptions::default(),
            in_process: true,
            credentials: Credentials { key: Some(self.key.clone()), ..Credentials::default() },
            grace: Grace::default(),
            ..GatewayOptions::default()
        }
    }

    /// Stops the services. Call it after the gateway has ended.
    pub async fn end(self) -> Result<(), CliError> {
        self.end.cancel();
        for task in self.tasks {
            task.await.map_err(CliError::failed)??;
        }
        Ok(())
    }
}

async fn load<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
    f: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, CliError> {
    tokio::task::spawn_blocking(f).await.map_err(CliError::failed)?.map_err(CliError::failed)
}

/// A free port that only this machine can reach.
pub async fn loopback() -> Result<(String, TcpListener), CliError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(CliError::failed)?;
    let address: SocketAddr = listener.local_addr().map_err(CliError::failed)?;
    Ok((format!("http://{address}"), listener))
}

/// A service that ends early takes the others down with it, rather than leave a dead gateway.
fn spawn<E: std::fmt::Display + Send + 'static>(
    service: impl Future<Output = Result<(), E>> + Send + 'static,
    stop: &CancellationToken,
) -> JoinHandle<Result<(), CliError>> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let result = service.await;
        stop.cancel();
        result.map_err(CliError::failed)
    })
}
