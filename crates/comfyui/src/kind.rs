//! What a file of weights is, by the names and shapes in its header. No values are read.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use serde_json::{Map, Value};

use crate::Part;

/// Longest header of a safetensors file, as the library limits it.
const MAX_HEADER: u64 = 100_000_000;
/// Enough for the header of a GGUF file with a vocabulary.
const GGUF_HEADER: u64 = 16 << 20;

/// Rows of the caption's embedder in Lumina 2, whose transformer has the same names.
const LUMINA_ROWS: usize = 2304;

/// Z-Image's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The width of the embeddings that it takes, if the header tells.
    Dit { caption_width: Option<usize> },
    /// A Qwen3 of this width.
    Qwen3 { width: Option<usize> },
    /// An autoencoder with 16 latent channels.
    Vae,
}

impl Kind {
    /// Whether this can be that part, beside a transformer that takes embeddings of `width`.
    pub fn fits(self, part: Part, width: Option<usize>) -> bool {
        match (self, part) {
            (Self::Dit { .. }, Part::Dit) | (Self::Vae, Part::Vae) => true,
            (Self::Qwen3 { width: own }, Part::TextEncoder) => {
                own.is_none() || width.is_none() || own == width
            }
            _ => false,
        }
    }
}

/// Reads the header; `None` for another model's file, and for one that is damaged.
pub(super) fn read(path: &Path) -> Option<Kind> {
    let mut file = File::open(path).ok()?;
    let mut start = [0; 8];
    file.read_exact(&mut start).ok()?;
    if start.starts_with(b"GGUF") {
        file.seek(SeekFrom::Start(0)).ok()?;
        let mut header = Vec::new();
        file.take(GGUF_HEADER).read_to_end(&mut header).ok()?;
        return gguf(&header);
    }
    let length = u64::from_le_bytes(start);
    if length > MAX_HEADER {
        return None;
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).ok()?;
    safetensors(&serde_json::from_slice(&header).ok()?)
}

fn safetensors(header: &Map<String, Value>) -> Option<Kind> {
    // Names may have a prefix, and a packed tensor has another shape than its values.
    let shape = |end: &str| -> Option<Vec<usize>> {
        let is_it =
            |name: &str| name.strip_suffix(end).is_some_and(|p| p.is_empty() || p.ends_with('.'));
        let (_, tensor) = header.iter().find(|(name, _)| is_it(name))?;
        let sizes = tensor.get("shape")?.as_array()?.iter();
        sizes.map(|size| usize::try_from(size.as_u64()?).ok()).collect()
    };
    let length = |end: &str| shape(end).and_then(|shape| shape.last().copied());
    if shape("cap_embedder.0.weight").is_some()
        && shape("layers.0.adaLN_modulation.0.weight").is_some()
    {
        let rows = shape("cap_embedder.1.weight").and_then(|shape| shape.first().copied());
        let caption_width = length("cap_embedder.0.weight");
        return (rows != Some(LUMINA_ROWS)).then_some(Kind::Dit { caption_width });
    }
    if shape("layers.0.self_attn.q_norm.weight").is_some() {
        let sees = header.keys().any(|name| name.contains("visual."));
        let width = length("layers.0.input_layernorm.weight");
        return (!sees).then_some(Kind::Qwen3 { width });
    }
    let latent = shape("decoder.conv_in.weight")?;
    matches!(latent[..], [_, 16, 3, 3]).then_some(Kind::Vae)
}

/// A name stands in the header as its bytes.
fn gguf(header: &[u8]) -> Option<Kind> {
    let has = |name: &str| header.windows(name.len()).any(|window| window == name.as_bytes());
    if has("cap_embedder.0.weight") && has("layers.0.adaLN_modulation.0.weight") {
        return Some(Kind::Dit { caption_width: None });
    }
    let is_qwen3 = has("blk.0.attn_q_norm.weight") && has("qwen3") && !has("qwen3vl");
    is_qwen3.then_some(Kind::Qwen3 { width: None })
}
