//! `/v1`, as bytes on the wire. The `openai` package itself is in `tests/http`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use llm_dit_chat::Chat;
use llm_dit_params::GenerateOptions;
use llm_dit_testkit::{
    fakes::FastDiffusion,
    http,
    servers::{Server, fake_encoder, tokenizer},
};
use reqwest::Response;
use serde_json::{Value, json};

use crate::support::{Events, Gateway, Stack, WIDTH, expected_png};

const PATH: &str = "/v1/images/generations";
const BOUNDARY: &str = "a-boundary-that-is-in-no-file";

pub async fn edit(gateway: &Gateway, fields: &[(&str, &[u8])]) -> Response {
    let mut body = Vec::new();
    for (name, value) in fields {
        let is_file = name.starts_with("image") || matches!(*name, "mask" | "mask[]");
        let file = if is_file { "; filename=\"x.png\"" } else { "" };
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(value);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    http()
        .post(format!("{}/v1/images/edits", gateway.url))
        .header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"))
        .body(body)
        .send()
        .await
        .expect("an answer")
}

/// The words of OpenAI's error, which are those of the problem.
pub async fn error(response: Response, status: u16) -> String {
    assert_eq!(response.status(), status);
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(body["detail"], body["error"]["message"]);
    let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
    assert_eq!(body["error"]["type"], kind);
    body["detail"].as_str().expect("text").to_owned()
}

fn picture_of(data: &Value) -> Vec<u8> {
    STANDARD.decode(data["b64_json"].as_str().expect("base64")).expect("base64")
}

fn expected(seed: u64) -> Vec<u8> {
    let options = GenerateOptions { seed: Some(seed), width: Some(96), ..Default::default() };
    expected_png(WIDTH, &Chat::user("a fox"), options, "")
}

#[tokio::test(flavor = "multi_thread")]
async fn several_pictures_come_with_consecutive_seeds() {
    let stack = Stack::start().await;
    let body = json!({
        "prompt": "a fox", "n": 2, "size": "96x64", "seed": 7, "model": "fake-dit", "user": "me",
        "quality": "high",
    });
    let response = stack.gateway.post_to(PATH, &body).await;
    assert_eq!(response.status(), 200);
    let answer: Value = response.json().await.expect("JSON");
    assert_eq!((&answer["size"], &answer["output_format"]), (&json!("96x64"), &json!("png")));
    assert!(answer["created"].as_i64().expect("a number") > 1_700_000_000);
    for (data, seed) in answer["data"].as_array().expect("an array").iter().zip([7, 8]) {
        assert_eq!((picture_of(data), &data["seed"]), (expected(seed), &json!(seed)));
    }
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_completed_picture() {
    let stack = Stack::start().await;
    let body = json!({
        "prompt": "a fox", "size": "96x64", "seed": 7, "stream": true, "partial_images": 2,
    });
    let events = Events::new(stack.gateway.post_to(PATH, &body).await).rest().await;
    let last = events.last().expect("an event");
    assert_eq!(last.name, "image_generation.completed");
    assert_eq!(last.data["type"], last.name);
    assert_eq!((picture_of(&last.data), &last.data["seed"]), (expected(7), &json!(7)));
    let tokens = tokenizer().count(&Chat::user("a fox")).expect("counts").total as u64;
    let usage = &last.data["usage"];
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(tokens), &json!(24)));
    assert_eq!(usage["total_tokens"], json!(tokens + 24));
}

#[tokio::test(flavor = "multi_thread")]
async fn previews_are_partial_images_spread_over_the_steps() {
    let (encoder, _jobs) = fake_encoder(WIDTH);
    let encoder = Server::encoder(encoder).await;
    let (picture, preview) = (expected(1), expected(2));
    let fake = FastDiffusion {
        cap_feat_dim: WIDTH as u32,
        picture: picture.clone().into(),
        preview: Some(preview.clone().into()),
        flood: Vec::new(),
    };
    let diffusion = Server::fast_diffusion(fake).await;
    let gateway = Gateway::start(Some(&encoder.url), &diffusion.url).await;
    let model = gateway.json("/api/model").await;
    assert_eq!(model["previews"], true);
    // A model that says nothing of itself.
    assert_eq!((&model["description"], &model["examples"]), (&json!(null), &json!([])));
    let body = json!({
        "prompt": "x", "steps": 8, "seed": 1, "size": "96x64", "stream": true, "partial_images": 3,
    });
    let events = Events::new(gateway.post_to(PATH, &body).await).rest().await;
    let (last, partial) = events.split_last().expect("events");
    assert_eq!(last.name, "image_generation.completed");
    assert_eq!(partial.len(), 3);
    for (index, event) in (0..).zip(partial) {
        assert_eq!(
            (event.name.as_str(), &event.data["type"]),
            ("image_generation.partial_image", &json!(event.name))
        );
        assert_eq!(
            (picture_of(&event.data), &event.data["partial_image_index"]),
            (preview.clone(), &json!(index))
        );
    }
    // Our own events have every preview, and what was not asked for is not sent.
    let own = Events::new(gateway.stream(&json!({"prompt": "x", "steps": 8})).await).rest().await;
    let steps: Vec<&Value> = own
        .iter()
        .filter(|event| event.name == "preview")
        .map(|event| &event.data["step"])
        .collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7, 8].map(|n| json!(n)).iter().collect::<Vec<_>>());
    let none = json!({"prompt": "x", "stream": true});
    assert_eq!(Events::new(gateway.post_to(PATH, &none).await).rest().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_draws_from_its_picture() {
    let stack = Stack::start().await;
    let source = expected(1);
    let fields: [(&str, &[u8]); 5] = [
        ("prompt", b"a fox"),
        ("image", &source),
        ("strength", b"0.5"),
        ("seed", b"7"),
        ("n", b"2"),
    ];
    let response = edit(&stack.gateway, &fields).await;
    assert_eq!(response.status(), 200);
    let answer: Value = response.json().await.expect("JSON");
    assert_eq!(answer["size"], "96x64", "of the source");
    let same =
        json!({"prompt": "a fox", "seed": 8, "image": STANDARD.encode(&source), "strength": 0.5});
    let same = stack.gateway.post(&same).await.bytes().await.expect("a picture");
    assert_eq!(picture_of(&answer["data"][1]), same);

    // A prompt that looks like a number is a prompt.
    let digits: [(&str, &[u8]); 2] = [("prompt", b"123"), ("image[]", &source)];
    assert_eq!(edit(&stack.gateway, &digits).await.status(), 200);
    let streamed: [(&str, &[u8]); 3] = [("prompt", b"x"), ("image", &source), ("stream", b"true")];
    let events = Events::new(edit(&stack.gateway, &streamed).await).rest().await;
    assert_eq!(events.last().expect("an event").name, "image_edit.completed");

    let without: [(&str, &[u8]); 1] = [("prompt", b"x")];
    let broken: [(&str, &[u8]); 2] = [("prompt", b"x"), ("image", b"GIF89a")];
    let number: [(&str, &[u8]); 3] = [("prompt", b"x"), ("image", &source), ("steps", b"many")];
    let mask: [(&str, &[u8]); 3] = [("prompt", b"x"), ("image", &source), ("mask", &source)];
    let strong: [(&str, &[u8]); 3] = [("prompt", b"x"), ("image", &source), ("strength", b"7")];
    for (fields, status, words) in [
        (&without[..], 400, "missing field `image`"),
        (&broken, 400, "not a PNG, JPEG or WebP"),
        (&number, 400, "steps: invalid type"),
        (&mask, 400, "the mask has no transparency"),
        (&strong, 400, "strength"),
    ] {
        let detail = error(edit(&stack.gateway, fields).await, status).await;
        assert!(detail.contains(words), "{detail}");
    }
    let json = stack.gateway.post_to("/v1/images/edits", &json!({"prompt": "x"})).await;
    assert!(error(json, 400).await.contains("missing field `images`"));
}

/// A PNG of 96x64 whose left half is transparent, and the mask that says the same.
fn masks() -> (Vec<u8>, Vec<u8>) {
    let mut files = [std::io::Cursor::new(Vec::new()), std::io::Cursor::new(Vec::new())];
    let alpha = |x: u32| if x < 48 { 0 } else { 255 };
    image::RgbaImage::from_fn(96, 64, |x, _| image::Rgba([1, 2, 3, alpha(x)]))
        .write_to(&mut files[0], image::ImageFormat::Png)
        .expect("encodes");
    image::GrayImage::from_fn(96, 64, |x, _| image::Luma([255 - alpha(x)]))
        .write_to(&mut files[1], image::ImageFormat::Png)
        .expect("encodes");
    let [alpha, mask] = files.map(std::io::Cursor::into_inner);
    (alpha, mask)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_with_a_mask_keeps_what_is_opaque() {
    let stack = Stack::start().await;
    let (source, (alpha, mask)) = (expected(1), masks());
    let fields: [(&str, &[u8]); 5] = [
        ("prompt", b"a fox"),
        ("image[]", &source),
        ("mask", &alpha),
        ("seed", b"7"),
        ("mask_blur", b"0"),
    ];
    let answer: Value = edit(&stack.gateway, &fields).await.json().await.expect("JSON");
    assert!(answer["data"].is_array(), "{answer}");
    let ours = json!({
        "prompt": "a fox", "seed": 7, "mask_blur": 0, "image": STANDARD.encode(&source),
        "mask": STANDARD.encode(&mask),
    });
    let same = stack.gateway.post(&ours).await.bytes().await.expect("a picture");
    let edited = picture_of(&answer["data"][0]);
    assert_eq!(edited, same);
    let pixels = |file: &[u8]| image::load_from_memory(file).expect("a PNG").into_rgb8();
    let (before, after) = (pixels(&source), pixels(&edited));
    for (x, y, pixel) in after.enumerate_pixels().filter(|(x, ..)| *x >= 48) {
        assert_eq!(pixel, before.get_pixel(x, y), "{x} {y}");
    }
    assert!((0..48).any(|x| after.get_pixel(x, 9) != before.get_pixel(x, 9)));
    let url = |file: &[u8]| format!("data:image/png;base64,{}", STANDARD.encode(file));
    let body = json!({
        "prompt": "a fox", "seed": 7, "mask_blur": 0, "images": [{"image_url": url(&source)}],
        "mask": {"image_url": url(&alpha)},
    });
    let answer = stack.gateway.post_to("/v1/images/edits", &body).await;
    let answer: Value = answer.json().await.expect("JSON");
    assert!(answer["data"].is_array(), "{answer}");
    assert_eq!(picture_of(&answer["data"][0]), edited, "as JSON");

    let other = stack.gateway.post(&json!({"prompt": "x", "width": 64, "height": 64})).await;
    let other = other.bytes().await.expect("a picture");
    let size: [(&str, &[u8]); 3] = [("prompt", b"x"), ("image", &other), ("mask", &alpha)];
    let twice: [(&str, &[u8]); 4] =
        [("prompt", b"x"), ("image", &source), ("mask", &alpha), ("mask", &alpha)];
    let none: [(&str, &[u8]); 3] = [("prompt", b"x"), ("image", &source), ("mask_blur", b"2")];
    let several: [(&str, &[u8]); 3] =
        [("prompt", b"x"), ("image[]", &source), ("image[]", &source)];
    for (fields, words) in [
        (&size[..], "the mask has 96x64 pixels and the image 64x64"),
        (&twice, "mask comes twice"),
        (&none, "mask_blur needs a mask"),
        (&several, "only one is supported"),
    ] {
        let detail = error(edit(&stack.gateway, fields).await, 400).await;
        assert!(detail.contains(words), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_those_that_openais_clients_read() {
    let stack = Stack::start().await;
    for (body, status, words) in [
        (json!({}), 400, "missing field `prompt`"),
        (json!({"prompt": "x", "n": 0}), 400, "n 0 is out of range"),
        (json!({"prompt": "x", "n": 11}), 400, "use 1 to 10"),
        (json!({"prompt": "x", "size": "big"}), 400, "1024x1024"),
        (json!({"prompt": "x", "size": "96x64", "width": 96}), 400, "not both"),
        (json!({"prompt": "x", "size": "90x64"}), 400, "80 and 96"),
        (json!({"prompt": "x", "model": "dall-e-3"}), 404, "'fake-dit'"),
        (json!({"prompt": "x", "response_format": "url"}), 400, "history"),
        (json!({"prompt": "x", "response_format": "file"}), 400, "b64_json or url"),
        (json!({"prompt": "x", "background": "transparent"}), 400, "transparent"),
        (json!({"prompt": "x", "stream": true, "n": 2}), 400, "cannot be streamed"),
        (json!({"prompt": "x", "partial_images": 4}), 400, "0 to 3"),
        (json!({"prompt": "x", "seed": u64::MAX, "n": 2}), 400, "seed"),
        (json!({"prompt": "x", "qualty": "hd"}), 400, "did you mean 'quality'?"),
        (json!(["x"]), 400, "send a JSON object"),
    ] {
        let detail = error(stack.gateway.post_to(PATH, &body).await, status).await;
        assert!(detail.contains(words), "{body}: {detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_is_listed() {
    let stack = Stack::start().await;
    let models = stack.gateway.json("/v1/models").await;
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("fake-dit")));
    assert_eq!(stack.gateway.json("/v1/models/fake-dit").await, models["data"][0]);
    error(stack.gateway.get("/v1/models/gpt-image-1").await, 404).await;
}
