//! `GET /metrics`.

use diffusion_service::ServiceLimits;
use futures::StreamExt as _;
use gateway::{GatewayOptions, KeepOptions};
use llm_dit_engine::{
    observe_plan,
    plan::{Course, Demand, Fixed, Limit, Part, PartSize, Plan, Stage, Work},
    stage_peak,
};
use llm_dit_memory::MemoryBudget;
use llm_dit_proto::v1::{
    ClearLorasRequest, GenerateParams, TensorRole, diffusion_client::DiffusionClient,
};
use llm_dit_serving::{BoundListener, connections::Connections, grpc::GrpcServer};
use llm_dit_telemetry::metrics::{ALL, Kind};
use llm_dit_testkit::{
    fakes::{FAILING_SEED, FakeGenerator, PANICKING_SEED, ScriptedEncoder, Seen},
    http,
    servers::{Server, fake_diffusion},
    wire::{chat, outcome, params, request, tensor, tensor_parts},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tonic::Code;

use crate::{
    Since, samples,
    support::{Gateway, Stack, WIDTH, options},
    turn,
};

/// Has everything happen that is counted, and returns what is told then.
pub async fn everything() -> String {
    let mut stack = Stack::start().await;
    let picture = |seed: u64| json!({"prompt": "a fox", "seed": seed});
    for (seed, status) in [(1, 200), (2, 200), (FAILING_SEED, 500), (PANICKING_SEED, 500)] {
        assert_eq!(stack.gateway.post(&picture(seed)).await.status(), status);
    }
    let job = stack.gateway.post_to("/api/jobs", &picture(3)).await;
    let job = job.headers()["location"].to_str().expect("text").to_owned();
    let events = stack.gateway.get(&format!("{job}/events")).await;
    events.bytes().await.expect("all events");
    let mut client = DiffusionClient::new(stack.diffusion.channel());
    client.clear_loras(ClearLorasRequest {}).await.expect("none");

    // A full queue, and somebody who leaves it.
    let limits = ServiceLimits { queue_capacity: 1, ..Default::default() };
    let (diffusion, mut control) = fake_diffusion(FakeGenerator::gated(WIDTH), limits, None);
    let full = Server::diffusion(diffusion).await;
    let mut client = DiffusionClient::new(full.channel());
    let embeddings = tensor(&[4, WIDTH], 0);
    let one = || {
        let mut parts = vec![params(GenerateParams { seed: Some(7), ..Default::default() })];
        parts.extend(tensor_parts(TensorRole::Embeddings, &embeddings));
        futures::stream::iter(parts)
    };
    let running = client.generate(one()).await.expect("room").into_inner();
    assert_eq!(control.seen().await, Seen::Began { seed: 7 });
    let waiting = client.generate(one()).await.expect("room").into_inner();
    let refused = client.generate(one()).await.expect_err("no room");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let since = Since::now();
    drop(waiting);
    since.until("llm_dit_queue_cancels_total{worker=\"image_generator\"}", 1.0).await;
    control.open();
    outcome(running).await.expect("a picture");

    // An encoder of its own.
    let (pulling, _control) = fake_diffusion(
        FakeGenerator::free(WIDTH),
        ServiceLimits::default(),
        Some(stack.encoder.remote("encoder")),
    );
    let pulling = Server::diffusion(pulling).await;
    let bare = GenerateParams { prompt: Some(chat("a fox")), ..Default::default() };
    let events = DiffusionClient::new(pulling.channel()).generate(request(bare, &[])).await;
    outcome(events.expect("accepted").into_inner()).await.expect("a picture");

    // A gateway without room, and one whose encoder breaks off.
    let keep = KeepOptions { max_requests: 0, ..Default::default() };
    let none = options(&[&stack.encoder.url], &[&stack.diffusion.url]);
    let none = Gateway::with(GatewayOptions { keep, ..none }).await;
    assert_eq!(none.post(&picture(1)).await.status(), 503);
    let small = options(&[&stack.encoder.url], &[&stack.diffusion.url]);
    let memory = MemoryBudget::new(10);
    let small = Gateway::with(GatewayOptions { memory, ..small }).await;
    assert_eq!(small.post(&picture(1)).await.status(), 413);
    let scripted = Server::scripted_encoder(ScriptedEncoder::default()).await;
    let broken = Gateway::start(Some(&scripted.url), &stack.diffusion.url).await;
    assert!(broken.post(&picture(1)).await.status().is_server_error());

    // More connections than there may be.
    let narrow = Server::start(|listener, shutdown| {
        let connections = Connections::new(1);
        let bound = BoundListener { connections, ..BoundListener::from(listener) };
        GrpcServer::default().serve(bound, shutdown)
    })
    .await;
    let since = Since::now();
    let address = narrow.url.trim_start_matches("http://");
    // A connection that has brought a request keeps its place.
    let first = http();
    let told = first.get(format!("{}/metrics", narrow.url)).send().await.expect("an answer");
    told.bytes().await.expect("all of it");
    let _second = TcpStream::connect(address).await.expect("closed at once");
    since.until("llm_dit_connections_refused_total", 1.0).await;

    // A GPU, which the fake has not.
    let demand = Demand {
        device: "cuda:0".to_owned(),
        limit: Limit::Given(1 << 30),
        overhead: 1,
        parts: vec![PartSize { part: Part::Vae, packed: 1, expanded: 1 }],
        work: Work::default(),
        course: Course::Service,
        images: 1,
        fixed: Fixed::default(),
    };
    let _planned = observe_plan(&Plan::new(&demand).expect("it fits"));
    stage_peak(Stage::Decode, Some(1 << 20));

    let text = stack.gateway.get("/metrics").await.text().await.expect("text");
    stack.jobs.close();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_told_with_the_labels_that_it_is_said_to_have() {
    let _turn = turn().await;
    let text = everything().await;
    let samples = samples(&text);
    for metric in ALL {
        let name = metric.name;
        let (kind, suffix) = match metric.kind {
            Kind::Counter => ("counter", ""),
            Kind::Gauge => ("gauge", ""),
            Kind::Histogram(_) => ("histogram", "_count"),
        };
        assert!(text.contains(&format!("# HELP {name} {}\n", metric.help)), "{name}: {text}");
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}: {text}");
        let full = format!("{name}{suffix}");
        let mut found = 0;
        for sample in samples.keys() {
            let (of, labels) = sample.split_once('{').unwrap_or((sample, ""));
            if of == full {
                found += 1;
                let labels = labels.trim_end_matches('}').split("\",").filter(|l| !l.is_empty());
                let mut labels: Vec<&str> =
                    labels.map(|label| label.split_once('=').expect("a value").0).collect();
                let mut said = metric.labels.to_vec();
                labels.sort_unstable();
                said.sort_unstable();
                assert_eq!(labels, said, "{sample}");
            }
        }
        assert!(found > 0, "{name} was never told: {text}");
    }
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for family in families.filter_map(|line| line.split(' ').next()) {
        assert!(ALL.iter().any(|metric| metric.name == family), "{family} is not in the table");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_counted_wherever_it_comes_by() {
    let _turn = turn().await;
    let stack = Stack::start().await;
    let since = Since::now();
    let response = stack.gateway.post(&json!({"prompt": "a fox", "seed": 1})).await;
    response.bytes().await.expect("a picture");
    for (sample, change) in [
        (r#"llm_dit_http_requests_total{method="POST",route="/api/generate",status="200"}"#, 1.0),
        (r#"llm_dit_http_request_seconds_count{method="POST",route="/api/generate"}"#, 1.0),
        (r#"llm_dit_gateway_pictures_total{outcome="done"}"#, 1.0),
        ("llm_dit_gateway_picture_seconds_count", 1.0),
        ("llm_dit_embedding_cache_misses_total", 1.0),
        (r#"llm_dit_prompts_total{outcome="done"}"#, 1.0),
        (r#"llm_dit_pictures_total{outcome="done"}"#, 1.0),
        ("llm_dit_steps_total", 3.0),
        ("llm_dit_step_seconds_count", 3.0),
        (r#"llm_dit_queue_wait_seconds_count{worker="text_encoder"}"#, 1.0),
        (r#"llm_dit_queue_wait_seconds_count{worker="image_generator"}"#, 1.0),
        (r#"llm_dit_batch_size_sum{worker="image_generator"}"#, 1.0),
        (
            r#"llm_dit_grpc_requests_total{grpc_service="llmdit.v1.Encoder",grpc_method="Encode",grpc_code="OK"}"#,
            1.0,
        ),
        (
            r#"llm_dit_grpc_requests_total{grpc_service="llmdit.v1.Diffusion",grpc_method="Generate",grpc_code="OK"}"#,
            1.0,
        ),
    ] {
        since.until(sample, change).await;
    }
    for stage in
        ["embeddings", "draw", "finish", "tokenize", "encode", "denoise", "decode", "image"]
    {
        since.until(&format!("llm_dit_stage_seconds_count{{stage=\"{stage}\"}}"), 1.0).await;
    }
    let bytes = |service: &str, direction: &str| {
        let labels = format!("{{service=\"{service}\",direction=\"{direction}\"}}");
        since.change(&format!("llm_dit_tensor_bytes_total{labels}"))
    };
    let sent = bytes("encoder", "sent");
    assert!(sent > 0.0);
    for (service, direction) in
        [("gateway", "received"), ("gateway", "sent"), ("diffusion", "received")]
    {
        assert_eq!(bytes(service, direction), sent, "{service} {direction}");
    }
    let labels = format!("{{kind=\"encoder\",backend=\"{}\"}}", stack.encoder.url);
    let now = samples(&stack.gateway.get("/metrics").await.text().await.expect("text"));
    assert_eq!(now[&format!("llm_dit_backend_up{labels}")], 1.0);
    assert_eq!(now[&format!("llm_dit_backend_requests{labels}")], 0.0);
    let memory = r#"{service="diffusion",device="cpu"}"#;
    assert_eq!(now[&format!("llm_dit_device_memory_peak_bytes{memory}")], 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_counted_as_one_who_left() {
    let _turn = turn().await;
    let mut stack = Stack::with(FakeGenerator::gated(WIDTH), ServiceLimits::default(), WIDTH).await;
    let since = Since::now();
    let mut events = stack.gateway.stream(&json!({"prompt": "a fox", "seed": 5})).await;
    assert_eq!(stack.control.seen().await, Seen::Began { seed: 5 });
    events.chunk().await.expect("an event");
    drop(events);
    since
        .until(
            r#"llm_dit_http_requests_total{method="POST",route="/api/generate",status="499"}"#,
            1.0,
        )
        .await;
    since.until(r#"llm_dit_gateway_pictures_total{outcome="cancelled"}"#, 1.0).await;
    stack.control.open();
    since.until(r#"llm_dit_pictures_total{outcome="cancelled"}"#, 1.0).await;
    since
        .until(
            r#"llm_dit_grpc_requests_total{grpc_service="llmdit.v1.Diffusion",grpc_method="Generate",grpc_code="Cancelled"}"#,
            1.0,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_tell_over_http_on_their_grpc_ports_and_no_text_of_clients_is_a_label() {
    let _turn = turn().await;
    let stack = Stack::start().await;
    let odd = "opensesame";
    for path in [format!("/{odd}"), format!("/api/jobs/{odd}"), format!("/api/history/{odd}/image")]
    {
        stack.gateway.get(&path).await;
        http().get(format!("{}{path}", stack.encoder.url)).send().await.expect("an answer");
    }
    let method = reqwest::Method::from_bytes(odd.to_uppercase().as_bytes()).expect("a method");
    let ask = http().request(method, &stack.gateway.url);
    assert_eq!(ask.send().await.expect("an answer").status(), 405);
    // What looks like gRPC and is none of ours.
    let ask = http().post(format!("{}/x.{odd}/Do", stack.encoder.url));
    let answer = ask.header("content-type", "application/grpc").send().await.expect("an answer");
    assert_eq!(answer.headers()["grpc-status"], "12");
    for url in [&stack.encoder.url, &stack.diffusion.url, &stack.gateway.url] {
        let response = http().get(format!("{url}/metrics")).send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        let text = response.text().await.expect("text");
        assert!(text.contains("llm_dit_build_info{"), "{text}");
        assert!(!text.to_lowercase().contains(odd), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openapi_document_and_the_health_of_a_service_are_not_in_the_way() {
    let _turn = turn().await;
    let stack = Stack::start().await;
    let document: Value = stack.gateway.json("/openapi.json").await;
    assert!(document["components"]["schemas"]["Problem"]["properties"]["request_id"].is_object());
    // HTTP/2 with several calls at once is what gRPC clients go on speaking.
    let calls = (0..4).map(|_| {
        let mut client = DiffusionClient::new(stack.diffusion.channel());
        async move { client.describe(llm_dit_proto::v1::DescribeDiffusionRequest {}).await }
    });
    let calls: Vec<_> = futures::stream::iter(calls).buffer_unordered(4).collect().await;
    assert!(calls.iter().all(Result::is_ok));
}
