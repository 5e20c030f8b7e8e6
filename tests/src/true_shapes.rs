//! Files of Z-Image's shapes with random values: the weights mean nothing, sizes and speed do.

use std::{
    collections::BTreeMap,
    error::Error,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
};

use candle_core::{DType, Device, Tensor};
use llm_dit_kernels::Format;
use llm_dit_qwen3 as qwen3;
use llm_dit_weights::synthetic;
use llm_dit_z_image::{dit, vae};

use crate::packed::{Pair, Random, header, pack};

/// Which types a file has, by the name that its writers give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    Bf16,
    Q8_0,
    Q4KM,
    Q3KM,
}

impl Mix {
    /// Of a matrix in a layer of the transformer, as ComfyUI-GGUF's patch of llama-quantize chooses.
    fn transformer(self, name: &str) -> Format {
        let is_qkv = name.contains(".to_") && !name.contains("to_out");
        let is_down = name.contains(".w2.");
        match self {
            Self::Bf16 => Format::Bf16,
            Self::Q8_0 => Format::Q8_0,
            Self::Q4KM if is_qkv => Format::Q5K,
            Self::Q4KM if is_down => Format::Q6K,
            Self::Q4KM => Format::Q4K,
            Self::Q3KM if is_qkv || is_down => Format::Q4K,
            Self::Q3KM => Format::Q3K,
        }
    }

    /// Of a matrix of the text encoder, as llama-quantize chooses.
    fn encoder(self, name: &str) -> Format {
        let is_fine = ["attn_v", "ffn_down", "token_embd"].iter().any(|part| name.contains(part));
        match self {
            Self::Bf16 => Format::Bf16,
            Self::Q8_0 => Format::Q8_0,
            Self::Q4KM if is_fine => Format::Q6K,
            Self::Q4KM => Format::Q4K,
            Self::Q3KM if is_fine => Format::Q5K,
            Self::Q3KM => Format::Q3K,
        }
    }
}

/// The transformer in a GGUF file: embedders, refiners and vectors are not quantized.
///
/// # Errors
///
/// When the file cannot be written.
pub fn transformer(path: &Path, mix: Mix) -> Result<(), Box<dyn Error>> {
    let format = |name: &str, shape: &[usize]| {
        let quantized = name.starts_with("layers.") && name.ends_with(".weight");
        match shape {
            [_, _] if quantized => mix.transformer(name),
            [_, _] => Format::Bf16,
            _ => Format::F32,
        }
    };
    write(path, &[], &dit::tensors(&dit::Config::z_image()), format)
}

/// The text encoder in a GGUF file, without a tokenizer.
///
/// # Errors
///
/// When the file cannot be written.
pub fn text_encoder(path: &Path, mix: Mix) -> Result<(), Box<dyn Error>> {
    let config = qwen3::Config::qwen3_4b();
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    let (queries, keys) = (config.num_attention_heads * 128, config.num_key_value_heads * 128);
    let layer = |i: usize| {
        [
            ("attn_norm", vec![width]),
            ("ffn_norm", vec![width]),
            ("attn_q_norm", vec![128]),
            ("attn_k_norm", vec![128]),
            ("attn_q", vec![queries, width]),
            ("attn_k", vec![keys, width]),
            ("attn_v", vec![keys, width]),
            ("attn_output", vec![width, queries]),
            ("ffn_gate", vec![inner, width]),
            ("ffn_up", vec![inner, width]),
            ("ffn_down", vec![width, inner]),
        ]
        .map(|(name, shape)| (format!("blk.{i}.{name}.weight"), shape))
    };
    let mut tensors: BTreeMap<_, _> = (0..config.num_hidden_layers).flat_map(layer).collect();
    tensors.insert("token_embd.weight".to_owned(), vec![config.vocab_size, width]);
    tensors.insert("output_norm.weight".to_owned(), vec![width]);
    let format = |name: &str, shape: &[usize]| match shape {
        [_, _] => mix.encoder(name),
        _ => Format::F32,
    };
    let pairs = [
        ("general.architecture", Pair::Text("qwen3".into())),
        ("qwen3.attention.key_length", Pair::Whole(128)),
        ("qwen3.attention.layer_norm_rms_epsilon", Pair::Float(1e-6)),
        ("qwen3.rope.freq_base", Pair::Float(1e6)),
        ("qwen3.context_length", Pair::Whole(40_960)),
    ];
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value));
    write(path, &pairs, &tensors, format)
}

/// The VAE's decoder and encoder in bf16, as a safetensors file.
///
/// # Errors
///
/// When the file cannot be written.
pub fn vae(path: &Path) -> Result<(), Box<dyn Error>> {
    let config = vae::Config::z_image();
    let mut shapes = asked(|weights| vae::Decoder::load(config.clone(), weights).map(drop))?;
    shapes.extend(asked(|weights| vae::Encoder::load(config.clone(), weights).map(drop))?);
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let is_norm = shape.len() == 1 && name.ends_with("weight");
        let tensor = match is_norm {
            true => Tensor::ones(shape, DType::F32, &Device::Cpu),
            false => Tensor::randn(0f32, 0.02, shape, &Device::Cpu),
        };
        Ok((name, tensor?.to_dtype(DType::BF16)?))
    });
    let tensors = tensors.collect::<Result<Vec<_>, candle_core::Error>>()?;
    Ok(safetensors::serialize_to_file(tensors, None, path)?)
}

/// The shapes that loading asks for.
fn asked<E: Error + 'static>(
    load: impl FnOnce(&llm_dit_weights::Weights) -> Result<(), E>,
) -> Result<BTreeMap<String, Vec<usize>>, Box<dyn Error>> {
    let weights = synthetic(Path::new("shapes"), &Device::Cpu, DType::BF16);
    load(&weights)?;
    Ok(weights.asked())
}

/// The largest piece that is made of random blocks; it is repeated.
const PIECE: usize = 1 << 16;

fn write(
    path: &Path,
    pairs: &[(String, Pair)],
    tensors: &BTreeMap<String, Vec<usize>>,
    format: impl Fn(&str, &[usize]) -> Format,
) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let entries: Vec<(&str, &[usize], Format, usize)> = tensors
        .iter()
        .map(|(name, shape)| {
            let format = format(name, shape);
            let rows: usize = shape.iter().rev().skip(1).product();
            let row = shape.last().and_then(|&columns| format.row_bytes(columns));
            (name.as_str(), shape.as_slice(), format, rows * row.unwrap_or(0))
        })
        .collect();
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&header(pairs, entries.iter().copied()))?;
    let mut random = Random(1);
    let values: Vec<f32> = (0..PIECE).map(|_| random.normal(0.02)).collect();
    for (name, shape, format, bytes) in entries {
        let is_norm = shape.len() == 1 && name.ends_with("weight");
        let piece = if is_norm {
            pack(format, &vec![1.0; PIECE], &mut random)
        } else {
            pack(format, &values, &mut random)
        };
        let mut left = bytes;
        while left > 0 {
            let part = left.min(piece.len());
            file.write_all(&piece[..part])?;
            left -= part;
        }
        file.write_all(&vec![0; bytes.next_multiple_of(32) - bytes])?;
    }
    Ok(file.flush()?)
}
