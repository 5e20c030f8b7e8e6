//! `llm-dit encode`: prompts to a file of embeddings.

use encoder_service::EncoderOptions;
use llm_dit_params::Prompt;
use llm_dit_proto::Tensor;
use llm_dit_weights::model_folder;

use crate::{args::EncodeArgs, error::CliError, files, generate::encode_chat, progress::Progress};

pub async fn encode(args: EncodeArgs) -> Result<(), CliError> {
    tokio::task::spawn_blocking(move || run(&args)).await.map_err(CliError::failed)?
}

fn run(args: &EncodeArgs) -> Result<(), CliError> {
    let prompts = args
        .prompts
        .iter()
        .map(Prompt::parse)
        .collect::<Result<Vec<_>, _>>()
        .map_err(CliError::usage)?;
    files::check_writable(&args.output)?;
    let progress = Progress::new(args.quiet);
    progress.stage("loading the text encoder");
    let options = EncoderOptions {
        model_path: model_folder(args.model.model_path.as_deref()).map_err(CliError::failed)?,
        device: args.model.device,
        dtype: args.model.dtype,
    };
    let (mut encoder, tokenizer) = encoder_service::load(&options).map_err(CliError::failed)?;
    let mut tensors: Vec<(String, Tensor)> = Vec::with_capacity(prompts.len());
    for (index, prompt) in prompts.into_iter().enumerate() {
        // The first has the name that --load-embeddings looks for.
        let name = if index == 0 { "embeddings".to_owned() } else { format!("embeddings_{index}") };
        let chat = args.chat.chat(prompt);
        tensors
            .push((name, encode_chat(encoder.as_mut(), &tokenizer, &chat, &args.chat, &progress)?));
    }
    let named: Vec<(String, &Tensor)> =
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    files::write_tensors(&args.output, &named)?;
    let shapes: Vec<String> =
        tensors.iter().map(|(name, t)| format!("{name} {:?} {}", t.shape(), t.dtype())).collect();
    progress.done(&format!("{}: {}", args.output.display(), shapes.join(", ")));
    Ok(())
}
