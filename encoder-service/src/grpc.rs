//! `llmdit.v1.Encoder`: the wire's messages to and from [`EncoderHandle`].

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use llm_dit_chat::Chat;
use llm_dit_fault::Fault;
use llm_dit_params::Truncation;
use llm_dit_proto::{
    DType,
    v1::{
        self, CountRequest, CountResponse, DescribeEncoderRequest, EmbeddingHeader, EncodeResponse,
        EncoderDescription,
        encode_response::Frame,
        encoder_server::{Encoder, EncoderServer},
    },
};
use llm_dit_serving::{
    BoundListener, Deadline,
    grpc::{GrpcServer, MAX_MESSAGE_BYTES, Serving},
};
use llm_dit_telemetry::metrics::{Direction, tensor_bytes};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{Embedding, EncodeRequest, EncoderHandle};

/// Serves the encoder until `shutdown` fires and the running requests are done.
pub fn run(
    bound: impl Into<BoundListener>,
    handle: EncoderHandle,
    shutdown: CancellationToken,
) -> Serving {
    serve(bound.into(), handle, shutdown)
}

fn serve(bound: BoundListener, handle: EncoderHandle, shutdown: CancellationToken) -> Serving {
    let server =
        GrpcServer::default().grace(handle.limits().grace.duration()).health(handle.health());
    let service =
        EncoderServer::new(Service { handle }).max_decoding_message_size(MAX_MESSAGE_BYTES);
    server.service(service).serve(bound, shutdown)
}

struct Service {
    handle: EncoderHandle,
}

type Frames = BoxStream<'static, Result<EncodeResponse, Status>>;

#[tonic::async_trait]
impl Encoder for Service {
    async fn describe(
        &self,
        _: Request<DescribeEncoderRequest>,
    ) -> Result<Response<EncoderDescription>, Status> {
        Ok(Response::new(self.handle.describe()))
    }

    type EncodeStream = Frames;

    async fn encode(
        &self,
        request: Request<v1::EncodeRequest>,
    ) -> Result<Response<Frames>, Status> {
        let deadline = Deadline::of(request.metadata());
        let frames = self.frames(request.into_inner(), deadline);
        Ok(Response::new(deadline.bound(frames).await?))
    }

    async fn count(
        &self,
        request: Request<CountRequest>,
    ) -> Result<Response<CountResponse>, Status> {
        let no_chat = || Fault::BadRequest("the request contains no chat".to_owned());
        let chat = request.into_inner().chat.ok_or_else(no_chat)?;
        let counts = self.handle.count(chat.into()).await?;
        Ok(Response::new(CountResponse {
            total: counts.total as u32,
            system: counts.system as u32,
            history: counts.history as u32,
            user: counts.user as u32,
            thinking: counts.thinking as u32,
            assistant: counts.assistant as u32,
            frame: counts.frame as u32,
        }))
    }
}

impl Service {
    async fn frames(
        &self,
        request: v1::EncodeRequest,
        deadline: Deadline,
    ) -> Result<Frames, Fault> {
        let request = EncodeRequest {
            chats: request.prompts.into_iter().map(Chat::from).collect(),
            hidden_layer: request.hidden_layer,
            max_tokens: request.max_tokens,
            truncation: truncation(request.truncation)?,
            dtype: DType::from_wire(request.dtype)?,
        };
        // Beside the deadline nothing stops the work but the stream's end, however it comes.
        let timer = deadline.start();
        let embeddings = self.handle.encode(request, timer.token()).await?;
        let model = self.handle.info().model;
        let frames = timer.explain(embeddings).flat_map(move |result| match result {
            Ok(embedding) => stream::iter(frames(embedding, &model).map(Ok).collect::<Vec<_>>()),
            Err(fault) => stream::iter(vec![Err(Status::from(fault))]),
        });
        Ok(frames.boxed())
    }
}

fn truncation(wire: i32) -> Result<Option<Truncation>, Fault> {
    match v1::Truncation::try_from(wire) {
        Ok(v1::Truncation::Unspecified) => Ok(None),
        Ok(v1::Truncation::Prompt) => Ok(Some(Truncation::Prompt)),
        Ok(v1::Truncation::End) => Ok(Some(Truncation::End)),
        Err(_) => Err(Fault::BadRequest(format!("unknown truncation {wire}"))),
    }
}

/// A header and the chunks, which share the tensor's buffer.
fn frames(embedding: Embedding, model: &str) -> impl Iterator<Item = EncodeResponse> + use<> {
    tensor_bytes("encoder", Direction::Sent, embedding.tensor.bytes().len());
    let header = EmbeddingHeader {
        index: embedding.index as u32,
        tensor: Some(embedding.tensor.header()),
        hidden_layer: embedding.hidden_layer as u32,
        truncated_tokens: embedding.truncated_tokens as u32,
        model: model.to_owned(),
    };
    std::iter::once(Frame::Header(header))
        .chain(embedding.tensor.chunks().map(Frame::Data))
        .map(|frame| EncodeResponse { frame: Some(frame) })
}
