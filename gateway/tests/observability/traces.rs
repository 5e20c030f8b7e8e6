//! OpenTelemetry: one trace from a client's request to the engines' threads.

use llm_dit_serving::telemetry::{self, LogArgs, LogFormat, TraceArgs};
use llm_dit_testkit::{
    fakes::{Collector, Span},
    http,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::json;

use crate::{Since, support::Stack, turn};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";

/// The only one of this name.
fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_one_trace_across_the_services_and_into_their_threads() {
    let _turn = turn().await;
    let collector = Collector::start().await;
    let args = LogArgs {
        log_format: LogFormat::Human,
        log_filter: "off".to_owned(),
        traces: TraceArgs {
            otlp_endpoint: Some(collector.url.clone()),
            otlp_service_name: Some("tested".to_owned()),
        },
    };
    let traces = telemetry::init(&args, "test").expect("a way to the collector");
    let stack = Stack::start().await;
    let since = Since::now();
    let request = http().post(format!("{}/api/generate", stack.gateway.url));
    let request = request.header("traceparent", format!("00-{TRACE}-{CLIENT}-01"));
    let response = request.json(&json!({"prompt": "a fox", "seed": 1})).send().await;
    assert_eq!(response.expect("an answer").bytes().await.expect("a picture")[..4], *b"\x89PNG");
    // Both calls have ended, and their spans with them.
    for method in ["Encoder\",grpc_method=\"Encode", "Diffusion\",grpc_method=\"Generate"] {
        let name =
            format!("llm_dit_grpc_request_seconds_count{{grpc_service=\"llmdit.v1.{method}\"}}");
        since.until(&name, 1.0).await;
    }
    // So have those who held on to the spans.
    drop(stack);
    traces.end().await;
    let spans = collector.trace(TRACE);

    let http = one(&spans, "POST /api/generate");
    assert_eq!(
        (&*http.parent, http.kind),
        (CLIENT, SpanKind::Server),
        "goes on the client's trace"
    );
    assert_eq!(http.service, "tested");
    assert_eq!(http.attributes["http.response.status_code"], "200");
    for (parent, children) in [
        ("POST /api/generate", &["embeddings", "draw", "finish"][..]),
        ("embeddings", &["llmdit.v1.Encoder/Encode"]),
        ("llmdit.v1.Encoder/Encode", &["tokenize", "encode"]),
        ("draw", &["llmdit.v1.Diffusion/Generate"]),
        ("llmdit.v1.Diffusion/Generate", &["generate"]),
        ("generate", &["denoise", "decode", "image"]),
    ] {
        let parent = one(&spans, parent);
        for child in children {
            let child = one(&spans, child);
            assert_eq!(child.parent, parent.id, "{} in {}", child.name, parent.name);
            assert!(child.start >= parent.start, "{} before {}", child.name, parent.name);
        }
    }
    for (method, code) in [("Encoder/Encode", "OK"), ("Diffusion/Generate", "OK")] {
        let call = one(&spans, &format!("llmdit.v1.{method}"));
        assert_eq!(
            (call.kind, &*call.attributes["rpc.response.status_code"]),
            (SpanKind::Server, code)
        );
    }
    // Each waited in a queue, one in the encoder's and one in the generator's.
    let mut waited: Vec<&str> = spans
        .iter()
        .filter(|span| span.name == "queue")
        .map(|queue| {
            let parent = spans.iter().find(|span| span.id == queue.parent);
            parent.expect("a parent in the trace").name.as_str()
        })
        .collect();
    waited.sort_unstable();
    assert_eq!(waited, ["generate", "llmdit.v1.Encoder/Encode"]);
    let stages = ["denoise", "decode", "image"].map(|name| one(&spans, name));
    assert!(stages.windows(2).all(|pair| pair[0].end <= pair[1].end), "{stages:#?}");
}
