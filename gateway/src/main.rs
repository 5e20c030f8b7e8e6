//! `gateway`: HTTP in front of an encoder and a diffusion service.

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::Parser;
use gateway::{DEFAULT_DIFFUSION, GatewayOptions, run};
use llm_dit_serving::{
    args::ListenArgs,
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
    /// Encoder service whose embeddings are piped into the diffusion service
    /// [default: the diffusion service's own, if it has one, else http://127.0.0.1:50051]
    #[arg(long, value_name = "URL", value_parser = service_url)]
    encoder: Option<String>,
    /// Diffusion service
    #[arg(long, value_name = "URL", value_parser = service_url, default_value = DEFAULT_DIFFUSION)]
    diffusion: String,
    /// Folder of prompt templates beside the built-in ones; one of the same name replaces it
    #[arg(long, value_name = "DIR")]
    templates_dir: Option<PathBuf>,
    #[command(flatten)]
    listen: ListenArgs<7860>,
    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  gateway
      In front of the services on this machine, at http://127.0.0.1:7860
  gateway --encoder http://mac:50051 --diffusion http://gpu:50052 --host 0.0.0.0
      In front of services on two others, for everybody who can connect

  curl http://127.0.0.1:7860/api/generate -H 'Content-Type: application/json' \\
      -d '{\"prompt\": \"a red apple\", \"seed\": 42}' -o apple.png

The body of POST /api/generate is JSON: prompt, and if wanted negative_prompt, width, height,
steps, seed, guidance_scale, cfg_normalization, cfg_truncation, shift, scheduler, template,
system_prompt, thinking_content, assistant_content, enable_thinking, force_think_block,
strip_quotes, raw_special_tokens. Errors are problems after RFC 9457.

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
    let listener = args.listen.bind().await?;
    let options = GatewayOptions {
        encoder: args.encoder,
        diffusion: args.diffusion,
        templates_dir: args.templates_dir,
    };
    run(listener, options, shutdown::on_signal()?).await?;
    Ok(())
}
