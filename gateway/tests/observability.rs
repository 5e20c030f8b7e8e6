//! What the services tell of their work: metrics, traces and request ids, asked for from outside.

mod observability {
    pub mod documents;
    pub mod ids;
    pub mod metrics;
    pub mod traces;
}

#[path = "http/support.rs"]
#[expect(dead_code, reason = "most of it is for the gateway's own tests")]
mod support;

use std::{collections::BTreeMap, time::Duration};

use llm_dit_telemetry::metrics::render;
use tokio::{
    sync::{Mutex, MutexGuard},
    time,
};

/// Counters are one process's, so its tests take turns.
static TURN: Mutex<()> = Mutex::const_new(());

async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

/// Samples by name and labels, as they stand in the text.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.map(sample).collect()
}

/// What has changed since.
struct Since(BTreeMap<String, f64>);

impl Since {
    fn now() -> Self {
        Self(samples(&render()))
    }

    fn change(&self, sample: &str) -> f64 {
        let before = self.0.get(sample).copied().unwrap_or(0.0);
        samples(&render()).get(sample).copied().unwrap_or(0.0) - before
    }

    /// Some things are counted when the other side has seen the end. A change that never comes
    /// fails the test.
    async fn until(&self, sample: &str, change: f64) {
        let wait = async {
            while self.change(sample) < change {
                time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = time::timeout(Duration::from_secs(60), wait).await;
        let found = self.change(sample);
        assert!(waited.is_ok() && found == change, "{sample} changed by {found}, not {change}");
    }
}
