//! What clients of OpenAI's API send, and what they make of the answers.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gateway::{History, KeepOptions, ModelAlias};
use llm_dit_testkit::http;
use reqwest::Response;
use serde_json::{Value, json};

use crate::{
    openai::{edit, error},
    support::{Events, Gateway, Stack, options},
};

const PATH: &str = "/v1/images/generations";

async fn success(response: Response) -> Value {
    let status = response.status();
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(status, 200, "{body}");
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_was_cut_is_told() {
    let stack = Stack::start().await;
    let long = json!({"prompt": "apple ".repeat(600), "size": "96x64", "n": 2});
    let response = stack.gateway.post_to(PATH, &long).await;
    let cut: u64 =
        response.headers()["x-truncated-tokens"].to_str().expect("text").parse().expect("a number");
    assert!(cut > 400, "{cut}");
    let answer = success(response).await;
    assert_eq!(answer["truncated_tokens"], cut);
    let usage = &answer["usage"];
    assert_eq!(usage["input_tokens"], 2 * 100, "the fake takes 100: {usage}");
    assert_eq!(usage["input_tokens_details"], json!({"image_tokens": 0, "text_tokens": 200}));
    assert_eq!(usage["output_tokens"], 2 * 6 * 4);
    assert_eq!(usage["total_tokens"], 200 + 48);
    let same = json!({"prompt": "apple ".repeat(600), "size": "96x64", "stream": true});
    let events = Events::new(stack.gateway.post_to(PATH, &same).await).rest().await;
    assert_eq!(events.last().expect("an event").data["truncated_tokens"], cut);
    let short = stack.gateway.post_to(PATH, &json!({"prompt": "x", "size": "96x64"})).await;
    assert!(!short.headers().contains_key("x-truncated-tokens"));
    assert_eq!(success(short).await.get("truncated_tokens"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_its_parameters_says_so_at_every_door() {
    let folder = tempfile::tempdir().expect("a folder");
    let stack = Stack::start().await;
    let mut options = options(&[&stack.encoder.url], &[&stack.diffusion.url]);
    options.keep.history = History::Folder(folder.path().to_owned());
    let gateway = Gateway::with(options).await;
    let body = |format: &str, bytes: usize| json!({"prompt": "a".repeat(bytes), "width": 96, "height": 64, "output_format": format});
    for (format, bytes, told) in [
        ("jpeg", 33_000, true),
        ("webp", 33_000, true),
        ("jpeg", 100, false),
        ("png", 33_000, false),
    ] {
        let body = body(format, bytes);
        let why = |value: Option<&str>| {
            assert_eq!(value.is_some_and(|why| why.contains("use PNG")), told, "{format} {bytes}")
        };
        let header = |response: &Response| {
            why(response.headers().get("x-parameters-omitted").map(|v| v.to_str().expect("text")))
        };
        let file = gateway.post(&body).await;
        header(&file);
        let id = file.headers()["x-history-id"].to_str().expect("text").to_owned();
        header(&gateway.get(&format!("/api/history/{id}/image")).await);
        why(gateway.json(&format!("/api/history/{id}")).await["parameters_omitted"].as_str());
        let v1 = gateway.post_to(PATH, &body).await;
        header(&v1);
        why(success(v1).await["data"][0]["parameters_omitted"].as_str());
        let job: Value = gateway.post_to("/api/jobs", &body).await.json().await.expect("JSON");
        let path = format!("/api/jobs/{}", job["id"].as_str().expect("an id"));
        let events = Events::new(gateway.get(&format!("{path}/events")).await).rest().await;
        why(events.last().expect("an event").data["parameters_omitted"].as_str());
        header(&gateway.get(&format!("{path}/image")).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_has_the_member_error() {
    let stack = Stack::start().await;
    for (method, path, kind, status) in [
        ("POST", "/v1/chat/completions", "application/x-www-form-urlencoded", 404),
        ("POST", "/v1/images/variations", "multipart/form-data; boundary=x", 404),
        ("GET", "/v1", "", 404),
        ("GET", "/v1/", "", 404),
        ("DELETE", "/v1/models/fake-dit", "", 405),
        ("GET", "/v1/images/generations", "", 405),
        ("PATCH", "/v1/images/edits", "", 405),
        ("POST", "/v1/images/generations", "text/plain", 415),
        ("POST", "/v1/images/edits", "text/plain", 415),
        ("POST", "/v1/images/edits", "multipart/form-data", 415),
    ] {
        let request = http()
            .request(method.parse().expect("a method"), format!("{}{path}", stack.gateway.url));
        let request =
            if kind.is_empty() { request } else { request.header("content-type", kind).body("{}") };
        let detail = error(request.send().await.expect("an answer"), status).await;
        assert!(!detail.is_empty(), "{path}");
    }
    let large = json!({"prompt": "x".repeat(70_000)});
    error(stack.gateway.post_to(PATH, &large).await, 413).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_not_repeated_by_clients() {
    let stack = Stack::start().await;
    let picture: &[u8] = b"x";
    for name in ["mask", "mask[]", "images", "image[0]", "image_2"] {
        let fields = [("prompt", &b"x"[..]), (name, picture)];
        let detail = error(edit(&stack.gateway, &fields).await, 400).await;
        assert!(detail.contains(name), "{detail}");
        assert!(name == "mask" || detail.contains("the image goes in 'image'"), "{detail}");
    }
    let url = json!({"prompt": "x", "response_format": "url"});
    assert!(error(stack.gateway.post_to(PATH, &url).await, 400).await.contains("history"));
    // Too large for the device, wherever it is sent.
    let large = json!({"prompt": "x", "seed": llm_dit_testkit::fakes::LARGE_SEED});
    error(stack.gateway.post_to(PATH, &large).await, 422).await;
    assert_eq!(stack.gateway.post(&large).await.status(), 507);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_stands_for_a_model() {
    let stack = Stack::start().await;
    let mut options = options(&[&stack.encoder.url], &[&stack.diffusion.url]);
    let alias = |text: &str| text.parse::<ModelAlias>().expect("valid");
    options.model_aliases = vec![alias("gpt-image-1=fake-dit"), alias("dall-e-3=gone")];
    let gateway = Gateway::with(options).await;
    let body = |model: &str| json!({"prompt": "a fox", "seed": 7, "size": "96x64", "model": model});
    let data = async |model: &str| {
        success(gateway.post_to(PATH, &body(model)).await).await["data"].clone()
    };
    assert_eq!(data("gpt-image-1").await, data("fake-dit").await);
    let detail = error(gateway.post_to(PATH, &body("dall-e-3")).await, 404).await;
    assert!(detail.contains("'gone'") && detail.contains("'fake-dit'"), "{detail}");
    let detail = error(gateway.post_to(PATH, &body("gpt-image-2")).await, 404).await;
    assert!(detail.contains("'fake-dit'"), "{detail}");
    let models = gateway.json("/v1/models").await;
    let ids: Vec<&Value> =
        models["data"].as_array().expect("an array").iter().map(|m| &m["id"]).collect();
    assert_eq!(ids, [&json!("fake-dit"), &json!("gpt-image-1")]);
    assert_eq!(gateway.json("/v1/models/gpt-image-1").await["alias_of"], "fake-dit");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_may_be_json() {
    let stack = Stack::start().await;
    let source = stack.gateway.post(&json!({"prompt": "x", "width": 96, "height": 64})).await;
    let source = source.bytes().await.expect("a picture");
    let url = format!("data:image/png;base64,{}", STANDARD.encode(&source));
    let edit_json = async |images: Value| {
        let body = json!({"prompt": "a fox", "seed": 7, "strength": 0.5, "images": images});
        stack.gateway.post_to("/v1/images/edits", &body).await
    };
    let drawn = success(edit_json(json!([{"image_url": url}])).await).await;
    let fields =
        [("prompt", &b"a fox"[..]), ("seed", b"7"), ("strength", b"0.5"), ("image", &source)];
    assert_eq!(drawn["data"], success(edit(&stack.gateway, &fields).await).await["data"]);
    for (images, words) in [
        (json!([{"image_url": "https://elsewhere.example/x.png"}]), "not fetched"),
        (json!([{"file_id": "file-1"}]), "data: URL"),
        (json!([{"image_url": url}, {"image_url": url}]), "only one"),
        (json!([{}]), "image_url"),
        (json!([]), "one init image"),
        (json!([{"image_url": 7}]), "images[0].image_url: invalid type: number 7"),
        (json!([{"url": "x"}]), "images[0].url: unknown field 'url'"),
    ] {
        let detail = error(edit_json(images).await, 400).await;
        assert!(detail.contains(words), "{detail}");
    }
    let mask = json!({"prompt": "x", "images": [{"image_url": url}], "mask": {"image_url": url}});
    let detail = error(stack.gateway.post_to("/v1/images/edits", &mask).await, 400).await;
    assert!(detail.contains("the mask has no transparency"), "{detail}");
    let typo = json!({"prompt": "x", "imagess": []});
    let detail = error(stack.gateway.post_to("/v1/images/edits", &typo).await, 400).await;
    assert!(detail.contains("did you mean 'images'?"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_of_an_answer_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let stack = Stack::start().await;
    let mut options = options(&[&stack.encoder.url], &[&stack.diffusion.url]);
    let history = History::Folder(folder.path().to_owned());
    options.keep = KeepOptions { history, history_max: 2, ..Default::default() };
    let gateway = Gateway::with(options).await;
    let body = |n: u32| json!({"prompt": "x", "size": "96x64", "n": n, "response_format": "url"});
    let detail = error(gateway.post_to(PATH, &body(4)).await, 400).await;
    assert!(detail.contains("keeps 2"), "{detail}");
    for data in
        success(gateway.post_to(PATH, &body(2)).await).await["data"].as_array().expect("an array")
    {
        let url = data["url"].as_str().expect("a URL");
        assert_eq!(http().get(url).send().await.expect("an answer").status(), 200);
    }
    let streamed = json!({"prompt": "x", "response_format": "url", "stream": true});
    error(gateway.post_to(PATH, &streamed).await, 400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_true_of_its_files() {
    let stack = Stack::start().await;
    for compression in [0, 50, 100] {
        for (format, begin) in [("jpeg", &b"\xff\xd8"[..]), ("webp", b"RIFF"), ("png", b"\x89PNG")]
        {
            let body = json!({"prompt": "x", "seed": 1, "size": "96x64", "output_format": format, "output_compression": compression});
            let answer = success(stack.gateway.post_to(PATH, &body).await).await;
            let file = STANDARD
                .decode(answer["data"][0]["b64_json"].as_str().expect("base64"))
                .expect("base64");
            assert!(file.starts_with(begin), "{format}");
            let picture = image::load_from_memory(&file).expect("a picture");
            assert_eq!(answer["size"], format!("{}x{}", picture.width(), picture.height()));
            assert_eq!(
                (&answer["output_format"], &answer["background"]),
                (&json!(format), &json!("opaque"))
            );
        }
    }
    let whole = json!({"prompt": "x", "size": "96x64", "seed": u64::MAX});
    assert_eq!(
        success(stack.gateway.post_to(PATH, &whole).await).await["data"][0]["seed"],
        u64::MAX
    );
}
