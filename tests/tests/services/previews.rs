//! Previews and places in the queue, over a fake engine.

use diffusion_service::{
    DiffusionHandle, Event, ServiceLimits,
    engine::{GenerateJob, PreviewOptions},
};
use llm_dit_params::GenerateOptions;
use llm_dit_proto::v1::{
    DescribeDiffusionRequest, GenerateEvent, GenerateParams, Preview, PreviewOptions as Wanted,
    TensorRole, diffusion_client::DiffusionClient, generate_event,
};
use llm_dit_serving::client::WithKey;
use llm_dit_testkit::{
    fakes::{Control, FakeGenerator, LASTING_SEED, Seen},
    servers::{Server, fake_diffusion, job},
    wire::{outcome, request, tensor},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

const WIDTH: usize = 32;

struct Service {
    /// Stops when dropped.
    _server: Server,
    client: DiffusionClient<WithKey>,
    handle: DiffusionHandle,
    control: Control,
}

impl Service {
    async fn start(fake: (FakeGenerator, Control)) -> Self {
        let (handle, control) = fake_diffusion(fake, ServiceLimits::default(), None);
        let server = Server::diffusion(handle.clone()).await;
        let client = DiffusionClient::new(server.channel());
        Self { _server: server, client, handle, control }
    }

    async fn begin(&mut self, params: GenerateParams) -> Result<Streaming<GenerateEvent>, Status> {
        let embeddings = tensor(&[9, WIDTH], 1);
        let request = request(params, &[(TensorRole::Embeddings, &embeddings)]);
        Ok(self.client.generate(request).await?.into_inner())
    }
}

fn params(steps: u32, every_steps: u32, max_side: u32) -> GenerateParams {
    GenerateParams {
        width: Some(256),
        height: Some(128),
        steps: Some(steps),
        seed: Some(1),
        preview: Some(Wanted { every_steps, max_side }),
        ..Default::default()
    }
}

/// The picture, which is of one colour.
fn colour(preview: &Preview) -> [u8; 3] {
    assert_eq!(preview.media_type, "image/jpeg");
    let picture = image::load_from_memory(&preview.data).expect("a JPEG").into_rgb8();
    assert_eq!(picture.dimensions(), (preview.width, preview.height));
    picture.get_pixel(0, 0).0
}

#[tokio::test]
async fn previews_come_after_their_steps_and_show_them() {
    // Gated, and each step waits for the preview before it: so none is overtaken by the next.
    let mut service = Service::start(FakeGenerator::gated(WIDTH)).await;
    let mut events = service.begin(params(4, 2, 20)).await.expect("accepted");
    let mut order = Vec::new();
    let mut previews = Vec::new();
    while let Some(event) = events.message().await.expect("well") {
        match event.event.expect("no event is empty") {
            generate_event::Event::Accepted(accepted) => {
                let wanted = accepted.params.expect("as used").preview.expect("asked for");
                assert_eq!((wanted.every_steps, wanted.max_side), (2, 20));
                service.control.permit();
            }
            generate_event::Event::Step(step) => {
                order.push(format!("step {}", step.index));
                if step.index % 2 == 1 {
                    service.control.permit();
                }
            }
            generate_event::Event::Preview(preview) => {
                order.push(format!("preview {}", preview.step));
                assert_eq!(preview.total, 4);
                // Latents of 32x16.
                assert_eq!((preview.width, preview.height), (20, 10));
                if preview.step < 4 {
                    service.control.permit();
                }
                previews.push(preview);
            }
            generate_event::Event::Image(_) => order.push("image".to_owned()),
            _ => {}
        }
    }
    assert_eq!(order, ["step 1", "step 2", "preview 2", "step 3", "step 4", "preview 4", "image"]);
    let [half, whole] = [colour(&previews[0]), colour(&previews[1])];
    // By the fake's map: red rises from 0 to 255, green is 0, blue 255.
    for (colour, red) in [(half, 128), (whole, 255)] {
        assert!(colour[0].abs_diff(red) < 12 && colour[1] < 12 && colour[2] > 243, "{colour:?}");
    }
}

#[tokio::test]
async fn who_asks_for_no_previews_gets_none() {
    let mut service = Service::start(FakeGenerator::free(WIDTH)).await;
    for preview in [None, Some(Wanted { every_steps: 0, max_side: 64 })] {
        let events = service.begin(GenerateParams { preview, ..Default::default() }).await;
        let outcome = outcome(events.expect("accepted")).await.expect("well");
        assert!(outcome.previews.is_empty() && !outcome.steps.is_empty());
        assert_eq!(outcome.accepted.params.expect("as used").preview, None);
    }
}

#[tokio::test]
async fn previews_leave_the_picture_as_it_is() {
    let mut service = Service::start(FakeGenerator::free(WIDTH)).await;
    let mut pictures = Vec::new();
    for preview in [None, Some(Wanted { every_steps: 1, max_side: 0 })] {
        let params = GenerateParams { seed: Some(3), preview, ..Default::default() };
        let events = service.begin(params).await.expect("accepted");
        let outcome = outcome(events).await.expect("well");
        assert_eq!(outcome.previews.last().map(|p| p.step), preview.map(|_| 3));
        pictures.push(outcome.image);
    }
    assert_eq!(pictures[0], pictures[1]);
}

#[tokio::test]
async fn a_model_without_a_map_says_so_and_refuses() {
    let (fake, control) = FakeGenerator::free(WIDTH);
    let mut service = Service::start((fake.without_previews(), control)).await;
    let described = service.client.describe(DescribeDiffusionRequest {}).await.expect("well");
    assert_eq!(described.into_inner().max_preview_side, 0);
    let status = service.begin(params(3, 1, 0)).await.expect_err("refused");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("latent_preview.json"), "{status}");
    let events = service.begin(params(3, 0, 0)).await.expect("asks for none");
    outcome(events).await.expect("well");
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_nothing_and_gets_the_newest() {
    let (handle, mut control) =
        fake_diffusion(FakeGenerator::free(WIDTH), ServiceLimits::default(), None);
    let options = GenerateOptions { steps: Some(200), seed: Some(5), ..Default::default() };
    let job = GenerateJob { preview: PreviewOptions::new(1, 0), ..job(&handle, options) };
    let mut events = handle.generate(job, &CancellationToken::new()).await.expect("accepted");
    // The engine ends although not one event has been taken.
    while control.seen().await != (Seen::Finished { seed: 5 }) {}
    let (mut steps, mut previews) = (0, Vec::new());
    while let Some(event) = events.next().await {
        match event.expect("well") {
            Event::Step(step) => steps = step.index,
            Event::Preview(preview) => previews.push(preview.step),
            _ => {}
        }
    }
    assert_eq!((steps, previews.last()), (200, Some(&200)));
    // One was ready, one was being made, and the last.
    assert!(previews.len() <= 3, "{previews:?}");
}

#[tokio::test]
async fn leaving_stops_the_engine_before_the_next_step_with_previews_too() {
    let mut service = Service::start(FakeGenerator::gated(WIDTH)).await;
    let params = GenerateParams { seed: Some(LASTING_SEED), ..params(50, 1, 0) };
    let mut events = service.begin(params).await.expect("accepted");
    service.control.permit();
    loop {
        let event = events.message().await.expect("well").expect("more to come");
        if matches!(event.event, Some(generate_event::Event::Preview(_))) {
            break;
        }
    }
    service.control.permit();
    drop(events);
    // Step 2 lasts until the service has told the engine, and no step follows it.
    assert_eq!(service.control.seen().await, Seen::Began { seed: LASTING_SEED });
    assert_eq!(service.control.seen().await, Seen::Step(1));
    assert_eq!(service.control.seen().await, Seen::Step(2));
    assert_eq!(service.control.seen().await, Seen::Stopped { after: 2 });
}

/// The next event, which has to be a place in the queue.
async fn place(events: &mut Streaming<GenerateEvent>) -> u32 {
    let event = events.message().await.expect("well").and_then(|event| event.event);
    match event.expect("more to come") {
        generate_event::Event::Accepted(accepted) => accepted.queue_position,
        generate_event::Event::Queued(queued) => queued.position,
        other => panic!("no place: {other:?}"),
    }
}

#[tokio::test]
async fn places_in_the_queue_fall_as_others_leave_and_finish() {
    let mut service = Service::start(FakeGenerator::gated(WIDTH)).await;
    let seeded = |seed| GenerateParams { seed: Some(seed), ..Default::default() };
    let first = service.begin(seeded(1)).await.expect("accepted");
    assert_eq!(service.control.seen().await, Seen::Began { seed: 1 });
    let mut second = service.begin(seeded(2)).await.expect("accepted");
    let third = service.begin(seeded(3)).await.expect("accepted");
    let mut fourth = service.begin(seeded(4)).await.expect("accepted");
    assert_eq!((place(&mut second).await, place(&mut fourth).await), (1, 3));

    drop(third);
    assert_eq!(place(&mut fourth).await, 2);

    // The first ends and the second begins, and waits for its first step.
    for _ in 0..service.handle.info().defaults.steps {
        service.control.permit();
    }
    assert_eq!(outcome(first).await.expect("well").places, [] as [u32; 0]);
    assert_eq!((place(&mut second).await, place(&mut fourth).await), (0, 1));

    service.control.open();
    assert_eq!(place(&mut fourth).await, 0);
    let next = second.message().await.expect("well").and_then(|event| event.event);
    assert!(matches!(next, Some(generate_event::Event::Step(_))), "no place follows 0: {next:?}");
}
