//! What is small on the wire and large in memory, and what is large in sum.

use std::io::Cursor;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt as _, future::join_all, stream};
use image::{DynamicImage, GrayImage, ImageFormat, RgbImage};
use llm_dit_proto::v1::{
    GenerateParams, GenerateRequest, ImageHeader, TensorRole, diffusion_client::DiffusionClient,
    generate_request::Part,
};
use llm_dit_serving::{Credentials, Remote, client::WithKey};
use serde_json::json;
use tonic::Status;

use super::{
    Outcome, PATIENCE, Plan,
    honest::HonestClient,
    stack::{Setup, Stack},
};
use crate::wire::{data, image_parts, params, tensor};

/// Of each bomb at once.
const AT_ONCE: usize = 8;

/// Files that say, or are, far larger than what they take: each format, and text beside the pixels.
pub(super) async fn images(plan: &Plan) -> Outcome {
    let side = plan.count(16_384, 9_000) as u32;
    let large = file(&GrayImage::new(side, side / 2 + side % 2 + 3_000).into(), ImageFormat::Png);
    let small = DynamicImage::from(RgbImage::new(64, 64));
    let text = png_with_text(&file(&small, ImageFormat::Png), &zlib_stream(&large));
    let bombs = [
        ("PNG", large, true),
        ("PNG header", png_of_size(&file(&small, ImageFormat::Png), 60_000), true),
        ("JPEG header", jpeg_of_size(&file(&small, ImageFormat::Jpeg), 65_000), true),
        ("WebP header", webp_of_size(&file(&small, ImageFormat::WebP), 16_383), true),
        // The pixels are fine, so it may be drawn from; its text must not be inflated.
        ("PNG text", text, false),
    ];
    attacked(async |stack| {
        let mut broken = Vec::new();
        let mut answers = 0;
        for (name, bomb, must_fail) in &bombs {
            let doors = [http(stack, bomb, name).await, grpc(stack, bomb).await].concat();
            answers += doors.len();
            for answer in doors {
                match answer {
                    Ok(()) if *must_fail => broken.push(format!("{name} was drawn from")),
                    Err(why) if !why.starts_with("refused") => {
                        broken.push(format!("{name}: {why}"))
                    }
                    _ => {}
                }
            }
        }
        (format!("{answers} files of {} kinds", bombs.len()), broken)
    })
    .await
}

/// Honest images of nearly the largest size that the budget allows, many at once: each fits, two do
/// not.
pub(super) async fn large(plan: &Plan) -> Outcome {
    let side = plan.count(5_000, 3_000) as u32;
    let image = RgbImage::new(side, side).into();
    // Made before: what that costs is not the programs' work.
    let files =
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP].map(|kind| file(&image, kind));
    attacked(async move |stack| {
        let mut broken = Vec::new();
        let (mut drawn, mut refused) = (0, 0);
        for file in &files {
            for answer in [http(stack, file, "large").await, grpc(stack, file).await].concat() {
                match answer {
                    Ok(()) => drawn += 1,
                    Err(why) if why.starts_with("refused") => refused += 1,
                    Err(why) => broken.push(why),
                }
            }
        }
        if drawn == 0 {
            broken.push("none was drawn from".to_owned());
        }
        (format!("{drawn} drawn from, {refused} refused"), broken)
    })
    .await
}

/// Uploads that never end, each on a connection of its own.
pub(super) async fn uploads(plan: &Plan) -> Outcome {
    let count = plan.count(64, 16);
    attacked(async move |stack| {
        let held = join_all((0..count).map(|_| async {
            let chunk = Bytes::from(vec![0; 1 << 20]);
            let header = ImageHeader {
                media_type: "image/png".to_owned(),
                total_bytes: 60 << 20,
                ..Default::default()
            };
            let begin = [
                params(GenerateParams::default()),
                GenerateRequest { part: Some(Part::Image(header)) },
            ];
            let parts = begin.into_iter().chain((0..59).map(move |_| data(chunk.clone())));
            let parts = stream::iter(parts).chain(stream::pending());
            let call = async { draw(&stack.diffusion[0].url, parts).await };
            // Long enough that all bytes that are taken have arrived.
            match tokio::time::timeout(PATIENCE / 6, call).await {
                Ok(Err(status)) => Some(status.code()),
                Ok(Ok(())) | Err(_) => None,
            }
        }))
        .await;
        let refused = held.iter().flatten().count();
        (format!("{refused} of {count} were refused"), Vec::new())
    })
    .await
}

/// Bodies of the largest size that is taken, of which the last byte does not come.
pub(super) async fn bodies(plan: &Plan) -> Outcome {
    let count = plan.count(64, 16);
    attacked(async move |stack| {
        let url = format!("{}/api/generate", stack.gateway.url);
        let held = join_all((0..count).map(|_| async {
            let begin = Bytes::from_static(br#"{"prompt": "x", "image": ""#);
            let chunk = Bytes::from(vec![b'A'; 1 << 20]);
            let parts = std::iter::once(begin).chain((0..23).map(move |_| chunk.clone()));
            let parts = stream::iter(parts.map(Ok::<_, std::io::Error>)).chain(stream::pending());
            let body = reqwest::Body::wrap_stream(parts);
            let request = crate::http().post(&url).header("content-type", "application/json");
            let answer = request.body(body).timeout(PATIENCE / 6).send().await;
            answer.ok().map(|answer| answer.status())
        }))
        .await;
        let refused = held.iter().flatten().filter(|status| !status.is_success()).count();
        (format!("{refused} of {count} were refused"), Vec::new())
    })
    .await
}

/// Starts the programs and runs `attack` beside an honest client.
async fn attacked(attack: impl AsyncFnOnce(&Stack) -> (String, Vec<String>)) -> Outcome {
    let mut stack = Stack::start(&Setup::default());
    let honest = HonestClient::measured(&stack.gateway.url).await;
    stack.watch_memory();
    let ((seen, broken), honest) = honest.beside(attack(&stack)).await;
    Outcome { honest, memory: stack.memory(), seen, broken, ..Outcome::default() }
}

/// Asks the gateway to draw from a file, [`AT_ONCE`] times at once.
async fn http(stack: &Stack, file: &[u8], name: &str) -> Vec<Result<(), String>> {
    let body = json!({
        "prompt": name, "width": 64, "height": 64, "steps": 2, "image": STANDARD.encode(file),
    });
    let url = format!("{}/api/generate", stack.gateway.url);
    join_all((0..AT_ONCE).map(|_| async {
        let answer = crate::http().post(&url).json(&body).timeout(PATIENCE).send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status().as_u16() {
            200 => Ok(()),
            400..=499 | 503 => Err("refused".to_owned()),
            status => Err(format!("{status}: {}", answer.text().await.unwrap_or_default())),
        }
    }))
    .await
}

/// Asks the diffusion service itself.
async fn grpc(stack: &Stack, file: &[u8]) -> Vec<Result<(), String>> {
    let url = &stack.diffusion[0].url;
    let Ok(width) = described_width(url).await else { return vec![Err("no answer".to_owned())] };
    let embeddings = tensor(&[8, width], 1);
    let media_type = match image::guess_format(file) {
        Ok(ImageFormat::Jpeg) => "image/jpeg",
        Ok(ImageFormat::WebP) => "image/webp",
        _ => "image/png",
    };
    join_all((0..AT_ONCE).map(|_| async {
        let first = GenerateParams {
            width: Some(64),
            height: Some(64),
            steps: Some(2),
            ..Default::default()
        };
        let mut parts = vec![params(first)];
        parts.extend(crate::wire::tensor_parts(TensorRole::Embeddings, &embeddings));
        parts.extend(image_parts(media_type, file));
        match draw(url, stream::iter(parts)).await {
            Ok(()) => Ok(()),
            Err(status) if is_refusal(&status) => Err("refused".to_owned()),
            Err(status) => Err(status.to_string()),
        }
    }))
    .await
}

/// Whether the service is well, and says that the request is not, or that there is no room now.
fn is_refusal(status: &Status) -> bool {
    matches!(status.code(), tonic::Code::InvalidArgument | tonic::Code::ResourceExhausted)
}

async fn described_width(url: &str) -> Result<usize, Status> {
    let mut client = client(url);
    let described = client.describe(llm_dit_proto::v1::DescribeDiffusionRequest {}).await?;
    Ok(described.into_inner().cap_feat_dim as usize)
}

async fn draw(
    url: &str,
    parts: impl futures::Stream<Item = GenerateRequest> + Send + 'static,
) -> Result<(), Status> {
    let mut events = client(url).generate(parts).await?.into_inner();
    while events.message().await?.is_some() {}
    Ok(())
}

/// On a connection of its own.
fn client(url: &str) -> DiffusionClient<WithKey> {
    let remote = Remote::new("diffusion service", url, &Credentials::default());
    DiffusionClient::new(remote.expect("a valid URL").channel())
}

fn file(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, format).expect("encodes");
    file.into_inner()
}

/// The chunks of a PNG: type and content.
fn png_chunks(png: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut rest = &png[8..];
    let mut chunks = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        chunks.push((&after[..4], &after[4..4 + length]));
        rest = &after[8 + length..];
    }
    chunks
}

fn png_of_chunks<'a>(chunks: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, content) in chunks {
        png.extend((content.len() as u32).to_be_bytes());
        png.extend(kind);
        png.extend(content);
        png.extend(crc(&[kind, content].concat()).to_be_bytes());
    }
    png
}

/// The compressed pixels of a PNG: a stream that grows to a hundred megabytes.
fn zlib_stream(png: &[u8]) -> Vec<u8> {
    let pixels = png_chunks(png).into_iter().filter(|(kind, _)| *kind == b"IDAT");
    pixels.flat_map(|(_, content)| content.to_vec()).collect()
}

/// A PNG with a compressed text and a compressed colour profile that grow when they are read.
fn png_with_text(png: &[u8], stream: &[u8]) -> Vec<u8> {
    let text = [b"parameters\0\0".as_slice(), stream].concat();
    let international = [b"prompt\0\x01\0\0\0".as_slice(), stream].concat();
    let profile = [b"p\0\0".as_slice(), stream].concat();
    let mut chunks = png_chunks(png);
    let more: [(&[u8], &[u8]); 3] =
        [(b"iCCP", &profile), (b"zTXt", &text), (b"iTXt", &international)];
    chunks.splice(1..1, more);
    png_of_chunks(chunks)
}

/// The same file, whose header promises a square of this side.
fn png_of_size(png: &[u8], side: u32) -> Vec<u8> {
    let mut header = png_chunks(png)[0].1.to_vec();
    header[..4].copy_from_slice(&side.to_be_bytes());
    header[4..8].copy_from_slice(&side.to_be_bytes());
    let mut chunks = png_chunks(png);
    chunks[0].1 = &header;
    png_of_chunks(chunks)
}

fn jpeg_of_size(jpeg: &[u8], side: u16) -> Vec<u8> {
    let mut jpeg = jpeg.to_vec();
    // Start of frame: marker, length, precision, height, width.
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a baseline JPEG");
    jpeg[frame + 5..frame + 7].copy_from_slice(&side.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&side.to_be_bytes());
    jpeg
}

fn webp_of_size(webp: &[u8], side: u32) -> Vec<u8> {
    let mut webp = webp.to_vec();
    // RIFF, size, WEBP, VP8L, size, signature; then 14 bits each of width - 1 and height - 1.
    assert_eq!(&webp[12..16], b"VP8L", "a lossless file");
    let bits = u32::from_le_bytes([webp[21], webp[22], webp[23], webp[24]]);
    let sides = (side - 1) | ((side - 1) << 14);
    webp[21..25].copy_from_slice(&((bits & !0x0fff_ffff) | sides).to_le_bytes());
    webp
}

/// CRC-32 as PNG has it.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}
