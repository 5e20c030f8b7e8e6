//! What the requests of a diffusion service may hold together: places in the queue, and memory.

use std::{future::Future, io::Cursor, time::Duration};

use diffusion_service::{DiffusionHandle, ServiceLimits};
use futures::{StreamExt as _, stream};
use llm_dit_memory::MemoryBudget;
use llm_dit_proto::v1::{
    GenerateParams, GenerateRequest, ImageHeader, TensorRole, diffusion_client::DiffusionClient,
    generate_request::Part,
};
use llm_dit_testkit::{
    fakes::{FakeGenerator, Seen},
    servers::{Server, fake_diffusion},
    wire::{data, image_parts, outcome, params, tensor, tensor_parts},
};
use tokio::{task::JoinSet, time};
use tonic::{Code, Status};

const MIB: u64 = 1 << 20;
const WIDTH: usize = 32;

fn handle(queue_capacity: usize, memory: &MemoryBudget) -> DiffusionHandle {
    let limits = ServiceLimits { queue_capacity, ..Default::default() };
    fake_diffusion(FakeGenerator::free(WIDTH), limits, None).0.with_memory(memory.clone())
}

/// A valid request, with `more` after its embeddings.
fn good(more: &[GenerateRequest]) -> Vec<GenerateRequest> {
    let mut parts = vec![params(GenerateParams::default())];
    parts.extend(tensor_parts(TensorRole::Embeddings, &tensor(&[4, WIDTH], 0)));
    parts.extend_from_slice(more);
    parts
}

/// Sends `count` requests of these parts at the same time, which never end.
fn unfinished(server: &Server, count: usize, parts: &[GenerateRequest]) -> JoinSet<Status> {
    let mut uploads = JoinSet::new();
    for _ in 0..count {
        let mut client = DiffusionClient::new(server.channel());
        let requests = stream::iter(parts.to_vec()).chain(stream::pending());
        uploads.spawn(async move { client.generate(requests).await.expect_err("never whole") });
    }
    uploads
}

/// The next ones that are refused.
async fn refused(uploads: &mut JoinSet<Status>, count: usize) -> Vec<Status> {
    let mut refused = Vec::new();
    while refused.len() < count {
        refused.push(uploads.join_next().await.expect("more are sent").expect("no panic"));
    }
    refused
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    time::timeout(Duration::from_secs(20), what).await.expect("in time")
}

async fn until_free(memory: &MemoryBudget) {
    in_time(async {
        while memory.reserved() > 0 {
            time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn exhausted(status: &Status, reason: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains(reason), "{status}");
    assert!(status.metadata().contains_key("retry-after"), "{status:?}");
}

#[tokio::test]
async fn uploads_beyond_the_memory_are_refused_by_their_header() {
    let memory = MemoryBudget::new(128 * MIB);
    let server = Server::diffusion(handle(16, &memory)).await;
    let header = ImageHeader {
        media_type: "image/png".to_owned(),
        total_bytes: 60 * MIB,
        ..Default::default()
    };
    let begun = [GenerateRequest { part: Some(Part::Image(header)) }, data(vec![0; 1000])];
    let mut uploads = unfinished(&server, 8, &good(&begun));
    for status in in_time(refused(&mut uploads, 6)).await {
        exhausted(&status, "the file of the init image needs 60 MiB of memory");
    }
    assert!((120 * MIB..128 * MIB).contains(&memory.reserved()), "{}", memory.reserved());
    drop(uploads);
    until_free(&memory).await;
}

#[tokio::test]
async fn uploads_that_do_not_end_take_no_place_in_the_queue() {
    let memory = MemoryBudget::default();
    let server = Server::diffusion(handle(1, &memory)).await;
    let uploads = unfinished(&server, 5, &[params(GenerateParams::default())]);
    in_time(async {
        while memory.reserved() == 0 {
            time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut client = DiffusionClient::new(server.channel());
    let events = client.generate(stream::iter(good(&[]))).await.expect("a place is free");
    in_time(outcome(events.into_inner())).await.expect("well");
    drop(uploads);
    until_free(&memory).await;
}

#[tokio::test]
async fn what_finds_the_queue_full_is_refused_before_its_data() {
    let limits = ServiceLimits { queue_capacity: 1, ..Default::default() };
    // No step of it is permitted, so that the queue stays full.
    let (handle, mut control) = fake_diffusion(FakeGenerator::gated(WIDTH), limits, None);
    let server = Server::diffusion(handle).await;
    let mut waiting = Vec::new();
    for nth in 0..2 {
        let mut client = DiffusionClient::new(server.channel());
        let events = client.generate(stream::iter(good(&[]))).await.expect("a place is free");
        waiting.push(events);
        // The first one has left the queue when it runs.
        while nth == 0 && !matches!(control.seen().await, Seen::Began { .. }) {}
    }
    let mut uploads = unfinished(&server, 3, &[params(GenerateParams::default())]);
    for status in in_time(refused(&mut uploads, 3)).await {
        exhausted(&status, "1 requests are queued");
    }
    drop((waiting, control));
}

/// One takes 9 MiB to decode: all at the same time would not fit.
#[tokio::test]
async fn many_init_images_take_turns() {
    let memory = MemoryBudget::new(24 * MIB);
    let server = Server::diffusion(handle(16, &memory)).await;
    let mut png = Cursor::new(Vec::new());
    let red = image::RgbImage::from_pixel(1000, 1000, image::Rgb([200, 0, 0]));
    red.write_to(&mut png, image::ImageFormat::Png).expect("encodes");
    let parts = good(&image_parts("image/png", png.get_ref()));
    let mut images = JoinSet::new();
    for _ in 0..12 {
        let (mut client, parts) = (DiffusionClient::new(server.channel()), parts.clone());
        images.spawn(async move {
            outcome(client.generate(stream::iter(parts)).await?.into_inner()).await
        });
    }
    for image in in_time(images.join_all()).await {
        assert!(!image.expect("well").image.is_empty());
    }
    assert!(memory.peak() > 9_000_000, "{}", memory.peak());
    until_free(&memory).await;
}
