//! `gateway`: HTTP in front of an encoder and a diffusion service.

use std::{error::Error, process::ExitCode};

use clap::Parser;
use gateway::{AccessArgs, DEFAULT_DIFFUSION, EncoderTarget, GatewayOptions, KeepArgs, run};
use llm_dit_heylook::args::ApiArgs;
use llm_dit_serving::{
    Grace,
    args::{CredentialsArgs, ListenArgs},
    boot::{ServiceArgs, boot},
    client::service_url,
    shutdown,
    telemetry::LogArgs,
};
use llm_dit_settings::Program;

/// Serves pictures over HTTP, made by an encoder service and a diffusion service
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Args {
    /// Encoder services whose embeddings are sent to a diffusion service; repeat it, or write a
    /// list with commas. NAME=URL gives one a name that requests can choose, the others are "local"
    /// [default: the diffusion service's own, if it has one, else http://127.0.0.1:50051]
    #[arg(long = "encoder", value_name = "[NAME=]URL", value_delimiter = ',')]
    encoders: Vec<EncoderTarget>,
    /// Diffusion services; repeat it, or write a list with commas. A name with several addresses is
    /// several services
    #[arg(long, value_name = "URL", value_parser = service_url, value_delimiter = ',', default_value = DEFAULT_DIFFUSION)]
    diffusion: Vec<String>,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    keep: KeepArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    listen: ListenArgs<7860>,
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
      In front of the services on this machine, at http://127.0.0.1:7860
  gateway --encoder https://mac:50051 --diffusion https://gpu:50052 --tls-ca ca.pem \\
      --host 0.0.0.0 --tls-cert here.pem --tls-key here-key.pem --keys clients.keys
      In front of services on two others, for everybody who has a key; llm-dit certificates makes
      the files
  gateway --encoder http://mac:50051 --diffusion http://gpu-1:50052,http://gpu-2:50052
      Several machines: the least busy one gets the next picture, one that fails is left alone
  gateway --diffusion http://gpu:50052 --api-url http://mac:8000 --api-model Qwen3-4B
      Embeddings from heylookitsanllm

  curl http://127.0.0.1:7860/api/generate -H 'Content-Type: application/json' \\
      -d '{\"prompt\": \"a red apple\", \"seed\": 42}' -o apple.png

GET / is a web page, GET /openapi.json describes every endpoint for programs,
docs/web_server_api.md for people. Errors are problems after RFC 9457.

Every flag can also be set by a variable, LLM_DIT_ and its name in capitals (LLM_DIT_PORT=8080), and
most of them in a configuration file (see docs/configuration.md).

SIGINT or SIGTERM finishes the running requests and ends; a second one ends at once.
Exit status: 0 after a shutdown, 64 for a wrong command line, 1 for anything else.";

impl ServiceArgs for Args {
    const PROGRAM: Program = Program::Gateway;

    fn log(&self) -> &LogArgs {
        &self.log
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    boot(serve).await
}

async fn serve(args: Args) -> Result<(), Box<dyn Error>> {
    let door = args.listen.bind().await?;
    let options = GatewayOptions {
        encoders: args.encoders,
        diffusion: args.diffusion,
        heylook: args.api.encoder()?,
        keep: args.keep.into(),
        access: args.access.into(),
        credentials: args.credentials.read(&args.listen.identity)?,
        grace: args.grace,
    };
    run(door, options, shutdown::on_signal()?).await?;
    Ok(())
}
