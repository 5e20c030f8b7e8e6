//! Loads an engine and its tokenizer from a model folder.

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use candle_core::Device;
use llm_dit_chat::{ChatTokenizer, TokenizerParts};
use llm_dit_device::{
    device_id, is_out_of_memory,
    meter::{self, memory_reader},
};
use llm_dit_engine::{
    MemoryReader,
    plan::{Part, Plan, Stage, Work},
    stage_peak,
    text::{EncodeError, EncodeJob, EncoderInfo, TextEncoder},
};
use llm_dit_proto::{DType, Tensor};
use llm_dit_weights::{
    Checkpoint, DeviceChoice, GgufTokenizer, Kind, Library, LoadError, Packing, PartFiles, Parts,
    Precision, Residency, Resident, Rule, Schema, Weights, check_index, compute_dtype,
    gguf_tokenizer, model_label, part_config, synthetic, wire_dtype,
};

use crate::{config::Config, model::Qwen3, names};

/// Where a model's folder has the text encoder, and the stem of its files there.
const FOLDER: &str = "text_encoder";
const TOKENIZER: &str = "tokenizer";
const STEM: &str = "model";

/// What `model_index.json` may say of what is loaded here. Tokenizers have had several classes.
const INDEX: Schema = Schema {
    keys: &[
        (FOLDER, Rule::Read(Kind::Class(&["Qwen3Model", "Qwen3ForCausalLM"]))),
        (
            TOKENIZER,
            Rule::Read(Kind::Class(&[
                "Qwen2Tokenizer",
                "Qwen2TokenizerFast",
                "PreTrainedTokenizerFast",
                "TokenizersBackend",
                "AutoTokenizer",
            ])),
        ),
    ],
    library: Library::Diffusers,
};

/// What to load and where.
#[derive(Clone, Debug, Default)]
pub struct EncoderOptions {
    /// A diffusers folder with `text_encoder/` and `tokenizer/`. With a path below, the built-in
    /// tokenizer is used if it has none.
    pub model_path: PathBuf,
    /// Instead of its `text_encoder/`: such a folder, or a file (safetensors or GGUF).
    pub text_encoder_path: Option<PathBuf>,
    pub device: DeviceChoice,
    /// What to compute in; `None`: f32 on the CPU, bf16 on an accelerator, or f16 on a GPU that has no
    /// bf16. With f16, weights and products are f16, all else f32.
    pub dtype: Option<DType>,
    /// Whether the weights stay on the device, or are there only while it computes.
    pub residency: Residency,
    /// Whether weights stay as they are stored.
    pub packing: Packing,
}

/// [`Qwen3`] behind the engine trait.
struct Qwen3Encoder {
    info: EncoderInfo,
    config: Config,
    device: Device,
    model: Resident<Qwen3>,
}

/// Loads `text_encoder/` and `tokenizer/`.
///
/// # Errors
///
/// [`LoadError`] if a file is missing or invalid, if the tensors do not fit the configuration, or
/// if the device cannot be opened.
pub fn load(options: &EncoderOptions) -> Result<(Box<dyn TextEncoder>, ChatTokenizer), LoadError> {
    check_index(&options.model_path, &INDEX, |key| key == TOKENIZER)?;
    let tokenizer = tokenizer(options)?;
    let (label, config, weights) = open(options)?;
    // A text encoder of another family has other tokens, and fewer or more of them.
    if let (Tokens::BuiltIn, vocabulary) = (tokenizer.1, tokenizer.0.vocabulary())
        && config.vocab_size < vocabulary
    {
        let cause = format!(
            "it has {} tokens, and the built-in tokenizer of Qwen3 has {vocabulary}; give its own with --model-path: a folder with tokenizer/",
            config.vocab_size
        );
        return Err(LoadError::Invalid { path: options.files().path().to_owned(), cause });
    }
    Ok((assemble(label, config, weights, options.residency)?, tokenizer.0))
}

/// Where a tokenizer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tokens {
    /// The folder's or the file's.
    Given,
    BuiltIn,
}

/// That of the model's folder, else that of a GGUF file. A text encoder that was named without one gets
/// the program's own.
fn tokenizer(options: &EncoderOptions) -> Result<(ChatTokenizer, Tokens), LoadError> {
    let said = |error: llm_dit_chat::ChatError| LoadError::Tokenizer(error.to_string());
    let folder = options.model_path.join(TOKENIZER);
    let Some(file) = options.text_encoder_path.as_deref().filter(|_| !folder.exists()) else {
        return Ok((ChatTokenizer::from_folder(&folder).map_err(said)?, Tokens::Given));
    };
    let own = if file.is_file() { gguf_tokenizer(file)? } else { None };
    if let Some(GgufTokenizer { tokens, merges, added }) = own {
        let parts = TokenizerParts { tokens, merges, added };
        return Ok((ChatTokenizer::from_parts(file, &parts).map_err(said)?, Tokens::Given));
    }
    tracing::debug!("using the built-in tokenizer of Qwen3");
    Ok((ChatTokenizer::qwen3().map_err(said)?, Tokens::BuiltIn))
}

/// Loads `text_encoder/` alone, for callers that bring token ids.
///
/// # Errors
///
/// As [`load`], without the tokenizer.
pub fn load_encoder(options: &EncoderOptions) -> Result<Box<dyn TextEncoder>, LoadError> {
    let (label, config, weights) = open(options)?;
    assemble(label, config, weights, options.residency)
}

/// The files, before anything is loaded from them.
fn open(options: &EncoderOptions) -> Result<(String, Config, Weights), LoadError> {
    let (model_path, instead) = (&options.model_path, options.text_encoder_path.as_deref());
    check_index(model_path, &INDEX, |key| key == FOLDER && instead.is_none())?;
    let device = options.device.open()?;
    let precision = Precision::of_transformer(compute_dtype(options.dtype, &device));
    let part = options.files();
    let weights = Checkpoint::open(&part, names::naming, &device, precision, options.packing)?;
    let config: Config = part_config(&part, &model_path.join(FOLDER), &weights)?;
    Ok((model_label(instead.unwrap_or(model_path)), config, weights))
}

/// What the text encoder takes of its device, read from its files without its weights.
///
/// # Errors
///
/// As [`load_encoder`], without what loading itself finds.
pub fn measure(options: &EncoderOptions) -> Result<Parts, LoadError> {
    let (_, config, weights) = open(options)?;
    let encode = config.encode_bytes(weights.dtype().size_in_bytes());
    let work = Work { encode, ..Work::default() };
    let sizes = vec![weights.size(Part::TextEncoder)];
    Ok(Parts { device: weights.device().clone(), sizes, work })
}

impl EncoderOptions {
    /// The same with the part kept as a plan says it, if there is one.
    #[must_use]
    pub fn planned(self, plan: Option<&Plan>) -> Self {
        match plan.and_then(|plan| plan.part(Part::TextEncoder)) {
            Some(part) => Self { residency: part.stay.into(), packing: part.form.into(), ..self },
            None => self,
        }
    }

    /// The text encoder's.
    pub fn files(&self) -> PartFiles {
        PartFiles::find(&self.model_path, FOLDER, STEM, self.text_encoder_path.as_deref())
    }
}

/// An encoder of this shape with random weights, to measure with. Paths of `options` are not read.
///
/// # Errors
///
/// [`LoadError`] if the device cannot be opened or does not have the memory.
pub fn synthetic_encoder(
    label: &str,
    config: Config,
    options: &EncoderOptions,
) -> Result<Box<dyn TextEncoder>, LoadError> {
    let device = options.device.open()?;
    let precision = Precision::of_transformer(compute_dtype(options.dtype, &device));
    let weights = synthetic(Path::new(label), &device, precision);
    assemble(label.to_owned(), config, weights, options.residency)
}

fn assemble(
    model: String,
    config: Config,
    weights: Weights,
    residency: Residency,
) -> Result<Box<dyn TextEncoder>, LoadError> {
    let info = EncoderInfo {
        model,
        hidden_size: config.hidden_size,
        layers: config.num_hidden_layers,
        device: device_id(weights.device()).to_string(),
        dtype: wire_dtype(weights.precision().matrices),
    };
    let device = weights.device().clone();
    let model = {
        let config = config.clone();
        Resident::new(residency, move || Qwen3::load(config.clone(), &weights))?
    };
    Ok(Box::new(Qwen3Encoder { info, config, device, model }))
}

impl TextEncoder for Qwen3Encoder {
    fn info(&self) -> EncoderInfo {
        self.info.clone()
    }

    fn encode(&mut self, job: &EncodeJob) -> Result<Tensor, EncodeError> {
        let config = &self.config;
        let limit = config.max_position_embeddings;
        if job.token_ids.is_empty() || job.token_ids.len() > limit {
            let count = job.token_ids.len();
            return Err(EncodeError::BadJob(format!(
                "{count} tokens; the model takes 1 to {limit}"
            )));
        }
        if let Some(id) = job.token_ids.iter().find(|&&id| id as usize >= config.vocab_size) {
            let size = config.vocab_size;
            return Err(EncodeError::BadJob(format!(
                "token id {id} is outside the vocabulary of {size}; tokenizer/ and text_encoder/ do not belong together"
            )));
        }
        if job.hidden_layer > config.num_hidden_layers {
            let layer = job.hidden_layer;
            return Err(EncodeError::BadJob(format!(
                "hidden layer {layer} of {}",
                config.num_hidden_layers
            )));
        }
        let device = self.device.clone();
        let (encoded, peak) = meter::stage(&device, || self.encode_checked(job));
        stage_peak(Stage::Encode, peak);
        encoded
    }

    fn probe(&mut self) -> Result<(), EncodeError> {
        let model = self.model.get().map_err(|error| failed(&error))?;
        let works = model.hidden_states(&[0], 0).and_then(|states| to_wire(&states, DType::F32));
        self.model.release();
        works.map(drop).map_err(|error| failed(&error))
    }

    fn memory(&self) -> Option<MemoryReader> {
        Some(memory_reader(&self.device))
    }
}

impl Qwen3Encoder {
    fn encode_checked(&mut self, job: &EncodeJob) -> Result<Tensor, EncodeError> {
        let model = self.model.get().map_err(|error| failed(&error))?;
        let encoded = model
            .hidden_states(&job.token_ids, job.hidden_layer)
            .and_then(|states| to_wire(&states, job.dtype));
        self.model.release();
        encoded.map_err(|error| failed(&error))
    }
}

/// What a library's error means to a caller.
fn failed(error: &(dyn Error + 'static)) -> EncodeError {
    let cause = error.to_string();
    if is_out_of_memory(error) {
        tracing::error!(cause, "the device is out of memory");
        EncodeError::OutOfMemory
    } else {
        EncodeError::Backend(cause)
    }
}

/// Copies the values from the device as f32, and rounds them to the wire dtype on the host.
fn to_wire(states: &candle_core::Tensor, dtype: DType) -> candle_core::Result<Tensor> {
    let shape = states.dims().to_vec();
    let values = states.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Tensor::from_f32(&values, shape, dtype).map_err(|e| candle_core::Error::Msg(e.to_string()))
}
