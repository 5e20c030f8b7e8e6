//! Embeddings in files: `x.safetensors` and, beside it, `x.json` about where they come from.
//!
//! The pair has the format of the Python program, which refuses unknown keys; values without a key
//! of that format are in the metadata of the safetensors file.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use jiff::{Unit, Zoned};
use llm_dit_chat::Chat;
use llm_dit_files::{Published, Staged};
use llm_dit_proto::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    error::CliError,
    files::{self, TensorFile},
    generate::names::numbered,
};

/// The embeddings of one text, and how many of its tokens were cut.
#[derive(Clone, Debug)]
pub struct Encoded {
    pub tensor: Tensor,
    pub truncated: u64,
}

/// `x.json`. We write every key, and read whatever is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sidecar {
    pub prompt: String,
    pub template: Option<String>,
    pub enable_thinking: bool,
    pub system_prompt: Option<String>,
    pub thinking_content: Option<String>,
    pub sequence_length: usize,
    pub embedding_dim: usize,
    pub dtype: String,
    pub created_at: String,
    pub encoder_device: String,
    pub model_path: String,
}

/// The device and the model that made embeddings.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// What it computes on; `heylookitsanllm` if that server does.
    pub device: String,
    pub model_path: String,
}

/// What a file of embeddings holds.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub embeddings: Tensor,
    pub negative: Option<Tensor>,
    /// The prompt, if the sidecar is there and tells it.
    pub prompt: Option<String>,
    /// What was odd about the sidecar.
    pub notes: Vec<String>,
}

impl Sidecar {
    /// About the embeddings of this chat.
    pub fn new(
        chat: &Chat,
        template: Option<&str>,
        embeddings: &Tensor,
        encoder: &Encoder,
    ) -> Self {
        let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let [sequence_length, embedding_dim] = sizes(embeddings);
        // Local and without its offset, as Python's datetime.now().isoformat() has it.
        let now = Zoned::now().datetime().round(Unit::Microsecond);
        Self {
            prompt: chat.user.clone(),
            template: template.map(str::to_owned),
            enable_thinking: chat.has_think_block(),
            system_prompt: text(&chat.system),
            thinking_content: text(&chat.thinking),
            sequence_length,
            embedding_dim,
            dtype: torch_name(embeddings.dtype()).to_owned(),
            created_at: now.map(|now| now.to_string()).unwrap_or_default(),
            encoder_device: encoder.device.clone(),
            model_path: encoder.model_path.clone(),
        }
    }
}

/// Where the sidecar of a file is.
pub fn sidecar_path(path: &Path) -> PathBuf {
    path.with_extension("json")
}

/// Checks, before any work, that both files could be written. A device or a pipe takes the tensors
/// only.
///
/// # Errors
///
/// [`CliError`] if the two have one path, or as [`files::check_writable`].
pub fn check_writable(path: &Path) -> Result<(), CliError> {
    files::check_writable(path)?;
    if llm_dit_files::is_stream(path) {
        return Ok(());
    }
    let sidecar = sidecar_path(path);
    if sidecar == path {
        let path = path.display();
        return Err(CliError::Usage(format!(
            "{path} would be both the embeddings file and its sidecar; use .safetensors"
        )));
    }
    files::check_writable(&sidecar)
}

/// Both files, written and yet without their names.
struct Pair {
    tensors: Staged,
    /// `None` for a device or a pipe, which has no place for it.
    about: Option<Staged>,
}

fn stage(
    path: &Path,
    tensors: &[(String, &Tensor)],
    sidecar: &Sidecar,
    more: HashMap<String, String>,
) -> Result<Pair, CliError> {
    let json = serde_json::to_vec_pretty(sidecar).map_err(CliError::failed)?;
    let tensors = files::stage_tensors(path, tensors, more)?;
    let about = match llm_dit_files::is_stream(path) {
        true => None,
        false => Some(llm_dit_files::stage(&sidecar_path(path), &json).map_err(CliError::failed)?),
    };
    Ok(Pair { tensors, about })
}

/// Writes both files. Each gets its name only when both are complete.
///
/// # Errors
///
/// [`CliError`] if a file cannot be written.
pub fn save(
    path: &Path,
    tensors: &[(String, &Tensor)],
    sidecar: &Sidecar,
    more: HashMap<String, String>,
) -> Result<(), CliError> {
    let Pair { tensors, about } = stage(path, tensors, sidecar, more)?;
    tensors.publish().map_err(CliError::failed)?;
    about.map_or(Ok(()), Staged::publish).map_err(CliError::failed)
}

/// As [`save`], under the first name that is free: `x.safetensors`, `x-2.safetensors` and so on,
/// with no sidecar of that name either. Returns the name.
///
/// # Errors
///
/// [`CliError`] if a file cannot be written.
pub fn save_new(
    first: &Path,
    tensors: &[(String, &Tensor)],
    sidecar: &Sidecar,
    more: HashMap<String, String>,
) -> Result<PathBuf, CliError> {
    let Pair { tensors, about } = stage(first, tensors, sidecar, more)?;
    let mut about = about.ok_or_else(|| CliError::Failed("there is no sidecar".to_owned()))?;
    let mut tensors = tensors;
    for number in 1.. {
        let path = numbered(first, number);
        // The sidecar is the one that takes the name: embeddings without one are complete.
        if path.exists() {
            continue;
        }
        match about.publish_new(&sidecar_path(&path)).map_err(CliError::failed)? {
            Published::Taken(again) => about = again,
            Published::Done => match tensors.publish_new(&path).map_err(CliError::failed)? {
                Published::Done => return Ok(path),
                // Another process took the name, so the sidecar needs the next one too.
                Published::Taken(again) => {
                    tensors = again;
                    let taken = sidecar_path(&path);
                    let json = std::fs::read(&taken).map_err(CliError::failed)?;
                    std::fs::remove_file(&taken).map_err(CliError::failed)?;
                    about = llm_dit_files::stage(&taken, &json).map_err(CliError::failed)?;
                }
            },
        }
    }
    Err(CliError::Failed(format!("no name after {} is free", first.display())))
}

/// Reads the tensors, and the sidecar if there is one.
///
/// # Errors
///
/// [`CliError`] if the file cannot be read, or if it has no tensor that is needed.
pub fn load(path: &Path, wants_negative: bool) -> Result<Loaded, CliError> {
    let file = TensorFile::open(path)?;
    let embeddings = files::squeeze(file.require("embeddings")?, 2)?;
    let negative = if wants_negative {
        let negative = file.get("negative_embeddings")?.ok_or_else(|| {
            CliError::Usage(format!(
                "{} has no tensor 'negative_embeddings', which guidance needs; write the file with \
                 generate --save-embeddings and the same guidance, or leave out --guidance-scale",
                path.display()
            ))
        })?;
        Some(files::squeeze(negative, 2)?)
    } else {
        None
    };
    let (prompt, notes) = prompt(path, &embeddings);
    Ok(Loaded { embeddings, negative, prompt, notes })
}

/// A sidecar is only told from, so whatever is wrong with it is a note.
fn prompt(path: &Path, embeddings: &Tensor) -> (Option<String>, Vec<String>) {
    let path = sidecar_path(path);
    let note = |why: &str| format!("{}: {why}", path.display());
    let json = match llm_dit_text::read(&path) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return (None, vec![note(&format!("ignored: {error}"))]);
        }
        Err(_) => return (None, vec![note("missing, so the prompt is unknown")]),
    };
    let mut unknown = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(&json);
    let read: Result<Sidecar, _> =
        serde_ignored::deserialize(&mut reader, |key| unknown.push(key.to_string()));
    let sidecar = match read {
        Ok(sidecar) => sidecar,
        Err(error) => return (None, vec![note(&format!("ignored: {error}"))]),
    };
    let [tokens, width] = sizes(embeddings);
    if (sidecar.sequence_length, sidecar.embedding_dim) != (tokens, width) {
        let (said, dim) = (sidecar.sequence_length, sidecar.embedding_dim);
        let why = format!(
            "ignored: it describes {said} x {dim} values, but the tensor has {tokens} x {width}"
        );
        return (None, vec![note(&why)]);
    }
    let mut notes = Vec::new();
    if !unknown.is_empty() {
        notes.push(note(&format!("unknown keys: {}", unknown.join(", "))));
    }
    (Some(sidecar.prompt).filter(|prompt| !prompt.is_empty()), notes)
}

fn sizes(tensor: &Tensor) -> [usize; 2] {
    match tensor.shape() {
        [.., tokens, width] => [*tokens, *width],
        shape => [0, shape.iter().product()],
    }
}

fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "torch.float32",
        DType::F16 => "torch.float16",
        DType::Bf16 => "torch.bfloat16",
    }
}
