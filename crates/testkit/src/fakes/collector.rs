//! An OpenTelemetry collector that keeps what it gets.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use data_encoding::HEXLOWER;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::span::SpanKind,
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    Request, Response, Status, async_trait,
    transport::{Server, server::TcpIncoming},
};

/// A span as a test wants to see it.
#[derive(Clone, Debug)]
pub struct Span {
    /// `service.name` of the program that sent it.
    pub service: String,
    pub name: String,
    pub kind: SpanKind,
    pub trace: String,
    pub id: String,
    /// Empty for the first of a trace.
    pub parent: String,
    /// Nanoseconds since 1970.
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug)]
pub struct Collector {
    pub url: String,
    spans: Arc<Mutex<Vec<Span>>>,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

struct Keeps(Arc<Mutex<Vec<Span>>>);

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let spans = Arc::default();
        let service = TraceServiceServer::new(Keeps(Arc::clone(&spans)));
        let serving =
            Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        Self { url, spans, task: tokio::spawn(serving) }
    }

    /// Those of one trace, by hexadecimal id, that have arrived.
    pub fn trace(&self, id: &str) -> Vec<Span> {
        let spans = self.spans.lock();
        spans.iter().filter(|span| span.trace == id).cloned().collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[async_trait]
impl TraceService for Keeps {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock();
        for resource in request.into_inner().resource_spans {
            let about = resource.resource.unwrap_or_default().attributes;
            let service = texts(about).remove("service.name").unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                kept.push(Span {
                    service: service.clone(),
                    kind: span.kind(),
                    name: span.name,
                    trace: HEXLOWER.encode(&span.trace_id),
                    id: HEXLOWER.encode(&span.span_id),
                    parent: HEXLOWER.encode(&span.parent_span_id),
                    start: span.start_time_unix_nano,
                    end: span.end_time_unix_nano,
                    attributes: texts(span.attributes),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Those that are texts or numbers.
fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |attribute: KeyValue| match attribute.value?.value? {
        Value::StringValue(text) => Some((attribute.key, text)),
        Value::IntValue(number) => Some((attribute.key, number.to_string())),
        _ => None,
    };
    attributes.into_iter().filter_map(text).collect()
}
