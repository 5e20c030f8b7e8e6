//! Conditions of pictures: prompts through the text encoder, each encoded once, or a file of
//! embeddings.

use std::{collections::HashMap, path::Path};

use llm_dit_chat::{Chat, ChatTokenizer};
use llm_dit_engine::text::{EncodeJob, TextEncoder};
use llm_dit_heylook::HeylookEncoder;
use llm_dit_params::Truncation;
use llm_dit_proto::Tensor;

use super::{item::Item, plan, report::Truncated};
use crate::{
    api,
    args::{ChatArgs, GenerateArgs},
    embeddings::{self, Encoded, Encoder, Sidecar},
    error::CliError,
    local::load_encoder,
    progress::Progress,
};

/// The tensors of one picture.
#[derive(Clone, Debug)]
pub struct Conditions {
    pub embeddings: Tensor,
    pub negative: Option<Tensor>,
    /// Of embeddings from a file, if it tells.
    pub prompt: Option<String>,
    pub truncated: Truncated,
}

/// The conditions of every item, in order. The encoder is dropped before this returns.
///
/// # Errors
///
/// [`CliError`] if the embeddings' file or the encoder cannot be loaded, or if a prompt cannot be
/// encoded.
pub fn all(
    args: &GenerateArgs,
    folder: &Path,
    items: &[(Item, bool)],
    progress: &Progress,
) -> Result<Vec<Conditions>, CliError> {
    if let Some((item, guided)) = items.first()
        && let Some(path) = &item.settings.load_embeddings
    {
        // One file, and every item is a seed of the same picture.
        let loaded = embeddings::load(Path::new(path), *guided)?;
        loaded.notes.iter().for_each(|note| progress.note(note));
        let embeddings::Loaded { embeddings, negative, prompt, .. } = loaded;
        let truncated = Truncated::default();
        return Ok(vec![Conditions { embeddings, negative, prompt, truncated }; items.len()]);
    }
    let mut texts = Texts::open(args, folder)?;
    let mut conditions = Vec::with_capacity(items.len());
    for (item, guided) in items {
        let Some(chat) = &item.chat else {
            return Err(item.usage("embeddings cannot be mixed with prompts"));
        };
        let chat_args = plan::chat_args(&args.chat, &item.settings);
        let what = format!("{}the prompt", item.place);
        let positive = texts.encode(chat, &what, &chat_args, progress)?;
        // The negative prompt stands alone, without system prompt or template.
        let negative = guided.then(|| chat.negative(item.negative.as_str()));
        let what = format!("{}the negative prompt", item.place);
        let negative = negative.map(|chat| texts.encode(&chat, &what, &chat_args, progress));
        let negative = negative.transpose()?;
        let truncated = Truncated {
            prompt: positive.truncated,
            negative_prompt: negative.as_ref().map_or(0, |negative| negative.truncated),
        };
        conditions.push(Conditions {
            embeddings: positive.tensor,
            negative: negative.map(|negative| negative.tensor),
            prompt: None,
            truncated,
        });
    }
    if let (Some(path), Some((item, _)), Some(first)) =
        (&args.save_embeddings, items.first(), conditions.first())
    {
        save(path, item, first, &texts.encoder)?;
    }
    Ok(conditions)
}

/// The text encoder, local or on a server, and what it has encoded, so that no text is encoded
/// twice.
struct Texts {
    source: TextSource,
    encoder: Encoder,
    encoded: Vec<(Chat, Asked, Encoded)>,
}

/// The hidden layer, the most tokens, and where more are cut.
type Asked = (i32, usize, Option<Truncation>);

enum TextSource {
    Here(Box<dyn TextEncoder>, Box<ChatTokenizer>),
    Elsewhere(HeylookEncoder),
}

impl Texts {
    fn open(args: &GenerateArgs, folder: &Path) -> Result<Self, CliError> {
        if let Some(elsewhere) = args.api.encoder().map_err(CliError::usage)? {
            let elsewhere = elsewhere.with_dtype(args.model.encoder_dtype());
            let encoder = self::elsewhere(&elsewhere);
            let source = TextSource::Elsewhere(elsewhere);
            return Ok(Self { source, encoder, encoded: Vec::new() });
        }
        let (engine, tokenizer) = load_encoder(&args.model, folder)?;
        let encoder = here(engine.as_ref(), folder);
        Ok(Self {
            source: TextSource::Here(engine, Box::new(tokenizer)),
            encoder,
            encoded: Vec::new(),
        })
    }

    fn encode(
        &mut self,
        chat: &Chat,
        what: &str,
        args: &ChatArgs,
        progress: &Progress,
    ) -> Result<Encoded, CliError> {
        let asked = (args.hidden_layer, args.max_tokens, args.truncation.truncate);
        let known = self.encoded.iter().find(|(c, a, _)| (c, *a) == (chat, asked));
        if let Some((.., encoded)) = known {
            return Ok(encoded.clone());
        }
        let encoded = match &mut self.source {
            TextSource::Here(engine, tokenizer) => {
                encode_chat(engine.as_mut(), tokenizer, chat, what, args, progress)?
            }
            TextSource::Elsewhere(encoder) => api::encode_chat(encoder, chat, args, progress)?,
        };
        self.encoded.push((chat.clone(), asked, encoded.clone()));
        Ok(encoded)
    }
}

/// An encoder in this process, as sidecars tell of it.
pub fn here(engine: &dyn TextEncoder, folder: &Path) -> Encoder {
    Encoder { device: engine.info().device, model_path: label(folder) }
}

/// The last part of the model's path. The folders around it are about this machine.
fn label(folder: &Path) -> String {
    folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
}

/// One on another machine, likewise.
pub fn elsewhere(encoder: &HeylookEncoder) -> Encoder {
    Encoder { device: "heylookitsanllm".to_owned(), model_path: encoder.model().to_owned() }
}

fn save(
    path: &Path,
    item: &Item,
    conditions: &Conditions,
    encoder: &Encoder,
) -> Result<(), CliError> {
    let Some(chat) = &item.chat else { return Ok(()) };
    let mut tensors = vec![("embeddings".to_owned(), &conditions.embeddings)];
    let mut more = extras(chat, item.settings.hidden_layer);
    if let Some(negative) = &conditions.negative {
        tensors.push(("negative_embeddings".to_owned(), negative));
        more.insert("negative_prompt".to_owned(), item.negative.as_str().to_owned());
    }
    let sidecar =
        Sidecar::new(chat, item.settings.template.as_deref(), &conditions.embeddings, encoder);
    embeddings::save(path, &tensors, &sidecar, more)
}

/// What the sidecar has no key for.
pub fn extras(chat: &Chat, hidden_layer: Option<i32>) -> HashMap<String, String> {
    let mut more = HashMap::new();
    if !chat.assistant.is_empty() {
        more.insert("assistant_content".to_owned(), chat.assistant.clone());
    }
    more.extend(hidden_layer.map(|layer| ("hidden_layer".to_owned(), layer.to_string())));
    more
}

/// Tokenizes and encodes one conversation, and notes it when the prompt was truncated.
///
/// # Errors
///
/// [`CliError`] if the prompt cannot be tokenized, if the layer is out of range, or if the encoder
/// fails.
pub fn encode_chat(
    encoder: &mut dyn TextEncoder,
    tokenizer: &ChatTokenizer,
    chat: &Chat,
    what: &str,
    args: &ChatArgs,
    progress: &Progress,
) -> Result<Encoded, CliError> {
    let truncation = args.truncation.truncate.unwrap_or_default();
    let tokenized = tokenizer.tokenize_to(chat, args.max_tokens, truncation);
    let tokenized = tokenized.map_err(CliError::usage)?;
    if tokenized.truncated_tokens > 0 {
        progress.note(&format!(
            "{what} is {} tokens over --max-tokens {}; {} was truncated",
            tokenized.truncated_tokens,
            args.max_tokens,
            match truncation {
                Truncation::Prompt => "its end",
                Truncation::End => "the end of the chat, with the header of the assistant's turn,",
            }
        ));
    }
    let info = encoder.info();
    let hidden_layer = info.resolve_hidden_layer(args.hidden_layer).map_err(CliError::usage)?;
    let job = EncodeJob { token_ids: tokenized.ids, hidden_layer, dtype: info.dtype };
    let tensor = encoder.encode(&job).map_err(CliError::failed)?;
    Ok(Encoded { tensor, truncated: tokenized.truncated_tokens as u64 })
}
