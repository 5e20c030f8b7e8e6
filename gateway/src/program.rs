//! `gateway`: the HTTP server in front of encoder and diffusion services.

use std::{error::Error, process::ExitCode};

use clap::Parser;
use llm_dit_heylook::args::ApiArgs;
use llm_dit_memory::MemoryArgs;
use llm_dit_serving::{
    Grace,
    args::{CredentialsArgs, ListenArgs},
    boot::{ServiceArgs, boot},
    client::service_url,
    probe::{Protocol, ServiceCommand},
    shutdown,
    telemetry::LogArgs,
};
use llm_dit_settings::Program;

use crate::{
    options::{AccessArgs, DEFAULT_DIFFUSION, EncoderTarget, GatewayOptions, KeepArgs, OpenAiArgs},
    serve::run,
};

/// Serves text-to-image over HTTP, in front of encoder and diffusion services
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<ServiceCommand<7860>>,
    /// Encoder service whose embeddings the gateway sends to a diffusion service. Repeatable or
    /// comma-separated. NAME=URL gives it a name that requests can select; without one it is
    /// "local" [default: the diffusion service's own encoder, if it has one, else
    /// http://127.0.0.1:50051]
    #[arg(long = "encoder", value_name = "[NAME=]URL", value_delimiter = ',')]
    encoders: Vec<EncoderTarget>,
    /// Diffusion service. Repeatable or comma-separated. Each address of a host name counts as one
    /// service
    #[arg(long, value_name = "URL", value_parser = service_url, value_delimiter = ',', default_value = DEFAULT_DIFFUSION)]
    diffusion: Vec<String>,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    keep: KeepArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    openai: OpenAiArgs,
    #[command(flatten)]
    listen: ListenArgs<7860>,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    credentials: CredentialsArgs,
    #[command(flatten)]
    grace: Grace,
    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  gateway
      For services on this machine; listens on http://127.0.0.1:7860
  gateway --encoder https://mac:50051 --diffusion https://gpu:50052 --tls-ca ca.pem \\
      --host 0.0.0.0 --tls-cert here.pem --tls-key here-key.pem --keys clients.keys
      For services on two other machines; clients need a key. llm-dit certificates creates the
      files
  gateway --encoder http://mac:50051 --diffusion http://gpu-1:50052,http://gpu-2:50052
      Several services: the least busy one gets the next image, a failed one is skipped until it
      is healthy again
  gateway --diffusion http://gpu:50052 --api-url http://mac:8000 --api-model Qwen3-4B
      Embeddings from heylookitsanllm

  curl http://127.0.0.1:7860/api/generate -H 'Content-Type: application/json' \\
      -d '{\"prompt\": \"a red apple\", \"seed\": 42}' -o apple.png

GET / is the web page, GET /openapi.json the OpenAPI description. docs/api/web_server_api.md documents
every endpoint. Errors are RFC 9457 problem documents.

Every flag has an environment variable: LLM_DIT_ and the flag's name in capitals (LLM_DIT_PORT=8080).
Most flags have a key in the configuration file (see docs/guide/configuration.md).

SIGINT or SIGTERM lets running requests finish, then exits; a second one exits at once.
Exit status: 0 after a shutdown, 64 for a wrong command line, 1 for any other failure.";

impl ServiceArgs for Args {
    const PROGRAM: Program = Program::Gateway;

    fn log(&self) -> &LogArgs {
        &self.log
    }

    fn subcommand(&self) -> Option<impl Future<Output = ExitCode>> {
        let ServiceCommand::Health(health) = self.command.as_ref()?;
        Some(health.run(Protocol::Http))
    }
}

/// Runs the program with the command line of this process.
pub async fn main() -> ExitCode {
    boot(serve).await
}

async fn serve(args: Args) -> Result<(), Box<dyn Error>> {
    let bound = args.listen.bind().await?;
    let options = GatewayOptions {
        encoders: args.encoders,
        diffusion: args.diffusion,
        heylook: args.api.encoder()?,
        keep: args.keep.into(),
        access: args.access.into(),
        model_aliases: args.openai.model_aliases,
        in_process: false,
        credentials: args.credentials.read(&args.listen.identity)?,
        grace: args.grace,
        memory: args.memory.budget(),
    };
    run(bound, options, shutdown::on_signal()?).await?;
    Ok(())
}
