//! Metrics for Prometheus: what a process counts, and `GET /metrics`.
//!
//! There is one registry a process, so that `llm-dit serve` reports its three services in one
//! answer. Counters and histograms are recorded where the work is done, through the `metrics`
//! crate, with an atomic operation or two each. Values that can be read at any time (a queue's
//! length, a device's memory) are read when metrics are requested, and cost nothing in between.

mod process;
mod table;

use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
    thread,
    time::Duration,
};

use axum::{http::header, response::IntoResponse, routing::MethodRouter};
use llm_dit_device::Memory;
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use metrics_util::MetricKindMask;
use parking_lot::Mutex;

pub use self::table::*;

/// Samples of histograms are sorted into their buckets at this interval, so that they do not pile
/// up if metrics are never requested.
const UPKEEP: Duration = Duration::from_secs(5);
/// A value that was not observed for this long is dropped, such as that of a machine that was
/// removed.
const FORGET: Duration = Duration::from_secs(600);

/// Text format 0.0.4, which every Prometheus reads.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

static EXPORT: OnceLock<Export> = OnceLock::new();

type Observe = dyn Fn() + Send + Sync;

struct Export {
    handle: PrometheusHandle,
    observers: Observers,
}

/// What is called before the metrics are rendered.
#[derive(Default)]
struct Observers(Mutex<Vec<Weak<Observe>>>);

impl Observers {
    fn add(&self, observe: impl Fn() + Send + Sync + 'static) -> Observer {
        let observe: Arc<Observe> = Arc::new(observe);
        let mut observers = self.0.lock();
        observers.retain(|observer| observer.strong_count() > 0);
        observers.push(Arc::downgrade(&observe));
        drop(observers);
        Observer { _observe: observe }
    }

    fn call(&self) {
        // Not under the lock, since the last holder of an observer may be the one that is called.
        let observers: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        observers.iter().for_each(|observe| observe());
    }
}

/// Keeps something observed for as long as it lives.
#[derive(Clone)]
#[must_use = "nothing is observed once this is dropped"]
pub struct Observer {
    _observe: Arc<Observe>,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

/// Begins to count. Handles that were made before would count nothing for ever.
pub fn begin() {
    export();
}

/// Registers `observe`, which sets its gauges each time metrics are requested. It must not block.
pub fn observe(observe: impl Fn() + Send + Sync + 'static) -> Observer {
    export().observers.add(observe)
}

/// `GET /metrics`. `observer` lives as long as the route does.
pub fn route<S: Clone + Send + Sync + 'static>(observer: Option<Observer>) -> MethodRouter<S> {
    // From now on everything is counted.
    export();
    axum::routing::get(async move || {
        let _ = &observer;
        // Reading a device's memory asks its driver.
        let text = tokio::task::spawn_blocking(render).await;
        text.map(|text| ([(header::CONTENT_TYPE, MEDIA_TYPE)], text)).map_err(|error| {
            tracing::error!(%error, "failed to render the metrics");
            axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response()
        })
    })
}

/// Everything, in Prometheus' text format.
pub fn render() -> String {
    let export = export();
    export.observers.call();
    process::observe();
    export.handle.render()
}

/// Exports the version of a service.
pub fn build_info(service: &'static str) {
    let labels = [("service", service), ("version", env!("CARGO_PKG_VERSION"))];
    ::metrics::gauge!(BUILD_INFO.name, &labels).set(1.0);
}

/// Tells of a service that computes: its version, and the memory of its device, if that can be read.
pub fn observe_service(
    service: &'static str,
    device: String,
    memory: impl Fn() -> Option<Memory> + Send + Sync + 'static,
) -> Observer {
    observe(move || {
        build_info(service);
        let Some(Memory { used, peak, reserved, total }) = memory() else { return };
        let labels = [("service", service.to_owned()), ("device", device.clone())];
        let gauges = [
            (MEMORY_USED, used),
            (MEMORY_PEAK, peak),
            (MEMORY_RESERVED, reserved),
            (MEMORY_SIZE, total),
        ];
        for (metric, bytes) in gauges {
            ::metrics::gauge!(metric.name, &labels).set(bytes as f64);
        }
    })
}

/// Notes that a stage of the work took so long.
pub fn stage(stage: &'static str, took: Duration) {
    ::metrics::histogram!(STAGE_SECONDS.name, "stage" => stage).record(took);
}

/// Counts bytes of tensors and pictures that a service got or gave.
pub fn tensor_bytes(service: &'static str, direction: Direction, bytes: usize) {
    let direction = match direction {
        Direction::Received => "received",
        Direction::Sent => "sent",
    };
    let labels = [("service", service), ("direction", direction)];
    ::metrics::counter!(TENSOR_BYTES.name, &labels).increment(bytes as u64);
}

/// Of [`tensor_bytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Received,
    Sent,
}

/// The registry; begins to count with the first call.
fn export() -> &'static Export {
    EXPORT.get_or_init(|| {
        process::begin();
        let recorder = recorder().unwrap_or_else(|error| {
            tracing::error!(%error, "failed to configure the histogram buckets");
            PrometheusBuilder::new().build_recorder()
        });
        let handle = recorder.handle();
        if ::metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!(
                "another metrics recorder is installed in this process; /metrics will be empty"
            );
        }
        ALL.iter().for_each(Metric::describe);
        let upkeep = {
            let handle = handle.clone();
            move || {
                loop {
                    thread::sleep(UPKEEP);
                    handle.run_upkeep();
                }
            }
        };
        // Without it, samples are sorted when metrics are requested.
        if let Err(error) = thread::Builder::new().name("metrics".to_owned()).spawn(upkeep) {
            tracing::warn!(%error, "histogram samples accumulate until /metrics is scraped");
        }
        Export { handle, observers: Observers::default() }
    })
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let mut builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::GAUGE, Some(FORGET));
    for metric in ALL {
        if let Kind::Histogram(buckets) = metric.kind {
            let name = Matcher::Full(metric.name.to_owned());
            builder = builder.set_buckets_for_metric(name, buckets)?;
        }
    }
    Ok(builder.build_recorder())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn an_observer_is_called_until_it_is_dropped() {
        // Not those of the process, which the other test's thread calls as well.
        let observers = Observers::default();
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let observer = observers.add(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        observers.call();
        observers.call();
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        drop(observer);
        observers.call();
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn gauges_are_observed_when_metrics_are_rendered() {
        let _observer = observe(|| {
            ::metrics::gauge!(QUEUE_DEPTH.name, "worker" => "test").set(3.0);
        });
        let text = render();
        assert!(text.contains("llm_dit_queue_depth{worker=\"test\"} 3\n"), "{text}");
    }

    #[test]
    fn what_is_told_is_described() {
        begin();
        stage("test", Duration::from_millis(3));
        let text = render();
        for line in [
            "# TYPE llm_dit_stage_seconds histogram",
            "llm_dit_stage_seconds_bucket{stage=\"test\",le=\"0.005\"} 1",
            "llm_dit_stage_seconds_bucket{stage=\"test\",le=\"0.0025\"} 0",
            "llm_dit_stage_seconds_count{stage=\"test\"} 1",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
    }
}
