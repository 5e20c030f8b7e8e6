//! The encoder's answer becomes the diffusion service's request, chunk by chunk.

use llm_dit_proto::{
    Fault,
    v1::{
        Chat, EmbeddingHeader, EncodeRequest, EncodeResponse, GenerateRequest, TensorRole,
        TensorStart, encode_response::Frame, generate_request::Part,
    },
};
use llm_dit_serving::Remote;
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::{
    backends::{Backends, Model},
    error::Error,
    generate::Truncated,
};

/// Tokens that the encoder is asked for at most, as in diffusers' pipeline.
const MAX_TOKENS: u32 = 512;

/// What each prompt of an encode request is to the diffusion service.
const ROLES: [TensorRole; 2] = [TensorRole::Embeddings, TensorRole::NegativeEmbeddings];

/// An answer of an encoder that has begun.
pub(crate) struct Pipe<'a> {
    encoder: &'a Remote,
    cap_feat_dim: u64,
    frames: Streaming<EncodeResponse>,
    /// The frame that showed that the encoder works.
    first: Option<Frame>,
    prompts: usize,
    /// Headers seen.
    begun: usize,
    /// Bytes that the tensor begun last still lacks.
    missing: u64,
    truncated: Truncated,
}

impl<'a> Pipe<'a> {
    /// Has the prompts encoded and waits for the first frame, so that the diffusion service is only
    /// called when there is something to send to it.
    pub async fn open(
        encoder: &'a Remote,
        model: &Model,
        prompts: Vec<Chat>,
    ) -> Result<Self, Error> {
        let count = prompts.len().min(ROLES.len());
        let max_tokens = Some(model.max_caption_tokens.min(MAX_TOKENS));
        let request = EncodeRequest { prompts, max_tokens, ..Default::default() };
        let answer = Backends::encoder_client(encoder).encode(request).await;
        let mut pipe = Self {
            encoder,
            cap_feat_dim: model.cap_feat_dim,
            frames: answer.map_err(|status| encoder.fault(status))?.into_inner(),
            first: None,
            prompts: count,
            begun: 0,
            missing: 0,
            truncated: Truncated::default(),
        };
        pipe.first = Some(pipe.next().await?);
        Ok(pipe)
    }

    /// Moves everything that was asked for. Ends early, without an error, when `to` is closed: then
    /// the diffusion service has answered, and its answer is the one that counts.
    pub async fn pump(&mut self, to: &mpsc::Sender<GenerateRequest>) -> Result<(), Error> {
        while self.begun < self.prompts || self.missing > 0 {
            let frame = match self.first.take() {
                Some(frame) => frame,
                None => self.next().await?,
            };
            let part = match frame {
                Frame::Header(header) => Part::Tensor(self.begin(header)?),
                Frame::Data(chunk) => {
                    self.missing = self
                        .missing
                        .checked_sub(chunk.len() as u64)
                        .ok_or_else(|| self.broke("sent more bytes than it announced"))?;
                    Part::Data(chunk)
                }
            };
            if to.send(GenerateRequest { part: Some(part) }).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Tokens that the encoder cut.
    pub fn truncated(&self) -> Truncated {
        self.truncated
    }

    fn begin(&mut self, header: EmbeddingHeader) -> Result<TensorStart, Error> {
        let (true, Some(role)) = (self.missing == 0, ROLES.get(self.begun)) else {
            return Err(self.broke("began a tensor before the last one was complete"));
        };
        if header.index as usize != self.begun {
            return Err(self.broke("answered out of order"));
        }
        let Some(tensor) = header.tensor else {
            return Err(self.broke("sent a header without a shape"));
        };
        // The caller did nothing wrong: two services were put together that do not match.
        if let [_, width] = tensor.shape[..]
            && width != self.cap_feat_dim
        {
            return Err(Error::Fault(Fault::Unsupported(format!(
                "the encoder at {} runs {}, whose embeddings are {width} wide, but the diffusion service has cap_feat_dim {}; use the text encoder that belongs to it",
                self.encoder.url(),
                header.model,
                self.cap_feat_dim
            ))));
        }
        match role {
            TensorRole::NegativeEmbeddings => self.truncated.negative = header.truncated_tokens,
            _ => self.truncated.prompt = header.truncated_tokens,
        }
        self.begun += 1;
        self.missing = tensor.total_bytes;
        Ok(TensorStart { role: (*role).into(), header: Some(tensor) })
    }

    async fn next(&mut self) -> Result<Frame, Error> {
        let begun = self.begun > 0;
        match self.frames.message().await {
            Ok(Some(EncodeResponse { frame: Some(frame) })) => Ok(frame),
            Ok(Some(EncodeResponse { frame: None })) => Err(self.broke("sent an empty message")),
            Ok(None) => Err(self.broke("ended its answer early")),
            Err(status) if begun => Err(Error::midway(self.encoder.fault(status))),
            Err(status) => Err(self.encoder.fault(status).into()),
        }
    }

    fn broke(&self, what: &str) -> Error {
        Error::Lost(format!("the encoder at {} {what}", self.encoder.url()))
    }
}
