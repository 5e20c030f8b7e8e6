//! Addresses behind a proxy.

use gateway::{AccessOptions, GatewayOptions, History, KeepOptions, TrustedProxy};
use llm_dit_testkit::http;
use reqwest::Response;
use serde_json::{Value, json};

use crate::support::{Gateway, Stack, options};

const SAID: [(&str, &str); 3] = [
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "img.example.com"),
    ("x-forwarded-prefix", "/llm"),
];

async fn post(gateway: &Gateway, path: &str, headers: &[(&str, &str)], body: &Value) -> Response {
    let request = http().post(format!("{}{path}", gateway.url)).json(body);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.send().await.expect("an answer")
}

async fn url(gateway: &Gateway, headers: &[(&str, &str)]) -> String {
    let body = json!({"prompt": "x", "size": "96x64", "response_format": "url"});
    let answer = post(gateway, "/v1/images/generations", headers, &body).await;
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.expect("JSON");
    let url = answer["data"][0]["url"].as_str().expect("a URL").to_owned();
    url.rsplit_once("/api/").expect("of the history").0.to_owned()
}

fn keeping(stack: &Stack, folder: &std::path::Path, proxies: &[&str]) -> GatewayOptions {
    let trusted_proxies: Vec<TrustedProxy> =
        proxies.iter().map(|text| text.parse().expect("valid")).collect();
    let mut options = options(&[&stack.encoder.url], &[&stack.diffusion.url]);
    let history = History::Folder(folder.to_owned());
    options.keep = KeepOptions { history, ..Default::default() };
    options.access = AccessOptions { trusted_proxies, ..Default::default() };
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_is_one_that_the_client_can_open() {
    let (stack, folder) = (Stack::start().await, tempfile::tempdir().expect("a folder"));
    let mut options = keeping(&stack, folder.path(), &[]);
    options.access = AccessOptions::default();
    let gateway = Gateway::with(options).await;
    assert_eq!(url(&gateway, &SAID).await, "https://img.example.com/llm");
    let forwarded = [("forwarded", "for=192.0.2.1;proto=https;host=\"a.example:8443\"")];
    assert_eq!(url(&gateway, &forwarded).await, "https://a.example:8443");
    assert_eq!(url(&gateway, &SAID[..1]).await, gateway.url.replace("http:", "https:"));
    assert_eq!(url(&gateway, &[]).await, gateway.url);
    let evil = [("x-forwarded-host", "evil.example/x"), ("x-forwarded-proto", "javascript")];
    assert_eq!(url(&gateway, &evil).await, gateway.url);

    let job = post(&gateway, "/api/jobs", &SAID, &json!({"prompt": "x"})).await;
    let place = job.headers()["location"].to_str().expect("text").to_owned();
    assert!(place.starts_with("/llm/api/jobs/"), "{place}");
    let mut history = http().get(format!("{}/api/history", gateway.url));
    for (name, value) in SAID {
        history = history.header(name, value);
    }
    let history: Value = history.send().await.expect("an answer").json().await.expect("JSON");
    let entry = &history["history"][0];
    for name in ["image_url", "thumbnail_url"] {
        let path = entry[name].as_str().expect("a path");
        assert!(path.starts_with("/llm/api/history/"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_not_believed() {
    let (stack, folder) = (Stack::start().await, tempfile::tempdir().expect("a folder"));
    let gateway = Gateway::with(keeping(&stack, folder.path(), &["none"])).await;
    assert_eq!(url(&gateway, &SAID).await, gateway.url);
    // Nor for where a page comes from.
    let page = [("x-forwarded-host", "evil.example"), ("origin", "https://evil.example")];
    let answer = post(&gateway, "/api/format-prompt", &page, &json!({"prompt": "x"})).await;
    assert_eq!(answer.status(), 403);
}
