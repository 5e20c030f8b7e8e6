//! What is wrong with a request is said in words, at its place in the client's own text.

use llm_dit_testkit::http;
use serde_json::json;

use crate::{
    openai::edit,
    support::{Gateway, Stack, problem},
};

/// Words of Rust and of its libraries, which say nothing to a client.
const RUST: [&str; 22] = [
    "u8",
    "u16",
    "u32",
    "u64",
    "i32",
    "i64",
    "usize",
    "f32",
    "f64",
    "bool",
    "String",
    "Vec",
    "Option",
    "struct",
    "enum",
    "tuple",
    "sequence",
    "map",
    "EOF",
    "ident",
    "floating",
    "deserialize",
];

fn check(shown: &str, detail: &str) {
    let mut words = detail.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let found = words.find(|word| RUST.contains(word) || word.ends_with("Body"));
    assert_eq!(found, None, "{shown}: {detail}");
    assert!(!detail.contains("invalid digit"), "{shown}: {detail}");
}

async fn send(gateway: &Gateway, path: &str, body: &[u8]) -> String {
    let request = http().post(format!("{}{path}", gateway.url)).body(body.to_vec());
    let request = request.header("content-type", "application/json");
    problem(request.send().await.expect("an answer"), 400).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_names_a_type_of_rust() {
    let stack = Stack::start().await;
    let mut bodies: Vec<String> = [
        "",
        "nul",
        "{",
        "[",
        "7",
        "null",
        "\"x\"",
        "{\"prompt\": \"x",
        "{\"prompt\": \"a\nb\"}",
        "{\"prompt\": [1,",
        "{\"prompt\": \"x\"} x",
        "{prompt: 1}",
        "{\"prompt\": \"x\", \"seed\": 1e999}",
        "{\"prompt\": \"\\ud800\"}",
        "{\"prompt\": \"x\", \"loras\": [[\"a\", 1]]}",
        "{\"prompt\": \"x\", \"loras\": [{}]}",
        "{\"prompt\": \"x\", \"loras\": [{\"name\": \"a\", \"name\": \"a\"}]}",
        "{\"prompt\": \"x\", \"loras\": [{\"name\": \"a\", \"path\": \"a\"}]}",
    ]
    .map(str::to_owned)
    .into();
    bodies.push("[".repeat(300));
    bodies.push(format!("{{\"sigmas\": {}}}", "[".repeat(300)));
    let fields = [
        "prompt",
        "width",
        "height",
        "steps",
        "num_inference_steps",
        "seed",
        "guidance_scale",
        "cfg_normalization",
        "shift",
        "sigmas",
        "scheduler",
        "strength",
        "enable_thinking",
        "hidden_layer",
        "max_tokens",
        "loras",
        "image",
        "mask",
        "mask_blur",
        "mask_invert",
        "only_masked",
        "output_compression",
    ];
    let values = [
        json!(-1),
        json!(2.5),
        json!("many"),
        json!(true),
        json!([null]),
        json!({"a": 1}),
        json!([[]]),
    ];
    let encode = ["prompt", "hidden_layer", "max_tokens", "enable_thinking"];
    for (field, value) in fields.iter().flat_map(|field| values.iter().map(move |v| (field, v))) {
        bodies.push(json!({"prompt": "x", *field: value}).to_string().replacen(
            "\"prompt\":\"x\",",
            "",
            usize::from(*field == "prompt"),
        ));
    }
    for path in ["/api/generate", "/api/jobs", "/v1/images/generations", "/v1/images/edits"] {
        for body in &bodies {
            let request = http().post(format!("{}{path}", stack.gateway.url)).body(body.clone());
            let request = request.header("content-type", "application/json");
            let response = request.send().await.expect("an answer");
            // Some of them are fine, such as `false` where a template may be.
            if response.status() != 200 && response.status() != 202 {
                let text: serde_json::Value = response.json().await.expect("JSON");
                check(&format!("{path} {body:.200}"), text["detail"].as_str().expect("text"));
            }
        }
    }
    for (field, value) in encode.iter().flat_map(|field| values.iter().map(move |v| (field, v))) {
        // These two are what they may be.
        let good = [("prompt", json!("many")), ("enable_thinking", json!(true))];
        if good.contains(&(field, value.clone())) {
            continue;
        }
        let body = json!({ *field: value }).to_string();
        check(&body, &send(&stack.gateway, "/api/encode", body.as_bytes()).await);
    }
    for body in
        ["{\"loras\": 7}", "{\"loras\": [7]}", "{\"loras\": [{\"scale\": \"x\"}]}", "{\"key\": 7}"]
    {
        check(body, &send(&stack.gateway, "/api/loras/apply", body.as_bytes()).await);
        check(body, &send(&stack.gateway, "/api/session", body.as_bytes()).await);
    }
    for query in ["limit=x", "limit=-1", "limit=1&limit=2", "before=1.5", "befor=1", "limit="] {
        let detail = problem(stack.gateway.get(&format!("/api/history?{query}")).await, 400).await;
        check(query, &detail);
        assert!(detail.contains("limit") || detail.contains("before"), "{query}: {detail}");
    }
    for (field, value) in
        [("steps", "many"), ("seed", "-1"), ("n", "2.5"), ("stream", "yes"), ("loras", "x")]
    {
        let fields = [("prompt", &b"x"[..]), (field, value.as_bytes()), ("image", b"x")];
        let response = edit(&stack.gateway, &fields).await;
        assert_eq!(response.status(), 400);
        check(field, &response.text().await.expect("text"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_is_that_of_the_clients_text() {
    let stack = Stack::start().await;
    let body = "{\n  \"prompt\": \"x\",\n  \"size\": \"64x64\",\n  \"n\": 1,\n  \"steps\": 1,\n  \"seed\": -1\n}";
    let detail = send(&stack.gateway, "/v1/images/generations", body.as_bytes()).await;
    for words in ["seed: ", "-1", "from 0 to 18446744073709551615", "leave it out", "line 6"] {
        assert!(detail.contains(words), "{detail}");
    }
    let typo = "{\n\"prompt\": \"x\",\n\"n\": true}";
    let detail = send(&stack.gateway, "/v1/images/generations", typo.as_bytes()).await;
    assert!(detail.contains("n: ") && detail.contains("line 3"), "{detail}");
    for path in ["/api/generate", "/v1/images/generations"] {
        let twice = br#"{"prompt": "x", "steps": 1, "num_inference_steps": 1}"#;
        let detail = send(&stack.gateway, path, twice).await;
        assert!(detail.contains("steps") && detail.contains("num_inference_steps"), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_order_mark_is_no_part_of_a_body() {
    let stack = Stack::start().await;
    let json = json!({"prompt": "a fox", "seed": 1, "width": 96, "height": 64});
    let plain = stack.gateway.post(&json).await.bytes().await.expect("a picture");
    let marked = [b"\xef\xbb\xbf", json.to_string().as_bytes()].concat();
    for path in ["/api/generate", "/v1/images/generations", "/api/jobs"] {
        let request = http().post(format!("{}{path}", stack.gateway.url)).body(marked.clone());
        let response = request.header("content-type", "application/json").send().await;
        let response = response.expect("an answer");
        assert!(response.status().is_success(), "{path}: {}", response.status());
        if path == "/api/generate" {
            assert_eq!(response.bytes().await.expect("a picture"), plain);
        }
    }
    let wide: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let detail = send(&stack.gateway, "/api/generate", &wide).await;
    assert!(detail.contains("UTF-16") && detail.contains("send UTF-8"), "{detail}");
    let detail = send(&stack.gateway, "/api/generate", b"{\"prompt\":\n\"\xff\"}").await;
    assert!(detail.contains("not UTF-8 text at line 2 column 2"), "{detail}");
    // A prompt that an editor wrote, in a form.
    let fields = [("prompt", &b"\xef\xbb\xbfx"[..]), ("seed", b"1"), ("image", &plain)];
    let marked = edit(&stack.gateway, &fields).await.text().await.expect("JSON");
    let fields = [("prompt", &b"x"[..]), ("seed", b"1"), ("image", &plain)];
    let unmarked = edit(&stack.gateway, &fields).await.text().await.expect("JSON");
    let images =
        |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON")["data"].clone();
    assert_eq!(images(&marked), images(&unmarked));
}
