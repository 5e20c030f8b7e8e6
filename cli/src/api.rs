//! `--api-url`: embeddings from a heylookitsanllm server instead of a text encoder in this process.

use llm_dit_chat::Chat;
use llm_dit_fault::Fault;
use llm_dit_heylook::{HeylookEncoder, HeylookError, check_truncation, format};
use tokio::runtime::Handle;

use crate::{args::ChatArgs, embeddings::Encoded, error::CliError, progress::Progress};

/// Encodes one conversation on a heylookitsanllm server, and notes it when the prompt may have been
/// truncated. It blocks, so it must not run on an async thread; Ctrl-C ends it.
///
/// # Errors
///
/// [`CliError`] if the chat has special tokens, if the server fails or refuses, or after Ctrl-C.
pub fn encode_chat(
    encoder: &HeylookEncoder,
    chat: &Chat,
    args: &ChatArgs,
    progress: &Progress,
) -> Result<Encoded, CliError> {
    check_truncation(args.truncation.truncate).map_err(error)?;
    let text = format(chat).map_err(error)?;
    progress.stage(&format!("waiting for {} at {}", encoder.model(), encoder.url()));
    let asking = encoder.encode(&text, args.hidden_layer, args.max_tokens, None);
    let encoded = Handle::current().block_on(async {
        tokio::select! {
            encoded = asking => encoded.map_err(error),
            _ = tokio::signal::ctrl_c() => Err(CliError::interrupted()),
        }
    })?;
    if encoded.hit_limit {
        progress.note(&format!(
            "the prompt has all {} tokens of --max-tokens; if it was longer, heylookitsanllm truncated it, including the header of the assistant's turn",
            args.max_tokens
        ));
    }
    // How many is not known.
    Ok(Encoded { tensor: encoded.tensor, truncated: encoded.hit_limit.into() })
}

fn error(error: HeylookError) -> CliError {
    let message = error.to_string();
    match Fault::from(error) {
        Fault::BadRequest(_) | Fault::TooLarge(_) => CliError::Usage(message),
        Fault::Unprocessable(_)
        | Fault::Unsupported(_)
        | Fault::NotFound(_)
        | Fault::Unauthenticated(_)
        | Fault::Busy { .. }
        | Fault::OutOfMemory(_)
        | Fault::Deadline(_)
        | Fault::Cancelled(_)
        | Fault::Unavailable(_)
        | Fault::Internal(_) => CliError::Failed(message),
    }
}
