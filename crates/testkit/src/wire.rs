//! The client's side of the wire.

use bytes::{Bytes, BytesMut};
use llm_dit_proto::{
    Assembler, DType, Tensor,
    v1::{
        Accepted, Chat, EmbeddingHeader, EncodeResponse, Finished, GenerateEvent, GenerateParams,
        GenerateRequest, ImageHeader, Preview, StepDone, TensorHeader, TensorRole, TensorStart,
        encode_response::Frame, generate_event::Event, generate_request::Part,
    },
};
use tonic::{Status, Streaming};

/// Deterministic values of a shape.
pub fn tensor(shape: &[usize], salt: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|i| ((i * 13 + salt) % 97) as f32 / 97.0 - 0.5).collect();
    Tensor::from_f32(&values, shape.to_vec(), DType::F32).expect("as the shape says")
}

/// A chat that is nothing but a prompt.
pub fn chat(user: &str) -> Chat {
    Chat { user: user.to_owned(), ..Default::default() }
}

pub fn params(params: GenerateParams) -> GenerateRequest {
    GenerateRequest { part: Some(Part::Params(params)) }
}

pub fn start(role: TensorRole, header: TensorHeader) -> GenerateRequest {
    let start = TensorStart { role: role.into(), header: Some(header) };
    GenerateRequest { part: Some(Part::Tensor(start)) }
}

pub fn data(chunk: impl Into<Bytes>) -> GenerateRequest {
    GenerateRequest { part: Some(Part::Data(chunk.into())) }
}

/// A tensor as a start and its chunks.
pub fn tensor_parts(role: TensorRole, tensor: &Tensor) -> Vec<GenerateRequest> {
    std::iter::once(start(role, tensor.header())).chain(tensor.chunks().map(data)).collect()
}

/// A picture's file as a header and chunks.
pub fn image_parts(media_type: &str, file: &[u8]) -> Vec<GenerateRequest> {
    let header = ImageHeader {
        media_type: media_type.to_owned(),
        total_bytes: file.len() as u64,
        ..Default::default()
    };
    let begin = GenerateRequest { part: Some(Part::Image(header)) };
    std::iter::once(begin).chain(file.chunks(1000).map(|c| data(c.to_vec()))).collect()
}

/// A whole request.
pub fn request(
    first: GenerateParams,
    tensors: &[(TensorRole, &Tensor)],
) -> impl futures::Stream<Item = GenerateRequest> + Send + 'static {
    let mut parts = vec![params(first)];
    parts.extend(tensors.iter().flat_map(|(role, tensor)| tensor_parts(*role, tensor)));
    futures::stream::iter(parts)
}

/// Everything that a generation answered.
#[derive(Debug, Default)]
pub struct Outcome {
    pub accepted: Accepted,
    pub places: Vec<u32>,
    pub steps: Vec<StepDone>,
    pub previews: Vec<Preview>,
    pub latents: Option<Tensor>,
    pub header: ImageHeader,
    pub image: Bytes,
    pub finished: Finished,
}

/// Reads all events and checks their order: accepted, places in the queue,
/// steps and previews, latents, image, finished.
pub async fn outcome(mut events: Streaming<GenerateEvent>) -> Result<Outcome, Status> {
    let mut outcome = Outcome::default();
    let mut image = BytesMut::new();
    let mut latents: Option<Assembler> = None;
    let mut stage = 0;
    while let Some(event) = events.message().await? {
        let event = event.event.expect("no event is empty");
        let now = match &event {
            Event::Accepted(_) | Event::Queued(_) => 1,
            Event::Step(_) | Event::Preview(_) => 2,
            Event::Latents(_) => 3,
            Event::Image(_) => 4,
            Event::Data(_) => stage,
            Event::Finished(_) => 5,
        };
        assert!(stage <= now, "event of stage {now} after one of stage {stage}");
        let first = matches!(event, Event::Accepted(_));
        assert_eq!(stage == 0, first, "accepted comes once and first");
        stage = now;
        match event {
            Event::Accepted(accepted) => {
                outcome.accepted = accepted;
            }
            Event::Queued(queued) => {
                outcome.places.push(queued.position);
            }
            Event::Preview(preview) => {
                let told = outcome.steps.last().expect("no preview before its step").index;
                assert!(preview.step <= told, "preview of step {} at {told}", preview.step);
                outcome.previews.push(preview);
            }
            Event::Step(step) => {
                outcome.steps.push(step);
            }
            Event::Latents(header) => {
                latents = Some(Assembler::begin(&header, 1 << 24).expect("a valid header"));
            }
            Event::Image(header) => {
                outcome.latents = latents.take().map(|l| l.finish().expect("all of it arrived"));
                outcome.header = header;
            }
            Event::Data(chunk) => match &mut latents {
                Some(latents) => latents.push(&chunk).expect("fits"),
                None => image.extend_from_slice(&chunk),
            },
            Event::Finished(finished) => {
                outcome.finished = finished;
            }
        }
    }
    assert_eq!(stage, 5, "finished is the last event");
    outcome.image = image.freeze();
    assert_eq!(outcome.image.len() as u64, outcome.header.total_bytes);
    Ok(outcome)
}

/// Every embedding that an encoder answered, with its header.
pub async fn embeddings(
    mut frames: Streaming<EncodeResponse>,
) -> Result<Vec<(EmbeddingHeader, Tensor)>, Status> {
    let mut done = Vec::new();
    let mut current: Option<(EmbeddingHeader, Assembler)> = None;
    let finish = |current: Option<(EmbeddingHeader, Assembler)>| {
        current.map(|(header, tensor)| (header, tensor.finish().expect("all of it arrived")))
    };
    while let Some(response) = frames.message().await? {
        match response.frame.expect("no frame is empty") {
            Frame::Header(header) => {
                done.extend(finish(current.take()));
                let tensor = header.tensor.clone().expect("a header has a shape");
                current = Some((header, Assembler::begin(&tensor, 1 << 26).expect("valid")));
            }
            Frame::Data(chunk) => {
                let (_, tensor) = current.as_mut().expect("a header comes first");
                tensor.push(&chunk).expect("fits");
            }
        }
    }
    done.extend(finish(current));
    Ok(done)
}
