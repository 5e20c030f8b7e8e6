//! Exports spans to an OpenTelemetry collector over OTLP (gRPC). Off unless a collector is
//! configured.

use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tonic::transport::ClientTlsConfig;
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, registry::LookupSpan};

use crate::{
    client::{BadUrl, service_url},
    security::tls::install_provider,
};

/// The collector that receives traces.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TraceArgs {
    /// OTLP/gRPC endpoint of an OpenTelemetry collector, such as http://localhost:4317 [default: no
    /// trace export]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", value_parser = endpoint)]
    pub otlp_endpoint: Option<String>,
    /// Service name in traces [default: the program's name]
    #[arg(long, env = "OTEL_SERVICE_NAME", value_name = "NAME")]
    pub otlp_service_name: Option<String>,
}

/// The exporter, if a collector is configured.
#[derive(Debug, Default)]
#[must_use = "the last spans are lost unless it is ended"]
pub struct Traces(Option<SdkTracerProvider>);

/// The exporter of traces could not be built.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be sent: {0}; see the variables OTEL_EXPORTER_OTLP_*")]
pub struct TracesError(#[from] ExporterBuildError);

/// After OpenTelemetry's rules an empty variable is none.
fn endpoint(url: &str) -> Result<String, BadUrl> {
    if url.is_empty() { Ok(String::new()) } else { service_url(url) }
}

impl TraceArgs {
    /// What listens for spans, and what sends them.
    pub(super) fn begin<S>(
        &self,
        program: &str,
    ) -> Result<Option<(impl Layer<S> + use<S>, Traces)>, TracesError>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let url = self.otlp_endpoint.as_deref().filter(|url| !url.is_empty());
        let Some(url) = url else { return Ok(None) };
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(url);
        let exporter = if url.starts_with("https:") {
            install_provider();
            exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots())
        } else {
            exporter
        };
        let exporter = exporter.build()?;
        let name = self.otlp_service_name.clone().unwrap_or_else(|| program.to_owned());
        let resource = Resource::builder()
            .with_service_name(name)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("llm-dit"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            // Whatever is logged: what libraries say of their work is below this.
            .with_filter(LevelFilter::INFO);
        Ok(Some((layer, Traces(Some(provider)))))
    }
}

impl Traces {
    /// Sends what has not been sent, for some seconds at most.
    pub async fn end(self) {
        let Some(provider) = self.0 else { return };
        // It waits for the collector, on whose connection this runtime has to work meanwhile.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last traces were not sent"),
            Err(error) => tracing::warn!(%error, "the last traces were not sent"),
        }
    }
}
