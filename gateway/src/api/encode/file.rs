//! Embeddings as the pair of files that `llm-dit encode` writes: `x.safetensors`, and `x.json`
//! about where they come from.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use jiff::{Unit, Zoned};
use llm_dit_fault::Fault;
use llm_dit_files::WriteError;
use llm_dit_proto::DType;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::Encoded;
use crate::{
    encode::Embedding,
    records::{problem::Problem, request::EncodeBody},
};

/// Pairs that a folder may hold.
const MAX_FILES: usize = 1000;

/// Writes the pair and says where.
pub(super) fn save(
    folder: &Path,
    body: &EncodeBody,
    encoded: &Encoded,
) -> Result<PathBuf, Problem> {
    let failed = |cause: io::Error| {
        Fault::Internal(format!("embeddings cannot be written to {}: {cause}", folder.display()))
    };
    let not_written = |error: WriteError| Fault::Internal(error.to_string());
    let tensors = tensors(&encoded.embedding)?;
    let name = format!("embeddings_{:.16}", HEXLOWER.encode(&Sha256::digest(&tensors)));
    let path = folder.join(&name).with_extension("safetensors");
    fs::create_dir_all(folder).map_err(failed)?;
    if !path.exists() && fs::read_dir(folder).map_err(failed)?.count() >= 2 * MAX_FILES {
        return Err(Problem::insufficient_storage(format!(
            "the embeddings folder already contains {MAX_FILES} files; remove some"
        )));
    }
    let about =
        serde_json::to_vec_pretty(&sidecar(body, encoded)).map_err(|error| failed(error.into()))?;
    // Each gets its name only when both are complete.
    let tensors = llm_dit_files::stage(&path, &tensors).map_err(not_written)?;
    let about = llm_dit_files::stage(&path.with_extension("json"), &about).map_err(not_written)?;
    tensors.publish().and_then(|()| about.publish()).map_err(not_written)?;
    Ok(path)
}

/// One tensor in the safetensors format: the length of a JSON header, the header, the bytes.
fn tensors(embedding: &Embedding) -> Result<Vec<u8>, Fault> {
    let dtype = match dtype(embedding)? {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::Bf16 => "BF16",
    };
    let (shape, bytes) = (&embedding.header.shape, embedding.header.total_bytes);
    let tensor = json!({"dtype": dtype, "shape": shape, "data_offsets": [0, bytes]});
    let mut header = json!({ "embeddings": tensor }).to_string();
    // The data begins at a multiple of eight.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    embedding.chunks.iter().for_each(|chunk| file.extend_from_slice(chunk));
    Ok(file)
}

/// The Python program's keys.
fn sidecar(body: &EncodeBody, encoded: &Encoded) -> serde_json::Value {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let Encoded { embedding, chat, .. } = encoded;
    let [tokens, width] = embedding.header.shape[..] else { return json!({}) };
    let dtype = match dtype(embedding) {
        Ok(DType::F32) => "torch.float32",
        Ok(DType::F16) => "torch.float16",
        Ok(DType::Bf16) | Err(_) => "torch.bfloat16",
    };
    // Local and without its offset, as Python's datetime.now().isoformat() has it.
    let now = Zoned::now().datetime().round(Unit::Microsecond);
    json!({
        "prompt": chat.user,
        "template": body.template,
        "enable_thinking": chat.has_think_block(),
        "system_prompt": text(&chat.system),
        "thinking_content": text(&chat.thinking),
        "sequence_length": tokens,
        "embedding_dim": width,
        "dtype": dtype,
        "created_at": now.map(|now| now.to_string()).unwrap_or_default(),
        "encoder_device": embedding.device,
        "model_path": embedding.model,
    })
}

fn dtype(embedding: &Embedding) -> Result<DType, Fault> {
    let dtype = DType::from_wire(embedding.header.dtype).ok().flatten();
    dtype.ok_or_else(|| Fault::Internal("embeddings of an unknown type".to_owned()))
}
