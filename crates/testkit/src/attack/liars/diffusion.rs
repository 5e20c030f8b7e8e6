//! A diffusion service that lies.

use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use llm_dit_proto::v1::{
    Accepted, ApplyLorasRequest, ApplyLorasResponse, ClearLorasRequest, ClearLorasResponse,
    DescribeDiffusionRequest, DiffusionDescription, Finished, GenerateEvent, GenerateRequest,
    ImageHeader, ListLorasRequest, ListLorasResponse, Preview, Queued, StepDone, TensorHeader,
    diffusion_server::Diffusion, generate_event::Event,
};
use tonic::{Code, Request, Response, Status, Streaming, async_trait};

/// Of events that are sent too often.
const MANY: u32 = 300_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    NothingAtAll,
    EmptyEvents,
    NoAccepted,
    AcceptedTwice,
    StepsForEver,
    StepsOutOfOrder,
    PlacesForEver,
    PreviewsForEver,
    HugePreview,
    ImageOfAllMemory,
    ImageOfNoBytes,
    ImageTooShort,
    ImageTooLong,
    NoPng,
    CutPng,
    PngOfAnotherSize,
    PngThatIsABomb,
    LatentsUnasked,
    NotFinished,
    LongStatus,
    StatusWithLines,
    UnknownCode,
    ClaimsCancelled,
    EmptyDescription,
    HugeDescription,
}

pub(super) const LIES: &[Lie] = &[
    Lie::NothingAtAll,
    Lie::EmptyEvents,
    Lie::NoAccepted,
    Lie::AcceptedTwice,
    Lie::StepsForEver,
    Lie::StepsOutOfOrder,
    Lie::PlacesForEver,
    Lie::PreviewsForEver,
    Lie::HugePreview,
    Lie::ImageOfAllMemory,
    Lie::ImageOfNoBytes,
    Lie::ImageTooShort,
    Lie::ImageTooLong,
    Lie::NoPng,
    Lie::CutPng,
    Lie::PngOfAnotherSize,
    Lie::PngThatIsABomb,
    Lie::LatentsUnasked,
    Lie::NotFinished,
    Lie::LongStatus,
    Lie::StatusWithLines,
    Lie::UnknownCode,
    Lie::ClaimsCancelled,
    Lie::EmptyDescription,
    Lie::HugeDescription,
];

#[derive(Clone, Debug)]
pub(super) struct Liar {
    /// What a true service says of itself.
    pub truth: DiffusionDescription,
    pub lie: Lie,
}

impl Liar {
    fn events(&self) -> BoxStream<'static, Result<GenerateEvent, Status>> {
        let accepted = || Event::Accepted(Accepted::default());
        let image = |total_bytes| {
            Event::Image(ImageHeader {
                media_type: "image/png".to_owned(),
                width: 192,
                height: 192,
                total_bytes,
                role: 0,
            })
        };
        let file = |bytes: Vec<u8>| {
            let header = image(bytes.len() as u64);
            list([accepted(), header, Event::Data(bytes.into()), finished()])
        };
        let step = |index| Event::Step(StepDone { index, total: 6, seconds: 0.0 });
        match self.lie {
            Lie::NothingAtAll | Lie::EmptyDescription | Lie::HugeDescription => list([]),
            Lie::EmptyEvents => {
                let event = Ok(GenerateEvent { event: None });
                stream::iter(std::iter::repeat_n(event, 1000)).boxed()
            }
            Lie::NoAccepted => list([step(1)]),
            Lie::AcceptedTwice => list([accepted(), accepted()]),
            Lie::StepsForEver => many(move |n| step(n + 1)),
            Lie::StepsOutOfOrder => list([accepted(), step(5), step(5), step(1), step(0)]),
            Lie::PlacesForEver => many(|n| Event::Queued(Queued { position: n % 7 })),
            Lie::PreviewsForEver => many(|n| preview(n, 1024)),
            Lie::HugePreview => list([accepted(), preview(1, 3 << 20)]),
            Lie::ImageOfAllMemory => list([accepted(), image(u64::MAX)]),
            Lie::ImageOfNoBytes => list([accepted(), image(0), finished()]),
            Lie::ImageTooShort => list([accepted(), image(1000), data(10), finished()]),
            Lie::ImageTooLong => list([accepted(), image(1000), data(3 << 20), finished()]),
            Lie::NoPng => file(vec![b'x'; 1000]),
            Lie::CutPng => file(png(192)[..200].to_vec()),
            Lie::PngOfAnotherSize => file(png(64)),
            Lie::PngThatIsABomb => {
                let mut bomb = png(192);
                bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
                file(bomb)
            }
            Lie::LatentsUnasked => {
                list([accepted(), Event::Latents(TensorHeader::default()), data(100)])
            }
            Lie::NotFinished => {
                let bytes = png(192);
                list([accepted(), image(bytes.len() as u64), Event::Data(bytes.into())])
            }
            Lie::LongStatus => failing(Code::NotFound, "w".repeat(70_000)),
            Lie::StatusWithLines => {
                failing(Code::Internal, "a\r\nset-cookie: x\r\n\u{1b}[31m\u{0}".to_owned())
            }
            Lie::UnknownCode => failing(Code::DataLoss, "?".to_owned()),
            Lie::ClaimsCancelled => failing(Code::Cancelled, "not so".to_owned()),
        }
    }
}

fn finished() -> Event {
    Event::Finished(Finished::default())
}

fn data(bytes: usize) -> Event {
    Event::Data(Bytes::from(vec![0; bytes]))
}

fn preview(step: u32, bytes: usize) -> Event {
    Event::Preview(Preview {
        step,
        total: 6,
        media_type: "image/jpeg".to_owned(),
        width: 64,
        height: 64,
        data: vec![0xff; bytes].into(),
    })
}

/// A picture that is none of ours: black.
fn png(side: u32) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_fn(side, side, |x, y| image::Rgb([(x * y) as u8; 3]));
    image.write_to(&mut file, image::ImageFormat::Png).expect("encodes");
    file.into_inner()
}

fn list<const N: usize>(events: [Event; N]) -> BoxStream<'static, Result<GenerateEvent, Status>> {
    stream::iter(events.map(|event| Ok(GenerateEvent { event: Some(event) }))).boxed()
}

fn many(
    event: impl Fn(u32) -> Event + Send + 'static,
) -> BoxStream<'static, Result<GenerateEvent, Status>> {
    let accepted = Event::Accepted(Accepted::default());
    let events = std::iter::once(accepted).chain((0..MANY).map(event));
    stream::iter(events.map(|event| Ok(GenerateEvent { event: Some(event) }))).boxed()
}

fn failing(code: Code, text: String) -> BoxStream<'static, Result<GenerateEvent, Status>> {
    stream::iter([Err(Status::new(code, text))]).boxed()
}

#[async_trait]
impl Diffusion for Liar {
    async fn describe(
        &self,
        _: Request<DescribeDiffusionRequest>,
    ) -> Result<Response<DiffusionDescription>, Status> {
        Ok(Response::new(match self.lie {
            Lie::EmptyDescription => DiffusionDescription::default(),
            Lie::HugeDescription => DiffusionDescription {
                model: "m".repeat(2 << 20),
                cap_feat_dim: u32::MAX,
                side_multiple: 0,
                max_caption_tokens: u32::MAX,
                ..self.truth.clone()
            },
            _ => self.truth.clone(),
        }))
    }

    type GenerateStream = BoxStream<'static, Result<GenerateEvent, Status>>;

    async fn generate(
        &self,
        request: Request<Streaming<GenerateRequest>>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let mut parts = request.into_inner();
        while parts.message().await?.is_some() {}
        Ok(Response::new(self.events()))
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
