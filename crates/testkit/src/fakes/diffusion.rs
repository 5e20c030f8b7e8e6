//! A `Diffusion` service that answers every request with the same picture, at once: for tests that
//! are about what stands before it.

use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use llm_dit_proto::v1::{
    Accepted, ApplyLorasRequest, ApplyLorasResponse, ClearLorasRequest, ClearLorasResponse,
    DescribeDiffusionRequest, DiffusionDescription, Finished, GenerateEvent, GenerateParams,
    GenerateRequest, ImageHeader, ListLorasRequest, ListLorasResponse, Preview, StepDone,
    diffusion_server::Diffusion, generate_event::Event, generate_request::Part,
};
use tonic::{Request, Response, Status, Streaming, async_trait};

/// Takes embeddings of this width, reads them, and throws them away.
#[derive(Clone, Debug)]
pub struct FastDiffusion {
    pub cap_feat_dim: u32,
    /// A PNG.
    pub picture: Bytes,
    /// Sends a preview after each step, if asked to.
    pub preview: Option<Bytes>,
    /// Events that it sends before its steps.
    pub flood: Vec<Event>,
}

#[async_trait]
impl Diffusion for FastDiffusion {
    async fn describe(
        &self,
        _: Request<DescribeDiffusionRequest>,
    ) -> Result<Response<DiffusionDescription>, Status> {
        Ok(Response::new(DiffusionDescription {
            model: "fast-fake".to_owned(),
            cap_feat_dim: self.cap_feat_dim,
            defaults: Some(GenerateParams {
                width: Some(256),
                height: Some(256),
                steps: Some(4),
                guidance_scale: Some(0.0),
                shift: Some(3.0),
                scheduler: Some("flow_euler".to_owned()),
                ..Default::default()
            }),
            side_multiple: 16,
            min_side: 64,
            max_side: 2048,
            max_pixels: 2048 * 2048,
            max_steps: 200,
            max_caption_tokens: 1504,
            max_preview_side: if self.preview.is_some() { 256 } else { 0 },
            ..Default::default()
        }))
    }

    type GenerateStream = BoxStream<'static, Result<GenerateEvent, Status>>;

    async fn generate(
        &self,
        request: Request<Streaming<GenerateRequest>>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let mut parts = request.into_inner();
        let mut params = GenerateParams::default();
        while let Some(part) = parts.message().await? {
            if let Some(Part::Params(first)) = part.part {
                params = first;
            }
        }
        let total = params.steps.unwrap_or(4);
        let preview = self.preview.clone().filter(|_| params.preview.is_some());
        let steps = (1..=total).flat_map(move |index| {
            let step = Event::Step(StepDone { index, total, seconds: 0.0 });
            let preview = preview.clone().map(|data| {
                let media_type = "image/png".to_owned();
                Event::Preview(Preview {
                    step: index,
                    total,
                    media_type,
                    width: 1,
                    height: 1,
                    data,
                })
            });
            std::iter::once(step).chain(preview)
        });
        let header = ImageHeader {
            media_type: "image/png".to_owned(),
            width: 256,
            height: 256,
            total_bytes: self.picture.len() as u64,
            role: 0,
        };
        let accepted = Accepted { params: Some(params), ..Default::default() };
        let end = [
            Event::Image(header),
            Event::Data(self.picture.clone()),
            Event::Finished(Finished::default()),
        ];
        let flood = self.flood.clone();
        let events =
            std::iter::once(Event::Accepted(accepted)).chain(flood).chain(steps).chain(end);
        let events = events.map(|event| Ok(GenerateEvent { event: Some(event) }));
        Ok(Response::new(stream::iter(events).boxed()))
    }

    async fn list_loras(
        &self,
        _: Request<ListLorasRequest>,
    ) -> Result<Response<ListLorasResponse>, Status> {
        Err(Status::failed_precondition("no folder"))
    }

    async fn apply_loras(
        &self,
        _: Request<ApplyLorasRequest>,
    ) -> Result<Response<ApplyLorasResponse>, Status> {
        Err(Status::failed_precondition("no folder"))
    }

    async fn clear_loras(
        &self,
        _: Request<ClearLorasRequest>,
    ) -> Result<Response<ClearLorasResponse>, Status> {
        Err(Status::failed_precondition("no folder"))
    }
}
