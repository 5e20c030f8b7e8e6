//! Prompts without pictures: encoded, saved to a file, or shown as the text encoder receives them.

mod file;

use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    extract::{Request, State},
};
use llm_dit_chat::Chat;
use llm_dit_fault::Fault;
use llm_dit_proto::{DType, v1::CountResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Shared, problem::Problems};
use crate::{
    api::body,
    backends::{Choice, Tried},
    encode::{self, Embedding},
    error::Error,
    records::problem::Problem,
    records::request::EncodeBody,
    state::AppState,
};

/// What came of a prompt.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EncodeAnswer {
    /// Tokens and width.
    #[schema(example = json!([11, 2560]))]
    shape: Vec<u64>,
    /// `bf16`, `f16` or `f32`.
    dtype: String,
    /// Seconds.
    encode_time: f64,
    prompt: String,
    formatted_prompt: String,
    encoder: String,
    /// The checkpoint's label.
    model: String,
    /// Index from 0 into transformers' `output_hidden_states`.
    hidden_layer: u32,
    truncated_tokens: u32,
    /// True if the embeddings came from the cache.
    cached: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SavedAnswer {
    /// Path on the gateway's machine.
    path: String,
    shape: Vec<u64>,
    /// Seconds.
    encode_time: f64,
}

/// A prompt as the text encoder gets it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FormatAnswer {
    formatted_prompt: String,
    char_count: usize,
    /// Before truncation; `null` if no encoder can count tokens.
    #[schema(required = true)]
    token_count: Option<u32>,
    #[schema(required = true)]
    tokens: Option<Tokens>,
    max_tokens: u32,
    prompt: String,
    #[schema(required = true)]
    system_prompt: Option<String>,
    #[schema(required = true)]
    thinking_content: Option<String>,
    #[schema(required = true)]
    assistant_content: Option<String>,
    #[schema(required = true)]
    enable_thinking: Option<bool>,
    #[schema(required = true)]
    template: Option<String>,
}

/// By part; they sum to `token_count`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tokens {
    system: u32,
    user: u32,
    thinking: u32,
    assistant: u32,
    /// Headers, line breaks and special tokens of the format itself.
    frame: u32,
}

/// A prompt that was encoded.
struct Encoded {
    embedding: Arc<Embedding>,
    chat: Chat,
    encoder: String,
    cached: bool,
    seconds: f64,
}

/// Encodes a prompt and describes the embeddings.
#[utoipa::path(
    post, path = "/api/encode", tag = "prompts", request_body = EncodeBody,
    responses((status = 200, body = EncodeAnswer), Problems)
)]
pub(crate) async fn encode(
    State(state): Shared,
    request: Request,
) -> Result<Json<EncodeAnswer>, Problem> {
    let deadline = state.patience.of(request.headers())?;
    let body: EncodeBody = body::json(&state.memory, request, EncodeBody::FIELDS).await?;
    let encoded = deadline.bound(encode_prompt(&state, &body)).await?;
    let Encoded { embedding, chat, encoder, cached, seconds, .. } = encoded;
    let dtype = DType::from_wire(embedding.header.dtype).ok().flatten();
    Ok(Json(EncodeAnswer {
        shape: embedding.header.shape.clone(),
        dtype: dtype.map(|dtype| dtype.to_string()).unwrap_or_default(),
        encode_time: seconds,
        prompt: body.prompt.unwrap_or_default(),
        formatted_prompt: chat.render(),
        encoder,
        model: embedding.model.clone(),
        hidden_layer: embedding.hidden_layer,
        truncated_tokens: embedding.truncated,
        cached,
    }))
}

/// Encodes a prompt and saves the embeddings to a file on the server.
#[utoipa::path(
    post, path = "/api/save-embeddings", tag = "prompts", request_body = EncodeBody,
    responses((status = 200, body = SavedAnswer), Problems)
)]
pub(crate) async fn save(
    State(state): Shared,
    request: Request,
) -> Result<Json<SavedAnswer>, Problem> {
    let body: EncodeBody = body::json(&state.memory, request, EncodeBody::FIELDS).await?;
    let folder = state.embeddings_dir.clone().ok_or_else(|| {
        Fault::Unsupported(
            "the gateway has no folder for embeddings; start it with --embeddings-dir".to_owned(),
        )
    })?;
    let encoded = encode_prompt(&state, &body).await?;
    let (shape, encode_time) = (encoded.embedding.header.shape.clone(), encoded.seconds);
    let write = move || file::save(&folder, &body, &encoded);
    let written = tokio::task::spawn_blocking(write).await;
    let path =
        written.map_err(|e| Fault::Internal(format!("writing embeddings failed: {e}")))??;
    Ok(Json(SavedAnswer { path: path.display().to_string(), shape, encode_time }))
}

/// Returns the formatted prompt that the text encoder receives, with its token counts.
#[utoipa::path(
    post, path = "/api/format-prompt", tag = "prompts", request_body = EncodeBody,
    responses((status = 200, body = FormatAnswer), Problems)
)]
pub(crate) async fn format(
    State(state): Shared,
    request: Request,
) -> Result<Json<FormatAnswer>, Problem> {
    let body: EncodeBody = body::json(&state.memory, request, EncodeBody::FIELDS).await?;
    let chat = body.chat(&state.templates, true)?;
    let formatted_prompt = chat.render();
    // Any encoder but the diffusion service's own, which cannot be called from here.
    let choice = state.backends.encoder(body.encoder.as_deref(), false);
    let counts = match choice {
        Ok(choice) => encode::count(choice, &chat).await,
        Err(fault) if body.encoder.as_deref() != Some(crate::options::DIFFUSION) => {
            return Err(fault.into());
        }
        Err(_) => None,
    };
    Ok(Json(FormatAnswer {
        char_count: formatted_prompt.chars().count(),
        formatted_prompt,
        token_count: counts.as_ref().map(|counts| counts.total),
        tokens: counts.map(Tokens::from),
        max_tokens: body.ask()?.max_tokens,
        prompt: body.prompt.unwrap_or_default(),
        system_prompt: body.system_prompt,
        thinking_content: body.thinking_content,
        assistant_content: body.assistant_content,
        enable_thinking: body.enable_thinking,
        template: body.template,
    }))
}

async fn encode_prompt(state: &AppState, body: &EncodeBody) -> Result<Encoded, Error> {
    let begun = Instant::now();
    let chat = body.chat(&state.templates, false)?;
    let Choice::Ours(encoder) = state.backends.encoder(body.encoder.as_deref(), false)? else {
        return Err(
            Fault::Unsupported("embeddings do not pass through this gateway".to_owned()).into()
        );
    };
    let chats = [chat.clone()];
    let mut tried = Tried::default();
    let (embedding, cached) = loop {
        let pipe = encode::open(encoder, &state.cache, &chats, body.ask()?, &mut tried).await?;
        let backend = pipe.lease().map(|lease| Arc::clone(lease.backend()));
        match (pipe.collect().await, backend) {
            (Ok(collected), _) => break collected,
            (Err(error), Some(backend)) => tried.note(&backend, error)?,
            (Err(error), None) => return Err(error),
        }
    };
    Ok(Encoded {
        embedding,
        chat,
        encoder: encoder.name.clone(),
        cached,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

impl From<CountResponse> for Tokens {
    fn from(counts: CountResponse) -> Self {
        let CountResponse { system, user, thinking, assistant, frame, .. } = counts;
        Self { system, user, thinking, assistant, frame }
    }
}
