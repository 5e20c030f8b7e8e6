//! Health, reflection and the end of a service.

use std::time::Duration;

use futures::StreamExt as _;
use llm_dit_proto::v1::{
    EncodeRequest, diffusion_client::DiffusionClient, encoder_client::EncoderClient,
    encoder_server::EncoderServer,
};
use llm_dit_serving::grpc::GrpcServer;
use llm_dit_testkit::{
    fakes::{FakeGenerator, ScriptedEncoder, Seen},
    servers::{Server, fake_diffusion, fake_encoder},
    wire::{outcome, request, tensor},
};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn health_turns_when_the_shutdown_begins() {
    let (handle, _jobs) = fake_encoder(8);
    let mut server = Server::encoder(handle).await;
    let mut client = HealthClient::new(server.channel());
    for name in ["", "llmdit.v1.Encoder"] {
        let health = client.check(of(name)).await.expect("known").into_inner();
        assert_eq!(health.status(), ServingStatus::Serving);
    }
    let unknown = client.check(of("llmdit.v1.Diffusion")).await.expect_err("not here");
    assert_eq!(unknown.code(), Code::NotFound);

    let mut watch = client.watch(of("llmdit.v1.Encoder")).await.expect("known").into_inner();
    let first = watch.message().await.expect("well").expect("at once");
    assert_eq!(first.status(), ServingStatus::Serving);
    server.shutdown.cancel();
    let second = watch.message().await.expect("well").expect("the turn");
    assert_eq!(second.status(), ServingStatus::NotServing);
    // Watchers do not hold the shutdown up.
    server.ended().await;
}

#[tokio::test]
async fn a_job_that_runs_when_health_turns_is_finished() {
    let (handle, mut control) = fake_diffusion(FakeGenerator::gated(32), Default::default(), None);
    let mut server = Server::diffusion(handle).await;
    let mut watch =
        HealthClient::new(server.channel()).watch(of("")).await.expect("known").into_inner();
    let embeddings = tensor(&[4, 32], 0);
    let request =
        request(Default::default(), &[(llm_dit_proto::v1::TensorRole::Embeddings, &embeddings)]);
    let events = DiffusionClient::new(server.channel()).generate(request).await.expect("accepted");
    assert!(matches!(control.seen().await, Seen::Began { .. }));

    server.shutdown.cancel();
    while let Some(health) = watch.next().await {
        if health.expect("well").status() == ServingStatus::NotServing {
            break;
        }
    }
    control.open();
    assert_eq!(outcome(events.into_inner()).await.expect("well").steps.len(), 3);
    server.ended().await;
}

#[tokio::test]
async fn the_grace_period_has_an_end() {
    let script = ScriptedEncoder { hang: true, ..Default::default() };
    let service = GrpcServer::default().grace(Duration::ZERO).service(EncoderServer::new(script));
    let server = Server::start(|listener, shutdown| service.serve(listener, shutdown)).await;
    let mut client = EncoderClient::new(server.channel());
    let _hanging = client.encode(EncodeRequest::default()).await.expect("accepted");
    server.stop().await;
}

#[tokio::test]
async fn reflection_lists_the_services_and_their_files() {
    let (handle, _control) = fake_diffusion(FakeGenerator::free(32), Default::default(), None);
    let server = Server::diffusion(handle).await;
    let ask = async |question: MessageRequest| {
        let request =
            ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        ServerReflectionClient::new(server.channel())
            .server_reflection_info(futures::stream::iter([request]))
            .await
            .expect("well")
            .into_inner()
            .message()
            .await
            .expect("well")
            .and_then(|answer| answer.message_response)
            .expect("an answer")
    };
    let MessageResponse::ListServicesResponse(list) =
        ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("not a list");
    };
    let names: Vec<_> = list.service.iter().map(|s| s.name.as_str()).collect();
    for name in ["llmdit.v1.Diffusion", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let symbol = MessageRequest::FileContainingSymbol("llmdit.v1.TensorHeader".to_owned());
    assert!(matches!(ask(symbol).await, MessageResponse::FileDescriptorResponse(_)));
}
