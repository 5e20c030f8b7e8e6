use axum::{http::StatusCode, routing::get};
use tower::ServiceExt as _;

use super::*;
use llm_dit_telemetry::metrics;

fn count(line: &str) -> u64 {
    let text = metrics::render();
    let value = text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
    value.unwrap_or(0)
}

async fn ask(path: &str) -> Response {
    let router = Router::new()
        .route("/test/{id}", get(async || "hello"))
        .route("/waits", get(std::future::pending::<()>))
        .route("/metrics", metrics::route(None));
    let request = Request::get(path).body(Body::empty()).expect("valid");
    instrument(router).oneshot(request).await.expect("infallible")
}

#[tokio::test]
async fn requests_are_counted_by_route_at_the_end_of_their_answers() {
    metrics::render();
    let line = "llm_dit_http_requests_total{method=\"GET\",route=\"/test/{id}\",status=\"200\"}";
    let left = "llm_dit_http_requests_total{method=\"GET\",route=\"/test/{id}\",status=\"499\"}";
    let response = ask("/test/1").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(count(line), 0, "not read yet");
    axum::body::to_bytes(response.into_body(), 100).await.expect("a body");
    assert_eq!((count(line), count(left)), (1, 0));
    drop(ask("/test/2").await);
    assert_eq!((count(line), count(left)), (1, 1));
    let none = "llm_dit_http_requests_total{method=\"GET\",route=\"none\",status=\"404\"}";
    drop(ask("/nonsense").await);
    assert_eq!(count(none), 1);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_counted() {
    metrics::render();
    let line = "llm_dit_http_requests_total{method=\"GET\",route=\"/waits\",status=\"499\"}";
    let asked = ask("/waits");
    let mut asked = Box::pin(asked);
    assert!(futures::poll!(&mut asked).is_pending());
    assert_eq!(count(line), 0);
    drop(asked);
    assert_eq!(count(line), 1);
}

#[tokio::test]
async fn the_metrics_are_a_route_like_any_other() {
    let response = ask("/metrics").await;
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    assert_eq!(response.headers()[REQUEST_ID].len(), 36);
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    assert!(body.starts_with(b"# HELP"), "{body:?}");
}
