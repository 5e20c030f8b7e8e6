//! Answers with texts of any length: they cost their own call.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use llm_dit_fault::{Fault, MAX_TEXT_BYTES};
use llm_dit_serving::{Remote, connections::Patience};
use tokio::sync::Notify;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use super::{Server, check, listen, remote};

#[tokio::test]
async fn a_status_that_repeats_a_long_name_is_cut() {
    let server = Server::start(8, Patience::default()).await;
    let remote = server.remote();
    let mut watch = HealthClient::new(remote.channel())
        .watch(HealthCheckRequest::default())
        .await
        .expect("an answer")
        .into_inner();
    assert!(watch.message().await.expect("open").is_some());

    let name = "n".repeat(70_000);
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::FileContainingSymbol(name)),
        ..Default::default()
    };
    let answers = ServerReflectionClient::new(remote.channel())
        .server_reflection_info(futures::stream::iter([request]))
        .await
        .expect("begins");
    let status = answers.into_inner().message().await.expect_err("no such symbol");
    assert!(status.message().contains("nnn"), "{status}");
    assert!(status.message().len() <= MAX_TEXT_BYTES, "{}", status.message().len());

    // The stream beside it goes on, over the same connection.
    assert!(futures::poll!(std::pin::pin!(watch.message())).is_pending());
    check(&remote).await.expect("an answer");
}

/// Answers each call as its header `x-length` says: with an error of that many letters or, without
/// the header, after `go`.
async fn liar(go: Arc<Notify>) -> Remote {
    let (listener, address) = listen().await;
    let answer = async move |request: Request| -> Response {
        let text = match request.headers().get("x-length") {
            None => {
                go.notified().await;
                "done".to_owned()
            }
            Some(length) => {
                let length: usize = length.to_str().expect("text").parse().expect("a number");
                "n".repeat(length)
            }
        };
        let mut response = ().into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static("3"));
        headers.insert("grpc-message", text.parse().expect("a header"));
        headers.insert("grpc-status-details-bin", HeaderValue::from_static("~ not base64 ~"));
        response
    };
    tokio::spawn(axum::serve(listener, Router::new().fallback(answer)).into_future());
    remote(address)
}

async fn ask(remote: &Remote, length: Option<usize>) -> Fault {
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    if let Some(length) = length {
        request.metadata_mut().insert("x-length", length.into());
    }
    let answer = HealthClient::new(remote.channel()).check(request).await;
    remote.fault(answer.expect_err("all are errors"))
}

#[tokio::test]
async fn an_answer_with_headers_that_are_too_long_is_the_fault_of_its_call() {
    let go = Arc::new(Notify::new());
    let remote = liar(Arc::clone(&go)).await;
    let running = tokio::spawn({
        let remote = remote.clone();
        async move { ask(&remote, None).await }
    });
    for length in [70_000, 200_000] {
        let fault = ask(&remote, Some(length)).await;
        assert!(matches!(fault, Fault::BadRequest(_)), "{length}");
        assert!(fault.to_string().len() <= MAX_TEXT_BYTES);
    }
    let fault = ask(&remote, Some(280_000)).await;
    assert!(matches!(&fault, Fault::Internal(text) if text.contains(remote.url())), "{fault:?}");
    go.notify_one();
    let fault = running.await.expect("no panic");
    assert_eq!(fault, Fault::BadRequest("done".to_owned()), "of the same connection");
}
