//! The encoder's answer becomes the diffusion service's request, chunk by chunk.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use llm_dit_fault::Fault;
use llm_dit_proto::{
    Passage, TensorError, chunks,
    v1::{
        EmbeddingHeader, EncodeResponse, GenerateRequest, TensorHeader, TensorRole, TensorStart,
        encode_response::Frame, generate_request::Part,
    },
};
use llm_dit_serving::client::drain_in_background;
use llm_dit_telemetry::metrics::{Direction, tensor_bytes};
use tokio::{sync::mpsc, time};
use tonic::Streaming;

use super::{
    cache::{Cache, Key},
    embedding::Embedding,
};
use crate::{backends::Lease, error::Error};

/// What each prompt of an encode request is to the diffusion service.
const ROLES: [TensorRole; 2] = [TensorRole::Embeddings, TensorRole::NegativeEmbeddings];

/// Bytes of one token's embedding at most, in f32. Far above any text encoder's.
const MAX_TOKEN_BYTES: u64 = 16_384 * 4;
/// An encoder that has sent everything ends its answer at once; one that does not is not waited for.
const END_OF_ANSWER: Duration = Duration::from_millis(500);

/// Where one prompt's embeddings come from.
#[derive(Debug)]
pub(super) enum Slot {
    /// Remembered.
    Ready(Arc<Embedding>),
    /// Computed for this request.
    Fresh(Arc<Embedding>),
    /// Next in the encoder's answer; to be remembered under this key.
    Coming(Key),
}

/// Embeddings of all prompts of one request.
#[derive(Debug)]
pub(crate) struct Pipe {
    slots: std::vec::IntoIter<Slot>,
    source: Option<Source>,
    /// Tokens of each prompt, and how many were cut from it, by prompt.
    tokens: Vec<(u32, u32)>,
    /// Every prompt's embeddings were remembered.
    pub cached: bool,
}

/// An answer of an encoder that has begun.
#[derive(Debug)]
struct Source {
    lease: Lease,
    frames: Streaming<EncodeResponse>,
    /// The frame that showed that the encoder works.
    first: Option<Frame>,
    /// Headers seen.
    begun: u32,
    cache: Arc<Cache>,
    /// Tokens of each prompt at most.
    max_tokens: u32,
    /// What the encoder computes on.
    device: String,
}

/// A tensor on its way through.
struct Passing {
    embedding: Embedding,
    passage: Passage,
    /// What is kept of the data, in one buffer: a chunk would keep the transport's buffer around it.
    kept: BytesMut,
    keep: bool,
}

impl Pipe {
    /// Nothing is to come.
    pub(super) fn remembered(slots: Vec<Slot>) -> Self {
        let cached = slots.iter().all(|slot| matches!(slot, Slot::Ready(_)));
        Self { slots: slots.into_iter(), source: None, tokens: Vec::new(), cached }
    }

    /// The slots that are coming are in `frames`, in order.
    pub(super) async fn coming(
        slots: Vec<Slot>,
        lease: Lease,
        frames: Streaming<EncodeResponse>,
        cache: Arc<Cache>,
        max_tokens: u32,
        device: String,
    ) -> Result<Self, Error> {
        let mut source = Source { lease, frames, first: None, begun: 0, cache, max_tokens, device };
        source.first = Some(source.next().await?);
        Ok(Self { source: Some(source), ..Self::remembered(slots) })
    }

    /// The machine that is encoding, if one is.
    pub fn lease(&self) -> Option<&Lease> {
        self.source.as_ref().map(|source| &source.lease)
    }

    /// Sends all requested embeddings to the diffusion service. Ends early, without an error, when
    /// `to` is closed: then the service has answered, and its answer is the one that counts.
    ///
    /// # Errors
    ///
    /// [`Error`] if the encoder fails, or if the embeddings' width is not `cap_feat_dim`.
    pub async fn pump(
        &mut self,
        cap_feat_dim: u64,
        to: &mpsc::Sender<GenerateRequest>,
    ) -> Result<(), Error> {
        let send = async |part| {
            if let Part::Data(chunk) = &part {
                tensor_bytes("gateway", Direction::Sent, chunk.len());
            }
            to.send(GenerateRequest { part: Some(part) }).await.is_ok()
        };
        let mut passed = Vec::new();
        for role in ROLES {
            let Some(slot) = self.slots.next() else { break };
            let start = |header: &TensorHeader| {
                Part::Tensor(TensorStart { role: role.into(), header: Some(header.clone()) })
            };
            match slot {
                Slot::Ready(embedding) | Slot::Fresh(embedding) => {
                    check_width(&embedding.header, &embedding.model, None, cap_feat_dim)?;
                    self.tokens.push(embedding.tokens());
                    if !send(start(&embedding.header)).await {
                        return Ok(());
                    }
                    for chunk in &embedding.chunks {
                        if !send(Part::Data(chunk.clone())).await {
                            return Ok(());
                        }
                    }
                }
                Slot::Coming(key) => {
                    let Some(source) = &mut self.source else { break };
                    let mut passing = source.begin().await?;
                    let Embedding { header, model, .. } = &passing.embedding;
                    check_width(header, model, Some(&source.lease.remote.place()), cap_feat_dim)?;
                    self.tokens.push(passing.embedding.tokens());
                    if !send(start(header)).await {
                        return Ok(());
                    }
                    while !passing.passage.is_complete() {
                        let chunk = source.chunk(&mut passing).await?;
                        if !send(Part::Data(chunk)).await {
                            return Ok(());
                        }
                    }
                    passed.push((key, passing));
                }
            }
        }
        if let Some(source) = &mut self.source {
            source.end().await?;
            for (key, passing) in passed {
                source.remember(key, passing);
            }
        }
        if let Some(source) = self.source.take() {
            drain_in_background(source.frames);
        }
        Ok(())
    }

    /// The first prompt's embeddings, and whether they came from the cache.
    ///
    /// # Errors
    ///
    /// [`Error`] if the encoder fails or nothing was encoded.
    pub async fn collect(mut self) -> Result<(Arc<Embedding>, bool), Error> {
        let cached = self.cached;
        let slot = self.slots.next().ok_or_else(|| Error::Lost("nothing was encoded".into()))?;
        let key = match slot {
            Slot::Ready(embedding) | Slot::Fresh(embedding) => return Ok((embedding, cached)),
            Slot::Coming(key) => key,
        };
        let mut source =
            self.source.take().ok_or_else(|| Error::Lost("nothing was encoded".into()))?;
        let mut passing = source.begin().await?;
        passing.keep = true;
        while !passing.passage.is_complete() {
            source.chunk(&mut passing).await?;
        }
        source.end().await?;
        let embedding = source.remember(key, passing);
        drain_in_background(source.frames);
        Ok((embedding, cached))
    }

    /// Tokens of the prompt and the negative prompt, each with how many were cut from it.
    pub fn tokens(&self) -> [(u32, u32); 2] {
        let of = |index| self.tokens.get(index).copied().unwrap_or_default();
        [of(0), of(1)]
    }
}

impl Source {
    async fn begin(&mut self) -> Result<Passing, Error> {
        let header = match self.frame().await? {
            Frame::Header(header) => header,
            Frame::Data(_) => return Err(self.broke("sent more bytes than it announced")),
        };
        if header.index != self.begun {
            return Err(self.broke("answered out of order"));
        }
        self.begun += 1;
        let EmbeddingHeader { tensor, hidden_layer, truncated_tokens, model, .. } = header;
        let Some(tensor) = tensor else {
            return Err(self.broke("sent a header without a shape"));
        };
        let max_bytes = u64::from(self.max_tokens).saturating_mul(MAX_TOKEN_BYTES);
        let passage = Passage::begin(&tensor, max_bytes).map_err(|error| self.broken(&error))?;
        if passage.shape().len() != 2 {
            return Err(self.broke("sent embeddings that are not (tokens, width)"));
        }
        let keep = self.cache.has_room_for(tensor.total_bytes);
        let truncated = truncated_tokens;
        let embedding = Embedding {
            header: tensor,
            chunks: Vec::new(),
            hidden_layer,
            truncated,
            model,
            device: self.device.clone(),
        };
        Ok(Passing { embedding, passage, kept: BytesMut::new(), keep })
    }

    async fn chunk(&mut self, passing: &mut Passing) -> Result<Bytes, Error> {
        let chunk = match self.frame().await? {
            Frame::Data(chunk) => chunk,
            Frame::Header(_) => {
                return Err(self.broke("began a tensor before the last one was complete"));
            }
        };
        passing.passage.push(&chunk).map_err(|error| self.broken(&error))?;
        tensor_bytes("gateway", Direction::Received, chunk.len());
        if passing.keep {
            passing.kept.extend_from_slice(&chunk);
        }
        Ok(chunk)
    }

    fn remember(&self, key: Key, passing: Passing) -> Arc<Embedding> {
        let Passing { mut embedding, kept, keep, .. } = passing;
        if !keep {
            return Arc::new(embedding);
        }
        embedding.chunks = chunks(kept.freeze()).collect();
        let embedding = Arc::new(embedding);
        self.cache.put(key, &embedding);
        embedding
    }

    async fn frame(&mut self) -> Result<Frame, Error> {
        match self.first.take() {
            Some(frame) => Ok(frame),
            None => self.next().await,
        }
    }

    /// Nothing may follow the last tensor. An answer is checked to its end before it is used or
    /// remembered.
    async fn end(&mut self) -> Result<(), Error> {
        match time::timeout(END_OF_ANSWER, self.frames.message()).await {
            Ok(Ok(None)) | Err(_) => Ok(()),
            Ok(Ok(Some(_))) => Err(self.broke("sent more than it was asked for")),
            Ok(Err(status)) => Err(Error::midway(self.lease.remote.fault(status))),
        }
    }

    async fn next(&mut self) -> Result<Frame, Error> {
        let begun = self.begun > 0;
        let message = async { Ok::<_, Fault>(self.frames.message().await) };
        match self.lease.unless_silent(message).await? {
            Ok(Some(EncodeResponse { frame: Some(frame) })) => Ok(frame),
            Ok(Some(EncodeResponse { frame: None })) => Err(self.broke("sent an empty message")),
            Ok(None) => Err(self.broke("ended its answer early")),
            Err(status) if begun => Err(Error::midway(self.lease.remote.fault(status))),
            Err(status) => Err(self.lease.remote.fault(status).into()),
        }
    }

    fn broke(&self, what: &str) -> Error {
        Error::Lost(format!("{} {what}", self.lease.remote.place()))
    }

    fn broken(&self, error: &TensorError) -> Error {
        self.broke(&format!("sent a bad tensor: {error}"))
    }
}

/// The caller did nothing wrong: two services were put together that do not match.
fn check_width(
    header: &TensorHeader,
    model: &str,
    place: Option<&str>,
    cap_feat_dim: u64,
) -> Result<(), Error> {
    match header.shape[..] {
        [_, width] if width != cap_feat_dim => {
            let encoder = place.unwrap_or("the encoder");
            Err(Error::Fault(Fault::Unsupported(format!(
                "{encoder} runs {model}, whose embeddings are {width} wide, but the diffusion service has cap_feat_dim {cap_feat_dim}; use the text encoder that belongs to it"
            ))))
        }
        _ => Ok(()),
    }
}
