//! Fetches embeddings directly from an encoder, so that they are transferred once.

use llm_dit_chat::Chat;
use llm_dit_fault::Fault;
use llm_dit_memory::MemoryBudget;
use llm_dit_params::{GenerateParams, Prompt, prompt};
use llm_dit_proto::{
    Assembler, DType, Tensor, TensorError,
    v1::{
        self, EmbeddingHeader, EncodeRequest, EncodeResponse, encode_response::Frame,
        encoder_client::EncoderClient,
    },
};
use llm_dit_serving::{Deadline, Remote, client::drain_in_background, grpc::MAX_MESSAGE_BYTES};
use llm_dit_telemetry::metrics::{Direction, tensor_bytes};
use tonic::Streaming;

use super::upload::BarePrompt;
use crate::{
    DiffusionHandle,
    engine::{LoraChoice, ModelInfo},
};

/// What a job needs of its texts.
pub(super) struct Pulled {
    pub embeddings: Tensor,
    pub negative_embeddings: Option<Tensor>,
    /// Tokens cut from the prompt.
    pub truncated_tokens: u32,
    /// Tokens cut from the negative prompt.
    pub negative_truncated_tokens: u32,
}

impl Pulled {
    /// What a client brought along: nothing was cut.
    pub fn brought(embeddings: Tensor, negative_embeddings: Option<Tensor>) -> Self {
        Self { embeddings, negative_embeddings, truncated_tokens: 0, negative_truncated_tokens: 0 }
    }
}

/// Has the prompt encoded behind the trigger words of the job's own LoRAs, and the negative prompt with it when guidance needs one.
pub(super) async fn embeddings(
    handle: &DiffusionHandle,
    params: &GenerateParams,
    loras: &[LoraChoice],
    prompt: Option<BarePrompt>,
    deadline: Deadline,
) -> Result<Pulled, Fault> {
    let Some(BarePrompt { chat, negative }) = prompt else {
        return Err(Fault::BadRequest("neither embeddings nor a prompt; send one of them".into()));
    };
    Prompt::parse(chat.user.as_str())?;
    let negative = Prompt::parse_negative(negative.unwrap_or_default())?;
    let Some(encoder) = handle.encoder() else {
        return Err(Fault::Unsupported(
            "this diffusion service has no encoder; start it with --encoder URL, or send embeddings"
                .to_owned(),
        ));
    };
    let info = handle.info_of(params.model.as_deref())?;
    let user = prompt::with_triggers(loras.iter().map(|lora| &*lora.trigger_words), &chat.user);
    let chat = Chat { user, ..Chat::from(chat) };
    let negative = params.uses_guidance().then(|| chat.negative(negative.into_string()));
    let guided = negative.is_some();
    let prompts = std::iter::once(chat).chain(negative).map(v1::Chat::from).collect();
    let memory = handle.memory();
    let mut reader = Reader::open(encoder, info, memory, prompts, deadline).await?;
    let (embeddings, truncated_tokens) = reader.tensor(0).await?;
    let (negative_embeddings, negative_truncated_tokens) = match guided {
        true => reader.tensor(1).await.map(|(tensor, cut)| (Some(tensor), cut))?,
        false => (None, 0),
    };
    drain_in_background(reader.frames);
    if truncated_tokens > 0 || negative_truncated_tokens > 0 {
        tracing::warn!(truncated_tokens, negative_truncated_tokens, "truncated a prompt");
    }
    Ok(Pulled { embeddings, negative_embeddings, truncated_tokens, negative_truncated_tokens })
}

/// Tensors from an encoder's answer, which is checked like a stranger's.
struct Reader<'a> {
    encoder: &'a Remote,
    info: &'a ModelInfo,
    memory: &'a MemoryBudget,
    frames: Streaming<EncodeResponse>,
}

impl<'a> Reader<'a> {
    async fn open(
        encoder: &'a Remote,
        info: &'a ModelInfo,
        memory: &'a MemoryBudget,
        prompts: Vec<v1::Chat>,
        deadline: Deadline,
    ) -> Result<Self, Fault> {
        // The encoder's own default, unless this model takes less.
        let few = u32::try_from(info.max_caption_tokens).ok().filter(|&n| n < 512);
        let request = EncodeRequest { prompts, max_tokens: few, ..Default::default() };
        let mut client =
            EncoderClient::new(encoder.link()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let frames = client.encode(deadline.request(request)).await;
        let frames = frames.map_err(|s| encoder.fault(s))?.into_inner();
        Ok(Self { encoder, info, memory, frames })
    }

    /// The tensor of prompt `index`, and how many tokens the encoder cut.
    async fn tensor(&mut self, index: u32) -> Result<(Tensor, u32), Fault> {
        let header = match self.frame().await? {
            Frame::Header(header) if header.index == index => header,
            Frame::Header(_) | Frame::Data(_) => return Err(self.broke("came out of order")),
        };
        let mut assembler = self.begin(&header)?;
        let bytes = header.tensor.as_ref().map_or(0, |tensor| tensor.total_bytes);
        let memory = self.memory.reserve("the encoded prompt", bytes)?;
        while !assembler.is_complete() {
            match self.frame().await? {
                Frame::Data(chunk) => assembler.push(&chunk).map_err(|e| self.broken(&e))?,
                Frame::Header(_) => return Err(self.broke("cut a tensor short")),
            }
        }
        let tensor = assembler.finish().map_err(|e| self.broken(&e))?;
        tensor_bytes("diffusion", Direction::Received, tensor.bytes().len());
        // Here and not only with the job, where it would be the caller's mistake.
        tensor.check_finite().map_err(|e| self.broken(&e))?;
        Ok((tensor.map_bytes(|bytes| memory.hold(bytes)), header.truncated_tokens))
    }

    fn begin(&self, header: &EmbeddingHeader) -> Result<Assembler, Fault> {
        let Some(tensor) = &header.tensor else {
            return Err(self.broke("sent a header without a shape"));
        };
        let shape: Vec<usize> = tensor.shape.iter().map(|&n| n as usize).collect();
        // The caller did nothing wrong: two services were put together that do not match.
        self.info.check_embeddings_shape("embeddings", &shape).map_err(|e| {
            let url = self.encoder.url();
            Fault::Unsupported(format!("the encoder at {url} runs {}: {e}", header.model))
        })?;
        let limit = self.info.max_caption_tokens * self.info.cap_feat_dim * DType::F32.size();
        Assembler::begin(tensor, limit as u64).map_err(|e| self.broken(&e))
    }

    async fn frame(&mut self) -> Result<Frame, Fault> {
        let message = self.frames.message().await.map_err(|s| self.encoder.fault(s))?;
        match message {
            Some(EncodeResponse { frame: Some(frame) }) => Ok(frame),
            Some(EncodeResponse { frame: None }) => Err(self.broke("sent an empty message")),
            None => Err(self.broke("ended its answer early")),
        }
    }

    fn broken(&self, error: &TensorError) -> Fault {
        self.broke(&format!("sent a bad tensor: {error}"))
    }

    fn broke(&self, what: &str) -> Fault {
        Fault::Unavailable(format!("the encoder at {} {what}", self.encoder.url()))
    }
}
