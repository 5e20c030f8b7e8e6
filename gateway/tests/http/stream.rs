//! `Accept` on `POST /api/generate`: events on the way, JSON, other files.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use diffusion_service::ServiceLimits;
use llm_dit_chat::Chat;
use llm_dit_params::GenerateOptions;
use llm_dit_testkit::{
    fakes::{FAILING_SEED, FakeGenerator, LASTING_SEED, Seen},
    http,
};
use serde_json::{Value, json};

use crate::support::{Events, Stack, WIDTH, expected_png, problem};

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_every_step_and_end_with_the_picture() {
    let stack = Stack::start().await;
    let body = json!({"prompt": "a red apple", "seed": 42, "steps": 3});
    let mut events = Events::new(stack.gateway.stream(&body).await).rest().await;
    // A test of their own has the previews.
    events.retain(|event| event.name != "preview");
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    let (last, before) = events.split_last().expect("events");
    assert!(before.iter().all(|event| event.name == "progress"), "{names:?}");
    let mut stages: Vec<&str> =
        before.iter().map(|event| event.data["stage"].as_str().expect("text")).collect();
    stages.dedup();
    assert_eq!(stages, ["encoding", "queued", "denoising", "decoding"]);
    assert_eq!(before[1].data["queue_position"], 0);
    let steps: Vec<(u64, u64)> = before
        .iter()
        .map(|event| (event.data["step"].as_u64(), event.data["steps"].as_u64()))
        .map(|(step, steps)| (step.expect("a number"), steps.expect("a number")))
        .filter(|(step, _)| *step > 0)
        .collect();
    assert_eq!(steps, [(1, 3), (2, 3), (3, 3)]);
    let left = before.last().expect("a step").data["seconds_left"].as_f64();
    assert_eq!(left, Some(0.0), "nothing is left after the last step");
    assert_eq!(last.name, "result");
    let options = GenerateOptions { seed: Some(42), steps: Some(3), ..Default::default() };
    let png = STANDARD.decode(last.data["image"].as_str().expect("base64")).expect("base64");
    assert_eq!(png, expected_png(WIDTH, &Chat::user("a red apple"), options, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_something_before_the_work_begins() {
    let stack = Stack::with(FakeGenerator::gated(WIDTH), ServiceLimits::default(), WIDTH).await;
    let mut events = Events::new(stack.gateway.stream(&json!({"prompt": "x"})).await);
    let first = events.next().await.expect("an event");
    assert_eq!((first.name.as_str(), &first.data["stage"]), ("progress", &json!("encoding")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_has_its_status_and_what_goes_wrong_is_an_event() {
    let stack = Stack::start().await;
    for (body, words) in [
        (json!({"prompt": ""}), "empty"),
        (json!({"prompt": "x", "width": 250}), "240 and 256"),
        (json!({"prompt": "x", "encoder": "nobody"}), "known are local"),
    ] {
        let detail = problem(stack.gateway.stream(&body).await, 400).await;
        assert!(detail.contains(words), "{detail}");
    }
    let body = json!({"prompt": "x", "seed": FAILING_SEED});
    let events = Events::new(stack.gateway.stream(&body).await).rest().await;
    let last = events.last().expect("an event");
    assert_eq!((last.name.as_str(), &last.data["status"]), ("error", &json!(500)));
    assert!(!last.data["detail"].as_str().expect("text").contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_stops_the_work() {
    let mut stack = Stack::start().await;
    let body = json!({"prompt": "x", "seed": LASTING_SEED, "steps": 50});
    {
        let mut events = Events::new(stack.gateway.stream(&body).await);
        while events.next().await.expect("an event").data["step"] != 1 {}
    }
    // The first step may not have been reported yet when the caller left.
    let stopped =
        async { while !matches!(stack.control.seen().await, Seen::Stopped { after: 1..=2 }) {} };
    tokio::time::timeout(Duration::from_secs(5), stopped).await.expect("the engine is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_holds_what_makes_the_picture_again() {
    let stack = Stack::start().await;
    let url = format!("{}/api/generate", stack.gateway.url);
    let ask = async |body: &Value| -> Value {
        let request = http().post(&url).header("accept", "application/json");
        let response = request.json(body).send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        response.json().await.expect("JSON")
    };
    let first = ask(&json!({"prompt": "a fox", "scheduler": "unipc", "width": 96})).await;
    let used = &first["parameters"];
    assert_eq!(
        (&used["width"], &used["height"], &used["steps"]),
        (&json!(96), &json!(64), &json!(3))
    );
    assert_eq!(first["media_type"], "image/png");
    assert!(first["formatted_prompt"].as_str().expect("text").contains("a fox<|im_end|>"));
    let again = ask(used).await;
    assert_eq!(again["image"], first["image"]);
    assert_eq!(again["parameters"], first["parameters"]);
    assert_eq!(
        (&first["embeddings_cached"], &again["embeddings_cached"]),
        (&json!(false), &json!(true))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn other_files_are_made_and_hold_their_recipe() {
    let stack = Stack::start().await;
    for (format, kind) in [("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")] {
        let body = json!({
            "prompt": "a fox", "seed": 7, "output_format": format, "negative_prompt": "blurry",
        });
        let response = stack.gateway.post(&body).await;
        assert_eq!(response.headers()["content-type"], kind);
        let file = response.bytes().await.expect("a picture");
        assert_eq!(image::guess_format(&file).expect("known").to_mime_type(), kind);
        let settings = llm_dit_recipe::read(file).expect("ours").expect("a recipe").settings;
        assert_eq!((settings.prompt.as_deref(), settings.seed), (Some("a fox"), Some(7)));
        assert_eq!(settings.negative_prompt.as_deref(), Some("blurry"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_to_draw_from_arrives_whole() {
    let stack = Stack::start().await;
    let plain = stack.gateway.post(&json!({"prompt": "x", "seed": 1, "width": 96})).await;
    let plain = plain.bytes().await.expect("a picture");
    let source = STANDARD.encode(&plain);
    let body = json!({"prompt": "x", "seed": 1, "image": source, "strength": 0.5});
    let drawn = stack.gateway.post(&body).await;
    assert_eq!(drawn.status(), 200);
    let drawn = drawn.bytes().await.expect("a picture");
    let size = image::load_from_memory(&drawn).expect("a picture").into_rgb8().dimensions();
    assert_eq!(size, (96, 64), "of the source");
    assert_ne!(drawn, plain, "the fake looks at the source");
    let url = json!({
        "prompt": "x", "seed": 1, "image": format!("data:image/png;base64,{source}"), "strength": 0.5,
    });
    assert_eq!(stack.gateway.post(&url).await.bytes().await.expect("a picture"), drawn);
    let other = json!({"prompt": "x", "seed": 1, "image": source, "strength": 0.75});
    assert_ne!(stack.gateway.post(&other).await.bytes().await.expect("a picture"), drawn);
}
