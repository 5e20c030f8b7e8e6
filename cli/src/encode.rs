//! `llm-dit encode`: prompts to a file of embeddings.

use llm_dit_chat::Chat;
use llm_dit_params::Prompt;
use llm_dit_proto::Tensor;

use crate::{
    api,
    args::EncodeArgs,
    embeddings::{self, Encoder, Sidecar},
    error::CliError,
    generate::conditions::{self, encode_chat, extras},
    local::load_encoder,
    progress::Progress,
};

/// Encodes a prompt and writes its embeddings.
///
/// # Errors
///
/// [`CliError`] if the flags are wrong, if the model cannot be loaded, if encoding fails, or if the
/// files cannot be written.
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
    let chats =
        prompts.into_iter().map(|prompt| args.chat.chat(prompt)).collect::<Result<Vec<_>, _>>()?;
    embeddings::check_writable(&args.output)?;
    let first = chats.first().cloned().unwrap_or_default();
    let progress = Progress::new(args.quiet);
    let named_chats = chats.into_iter().enumerate().map(|(index, chat)| {
        // The first has the name that --load-embeddings looks for.
        let name = if index == 0 { "embeddings".to_owned() } else { format!("embeddings_{index}") };
        (name, chat)
    });
    let (tensors, encoder) = match args.api.encoder().map_err(CliError::usage)? {
        Some(encoder) => {
            let encoder = encoder.with_dtype(args.model.encoder_dtype());
            let tensors = named_chats
                .map(|(name, chat)| {
                    Ok((name, api::encode_chat(&encoder, &chat, &args.chat, &progress)?))
                })
                .collect::<Result<Vec<_>, CliError>>()?;
            (tensors, conditions::elsewhere(&encoder))
        }
        None => encode_here(args, named_chats, &progress)?,
    };
    let named: Vec<(String, &Tensor)> =
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    let Some((_, embeddings)) = tensors.first() else {
        return Err(CliError::Usage("there is no prompt to encode".into()));
    };
    // The sidecar is about the first, which is the one that is read.
    let sidecar = Sidecar::new(&first, args.chat.parts.template.as_deref(), embeddings, &encoder);
    let more = extras(&first, Some(args.chat.hidden_layer));
    embeddings::save(&args.output, &named, &sidecar, more)?;
    let shapes: Vec<String> =
        tensors.iter().map(|(name, t)| format!("{name} {:?} {}", t.shape(), t.dtype())).collect();
    progress.done(&format!("{}: {}", args.output.display(), shapes.join(", ")));
    Ok(())
}

fn encode_here(
    args: &EncodeArgs,
    chats: impl Iterator<Item = (String, Chat)>,
    progress: &Progress,
) -> Result<(Vec<(String, Tensor)>, Encoder), CliError> {
    progress.stage("loading the text encoder");
    let folder = args.model.folder()?;
    let (mut encoder, tokenizer) = load_encoder(&args.model, &folder)?;
    let about = conditions::here(encoder.as_ref(), &folder);
    let mut encode = |chat: &Chat, what: &str| {
        encode_chat(encoder.as_mut(), &tokenizer, chat, what, &args.chat, progress)
    };
    let tensors = (1..)
        .zip(chats)
        .map(|(number, (name, chat))| Ok((name, encode(&chat, &format!("prompt {number}"))?)))
        .collect::<Result<Vec<_>, CliError>>()?;
    Ok((tensors, about))
}
