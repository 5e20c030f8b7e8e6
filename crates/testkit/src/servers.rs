//! Real services on port 0.

use std::net::Ipv4Addr;

use diffusion_service::{DiffusionHandle, ServiceLimits, engine::GenerateJob};
use encoder_service::{EncoderHandle, EncoderLimits, engine::EncodeJob};
use llm_dit_chat::ChatTokenizer;
use llm_dit_params::GenerateOptions;
use llm_dit_proto::v1::{diffusion_server::DiffusionServer, encoder_server::EncoderServer};
use llm_dit_serving::{
    Credentials, Remote,
    client::WithKey,
    grpc::{GrpcServer, ServeError},
};
use tokio::{net::TcpListener, sync::mpsc::UnboundedReceiver, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    fakes::{Control, FakeEncoder, FakeGenerator, FastDiffusion, ScriptedEncoder},
    repository,
    wire::tensor,
};

/// A service that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Server {
    pub url: String,
    pub shutdown: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    /// Runs what `serve` makes of a listener and a shutdown token.
    pub async fn start<F>(serve: impl FnOnce(TcpListener, CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<(), ServeError>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, shutdown.clone()));
        Self { url, shutdown, task }
    }

    pub async fn encoder(handle: EncoderHandle) -> Self {
        Self::start(|listener, shutdown| encoder_service::run(listener, handle, shutdown)).await
    }

    pub async fn diffusion(handle: DiffusionHandle) -> Self {
        Self::start(|listener, shutdown| diffusion_service::run(listener, handle, shutdown)).await
    }

    pub async fn scripted_encoder(script: ScriptedEncoder) -> Self {
        let server = GrpcServer::default().service(EncoderServer::new(script));
        Self::start(|listener, shutdown| server.serve(listener, shutdown)).await
    }

    pub async fn fast_diffusion(fake: FastDiffusion) -> Self {
        let server = GrpcServer::default().service(DiffusionServer::new(fake));
        Self::start(|listener, shutdown| server.serve(listener, shutdown)).await
    }

    pub fn remote(&self, service: &'static str) -> Remote {
        Remote::new(service, &self.url, &Credentials::default()).expect("a valid URL")
    }

    /// A connection of its own.
    pub fn channel(&self) -> WithKey {
        self.remote("service under test").channel()
    }

    /// Shuts down and waits for the end.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        self.ended().await;
    }

    /// Waits for the end without asking for it.
    pub async fn ended(&mut self) {
        (&mut self.task).await.expect("no panic").expect("serves well");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// The demo model's tokenizer.
pub fn tokenizer() -> ChatTokenizer {
    ChatTokenizer::from_folder(&repository("models/demo/tokenizer")).expect("ships with us")
}

pub fn fake_encoder(hidden_size: usize) -> (EncoderHandle, UnboundedReceiver<EncodeJob>) {
    let (engine, jobs) = FakeEncoder::new(hidden_size);
    let handle = EncoderHandle::spawn(Box::new(engine), tokenizer(), EncoderLimits::default());
    (handle.expect("a thread"), jobs)
}

/// What a picture takes, from embeddings that fit the model.
///
/// # Panics
/// With options that do not.
pub fn job(handle: &DiffusionHandle, options: GenerateOptions) -> GenerateJob {
    let info = handle.info();
    GenerateJob {
        loras: handle.choose_loras(info, None).expect("the default set"),
        params: options.resolve(&info.defaults, &info.limits).expect("valid"),
        embeddings: tensor(&[9, info.cap_feat_dim], 1),
        negative_embeddings: None,
        latents: None,
        image: None,
        mask: None,
        return_latents: false,
        preview: None,
    }
}

/// A diffusion handle over a fake; `encoder` as with `--encoder`.
pub fn fake_diffusion(
    (engine, control): (FakeGenerator, Control),
    limits: ServiceLimits,
    encoder: Option<Remote>,
) -> (DiffusionHandle, Control) {
    let handle = DiffusionHandle::spawn(Box::new(engine), limits, encoder);
    (handle.expect("a thread"), control)
}
