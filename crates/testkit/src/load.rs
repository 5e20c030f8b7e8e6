//! A run of many clients at once, and one of clients that leave.
//!
//! Every picture is compared, pixel for pixel, with that of its seed from before; memory and processor
//! time of each program are what the system says of it. With a [`Budget`], the requests carry images
//! that together do not fit in it.

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use image::{ImageFormat, RgbImage};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::{sync::Mutex, time};

use crate::{
    attack::OVERHEAD,
    faults::{body, pixels},
    process::Process,
    repository,
};

const SEEDS: u64 = 24;
/// Between two looks at the programs' memory.
const SAMPLE: Duration = Duration::from_secs(2);
/// Memory of the last quarter may be this much above that of the second: the first is a warm-up.
const FLAT: f64 = 1.10;
/// Processor time that programs without work may take in [`IDLE`].
const IDLE_SECONDS: f64 = 0.25;
const IDLE: Duration = Duration::from_secs(3);
/// Steps of a picture that nobody waits for until its end.
const LONG: u32 = 200;

/// A limit on the data of requests, and requests that press against it.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// `--max-memory` of every program, in MiB.
    pub mib: u32,
    /// Width and height of the init image of each request.
    pub side: u32,
}

/// The three programs with the demo model, and what their pictures look like.
pub struct Stack {
    programs: Vec<(&'static str, Process)>,
    budget: Option<Budget>,
    /// The init image of every request, in base64.
    init: Option<String>,
    /// MiB that each program had in memory when it had drawn the references.
    idle: Vec<f64>,
    _history: tempfile::TempDir,
    client: Client,
    references: BTreeMap<u64, RgbImage>,
}

/// What came of a number of clients.
#[derive(Debug, Default)]
pub struct Report {
    pub clients: usize,
    pub seconds: f64,
    pub pictures: u64,
    /// Turned away with 503 and a time to come back.
    pub busy: u64,
    pub wrong: Vec<String>,
    /// Each, in seconds, shortest first.
    latencies: Vec<f64>,
    /// MiB of each program, in the second quarter and in the last.
    memory: BTreeMap<&'static str, [f64; 2]>,
    /// What each program did with its `--max-memory`.
    budgets: BTreeMap<&'static str, Spent>,
}

/// What a program did with its `--max-memory`, in MiB.
#[derive(Clone, Copy, Debug)]
struct Spent {
    limit: f64,
    /// Most that requests held at one time, as its metrics say.
    reserved: f64,
    /// Resident memory at its highest, above what it was before.
    resident: f64,
    rejections: u64,
}

impl Spent {
    fn is_kept(&self) -> bool {
        self.reserved <= self.limit && self.resident <= self.limit + OVERHEAD
    }
}

/// What came of clients that left.
#[derive(Debug, Default)]
pub struct Cancels {
    pub seconds: f64,
    pub cancels: u64,
    /// Over before their client could leave.
    pub finished: u64,
    pub wrong: Vec<String>,
    /// Processor seconds of all programs while nobody asked for anything.
    pub idle_seconds: f64,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        let flat = self.memory.values().all(|[second, last]| *last <= second * FLAT);
        let kept = self.budgets.values().all(Spent::is_kept);
        // A run that never reached a budget says nothing of it.
        let pressed =
            self.budgets.is_empty() || self.budgets.values().any(|spent| spent.rejections > 0);
        self.wrong.is_empty() && flat && kept && pressed && self.pictures > 0
    }

    fn latency(&self, part: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * part) as usize).copied().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.pictures as f64 / self.seconds;
        writeln!(
            f,
            "{} clients, {:.0} s: {} pictures ({rate:.1}/s), {} told to come back, {} wrong; seconds: median {:.2}, 99 % {:.2}, longest {:.2}",
            self.clients,
            self.seconds,
            self.pictures,
            self.busy,
            self.wrong.len(),
            self.latency(0.5),
            self.latency(0.99),
            self.latency(1.0),
        )?;
        for (name, [second, last]) in &self.memory {
            let change = (last / second - 1.0) * 100.0;
            writeln!(f, "  {name:18} {second:7.1} MiB, then {last:7.1} MiB ({change:+.1} %)")?;
        }
        for (name, Spent { limit, reserved, resident, rejections }) in &self.budgets {
            writeln!(
                f,
                "  {name:18} --max-memory {limit:.0} MiB: at most {reserved:.1} MiB reserved, {resident:.1} MiB resident above idle; {rejections} requests rejected",
            )?;
        }
        self.wrong.iter().take(20).try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl Cancels {
    pub fn is_clean(&self) -> bool {
        self.wrong.is_empty() && self.idle_seconds <= IDLE_SECONDS
    }
}

impl fmt::Display for Cancels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} cancels in {:.0} s ({} were over before), {} wrong; then {:.2} s of processor time in {} s without requests",
            self.cancels,
            self.seconds,
            self.finished,
            self.wrong.len(),
            self.idle_seconds,
            IDLE.as_secs(),
        )?;
        self.wrong.iter().take(20).try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl Stack {
    /// Starts everything.
    ///
    /// # Panics
    /// When a program does not start.
    pub async fn start(budget: Option<Budget>) -> Self {
        let history = tempfile::tempdir().expect("a folder");
        let model = repository("models/demo");
        let text = |path: &Path| path.to_str().expect("a path of text").to_owned();
        let model = ["--model-path", &text(&model)];
        let size = budget.map(|budget| format!("{}M", budget.mib));
        let limit: Vec<&str> =
            size.iter().flat_map(|size| ["--max-memory", size.as_str()]).collect();
        let encoder = Process::start("encoder-service", &[&model[..], &limit].concat());
        let queue = [&model[..], &["--queue-capacity", "64"], &limit].concat();
        let diffusion = Process::start("diffusion-service", &queue);
        let services = ["--encoder", &encoder.url, "--diffusion", &diffusion.url];
        let keep = ["--history", &text(history.path()), "--history-max", "200"];
        let gateway = Process::start("gateway", &[&services[..], &keep, &limit].concat());
        let mut stack = Self {
            programs: vec![
                ("encoder-service", encoder),
                ("diffusion-service", diffusion),
                ("gateway", gateway),
            ],
            budget,
            init: budget.map(|budget| init_image(budget.side)),
            idle: Vec::new(),
            _history: history,
            client: crate::http(),
            references: BTreeMap::new(),
        };
        for seed in 0..SEEDS {
            let (status, file) = stack.picture(seed).await.expect("an answer");
            assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&file));
            stack.references.insert(seed, pixels(&file).expect("a picture"));
        }
        stack.idle = stack.programs.iter().map(|(_, program)| memory(program)).collect();
        stack
    }

    /// So many clients, each of whom asks for the next picture when it has one.
    pub async fn load(self: &Arc<Self>, clients: usize, length: Duration) -> Report {
        let begun = Instant::now();
        let over = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(Report { clients, ..Report::default() }));
        let next = Arc::new(AtomicU64::new(0));
        let tasks: Vec<_> = (0..clients)
            .map(|_| {
                let (stack, over) = (Arc::clone(self), Arc::clone(&over));
                let (report, next) = (Arc::clone(&report), Arc::clone(&next));
                tokio::spawn(async move {
                    while !over.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed) % SEEDS;
                        stack.ask(seed, &report).await;
                    }
                })
            })
            .collect();
        let mut samples: Vec<Vec<f64>> = Vec::new();
        while begun.elapsed() < length {
            time::sleep(SAMPLE.min(length)).await;
            samples.push(self.programs.iter().map(|(_, program)| memory(program)).collect());
        }
        over.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.expect("no panic");
        }
        let mut report = std::mem::take(&mut *report.lock().await);
        report.seconds = begun.elapsed().as_secs_f64();
        report.latencies.sort_by(f64::total_cmp);
        let quarter = samples.len().div_ceil(4);
        let mean = |part: &[Vec<f64>], at: usize| {
            part.iter().map(|sample| sample[at]).sum::<f64>() / part.len().max(1) as f64
        };
        let (second, last) = match samples.len() {
            // Too short to say.
            0..4 => (&samples[..], &samples[..]),
            count => (&samples[quarter..2 * quarter], &samples[count - quarter..]),
        };
        for (at, (name, _)) in self.programs.iter().enumerate() {
            report.memory.insert(name, [mean(second, at), mean(last, at)]);
        }
        if self.budget.is_some() {
            report.budgets = self.spent().await;
        }
        report
    }

    /// What every program did with its budget since its start.
    async fn spent(&self) -> BTreeMap<&'static str, Spent> {
        let mut budgets = BTreeMap::new();
        for ((name, program), idle) in self.programs.iter().zip(&self.idle) {
            let url = format!("{}/metrics", program.url);
            let answer = self.client.get(url).send().await.expect("metrics");
            let text = answer.text().await.expect("metrics as text");
            let value = |metric: &str| {
                let line =
                    text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
                line.and_then(|value| value.parse::<f64>().ok())
            };
            let mib = |metric: &str| {
                let bytes = value(metric).unwrap_or_else(|| panic!("{name} has no {metric}"));
                bytes / f64::from(1 << 20)
            };
            // Absent until the first.
            let rejections = value("llm_dit_memory_budget_rejections_total").unwrap_or_default();
            let spent = Spent {
                limit: mib("llm_dit_memory_budget_limit_bytes"),
                reserved: mib("llm_dit_memory_budget_peak_bytes"),
                resident: program.peak_memory().unwrap_or_default() as f64 / 1024.0 - idle,
                rejections: rejections as u64,
            };
            budgets.insert(*name, spent);
        }
        budgets
    }

    async fn ask(&self, seed: u64, report: &Mutex<Report>) {
        let begun = Instant::now();
        let answer = self.picture(seed).await;
        let took = begun.elapsed().as_secs_f64();
        let mut report = report.lock().await;
        match answer {
            Ok((StatusCode::OK, file)) => {
                report.pictures += 1;
                report.latencies.push(took);
                if pixels(&file).as_ref() != self.references.get(&seed) {
                    report.wrong.push(format!("seed {seed}: another picture"));
                }
            }
            Ok((StatusCode::SERVICE_UNAVAILABLE, _)) => report.busy += 1,
            Ok((status, said)) => {
                let said = String::from_utf8_lossy(&said).into_owned();
                report.wrong.push(format!("seed {seed}: {status}: {said}"));
            }
            Err(error) => report.wrong.push(format!("seed {seed}: {error}")),
        }
    }

    async fn picture(&self, seed: u64) -> Result<(StatusCode, Vec<u8>), reqwest::Error> {
        let mut asked = body(seed, 4);
        if let Some(init) = &self.init {
            asked["image"] = init.as_str().into();
        }
        let request = self.client.post(self.url("/api/generate")).json(&asked);
        let answer = request.send().await?;
        Ok((answer.status(), answer.bytes().await?.to_vec()))
    }

    /// So many clients leave: some hang up on a stream, some on a plain request, some take a job
    /// back; at once, in the queue, and in the middle of steps.
    pub async fn cancel(self: &Arc<Self>, cancels: u64, at_once: usize) -> Cancels {
        let begun = Instant::now();
        let next = Arc::new(AtomicU64::new(0));
        let report = Arc::new(Mutex::new(Cancels::default()));
        let tasks: Vec<_> = (0..at_once)
            .map(|_| {
                let (stack, next, report) =
                    (Arc::clone(self), Arc::clone(&next), Arc::clone(&report));
                tokio::spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= cancels {
                            return;
                        }
                        let left = stack.leave(number).await;
                        let mut report = report.lock().await;
                        match left {
                            Ok(true) => report.cancels += 1,
                            Ok(false) => report.finished += 1,
                            Err(why) => report.wrong.push(why),
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        let mut report = std::mem::take(&mut *report.lock().await);
        report.seconds = begun.elapsed().as_secs_f64();
        self.settle(&mut report).await;
        report
    }

    /// Whether something was left to leave.
    async fn leave(&self, number: u64) -> Result<bool, String> {
        let text = |error: reqwest::Error| error.to_string();
        let asked = body(number % SEEDS, LONG);
        // From at once to several steps.
        let patience = Duration::from_millis(number * 7 % 60);
        if number.is_multiple_of(3) {
            let request = self.client.post(self.url("/api/jobs")).json(&asked);
            let answer = request.send().await.map_err(text)?;
            if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
                return Ok(false);
            }
            let job: Value = answer.json().await.map_err(text)?;
            let id = job["id"].as_str().ok_or_else(|| format!("no job: {job}"))?;
            time::sleep(patience).await;
            let path = format!("/api/jobs/{id}");
            let answer = self.client.delete(self.url(&path)).send().await.map_err(text)?;
            let job: Value = answer.json().await.map_err(text)?;
            return match job["status"].as_str() {
                Some("cancelled") => Ok(true),
                Some("done") => Ok(false),
                _ => Err(format!("a job that was cancelled is {job}")),
            };
        }
        let accept = if number % 3 == 1 { "text/event-stream" } else { "image/png" };
        let request = self.client.post(self.url("/api/generate")).header("accept", accept);
        let asking = async {
            let mut answer = request.json(&asked).send().await.map_err(text)?;
            while answer.chunk().await.map_err(text)?.is_some() {}
            Ok(())
        };
        match time::timeout(patience, asking).await {
            Err(_) => Ok(true),
            Ok(Ok(())) => Ok(false),
            Ok(Err(why)) => Err(why),
        }
    }

    /// Nothing may be left: no request, no work, and the next picture is the right one.
    async fn settle(&self, report: &mut Cancels) {
        let settled = async {
            loop {
                let health = self.client.get(self.url("/health")).send().await;
                let health: Value = match health {
                    Ok(answer) => answer.json().await.unwrap_or_default(),
                    Err(_) => Value::Null,
                };
                let idle = health["requests"]["running"] == 0
                    && health["diffusion"][0]["in_flight"] == 0
                    && health["encoders"][0]["backends"][0]["in_flight"] == 0;
                if idle {
                    return;
                }
                time::sleep(Duration::from_millis(50)).await;
            }
        };
        if time::timeout(Duration::from_secs(30), settled).await.is_err() {
            report.wrong.push("requests are still running".to_owned());
        }
        let used =
            || self.programs.iter().map(|(_, program)| program.processor_seconds()).sum::<f64>();
        let before = used();
        time::sleep(IDLE).await;
        report.idle_seconds = used() - before;
        match self.picture(1).await {
            Ok((StatusCode::OK, file)) if pixels(&file).as_ref() == self.references.get(&1) => {}
            other => report.wrong.push(format!("the picture after it: {:?}", other.map(|a| a.0))),
        }
    }

    fn url(&self, path: &str) -> String {
        let gateway = self.programs.last().map_or("", |(_, gateway)| &gateway.url);
        format!("{gateway}{path}")
    }

    /// Ends everything.
    ///
    /// # Panics
    /// When a program does not end well.
    pub fn stop(self) {
        for (name, program) in self.programs.into_iter().rev() {
            assert_eq!(program.stop(), Some(0), "{name}");
        }
    }
}

/// A PNG that does not compress, in base64.
fn init_image(side: u32) -> String {
    let mut state = 1u32;
    let image = RgbImage::from_fn(side, side, |_, _| {
        // Knuth's multiplier of 32 bits, as in `glibc`'s `rand`.
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let [_, red, green, blue] = state.to_le_bytes();
        image::Rgb([red, green, blue])
    });
    let mut file = std::io::Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Png).expect("a PNG");
    STANDARD.encode(file.into_inner())
}

/// MiB that a program has in memory; 0 where that is not told.
fn memory(program: &Process) -> f64 {
    program.memory().unwrap_or_default() as f64 / 1024.0
}
