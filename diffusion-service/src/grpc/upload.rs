//! Reads the client's half of `Generate`: parameters, then tensors in chunks.
//!
//! An error is reported at the message that has it, not after everything has arrived: the
//! parameters with the first message, a tensor's size with its header.

use std::time::Duration;

use bytes::Bytes;
use llm_dit_fault::Fault;
use llm_dit_memory::{MemoryBudget, Reservation};
use llm_dit_params::{GenerateOptions, GenerateParams, LoraSet, Start};
use llm_dit_proto::{
    Assembler, DType, Tensor,
    v1::{self, GenerateRequest, ImageHeader, TensorRole, TensorStart, generate_request::Part},
};
use llm_dit_telemetry::metrics::{Direction, tensor_bytes};
use tokio::time;
use tonic::Streaming;

use super::image::{self, ImageUpload};
use crate::{
    Admission, DiffusionHandle,
    engine::{LoraChoice, ModelInfo, PreviewOptions},
    handle,
};

/// A request, whole and with checked parameters. The tensors' values are not checked yet.
pub(super) struct Upload {
    /// Taken before the data was read.
    pub admission: Admission,
    pub params: GenerateParams,
    /// What `params.loras` means here.
    pub loras: Vec<LoraChoice>,
    pub return_latents: bool,
    pub preview: Option<PreviewOptions>,
    /// Only there when `embeddings` is not.
    pub prompt: Option<BarePrompt>,
    pub embeddings: Option<Tensor>,
    pub negative_embeddings: Option<Tensor>,
    pub latents: Option<Tensor>,
    /// A picture's file, not looked into yet.
    pub image: Option<Bytes>,
    /// That of its mask; never without `image`.
    pub mask: Option<Bytes>,
}

/// Texts that have yet to be encoded.
pub(super) struct BarePrompt {
    pub chat: v1::Chat,
    pub negative: Option<String>,
}

/// The tensors of a request, and its picture, while they arrive.
struct Tensors<'a> {
    info: &'a ModelInfo,
    memory: &'a MemoryBudget,
    params: &'a GenerateParams,
    current: Option<Current>,
    embeddings: Option<Tensor>,
    negative_embeddings: Option<Tensor>,
    latents: Option<Tensor>,
    image: Option<Bytes>,
    mask: Option<Bytes>,
}

/// The part that the next data belongs to.
enum Current {
    Tensor(Role, Assembler, Reservation),
    Image(ImageUpload),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Embeddings,
    NegativeEmbeddings,
    Latents,
}

impl Upload {
    /// Reads the request's messages until the client closes its side.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the messages are out of order, incomplete, late or out of bounds, if the client
    /// leaves, or if the queue or the memory has no room.
    pub async fn read(
        mut requests: Streaming<GenerateRequest>,
        handle: &DiffusionHandle,
    ) -> Result<Self, Fault> {
        let timeout = handle.limits().message_timeout;
        let first = match next(&mut requests, timeout).await? {
            Some(Part::Params(params)) => params,
            Some(Part::Tensor(_) | Part::Data(_) | Part::Image(_)) => {
                return bad("the first message must carry the parameters");
            }
            None => return bad("the request ended before the parameters"),
        };
        let info = handle.info_of(first.model.as_deref())?;
        let options = GenerateOptions::from(&first);
        let mut params = options.resolve(&info.defaults, &info.limits)?;
        params.model = Some(info.model.clone());
        params.loras = first.loras.as_ref().map(LoraSet::try_from).transpose()?;
        let loras = handle.choose_loras(info, params.loras.as_ref())?;
        let preview = preview(&first, info)?;

        // Before the data: what cannot be queued now is not received.
        let memory = handle.begin(&params)?;
        let mut tensors = Tensors::new(info, handle.memory(), &params);
        while let Some(part) = next(&mut requests, timeout).await? {
            match part {
                Part::Params(_) => return bad("the parameters were sent twice; send them once"),
                Part::Tensor(start) => tensors.begin(&start)?,
                Part::Data(chunk) => tensors.push(&chunk)?,
                Part::Image(header) => tensors.begin_image(&header)?,
            }
        }
        tensors.end()?;
        let Tensors { embeddings, negative_embeddings, latents, image, mask, .. } = tensors;
        let start = check_start(&options, image.is_some(), mask.is_some())?;
        if let Some(strength) = options.from_start(start).strength {
            params.strength = strength;
        }
        let prompt = match (&embeddings, first.prompt) {
            (Some(_), _) => None,
            (None, _) if negative_embeddings.is_some() => {
                return bad(
                    "negative embeddings were sent without embeddings; send both, or a prompt",
                );
            }
            (None, Some(chat)) => Some(BarePrompt { chat, negative: first.negative_prompt }),
            (None, None) => return bad("neither embeddings nor a prompt; send one of them"),
        };
        let return_latents = first.return_latents;
        Ok(Self {
            admission: handle.admit(memory)?,
            params,
            loras,
            return_latents,
            preview,
            prompt,
            embeddings,
            negative_embeddings,
            latents,
            image,
            mask,
        })
    }
}

impl<'a> Tensors<'a> {
    fn new(info: &'a ModelInfo, memory: &'a MemoryBudget, params: &'a GenerateParams) -> Self {
        Self {
            info,
            memory,
            params,
            current: None,
            embeddings: None,
            negative_embeddings: None,
            latents: None,
            image: None,
            mask: None,
        }
    }

    fn begin(&mut self, start: &TensorStart) -> Result<(), Fault> {
        self.end()?;
        let role = Role::from_wire(start.role)?;
        let name = role.name();
        if self.slot(role).is_some() {
            return bad(format!("{name} were sent twice; send them once"));
        }
        let Some(header) = &start.header else {
            return bad(format!("{name}: the tensor starts without a header"));
        };
        let shape: Vec<usize> = header.shape.iter().map(|&n| n as usize).collect();
        let shape_is_good = match role {
            Role::Embeddings | Role::NegativeEmbeddings => {
                self.info.check_embeddings_shape(name, &shape)
            }
            Role::Latents if header.dtype != DType::F32.to_wire() => {
                return bad("initial latents must be f32");
            }
            Role::Latents => self.info.check_latents_shape(self.params, &shape),
        };
        shape_is_good.map_err(handle::fault)?;
        let assembler = Assembler::begin(header, self.limit(role)).map_err(|e| role.fault(&e))?;
        let memory = self.memory.reserve(role.in_sentence(), header.total_bytes)?;
        self.current = Some(Current::Tensor(role, assembler, memory));
        Ok(())
    }

    fn begin_image(&mut self, header: &ImageHeader) -> Result<(), Fault> {
        self.end()?;
        let upload = ImageUpload::begin(header, self.memory)?;
        if self.file(upload.role).is_some() {
            return bad(format!("{} was sent twice; send it once", upload.role.name()));
        }
        self.current = Some(Current::Image(upload));
        Ok(())
    }

    fn push(&mut self, chunk: &[u8]) -> Result<(), Fault> {
        tensor_bytes("diffusion", Direction::Received, chunk.len());
        match &mut self.current {
            Some(Current::Tensor(role, assembler, _)) => {
                assembler.push(chunk).map_err(|e| role.fault(&e))
            }
            Some(Current::Image(image)) => image.push(chunk),
            None => bad("tensor data arrived before any header"),
        }
    }

    /// Closes what is under way, if anything is.
    fn end(&mut self) -> Result<(), Fault> {
        match self.current.take() {
            Some(Current::Tensor(role, assembler, memory)) => {
                let tensor = assembler.finish().map_err(|e| role.fault(&e))?;
                *self.slot(role) = Some(tensor.map_bytes(|bytes| memory.hold(bytes)));
            }
            Some(Current::Image(image)) => {
                let role = image.role;
                *self.file(role) = Some(image.finish()?);
            }
            None => {}
        }
        Ok(())
    }

    fn file(&mut self, role: image::Role) -> &mut Option<Bytes> {
        match role {
            image::Role::Init => &mut self.image,
            image::Role::Mask => &mut self.mask,
        }
    }

    fn slot(&mut self, role: Role) -> &mut Option<Tensor> {
        match role {
            Role::Embeddings => &mut self.embeddings,
            Role::NegativeEmbeddings => &mut self.negative_embeddings,
            Role::Latents => &mut self.latents,
        }
    }

    /// Bytes that the largest valid tensor of this role takes.
    fn limit(&self, role: Role) -> u64 {
        let values = match role {
            Role::Embeddings | Role::NegativeEmbeddings => {
                self.info.max_caption_tokens * self.info.cap_feat_dim
            }
            Role::Latents => self.info.latent_shape(self.params).iter().product(),
        };
        (values * DType::F32.size()) as u64
    }
}

impl Role {
    fn from_wire(role: i32) -> Result<Self, Fault> {
        match TensorRole::try_from(role) {
            Ok(TensorRole::Embeddings) => Ok(Self::Embeddings),
            Ok(TensorRole::NegativeEmbeddings) => Ok(Self::NegativeEmbeddings),
            Ok(TensorRole::Latents) => Ok(Self::Latents),
            Ok(TensorRole::Unspecified) | Err(_) => bad(format!(
                "unknown tensor role {role}; send 1 (embeddings), 2 (negative embeddings) or 3 (latents)"
            )),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::NegativeEmbeddings => "negative embeddings",
            Self::Latents => "initial latents",
        }
    }

    /// As the subject of an error message.
    fn in_sentence(self) -> &'static str {
        match self {
            Self::Embeddings => "the tensor of the embeddings",
            Self::NegativeEmbeddings => "the tensor of the negative embeddings",
            Self::Latents => "the tensor of the initial latents",
        }
    }

    fn fault(self, error: &llm_dit_proto::TensorError) -> Fault {
        Fault::BadRequest(format!("{}: {error}", self.name()))
    }
}

/// The next part of the request, `None` when the client closed its side.
async fn next(
    requests: &mut Streaming<GenerateRequest>,
    timeout: Duration,
) -> Result<Option<Part>, Fault> {
    let Ok(message) = time::timeout(timeout, requests.message()).await else {
        let seconds = timeout.as_secs_f32();
        return Err(Fault::Deadline(format!(
            "the client paused for more than {seconds} s; open the call when the data is ready"
        )));
    };
    match message? {
        Some(GenerateRequest { part: Some(part) }) => Ok(Some(part)),
        Some(GenerateRequest { part: None }) => bad("a message is empty"),
        None => Ok(None),
    }
}

/// What is drawn from, if the parameters have a meaning for it.
fn check_start(options: &GenerateOptions, image: bool, mask: bool) -> Result<Start, Fault> {
    if mask && !image {
        return bad("a mask was sent without an init image; send both");
    }
    match options.of_a_mask() {
        Some(name) if !mask => bad(format!("{name} needs a mask; send one, or leave it out")),
        _ => Ok(Start::of(image, mask)),
    }
}

fn preview(params: &v1::GenerateParams, info: &ModelInfo) -> Result<Option<PreviewOptions>, Fault> {
    let asked = params.preview.and_then(|p| PreviewOptions::new(p.every_steps, p.max_side));
    if asked.is_some() && info.preview.is_none() {
        return Err(Fault::Unsupported(format!(
            "{} does not support previews; remove `preview`, or add latent_preview.json to its vae folder",
            info.model
        )));
    }
    Ok(asked)
}

fn bad<T>(message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::BadRequest(message.into()))
}
