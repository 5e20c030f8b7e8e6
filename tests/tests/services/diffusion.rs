//! The diffusion service from outside, over a fake engine.

use diffusion_service::{DiffusionHandle, Event, ServiceLimits, picture, source};
use llm_dit_fault::Fault;
use llm_dit_params::{GenerateOptions, Scheduler};
use llm_dit_proto::{
    Tensor,
    v1::{
        DescribeDiffusionRequest, GenerateParams, ImageRole, LoraSet, TensorRole,
        diffusion_client::DiffusionClient, generate_event, generate_request::Part,
    },
};
use llm_dit_serving::client::WithKey;
use llm_dit_testkit::{
    fakes::{Control, FAILING_SEED, FakeGenerator, LASTING_SEED, PANICKING_SEED, Seen},
    servers::{Server, fake_diffusion, job},
    wire::{image_parts, outcome, params, request, tensor, tensor_parts},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

const WIDTH: usize = 32;

struct Service {
    server: Server,
    client: DiffusionClient<WithKey>,
    handle: DiffusionHandle,
    control: Control,
}

impl Service {
    async fn start(fake: (FakeGenerator, Control), limits: ServiceLimits) -> Self {
        let (handle, control) = fake_diffusion(fake, limits, None);
        let server = Server::diffusion(handle.clone()).await;
        let client = DiffusionClient::new(server.channel());
        Self { server, client, handle, control }
    }

    async fn free() -> Self {
        Self::start(FakeGenerator::free(WIDTH), ServiceLimits::default()).await
    }

    async fn gated(queue_capacity: usize) -> Self {
        let limits = ServiceLimits { queue_capacity, ..Default::default() };
        Self::start(FakeGenerator::gated(WIDTH), limits).await
    }

    /// Begins a picture from embeddings.
    async fn begin(
        &mut self,
        params: GenerateParams,
    ) -> Result<tonic::Streaming<llm_dit_proto::v1::GenerateEvent>, tonic::Status> {
        let embeddings = embeddings();
        let request = request(params, &[(TensorRole::Embeddings, &embeddings)]);
        Ok(self.client.generate(request).await?.into_inner())
    }
}

fn embeddings() -> Tensor {
    tensor(&[9, WIDTH], 1)
}

fn seeded(seed: u64) -> GenerateParams {
    GenerateParams { seed: Some(seed), ..Default::default() }
}

#[tokio::test]
async fn embeddings_become_the_picture_of_exactly_this_job() {
    let mut service = Service::free().await;
    let params = GenerateParams {
        width: Some(96),
        height: Some(64),
        steps: Some(4),
        seed: Some(u64::MAX),
        guidance_scale: Some(2.0),
        cfg_truncation: Some(0.5),
        scheduler: Some("flow_heun".to_owned()),
        return_latents: true,
        ..Default::default()
    };
    let (negative, noise) = (tensor(&[5, WIDTH], 2), tensor(&[4, 8, 12], 3));
    let request = request(
        params,
        &[
            (TensorRole::Latents, &noise),
            (TensorRole::Embeddings, &embeddings()),
            (TensorRole::NegativeEmbeddings, &negative),
        ],
    );
    let events = service.client.generate(request).await.expect("accepted").into_inner();
    let outcome = outcome(events).await.expect("well");

    let mut job = job(
        &service.handle,
        GenerateOptions {
            width: Some(96),
            height: Some(64),
            steps: Some(4),
            seed: Some(u64::MAX),
            guidance_scale: Some(2.0),
            cfg_truncation: Some(0.5),
            scheduler: Some(Scheduler::FlowHeun.to_string()),
            ..Default::default()
        },
    );
    job.negative_embeddings = Some(negative);
    job.latents = Some(noise);
    let picture = FakeGenerator::picture(&job);
    let pixels = image::load_from_memory(&outcome.image).expect("a PNG").into_rgb8();
    assert_eq!(pixels.dimensions(), (96, 64));
    assert_eq!(pixels.into_raw(), picture.rgb);
    let recipe = picture::recipe(service.handle.info(), &job);
    assert_eq!(outcome.image, picture::encode_png(&picture, &recipe).expect("encodes"));
    assert_eq!(outcome.header.media_type, "image/png");
    assert_eq!(outcome.latents, Some(FakeGenerator::latents(service.handle.info(), &job)));

    let steps: Vec<_> = outcome.steps.iter().map(|s| (s.index, s.total)).collect();
    // Four steps of Heun's, the last of them with one forward pass.
    assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7].map(|index| (index, 7)));
    assert_eq!(outcome.accepted.queue_position, 0);
    let used = outcome.accepted.params.expect("the parameters as used");
    assert_eq!((used.width, used.height, used.seed), (Some(96), Some(64), Some(u64::MAX)));
    assert_eq!((used.shift, used.cfg_normalization), (Some(3.0), Some(0.0)));
    assert_eq!((used.steps, used.scheduler.as_deref()), (Some(4), Some("flow_heun")));
    assert_eq!((used.model.as_deref(), used.loras), (Some("fake-dit"), Some(LoraSet::default())));
    let finished = outcome.finished;
    assert_eq!(finished.encode_seconds, 0.0);
    assert!(finished.total_seconds >= finished.image_seconds && finished.denoise_seconds > 0.0);
}

#[tokio::test]
async fn one_process_and_the_wire_make_the_same_file() {
    let mut service = Service::free().await;
    let events = service.begin(seeded(5)).await.expect("accepted");
    let over_the_wire = outcome(events).await.expect("well").image;

    let job = job(&service.handle, GenerateOptions { seed: Some(5), ..Default::default() });
    let cancel = CancellationToken::new();
    let mut events = service.handle.generate(job, &cancel).await.expect("accepted");
    let mut here = None;
    while let Some(event) = events.next().await {
        if let Event::Image(image) = event.expect("well") {
            here = Some(image.png);
        }
    }
    assert_eq!(here, Some(over_the_wire));
}

#[tokio::test]
async fn a_missing_seed_is_drawn_and_reported() {
    let mut service = Service::free().await;
    let mut seeds = Vec::new();
    for _ in 0..2 {
        let events = service.begin(GenerateParams::default()).await.expect("accepted");
        let used = outcome(events).await.expect("well").accepted.params.expect("reported");
        seeds.push(used.seed.expect("drawn"));
    }
    assert_ne!(seeds[0], seeds[1]);
}

#[tokio::test]
async fn a_client_that_leaves_in_step_two_frees_the_engine_before_step_three() {
    let mut service = Service::gated(4).await;
    let mut events = service
        .begin(GenerateParams { steps: Some(50), ..seeded(LASTING_SEED) })
        .await
        .expect("accepted");
    service.control.permit();
    loop {
        let event = events.message().await.expect("well").expect("more to come");
        if matches!(event.event, Some(generate_event::Event::Step(_))) {
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

    service.control.open();
    let events = service.begin(seeded(1)).await.expect("accepted");
    assert_eq!(outcome(events).await.expect("well").steps.len(), 3);
    assert_eq!(service.control.seen().await, Seen::Began { seed: 1 });
}

#[tokio::test]
async fn dropping_the_events_stops_the_job_in_one_process_too() {
    let (handle, mut control) =
        fake_diffusion(FakeGenerator::gated(WIDTH), ServiceLimits::default(), None);
    let job = job(&handle, GenerateOptions { seed: Some(1), ..Default::default() });
    let events = handle.generate(job, &CancellationToken::new()).await.expect("accepted");
    assert_eq!(control.seen().await, Seen::Began { seed: 1 });
    control.permit();
    assert_eq!(control.seen().await, Seen::Step(1));
    drop(events);
    control.permit();
    // Step 1 may have ended before or after the drop; step 2 is the last in either case.
    let mut last = control.seen().await;
    if last == Seen::Step(2) {
        last = control.seen().await;
    }
    assert!(matches!(last, Seen::Stopped { after: 1 | 2 }), "{last:?}");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let mut service = Service::gated(1).await;
    let running = service.begin(seeded(1)).await.expect("accepted");
    assert_eq!(service.control.seen().await, Seen::Began { seed: 1 });
    let waiting = service.begin(seeded(2)).await.expect("accepted");
    let status = service.begin(seeded(3)).await.expect_err("full");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let after = status.metadata().get("retry-after").expect("a retry-after");
    assert!(after.to_str().expect("text").parse::<u64>().expect("seconds") >= 1);
    assert!(matches!(Fault::from(status), Fault::Busy { .. }));

    service.control.open();
    assert_eq!(outcome(running).await.expect("well").accepted.queue_position, 0);
    assert_eq!(outcome(waiting).await.expect("well").accepted.queue_position, 1);
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_is_never_served() {
    let mut service = Service::gated(1).await;
    let running = service.begin(seeded(1)).await.expect("accepted");
    assert_eq!(service.control.seen().await, Seen::Began { seed: 1 });
    drop(service.begin(seeded(2)).await.expect("accepted"));
    // Its place is free as soon as the service has noticed.
    let next = loop {
        match service.begin(seeded(3)).await {
            Ok(events) => break events,
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
        }
    };
    service.control.open();
    outcome(running).await.expect("well");
    outcome(next).await.expect("well");
    while let seen = service.control.seen().await
        && seen != (Seen::Finished { seed: 3 })
    {
        assert_ne!(seen, Seen::Began { seed: 2 });
    }
}

#[tokio::test]
async fn failures_stay_inside_and_the_next_request_is_served() {
    let mut service = Service::free().await;
    for seed in [PANICKING_SEED, FAILING_SEED] {
        let events = service.begin(seeded(seed)).await.expect("accepted");
        let status = outcome(events).await.expect_err("fails");
        assert_eq!(status.code(), Code::Internal, "{status}");
        assert!(!status.message().contains("secret"), "{status}");
    }
    let events = service.begin(seeded(1)).await.expect("accepted");
    outcome(events).await.expect("well");
}

#[tokio::test]
async fn a_shutdown_finishes_what_runs() {
    let mut service = Service::gated(4).await;
    let running = service.begin(seeded(1)).await.expect("accepted");
    assert_eq!(service.control.seen().await, Seen::Began { seed: 1 });
    let waiting = service.begin(seeded(2)).await.expect("accepted");
    service.server.shutdown.cancel();
    service.control.open();
    assert_eq!(outcome(running).await.expect("well").steps.len(), 3);
    assert_eq!(outcome(waiting).await.expect("well").steps.len(), 3);
    service.server.ended().await;

    let mut late = DiffusionClient::new(service.server.channel());
    let status = late.describe(DescribeDiffusionRequest {}).await.expect_err("gone");
    let fault = service.server.remote("diffusion service").fault(status);
    assert!(
        matches!(&fault, Fault::Unavailable(m) if m.contains(&service.server.url)),
        "{fault:?}"
    );
}

#[tokio::test]
async fn describe_says_what_requests_may_hold() {
    let mut service = Service::free().await;
    let described =
        service.client.describe(DescribeDiffusionRequest {}).await.expect("well").into_inner();
    assert_eq!(described.model, "fake-dit");
    assert_eq!((described.cap_feat_dim, described.max_caption_tokens), (WIDTH as u32, 100));
    assert_eq!((described.side_multiple, described.max_side), (16, 1024));
    assert!(!described.has_encoder);
    assert_eq!(described.max_preview_side, 256);
    assert_eq!(described.schedulers, ["flow_euler", "flow_heun", "dpm_solver", "unipc"]);
    let defaults = described.defaults.expect("defaults");
    assert_eq!((defaults.width, defaults.steps, defaults.shift), (Some(64), Some(3), Some(3.0)));
    assert_eq!(defaults.scheduler.as_deref(), Some("flow_euler"));
}

#[tokio::test]
async fn a_picture_to_draw_from_reaches_the_generator_at_the_right_size() {
    let mut service = Service::free().await;
    let mut file = std::io::Cursor::new(Vec::new());
    let source = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8, y as u8, 7]));
    source.write_to(&mut file, image::ImageFormat::WebP).expect("encodes");
    let file = file.into_inner();
    let first = GenerateParams { seed: Some(5), strength: Some(0.9), ..Default::default() };
    let mut parts = vec![params(first)];
    parts.extend(image_parts("image/webp", &file));
    parts.extend(tensor_parts(TensorRole::Embeddings, &embeddings()));
    let answer = service.client.generate(futures::stream::iter(parts)).await.expect("accepted");
    let outcome = outcome(answer.into_inner()).await.expect("well");

    let options = GenerateOptions { seed: Some(5), strength: Some(0.9), ..Default::default() };
    let mut job = job(&service.handle, options);
    job.image = Some(diffusion_service::source::read(&file, 64, 64).expect("a picture"));
    let recipe = picture::recipe(service.handle.info(), &job);
    assert_eq!(recipe.settings.strength, Some(0.9));
    let expected = picture::encode_png(&FakeGenerator::picture(&job), &recipe).expect("encodes");
    assert!(outcome.image == expected);
    assert_eq!(outcome.accepted.params.expect("as used").strength, Some(0.9));
}

#[tokio::test]
async fn a_mask_reaches_the_generator_and_the_rest_stays_as_it_was() {
    let mut service = Service::free().await;
    let file = |pixel: fn(u32, u32) -> [u8; 3], width: u32, height: u32| {
        let picture = image::RgbImage::from_fn(width, height, |x, y| image::Rgb(pixel(x, y)));
        let mut file = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut file, image::ImageFormat::Png).expect("encodes");
        file.into_inner()
    };
    let source = |x: u32, y: u32| [x as u8, y as u8, 7];
    for (padding, side) in [(None, 64), (Some(4), 100)] {
        let (image, mask) = (
            file(source, side, side),
            file(|x, _| if x < 20 { [0; 3] } else { [255; 3] }, side, side),
        );
        let first = GenerateParams {
            seed: Some(5),
            mask_blur: Some(0.0),
            only_masked: padding,
            ..Default::default()
        };
        let mut parts = vec![params(first)];
        parts.extend(image_parts("image/png", &image));
        let mut mask_parts = image_parts("image/png", &mask);
        if let Some(Part::Image(header)) = &mut mask_parts[0].part {
            header.role = ImageRole::Mask.into();
        }
        parts.extend(mask_parts);
        parts.extend(tensor_parts(TensorRole::Embeddings, &embeddings()));
        let answer = service.client.generate(futures::stream::iter(parts)).await.expect("accepted");
        let outcome = outcome(answer.into_inner()).await.expect("well");
        let used = outcome.accepted.params.expect("as used");
        assert_eq!((used.strength, used.only_masked), (Some(1.0), padding), "all of it by default");

        let options = GenerateOptions {
            seed: Some(5),
            strength: Some(1.0),
            mask_blur: Some(0.0),
            only_masked: padding,
            ..Default::default()
        };
        let mut job = job(&service.handle, options);
        let (image, masked) = source::read_masked(&image, &mask, &job.params).expect("a picture");
        (job.image, job.mask) = (Some(image), Some(masked.mask));
        let recipe = picture::recipe(service.handle.info(), &job);
        let pasted = source::paste(masked.paste, FakeGenerator::picture(&job)).expect("pastes");
        assert_eq!((pasted.width, pasted.height), (side, side));
        assert!(outcome.image == picture::encode_png(&pasted, &recipe).expect("encodes"));
        let made = image::load_from_memory(&outcome.image).expect("a PNG").into_rgb8();
        for (x, y, pixel) in made.enumerate_pixels().filter(|(x, ..)| *x < 20) {
            assert_eq!(pixel.0, [x as u8, y as u8, 7], "{x} {y}");
        }
    }
}
