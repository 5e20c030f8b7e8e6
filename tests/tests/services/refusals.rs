//! Requests that the diffusion service must refuse: each with its status, its reason, and no
//! panic, and so that the next request is served.

use std::time::Duration;

use bytes::Bytes;
use diffusion_service::ServiceLimits;
use futures::{Stream, StreamExt as _, stream};
use llm_dit_proto::{
    DType, Tensor,
    v1::{
        self, GenerateParams, GenerateRequest, TensorHeader, TensorRole, TensorStart,
        diffusion_client::DiffusionClient, generate_request::Part,
    },
};
use llm_dit_testkit::{
    fakes::FakeGenerator,
    servers::{Server, fake_diffusion},
    wire::{data, image_parts, outcome, params, request, start, tensor, tensor_parts},
};
use tonic::{Code, Status};

const WIDTH: usize = 32;

async fn serve(limits: ServiceLimits) -> Server {
    Server::diffusion(fake_diffusion(FakeGenerator::free(WIDTH), limits, None).0).await
}

/// Tensors of a request, by role.
type Tensors = Vec<(TensorRole, Tensor)>;

/// Sends a request that is refused, and then a good one.
async fn refused(request: impl Stream<Item = GenerateRequest> + Send + 'static) -> Status {
    let server = serve(ServiceLimits::default()).await;
    let mut client = DiffusionClient::new(server.channel());
    let status = client.generate(request).await.expect_err("refused");
    let good = good(&[]);
    outcome(client.generate(stream::iter(good)).await.expect("accepted").into_inner())
        .await
        .expect("well");
    status
}

fn embeddings() -> Tensor {
    tensor(&[4, WIDTH], 0)
}

/// A valid request, with `more` after its embeddings.
fn good(more: &[GenerateRequest]) -> Vec<GenerateRequest> {
    let mut parts = vec![params(GenerateParams::default())];
    parts.extend(tensor_parts(TensorRole::Embeddings, &embeddings()));
    parts.extend_from_slice(more);
    parts
}

fn header(shape: &[u64], total_bytes: u64) -> TensorHeader {
    TensorHeader { dtype: DType::F32.to_wire(), shape: shape.to_vec(), total_bytes }
}

/// Parameters and then embeddings announced by this header.
fn announced(header: TensorHeader) -> Vec<GenerateRequest> {
    vec![params(GenerateParams::default()), start(TensorRole::Embeddings, header)]
}

fn check(status: &Status, reason: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{reason}: {status}");
    assert!(status.message().contains(reason), "{reason}: {}", status.message());
}

#[tokio::test]
async fn streams_that_make_no_sense() {
    let again = tensor_parts(TensorRole::Embeddings, &embeddings());
    let unknown = GenerateRequest {
        part: Some(Part::Tensor(TensorStart { role: 77, header: Some(embeddings().header()) })),
    };
    let headless = GenerateRequest {
        part: Some(Part::Tensor(TensorStart {
            role: TensorRole::NegativeEmbeddings.into(),
            header: None,
        })),
    };
    let negative = tensor_parts(TensorRole::NegativeEmbeddings, &embeddings());
    let only_negative = [vec![params(GenerateParams::default())], negative].concat();
    let first = params(GenerateParams::default());
    let cases: Vec<(Vec<GenerateRequest>, &str)> = vec![
        (vec![], "ended before the parameters"),
        (vec![data("x")], "first message must carry the parameters"),
        (again.clone(), "first message must carry the parameters"),
        (vec![GenerateRequest { part: None }], "message is empty"),
        (vec![first.clone()], "neither embeddings nor a prompt"),
        (vec![first.clone(), first.clone()], "sent twice"),
        (vec![first.clone(), data("x")], "before any header"),
        (good(&again), "embeddings were sent twice"),
        (good(&[unknown]), "unknown tensor role 77"),
        (good(&[headless]), "without a header"),
        (only_negative, "without embeddings"),
    ];
    for (parts, reason) in cases {
        check(&refused(stream::iter(parts)).await, reason);
    }
}

#[tokio::test]
async fn names_of_any_length_are_not_repeated() {
    let long = "n".repeat(70_000);
    let lora = v1::LoraSelection { name: long.clone(), ..Default::default() };
    let loras = Some(v1::LoraSet { loras: vec![lora] });
    for first in [
        GenerateParams { model: Some(long.clone()), ..Default::default() },
        GenerateParams { scheduler: Some(long.clone()), ..Default::default() },
        GenerateParams { loras, ..Default::default() },
    ] {
        let status = refused(stream::iter([params(first)])).await;
        assert!(status.message().len() < 300, "{status}");
    }
}

#[tokio::test]
async fn a_pass_that_no_lora_can_be_in() {
    for pass in ["negative", "", "Positive"] {
        let lora = v1::LoraSelection {
            name: "ink".into(),
            pass: Some(pass.to_owned()),
            ..Default::default()
        };
        let loras = Some(v1::LoraSet { loras: vec![lora] });
        let first = GenerateParams { loras, ..Default::default() };
        let status = refused(stream::iter([params(first)])).await;
        let reason = format!("'{pass}' is no pass");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(&reason), "{status}");
        assert!(status.message().contains("both or positive"), "{status}");
    }
}

#[tokio::test]
async fn tensors_that_do_not_add_up() {
    let bytes = 4 * WIDTH as u64 * 4;
    let whole = || data(embeddings().bytes().clone());
    let part = |n: usize| data(embeddings().bytes().slice(..n));
    let with =
        |header: TensorHeader, rest: Vec<GenerateRequest>| [announced(header), rest].concat();
    let fits = || header(&[4, WIDTH as u64], bytes);
    let cut = format!("100 of {bytes} bytes arrived");
    let cases = vec![
        (with(fits(), vec![part(100)]), cut.as_str()),
        // Cut short by the next tensor.
        (
            with(
                fits(),
                [vec![part(100)], tensor_parts(TensorRole::NegativeEmbeddings, &embeddings())]
                    .concat(),
            ),
            cut.as_str(),
        ),
        (with(fits(), vec![]), "cut short"),
        (with(fits(), vec![whole(), data("x")]), "more bytes than"),
        (with(header(&[4, WIDTH as u64], bytes - 1), vec![]), "takes 512"),
        (with(header(&[u64::MAX, WIDTH as u64], 4), vec![]), "tokens"),
        (with(header(&[101, WIDTH as u64], 101 * 4 * WIDTH as u64), vec![]), "at most 100"),
        (with(header(&[0, WIDTH as u64], 0), vec![]), "none of them 0"),
        (with(header(&[WIDTH as u64], 128), vec![]), "(tokens, 32) is needed"),
        (with(header(&[], 0), vec![]), "(tokens, 32) is needed"),
        (with(TensorHeader { dtype: 0, ..fits() }, vec![]), "without dtype"),
        (with(TensorHeader { dtype: 9, ..fits() }, vec![]), "unknown tensor dtype 9"),
        (with(fits(), vec![data(vec![0; (1 << 20) + 1])]), "chunk of 1048577 bytes"),
    ];
    for (parts, reason) in cases {
        check(&refused(stream::iter(parts)).await, reason);
    }
}

#[tokio::test]
async fn embeddings_of_another_width_are_refused_at_their_header() {
    // The data never comes, so the answer cannot have waited for it.
    let parts = announced(header(&[4, 2560], 4 * 2560 * 4));
    let status = refused(stream::iter(parts).chain(stream::pending())).await;
    check(&status, "width 2560, but fake-dit has cap_feat_dim 32");
}

#[tokio::test]
async fn the_reason_arrives_although_the_client_is_still_sending() {
    let chunk = Bytes::from(vec![0; 1 << 18]);
    let parts = announced(header(&[4, 2560], 4 * 2560 * 4));
    let status =
        refused(stream::iter(parts).chain(stream::repeat_with(move || data(chunk.clone())))).await;
    check(&status, "width 2560");
}

#[tokio::test]
async fn values_and_roles_that_do_not_fit_the_job() {
    let nan = |shape: &[usize]| {
        let n = shape.iter().product();
        Tensor::from_f32(&vec![f32::NAN; n], shape.to_vec(), DType::F32).expect("whole")
    };
    let defaults = GenerateParams::default;
    let guided = || GenerateParams { guidance_scale: Some(2.0), ..defaults() };
    let half = Tensor::from_f32(&[0.0; 256], vec![4, 8, 8], DType::F16).expect("whole");
    let cases: Vec<(GenerateParams, Tensors, &str)> = vec![
        (defaults(), vec![(TensorRole::Embeddings, nan(&[4, WIDTH]))], "NaN"),
        (
            guided(),
            vec![
                (TensorRole::Embeddings, embeddings()),
                (TensorRole::NegativeEmbeddings, nan(&[4, WIDTH])),
            ],
            "negative embeddings: tensor holds NaN",
        ),
        (guided(), vec![(TensorRole::Embeddings, embeddings())], "needs negative embeddings"),
        (
            defaults(),
            vec![
                (TensorRole::Embeddings, embeddings()),
                (TensorRole::Latents, tensor(&[4, 8, 9], 0)),
            ],
            "64x64 needs [4, 8, 8]",
        ),
        (
            defaults(),
            vec![(TensorRole::Embeddings, embeddings()), (TensorRole::Latents, nan(&[4, 8, 8]))],
            "initial latents: tensor holds NaN",
        ),
        (
            defaults(),
            vec![(TensorRole::Embeddings, embeddings()), (TensorRole::Latents, half)],
            "must be f32",
        ),
    ];
    for (first, tensors, reason) in cases {
        let tensors: Vec<_> = tensors.iter().map(|(role, tensor)| (*role, tensor)).collect();
        check(&refused(request(first, &tensors)).await, reason);
    }
}

#[tokio::test]
async fn parameters_out_of_range() {
    let width = |w| GenerateParams { width: Some(w), ..Default::default() };
    let cases = [
        (width(250), "the nearest are 240 and 256"),
        (width(0), "use 64 to 1024"),
        (width(100_000), "use 64 to 1024"),
        (
            GenerateParams { width: Some(1024), height: Some(512), ..Default::default() },
            "the maximum is 262144",
        ),
        (GenerateParams { steps: Some(0), ..Default::default() }, "use 1 to 200"),
        (GenerateParams { guidance_scale: Some(f32::NAN), ..Default::default() }, "finite"),
        (GenerateParams { shift: Some(0.0), ..Default::default() }, "shift"),
        (
            GenerateParams { scheduler: Some("euler".into()), ..Default::default() },
            "unknown scheduler 'euler'; did you mean 'flow_euler'?",
        ),
        (
            GenerateParams { scheduler: Some("".into()), ..Default::default() },
            "known are flow_euler, flow_heun, dpm_solver, unipc",
        ),
    ];
    for (first, reason) in cases {
        // Refused with the first message; nothing more is needed.
        let parts = stream::iter([params(first)]).chain(stream::pending());
        check(&refused(parts).await, reason);
    }
}

#[tokio::test]
async fn a_client_that_stalls_is_let_go() {
    let message_timeout = Duration::from_millis(20);
    let server = serve(ServiceLimits { message_timeout, ..Default::default() }).await;
    let parts = announced(header(&[4, WIDTH as u64], 4 * WIDTH as u64 * 4));
    let status = DiffusionClient::new(server.channel())
        .generate(stream::iter(parts).chain(stream::pending()))
        .await
        .expect_err("let go");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

/// What no model of ours can do is refused, and never left out of the picture.
#[tokio::test]
async fn a_control_image_and_another_model() {
    for (role, code, reason) in [
        (2, Code::FailedPrecondition, "takes no control image"),
        (7, Code::InvalidArgument, "unknown image role 7"),
    ] {
        let mut image = image_parts("image/png", b"not looked into");
        if let Some(Part::Image(header)) = &mut image[0].part {
            header.role = role;
        }
        let status = refused(stream::iter(good(&image))).await;
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(reason), "{status}");
    }
    let model = |name: &str| GenerateParams { model: Some(name.to_owned()), ..Default::default() };
    let status = refused(stream::iter([params(model("z-image"))])).await;
    assert_eq!(status.code(), Code::NotFound, "{status}");
    assert!(status.message().contains("omit it, or use 'fake-dit'"), "{status}");
}

#[tokio::test]
async fn pictures_to_draw_from_that_are_none() {
    let mut png = std::io::Cursor::new(Vec::new());
    let red = image::RgbImage::from_pixel(40, 20, image::Rgb([200, 0, 0]));
    red.write_to(&mut png, image::ImageFormat::Png).expect("encodes");
    let png = png.into_inner();
    let whole = image_parts("image/png", &png);
    let cut = whole[..1].to_vec();
    let more = [whole.clone(), vec![data("x")]].concat();
    let twice = [whole.clone(), whole.clone()].concat();
    let as_mask = |parts: &[GenerateRequest]| {
        let mut parts = parts.to_vec();
        if let Some(Part::Image(header)) = &mut parts[0].part {
            header.role = llm_dit_proto::v1::ImageRole::Mask.into();
        }
        parts
    };
    let black = {
        let mut file = std::io::Cursor::new(Vec::new());
        let mask = image::RgbImage::new(40, 20);
        mask.write_to(&mut file, image::ImageFormat::Png).expect("encodes");
        [whole.clone(), as_mask(&image_parts("image/png", file.get_ref()))].concat()
    };
    let alone = as_mask(&whole);
    let two_masks = [whole.clone(), as_mask(&whole), as_mask(&whole)].concat();
    let broken_mask = [whole.clone(), as_mask(&image_parts("image/png", &png[..60]))].concat();
    let blur = GenerateParams { mask_blur: Some(2.0), ..Default::default() };
    let blur = [vec![params(blur)], good(&whole)[1..].to_vec()].concat();
    let huge_mask = {
        let mut parts = as_mask(&whole);
        if let Some(Part::Image(header)) = &mut parts[0].part {
            header.total_bytes = u64::MAX;
        }
        parts[..1].to_vec()
    };
    let noise = tensor_parts(TensorRole::Latents, &tensor(&[4, 8, 8], 1));
    let both = [whole, noise].concat();
    let zero = GenerateParams { strength: Some(0.0), ..Default::default() };
    let none = [vec![params(zero)], good(&image_parts("image/png", &png))[1..].to_vec()].concat();
    let high = vec![params(GenerateParams { strength: Some(1.5), ..Default::default() })];
    let huge = GenerateRequest {
        part: Some(Part::Image(llm_dit_proto::v1::ImageHeader {
            media_type: "image/png".to_owned(),
            total_bytes: u64::MAX,
            ..Default::default()
        })),
    };
    for (parts, reason) in [
        (good(&image_parts("image/gif", &png)), "'image/gif' are not supported"),
        (good(&image_parts("image/png", b"GIF89a, or so it says")), "not a PNG, JPEG or WebP"),
        (good(&image_parts("image/png", &png[..60])), "cannot be decoded"),
        (good(&cut), &format!("0 of {} bytes arrived", png.len())),
        (good(&more), "more than the announced"),
        (good(&twice), "the init image was sent twice"),
        (good(&[huge]), "the maximum is"),
        (good(&both), "exclude each other"),
        (good(&black), "the mask has no white"),
        (good(&alone), "a mask was sent without an init image"),
        (good(&two_masks), "the mask was sent twice"),
        (good(&broken_mask), "cannot be decoded"),
        (good(&huge_mask), "the maximum is"),
        (blur, "mask_blur needs a mask"),
        (none, "leaves none of the 3 steps"),
        (high, "strength 1.5 is out of range"),
    ] {
        check(&refused(stream::iter(parts)).await, reason);
    }
}
