//! The contract with heylookitsanllm, against recorded exchanges.

use std::time::Duration;

use llm_dit_chat::Chat;
use llm_dit_heylook::{
    AboutModel, ApiKey, HeylookEncoder, HeylookError, HeylookOptions, HeylookServer, format,
};
use llm_dit_proto::{DType, Tensor};
use llm_dit_testkit::fakes::{
    FakeHeylook,
    heylook::{Reply, body, hidden_states, recorded_response, response},
};

const MODEL: &str = "Qwen3-4B-mlx";

fn encoder(fake: &FakeHeylook) -> HeylookEncoder {
    HeylookEncoder::new(&fake.url, MODEL, HeylookOptions::default()).expect("valid")
}

/// The text of the recorded exchanges.
fn sunset() -> String {
    format(&Chat::user("A beautiful sunset")).expect("no special token")
}

/// A fake that answers our request for the sunset with this recorded answer to another.
async fn answering(name: &str) -> FakeHeylook {
    let fake = FakeHeylook::replaying(&[]).await;
    fake.answer(&body(&sunset(), MODEL, -2, 512), Reply::Bytes(recorded_response(name)));
    fake
}

async fn encode(encoder: &HeylookEncoder) -> Result<llm_dit_heylook::Encoded, HeylookError> {
    encoder.encode(&sunset(), -2, 512, None).await
}

async fn fails(name: &str) -> HeylookError {
    let fake = answering(name).await;
    encode(&encoder(&fake)).await.expect_err(name)
}

#[tokio::test]
async fn the_recorded_exchange_gives_the_recorded_values() {
    let fake = FakeHeylook::replaying(&["hs_base64_like_llmdit"]).await;
    let encoder = encoder(&fake);
    let encoded = encode(&encoder).await.expect("well");
    // As the same server wrote the same values as numbers.
    let text = String::from_utf8(recorded_response("hs_float")).expect("text");
    let (_, json) = text.split_once("\r\n\r\n").expect("a body");
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let rows = json["hidden_states"].as_array().expect("rows");
    let values: Vec<f32> = rows
        .iter()
        .flat_map(|row| row.as_array().expect("a row"))
        .map(|v| v.as_f64().expect("a number") as f32)
        .collect();
    assert_eq!(encoded.tensor.shape(), [rows.len(), 64]);
    assert_eq!(encoded.tensor.dtype(), DType::Bf16, "what the model computes in");
    assert_eq!(encoded.tensor.to_f32(), values, "nothing is lost by it");
    assert!(!encoded.hit_limit);
    assert_eq!((encoder.shape().hidden_size, encoder.dtype()), (64, DType::Bf16));
}

#[tokio::test]
async fn answers_in_numbers_are_the_same_answers() {
    let base64 = answering("hs_base64_like_llmdit").await;
    let numbers = answering("hs_float").await;
    assert_eq!(
        encode(&encoder(&base64)).await.expect("well"),
        encode(&encoder(&numbers)).await.expect("well")
    );
}

#[tokio::test]
async fn a_model_in_f32_is_handed_on_in_f32() {
    let fake = FakeHeylook::replaying(&[]).await;
    let model = "qwen3-tiny-f32";
    let reply = Reply::Bytes(recorded_response("hs_f32_base64_mask"));
    fake.answer(&body(&sunset(), model, -2, 512), reply);
    let encoder = HeylookEncoder::new(&fake.url, model, HeylookOptions::default()).expect("valid");
    let exact = encode(&encoder).await.expect("well").tensor;
    assert_eq!(exact.dtype(), DType::F32);
    let rounded = encoder.encode(&sunset(), -2, 512, Some(DType::Bf16)).await.expect("well").tensor;
    let expected = Tensor::from_f32(&exact.to_f32(), exact.shape().to_vec(), DType::Bf16);
    assert_eq!(Ok(&rounded), expected.as_ref());
    // The bf16 model with the same weights agrees as far as bf16 does.
    let bf16 = answering("hs_base64_like_llmdit").await;
    let bf16 = encode(&self::encoder(&bf16)).await.expect("well").tensor.to_f32();
    let exact = exact.to_f32();
    let apart = exact.iter().zip(&bf16).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("f32 against bf16: {apart}");
    assert!(apart > 0.0 && apart < 0.05, "{apart}");
}

#[tokio::test]
async fn a_prompt_that_fills_what_is_allowed_is_reported() {
    let whole = answering("hs_float").await;
    let whole = encode(&encoder(&whole)).await.expect("well").tensor.to_f32();
    let fake = FakeHeylook::replaying(&[]).await;
    let reply = Reply::Bytes(recorded_response("hs_maxlen4"));
    fake.answer(&body(&sunset(), MODEL, -2, 4), reply.clone());
    let encoded = encoder(&fake).encode(&sunset(), -2, 4, None).await.expect("well");
    assert!(encoded.hit_limit);
    assert_eq!(encoded.tensor.shape(), [4, 64]);
    assert_eq!(encoded.tensor.to_f32(), whole[..4 * 64], "the first tokens are what stays");

    // An answer of more tokens than asked for is none.
    fake.answer(&body(&sunset(), MODEL, -2, 3), reply);
    let error = encoder(&fake).encode(&sunset(), -2, 3, None).await.expect_err("too many");
    assert!(error.to_string().contains("allowed 3"), "{error}");
}

#[tokio::test]
async fn another_layer_than_asked_for_is_refused_with_the_way_out() {
    let error = fails("hs_layer_-1").await;
    assert!(matches!(error, HeylookError::LayerReplaced { asked: -2, got: -1, .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("default_hidden_layer") && message.contains("--hidden-layer 35"));
}

#[tokio::test]
async fn the_number_of_layers_is_learned_from_a_refusal() {
    let fake = FakeHeylook::replaying(&[]).await;
    let reply = Reply::Bytes(recorded_response("hs_layer_4"));
    fake.answer(&body(&sunset(), MODEL, 4, 512), reply);
    let encoder = encoder(&fake);
    for _ in 0..2 {
        let error = encoder.encode(&sunset(), 5, 512, None).await.expect_err("out of range");
        assert!(error.to_string().contains("4 layers, so use -4 to -2 or 1 to 3"), "{error}");
    }
    assert_eq!(fake.requests().len(), 1, "the second time it is known");
    assert_eq!(encoder.shape().layers, 4);
}

#[tokio::test]
async fn refusals_keep_the_servers_words() {
    let error = fails("err_unknown_model").await;
    assert!(matches!(&error, HeylookError::UnknownModel { .. }), "{error}");
    assert!(error.to_string().contains("qwen3-tiny-f32"), "it lists what there is: {error}");
    for (name, words) in [
        ("err_badjson", "JSON decode error"),
        ("err_empty_str", "Cannot infer the shape of an empty array"),
        ("err_missing_input", "Field required"),
    ] {
        let error = fails(name).await;
        assert!(matches!(&error, HeylookError::Refused { .. }), "{name}: {error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
    let error = fails("err_get").await;
    assert!(matches!(error, HeylookError::NoEndpoint { status: 405, .. }), "{error}");
    let error = fails("err_slash").await;
    assert!(
        matches!(&error, HeylookError::Redirected { location, .. } if location.ends_with("/v1/hidden_states")),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_from_before_december_2025_is_known_by_its_404() {
    let fake = FakeHeylook::replaying(&[]).await;
    let reply = response("404 Not Found", "", r#"{"detail":"Not Found"}"#);
    fake.answer(&body(&sunset(), MODEL, -2, 512), Reply::Bytes(reply));
    let error = encode(&encoder(&fake)).await.expect_err("no such path");
    assert!(error.to_string().contains("December 2025"), "{error}");
}

#[tokio::test]
async fn a_failure_is_asked_about_once_more() {
    let fake = answering("err_list0").await;
    let error = encode(&encoder(&fake)).await.expect_err("fails twice");
    assert!(
        matches!(&error, HeylookError::Failed { status: 500, detail, .. } if detail == "list index out of range"),
        "{error}"
    );
    assert_eq!(fake.requests().len(), 2);

    let fake = answering("err_list0").await;
    let well = Reply::Bytes(recorded_response("hs_base64_like_llmdit"));
    fake.answer(&body(&sunset(), MODEL, -2, 512), well);
    encode(&encoder(&fake)).await.expect("the second time");
}

#[tokio::test]
async fn a_broken_connection_is_asked_over_once_more() {
    let whole = || recorded_response("hs_base64_like_llmdit");
    let ask = body(&sunset(), MODEL, -2, 512);
    let fake = FakeHeylook::replaying(&[]).await;
    fake.answer(&ask, Reply::Cut(whole()));
    fake.answer(&ask, Reply::Bytes(whole()));
    encode(&encoder(&fake)).await.expect("the second time");

    let fake = FakeHeylook::replaying(&[]).await;
    fake.answer(&ask, Reply::Cut(whole()));
    let error = encode(&encoder(&fake)).await.expect_err("cut twice");
    assert!(matches!(error, HeylookError::Unreachable { .. }), "{error}");
    assert_eq!(fake.requests().len(), 2);
}

#[tokio::test]
async fn nobody_there_is_said_with_the_address() {
    // Port 9 of the loopback interface: nobody serves "discard" any more.
    let encoder = HeylookEncoder::new("http://127.0.0.1:9", MODEL, HeylookOptions::default());
    let error = encode(&encoder.expect("valid")).await.expect_err("nobody");
    assert!(matches!(error, HeylookError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("http://127.0.0.1:9"), "{error}");
}

#[tokio::test]
async fn patience_ends() {
    let fake = FakeHeylook::replaying(&[]).await;
    let held = Reply::Held(recorded_response("hs_base64_like_llmdit"));
    fake.answer(&body(&sunset(), MODEL, -2, 512), held);
    let options = HeylookOptions { timeout: Duration::from_millis(500), ..Default::default() };
    let encoder = HeylookEncoder::new(&fake.url, MODEL, options).expect("valid");
    let error = encode(&encoder).await.expect_err("it never answers");
    assert!(matches!(error, HeylookError::TimedOut { .. }), "{error}");
    assert_eq!(fake.requests().len(), 1, "asking again would wait as long again");
}

#[tokio::test]
async fn keys_are_sent_and_never_shown() {
    let fake = FakeHeylook::with_key("opensesame", &["models", "capabilities"]).await;
    let ask = body("a b", MODEL, -2, 512);
    fake.answer(&ask, Reply::Bytes(recorded_response("auth_ok")));
    let with = |key: Option<&str>| {
        let api_key = key.map(|key| ApiKey::from(key.to_owned()));
        let options = HeylookOptions { api_key, ..Default::default() };
        HeylookEncoder::new(&fake.url, MODEL, options).expect("valid")
    };
    let encode = async |key| with(key).encode("a b", -2, 512, None).await;
    assert_eq!(encode(Some("opensesame")).await.expect("well").tensor.shape(), [2, 64]);
    let error = encode(None).await.expect_err("no key").to_string();
    assert!(error.contains("requires an API key") && error.contains("--api-key-file"), "{error}");
    let error = encode(Some("opensesames")).await.expect_err("another key");
    assert!(matches!(error, HeylookError::Unauthorized { key_sent: true, .. }), "{error}");
    assert!(!format!("{error} {error:?} {:?}", with(Some("opensesame"))).contains("opensesame"));
    // What is not gated works without.
    with(None).about().await.expect("well");
}

#[tokio::test]
async fn one_request_at_a_time_goes_to_a_server() {
    let fake = FakeHeylook::replaying(&[]).await;
    let server = HeylookServer::new(&fake.url, HeylookOptions::default()).expect("valid");
    let held = Reply::Held(recorded_response("hs_base64_like_llmdit"));
    fake.answer(&body(&sunset(), MODEL, -2, 512), held.clone());
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let encoder = HeylookEncoder::on(server.clone(), MODEL).expect("valid");
        asking.spawn(async move { encode(&encoder).await });
    }
    while !asking.is_empty() {
        fake.release();
        asking.join_next().await.expect("one is left").expect("no panic").expect("well");
    }
    assert_eq!((fake.requests().len(), fake.most_in_flight()), (4, 1));

    // A caller who leaves does not make room, since the server goes on computing.
    let leaving = HeylookEncoder::on(server.clone(), MODEL).expect("valid");
    let leaving = tokio::spawn(async move { encode(&leaving).await });
    while fake.requests().len() < 5 {
        tokio::task::yield_now().await;
    }
    leaving.abort();
    assert!(leaving.await.expect_err("aborted").is_cancelled());
    let next = HeylookEncoder::on(server, MODEL).expect("valid");
    let next = tokio::spawn(async move { encode(&next).await });
    fake.release();
    fake.release();
    next.await.expect("no panic").expect("well");
    assert_eq!((fake.requests().len(), fake.most_in_flight()), (6, 1));
}

#[tokio::test]
async fn a_new_server_says_what_it_is() {
    let fake = FakeHeylook::replaying(&["models", "capabilities"]).await;
    let about = encoder(&fake).about().await.expect("well");
    assert_eq!(about.version.as_deref(), Some("1.79.4"));
    assert_eq!(about.objection(MODEL), None);
    let gguf = about.objection("missing-gguf").expect("it has no hidden states");
    assert!(gguf.contains("no hidden states"), "{gguf}");
    let unknown = about.objection("Qwen3-4B").expect("no such model");
    assert!(unknown.contains("Qwen3-4B-mlx, qwen3-tiny-f32"), "{unknown}");
}

#[tokio::test]
async fn an_old_server_says_less_and_that_is_no_objection() {
    let fake = FakeHeylook::replaying(&[]).await;
    // As version 1.0.1 of December 2025 is documented to answer.
    let models =
        r#"{"object":"list","data":[{"id":"Qwen3-4B-mlx","object":"model","owned_by":"user"}]}"#;
    fake.add("GET /v1/models", b"", Reply::Bytes(response("200 OK", "", models)));
    let none = response("404 Not Found", "", r#"{"detail":"Not Found"}"#);
    fake.add("GET /v1/capabilities", b"", Reply::Bytes(none));
    let about = encoder(&fake).about().await.expect("well");
    assert_eq!(about.version, None);
    assert_eq!(about.models, [AboutModel { id: MODEL.into(), hidden_states: None }]);
    assert_eq!(about.objection(MODEL), None);
}

#[tokio::test]
async fn an_answer_that_cannot_be_used_is_refused() {
    let answer = |json: &str| response("200 OK", "", json);
    let tensor = Tensor::from_f32(&[0.5; 6], vec![2, 3], DType::F32).expect("whole");
    let endless = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n".to_vec();
    for (reply, words) in [
        (answer(&hidden_states(&tensor, "another", -2)), "\"another\", not \"Qwen3-4B-mlx\""),
        (answer(&hidden_states(&tensor, MODEL, -3)), "returned layer -3"),
        (answer(&hidden_states(&tensor, MODEL, -2).replace("[2, 3]", "[3, 3]")), "takes 36"),
        (answer("<html>hello</html>"), "not the JSON of hidden states"),
        (response("204 No Content", "", ""), "refused (204)"),
        (endless, "longer than"),
    ] {
        let fake = FakeHeylook::replaying(&[]).await;
        fake.answer(&body(&sunset(), MODEL, -2, 512), Reply::Bytes(reply));
        let error = encode(&encoder(&fake)).await.expect_err(words).to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[tokio::test]
async fn a_width_that_changes_is_refused() {
    let ask = body(&sunset(), MODEL, -2, 512);
    let answer = |width| {
        let tensor = Tensor::from_f32(&vec![0.5; width], vec![1, width], DType::F32);
        let json = hidden_states(&tensor.expect("whole"), MODEL, -2);
        Reply::Bytes(response("200 OK", "", &json))
    };
    let fake = FakeHeylook::replaying(&[]).await;
    fake.answer(&ask, answer(3));
    fake.answer(&ask, answer(4));
    let learned = encoder(&fake);
    encode(&learned).await.expect("the first sets it");
    let error = encode(&learned).await.expect_err("another model under the same name");
    assert!(matches!(error, HeylookError::WrongWidth { got: 4, expected: 3, .. }), "{error}");

    let told = encoder(&fake).with_shape(Some(2560), None);
    let error = encode(&told).await.expect_err("not what we were told");
    assert!(matches!(error, HeylookError::WrongWidth { got: 4, expected: 2560, .. }), "{error}");
}
