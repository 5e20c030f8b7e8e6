//! `llm-dit encode`: prompts to a file of embeddings.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
};

use llm_dit_chat::Chat;
use llm_dit_comfyui::Part;
use llm_dit_params::Prompt;
use llm_dit_proto::Tensor;
use serde::Serialize;

use crate::{
    api,
    args::EncodeArgs,
    embeddings::{self, Encoded, Encoder, Sidecar},
    error::CliError,
    generate::conditions::{self, encode_chat, extras},
    local::load_encoder,
    output::print,
    progress::Progress,
    stdin,
};

/// The file when none is named.
const OUTPUT: &str = "embeddings.safetensors";

/// The file as `--json` tells of it.
#[derive(Serialize)]
struct Told<'a> {
    path: &'a str,
    tensors: Vec<ToldTensor<'a>>,
}

#[derive(Serialize)]
struct ToldTensor<'a> {
    name: &'a str,
    prompt: &'a str,
    shape: &'a [usize],
    dtype: String,
    truncated_tokens: u64,
}

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
    let output = args.output.as_deref().unwrap_or(Path::new(OUTPUT));
    let is_stdout = llm_dit_files::is_stdout(output);
    if is_stdout && args.json {
        let why = "--output and --json both write to stdout; name a file for the embeddings";
        return Err(CliError::Usage(why.to_owned()));
    }
    let chats = prompts(args)?
        .into_iter()
        .map(|prompt| args.chat.chat(prompt))
        .collect::<Result<Vec<_>, _>>()?;
    if args.output.is_some() {
        embeddings::check_writable(output)?;
    }
    let first = chats.first().cloned().unwrap_or_default();
    let progress = Progress::new(args.quiet);
    let named_chats = chats.iter().enumerate().map(|(index, chat)| {
        // The first has the name that --load-embeddings looks for.
        let name = if index == 0 { "embeddings".to_owned() } else { format!("embeddings_{index}") };
        (name, chat)
    });
    let (tensors, encoder) = match args.api.encoder().map_err(CliError::usage)? {
        Some(encoder) => {
            let encoder = encoder.with_dtype(args.model.encoder_dtype());
            let tensors = named_chats
                .map(|(name, chat)| {
                    Ok((name, api::encode_chat(&encoder, chat, &args.chat, &progress)?))
                })
                .collect::<Result<Vec<_>, CliError>>()?;
            (tensors, conditions::elsewhere(&encoder))
        }
        None => encode_here(args, named_chats, &progress)?,
    };
    let named: Vec<(String, &Tensor)> =
        tensors.iter().map(|(name, encoded)| (name.clone(), &encoded.tensor)).collect();
    let Some((_, embeddings)) = named.first() else {
        return Err(CliError::Usage("there is no prompt to encode".into()));
    };
    // The sidecar is about the first, which is the one that is read.
    let sidecar = Sidecar::new(&first, args.chat.parts.template.as_deref(), embeddings, &encoder);
    let more = extras(&first, Some(args.chat.hidden_layer));
    let path = match &args.output {
        Some(path) => {
            embeddings::save(path, &named, &sidecar, more)?;
            path.clone()
        }
        None => embeddings::save_new(output, &named, &sidecar, more)?,
    };
    let shapes: Vec<String> =
        named.iter().map(|(name, t)| format!("{name} {:?} {}", t.shape(), t.dtype())).collect();
    let path = if is_stdout { "stdout".to_owned() } else { path.display().to_string() };
    progress.done(&format!("{path}: {}", shapes.join(", ")));
    if args.json {
        let told = told(&path, &tensors, &chats);
        return print(&(serde_json::to_string(&told).map_err(CliError::failed)? + "\n"));
    }
    if !is_stdout && (args.quiet || !io::stdout().is_terminal()) {
        // On a terminal the line above has the name.
        print(&format!("{path}\n"))?;
    }
    Ok(())
}

/// Those of the command line, or the one of a pipe.
fn prompts(args: &EncodeArgs) -> Result<Vec<Prompt>, CliError> {
    if args.prompts.iter().filter(|prompt| *prompt == stdin::STDIN).count() > 1 {
        return Err(CliError::Usage("stdin holds one prompt; write - once".into()));
    }
    let texts = if args.prompts.is_empty() {
        let prompt = stdin::prompt(None)?;
        let missing = || CliError::Usage("give one or more <PROMPTS>, or one on stdin".into());
        vec![prompt.ok_or_else(missing)?]
    } else {
        let given = args.prompts.iter().cloned().map(Some).map(stdin::prompt);
        given.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?
    };
    texts.into_iter().map(|text| Prompt::parse(text).map_err(CliError::usage)).collect()
}

fn told<'a>(path: &'a str, tensors: &'a [(String, Encoded)], chats: &'a [Chat]) -> Told<'a> {
    let one = |((name, encoded), chat): (&'a (String, Encoded), &'a Chat)| ToldTensor {
        name,
        prompt: &chat.user,
        shape: encoded.tensor.shape(),
        dtype: encoded.tensor.dtype().to_string(),
        truncated_tokens: encoded.truncated,
    };
    Told { path, tensors: tensors.iter().zip(chats).map(one).collect() }
}

fn encode_here<'a>(
    args: &EncodeArgs,
    chats: impl Iterator<Item = (String, &'a Chat)>,
    progress: &Progress,
) -> Result<(Vec<(String, Encoded)>, Encoder), CliError> {
    progress.stage("loading the text encoder");
    let model = args.model.located(&[Part::TextEncoder], |chosen| progress.note(chosen))?;
    let folder = model.folder()?;
    let (mut encoder, tokenizer) = load_encoder(&model, &folder)?;
    let about = conditions::here(encoder.as_ref(), &folder);
    let mut encode = |chat: &Chat, what: &str| {
        encode_chat(encoder.as_mut(), &tokenizer, chat, what, &args.chat, progress)
    };
    let tensors = (1..)
        .zip(chats)
        .map(|(number, (name, chat))| Ok((name, encode(chat, &format!("prompt {number}"))?)))
        .collect::<Result<Vec<_>, CliError>>()?;
    Ok((tensors, about))
}
