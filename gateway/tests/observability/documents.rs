//! What is said of the metrics elsewhere is true.

use std::{collections::BTreeSet, fs};

use llm_dit_telemetry::metrics::{ALL, Kind};
use llm_dit_testkit::repository;
use serde_json::Value;

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).expect("a file of the repository")
}

/// Words that look like one of our metrics.
fn names(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let ours = |name: &&str| {
        (name.starts_with("llm_dit_") || name.starts_with("process_")) && !name.ends_with('_')
    };
    text.split(word).filter(ours).map(family).collect()
}

/// A histogram's series have the names of their family and an ending.
fn family(name: &str) -> String {
    let histogram = |name: &str| {
        ALL.iter().any(|metric| metric.name == name && matches!(metric.kind, Kind::Histogram(_)))
    };
    let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
    stem.filter(|stem| histogram(stem)).unwrap_or(name).to_owned()
}

fn exported() -> BTreeSet<String> {
    ALL.iter().map(|metric| metric.name.to_owned()).collect()
}

/// The expressions of a dashboard, wherever they stand.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "expr" || name == "query" => {
                        found.push(text.clone());
                    }
                    value => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn the_page_describes_every_metric_and_no_other() {
    let page = read("docs/operate/observability.md");
    assert_eq!(names(&page), exported());
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let start = format!("| `{}` | {kind} |", metric.name);
        let row = page.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("no row that begins with {start}"));
        let labels = row.split('|').nth(3).expect("a column for the labels");
        let labels: Vec<&str> = labels.split(',').map(|l| l.trim().trim_matches('`')).collect();
        let said: Vec<&str> = labels.into_iter().filter(|label| !label.is_empty()).collect();
        assert_eq!(said, metric.labels, "{row}");
    }
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() {
    let dashboard: Value =
        serde_json::from_str(&read("deploy/grafana/llm-dit.json")).expect("JSON");
    let mut asked = Vec::new();
    expressions(&dashboard, &mut asked);
    assert!(asked.len() > 20, "{asked:?}");
    let shown = names(&asked.join("\n"));
    let alerts = names(&read("deploy/prometheus/alerts.yml"));
    assert!(!alerts.is_empty());
    let exported = exported();
    for name in shown.union(&alerts) {
        assert!(exported.contains(name), "nobody tells {name}");
    }
    // What is not worth a panel is what another panel shows, or a limit in one.
    let unseen: Vec<&String> = exported.difference(&shown).collect();
    assert!(unseen.is_empty(), "on no panel: {unseen:?}");
}

#[test]
fn labels_in_queries_are_those_of_some_metric() {
    let text = read("deploy/grafana/llm-dit.json") + &read("deploy/prometheus/alerts.yml");
    let known: BTreeSet<&str> = ALL
        .iter()
        .flat_map(|metric| metric.labels.iter().copied())
        .chain(["le", "instance", "job"])
        .collect();
    for part in text.split("by (").skip(1) {
        let list = part.split(')').next().expect("a list");
        for label in list.split(',').map(str::trim) {
            assert!(known.contains(label), "by ({list})");
        }
    }
}
