//! Embeddings of prompts: from the cache, from an encoder service, or from heylookitsanllm.

mod cache;
mod embedding;
mod pipe;

use std::sync::Arc;

use llm_dit_chat::Chat;
use llm_dit_fault::Fault;
use llm_dit_heylook::HeylookEncoder;
use llm_dit_params::Truncation;
use llm_dit_proto::v1::{self, DescribeEncoderRequest, EncodeRequest, EncoderDescription};
use prost::Message as _;

use crate::{
    backends::{Choice, EncoderKind, Lease, NamedEncoder, Pool, Tried},
    error::Error,
    options::HEYLOOK,
    records::request::Ask,
};

use self::{cache::Key, pipe::Slot};
pub(crate) use self::{
    cache::{Cache, CacheStats},
    embedding::Embedding,
    pipe::Pipe,
};

/// Has the prompts encoded and waits for the first frame, so that a diffusion service is only
/// called when there is something to send to it.
pub(crate) async fn open(
    encoder: &NamedEncoder,
    cache: &Arc<Cache>,
    chats: &[Chat],
    ask: Ask,
    tried: &mut Tried,
) -> Result<Pipe, Error> {
    match &encoder.kind {
        EncoderKind::Grpc(pool) => loop {
            let lease = pool.pick(tried).await?;
            let backend = Arc::clone(lease.backend());
            match from_service(&encoder.name, pool, lease, cache, chats, ask).await {
                Ok(pipe) => return Ok(pipe),
                Err(error) => tried.note(&backend, error)?,
            }
        },
        EncoderKind::Heylook(server) => {
            from_heylook(&encoder.name, server, cache, chats, ask).await
        }
    }
}

async fn from_service(
    name: &str,
    pool: &Pool,
    lease: Lease,
    cache: &Arc<Cache>,
    chats: &[Chat],
    ask: Ask,
) -> Result<Pipe, Error> {
    let mut client = lease.encoder();
    let described = lease.answer(client.describe(DescribeEncoderRequest {})).await?;
    let requests = chats.iter().map(|chat| EncodeRequest {
        prompts: vec![chat.clone().into()],
        hidden_layer: Some(ask.hidden_layer),
        max_tokens: Some(ask.max_tokens),
        truncation: wire(ask.truncation),
        ..Default::default()
    });
    let device = described.device.clone();
    let described = stable(described);
    let identity = Identity { name, epoch: pool.epoch(), described: &described };
    let slots: Vec<Slot> = requests
        .map(|request| {
            let key = identity.key(&request);
            cache.get(&key).map_or(Slot::Coming(key), Slot::Ready)
        })
        .collect();
    let missing = slots.iter().zip(chats).filter(|(slot, _)| matches!(slot, Slot::Coming(_)));
    let prompts: Vec<v1::Chat> = missing.map(|(_, chat)| chat.clone().into()).collect();
    if prompts.is_empty() {
        return Ok(Pipe::remembered(slots));
    }
    let request = EncodeRequest {
        prompts,
        hidden_layer: Some(ask.hidden_layer),
        max_tokens: Some(ask.max_tokens),
        truncation: wire(ask.truncation),
        ..Default::default()
    };
    let frames = lease.answer(client.encode(ask.deadline.request(request))).await?;
    Pipe::coming(slots, lease, frames, Arc::clone(cache), ask.max_tokens, device).await
}

/// What an encoder says of itself, without what it only supposes until it has encoded something: of
/// heylookitsanllm, width, layers and dtype. The same prompt would have another key then.
fn stable(described: EncoderDescription) -> EncoderDescription {
    if described.device != HEYLOOK {
        return described;
    }
    EncoderDescription { hidden_size: 0, layers: 0, dtype: 0, ..described }
}

async fn from_heylook(
    name: &str,
    server: &HeylookEncoder,
    cache: &Arc<Cache>,
    chats: &[Chat],
    ask: Ask,
) -> Result<Pipe, Error> {
    llm_dit_heylook::check_truncation(ask.truncation).map_err(Fault::from)?;
    let described = EncoderDescription {
        model: server.model().to_owned(),
        device: HEYLOOK.to_owned(),
        ..Default::default()
    };
    let identity = Identity { name, epoch: 0, described: &described };
    let mut slots = Vec::new();
    for chat in chats {
        let text = llm_dit_heylook::format(chat).map_err(Fault::from)?;
        let request = EncodeRequest {
            prompts: vec![chat.clone().into()],
            hidden_layer: Some(ask.hidden_layer),
            max_tokens: Some(ask.max_tokens),
            truncation: wire(ask.truncation),
            ..Default::default()
        };
        let key = identity.key(&request);
        if let Some(known) = cache.get(&key) {
            slots.push(Slot::Ready(known));
            continue;
        }
        let max_tokens = ask.max_tokens as usize;
        let encoded = server.encode(&text, ask.hidden_layer, max_tokens, None).await;
        let encoded = encoded.map_err(|error| {
            tracing::error!(%error, "encoding failed");
            Fault::from(error)
        })?;
        let embedding = Arc::new(Embedding {
            header: encoded.tensor.header(),
            chunks: encoded.tensor.chunks().collect(),
            hidden_layer: encoded.hidden_layer as u32,
            // How many is not known.
            truncated: encoded.hit_limit.into(),
            model: server.model().to_owned(),
            device: HEYLOOK.to_owned(),
        });
        cache.put(key, &embedding);
        slots.push(Slot::Fresh(embedding));
    }
    Ok(Pipe::remembered(slots))
}

fn wire(truncation: Option<Truncation>) -> i32 {
    let truncation = match truncation {
        None => v1::Truncation::Unspecified,
        Some(Truncation::Prompt) => v1::Truncation::Prompt,
        Some(Truncation::End) => v1::Truncation::End,
    };
    truncation.into()
}

/// The encoder of a request, as the cache's key describes it.
struct Identity<'a> {
    name: &'a str,
    /// The pool's epoch: a machine that was unreachable may return with other weights of the same
    /// name.
    epoch: u64,
    described: &'a EncoderDescription,
}

impl Identity<'_> {
    /// Everything that determines the embeddings: the chat with what is text in it and what is
    /// token, layer, limit, and the encoder with its model and its types.
    fn key(&self, request: &EncodeRequest) -> Key {
        let mut key = self.name.as_bytes().to_vec();
        key.push(0);
        key.extend(self.epoch.to_le_bytes());
        // Machines of one pool may differ in their type, but not in the tensor that they answer.
        self.described.encode_length_delimited(&mut key).ok();
        request.encode(&mut key).ok();
        Key::new(key)
    }
}

/// What a chat costs in tokens, if the encoder can say.
pub(crate) async fn count(choice: Choice<'_>, chat: &Chat) -> Option<v1::CountResponse> {
    let Choice::Ours(NamedEncoder { kind: EncoderKind::Grpc(pool), .. }) = choice else {
        return None;
    };
    let lease = pool.pick(&mut Tried::default()).await.ok()?;
    let request = v1::CountRequest { chat: Some(chat.clone().into()) };
    let mut client = lease.encoder();
    match lease.answer(client.count(request)).await {
        Ok(counted) => Some(counted),
        Err(fault) => {
            tracing::debug!(url = lease.url(), %fault, "counting tokens failed");
            None
        }
    }
}
