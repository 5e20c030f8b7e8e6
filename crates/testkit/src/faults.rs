//! A run in which every program is killed again and again while clients go on asking.
//!
//! What is promised, and counted here: a job that was accepted ends, as what it should, and leaves
//! one picture; every picture is that of the seed that was asked for, pixel for pixel; and a client
//! hears of no error but those that are declared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use image::RgbImage;
use llm_dit_serving::{client, security::ClientTls};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time};

use crate::{process::Process, repository};

/// More than requests that are under way, so that each has its own.
const SEEDS: u64 = 32;
const PROMPTS: [&str; 4] = ["a red apple", "a fox", "a rocket", "a house by the sea"];
/// Of each picture.
const STEPS: u32 = 4;
/// Which of the jobs is cancelled.
const CANCEL_EVERY: u64 = 7;
/// Answers between two kills, unless none come for so long.
const ANSWERS: u64 = 6;
const PATIENCE: Duration = Duration::from_secs(20);
/// No job takes longer when nothing is killed any more.
const LAST_JOBS: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of each program.
    pub kills: u64,
    /// Clients that ask and wait for the answer.
    pub waiting: u64,
    /// Clients that make jobs.
    pub jobs: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    pub seconds: f64,
    /// By program.
    pub kills: BTreeMap<&'static str, u64>,
    pub pictures: u64,
    pub accepted: u64,
    pub done: u64,
    pub cancelled: u64,
    /// Over before they could be cancelled, so that they were taken away.
    pub removed: u64,
    /// Errors of the declared kinds, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Broken rules.
    pub lost: Vec<String>,
    pub wrong: Vec<String>,
    pub duplicates: Vec<String>,
    pub undeclared: Vec<String>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        [&self.lost, &self.wrong, &self.duplicates, &self.undeclared].iter().all(|l| l.is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:44} {value:>8}");
        row("seconds", &format!("{:.0}", self.seconds))?;
        for (name, kills) in &self.kills {
            row(&format!("kill -9 of {name}"), kills)?;
        }
        row("pictures answered at once", &self.pictures)?;
        row("jobs accepted", &self.accepted)?;
        row("  done, with their picture", &self.done)?;
        row("  cancelled, and still so", &self.cancelled)?;
        row("  over before that, and removed", &self.removed)?;
        for (kind, count) in &self.errors {
            row(&format!("error: {kind}"), count)?;
        }
        for (name, list) in [
            ("accepted jobs lost", &self.lost),
            ("pictures of another request", &self.wrong),
            ("pictures stored twice", &self.duplicates),
            ("errors of no declared kind", &self.undeclared),
        ] {
            row(name, &list.len())?;
        }
        for line in self.lost.iter().chain(&self.wrong).chain(&self.duplicates) {
            writeln!(f, "  {line}")?;
        }
        self.undeclared.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// A program that comes back at the same place.
struct Service {
    name: &'static str,
    program: &'static str,
    args: Vec<String>,
    process: Option<Process>,
}

/// What all clients share.
struct Load {
    url: String,
    client: Client,
    next: AtomicU64,
    next_job: AtomicU64,
    /// Fresh, by seed, from before anything was killed.
    references: BTreeMap<u64, RgbImage>,
    gateway_is_up: AtomicBool,
    gateway_kills: AtomicU64,
    answers: AtomicU64,
    over: AtomicBool,
    /// How jobs ended, by id.
    ended: Mutex<BTreeMap<String, Value>>,
    report: Mutex<Report>,
}

/// What became of a wish to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancelled {
    Yes,
    /// It was over.
    No,
    /// It was over, and `DELETE` then takes it away.
    Removed,
}

/// Starts everything, kills it by the plan, and counts.
///
/// # Panics
/// When a program does not start, or does not end as it should.
pub async fn run(plan: Plan) -> Report {
    let begun = Instant::now();
    let folder = tempfile::tempdir().expect("a folder");
    let mut services = services(folder.path());
    let mut load = Load::new(services[GATEWAY].url().to_owned());
    for seed in 0..SEEDS {
        let file = load.generate(seed).await.expect("nothing is wrong yet");
        load.references.insert(seed, pixels(&file).expect("a picture"));
    }
    let load = Arc::new(load);
    let waiting = (0..plan.waiting).map(|_| tokio::spawn(Arc::clone(&load).wait_for_answers()));
    let jobs = (0..plan.jobs).map(|_| tokio::spawn(Arc::clone(&load).make_jobs()));
    let clients: Vec<_> = waiting.chain(jobs).collect();
    for round in 0..plan.kills {
        for (at, service) in services.iter_mut().enumerate() {
            load.answers_come().await;
            // Not always at the same moment of a picture.
            time::sleep(Duration::from_millis(round * 37 % 200)).await;
            load.kill(service, at == GATEWAY).await;
        }
    }
    load.answers_come().await;
    load.over.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("no panic");
    }
    load.check_again().await;
    load.count_duplicates().await;
    for service in services.into_iter().rev() {
        let ended = service.process.map(Process::stop);
        assert_eq!(ended, Some(Some(0)), "{} ends well when it is asked to", service.name);
    }
    let mut report = std::mem::take(&mut *load.report.lock().await);
    report.seconds = begun.elapsed().as_secs_f64();
    report
}

/// Where [`services`] has the gateway.
const GATEWAY: usize = 3;

fn services(folder: &Path) -> Vec<Service> {
    let text = |path: &Path| path.to_str().expect("a path of text").to_owned();
    let model = vec!["--model-path".to_owned(), text(&repository("models/demo"))];
    let mut services = vec![
        Service::start("encoder", "encoder-service", model.clone()),
        Service::start("diffusion 1", "diffusion-service", model.clone()),
        Service::start("diffusion 2", "diffusion-service", model),
    ];
    let [encoder, first, second] = [0, 1, 2].map(|at| services[at].url().to_owned());
    let args = ["--encoder", &encoder, "--diffusion", &format!("{first},{second}")];
    let keep = ["--history", &text(folder), "--history-max", "1000000", "--jobs-max", "1000000"];
    // The services are killed whatever the jobs are.
    let patient = ["--job-attempts", "1000", "--job-crashes", "1000"];
    let args = args.iter().chain(&keep).chain(&patient).map(|arg| (*arg).to_owned()).collect();
    services.push(Service::start("gateway", "gateway", args));
    services
}

impl Service {
    fn start(name: &'static str, program: &'static str, args: Vec<String>) -> Self {
        let mut service = Self { name, program, args, process: None };
        service.process = Some(service.begin("0"));
        service
    }

    fn begin(&self, port: &str) -> Process {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        Process::start_at(self.program, port, &args)
    }

    fn url(&self) -> &str {
        self.process.as_ref().map_or("", |process| &process.url)
    }
}

impl Load {
    fn new(url: String) -> Self {
        // A connection of its own for each request: none outlives a gateway.
        let client = client::http(&url, &ClientTls::default()).expect("nothing to read");
        let client = client.pool_max_idle_per_host(0).timeout(LAST_JOBS).build();
        Self {
            url,
            client: client.expect("a client"),
            next: AtomicU64::new(0),
            next_job: AtomicU64::new(1),
            references: BTreeMap::new(),
            gateway_is_up: AtomicBool::new(true),
            gateway_kills: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            over: AtomicBool::new(false),
            ended: Mutex::default(),
            report: Mutex::default(),
        }
    }

    async fn kill(&self, service: &mut Service, is_gateway: bool) {
        let Some(process) = service.process.take() else { return };
        let port = process.port().to_owned();
        if is_gateway {
            self.gateway_is_up.store(false, Ordering::SeqCst);
            self.gateway_kills.fetch_add(1, Ordering::SeqCst);
        }
        process.kill();
        *self.report.lock().await.kills.entry(service.name).or_default() += 1;
        // Long enough for others to find it missing.
        time::sleep(Duration::from_millis(300)).await;
        service.process = Some(tokio::task::block_in_place(|| service.begin(&port)));
        if is_gateway {
            self.gateway_is_up.store(true, Ordering::SeqCst);
        }
    }

    /// Waits until clients have had answers again.
    async fn answers_come(&self) {
        let enough = self.answers.load(Ordering::SeqCst) + ANSWERS;
        let come = async {
            while self.answers.load(Ordering::SeqCst) < enough {
                time::sleep(Duration::from_millis(10)).await;
            }
        };
        // The load may be such that all wait for the one that is away.
        let _ = time::timeout(PATIENCE, come).await;
    }

    fn seed(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst) % SEEDS
    }

    async fn wait_for_answers(self: Arc<Self>) {
        while !self.over.load(Ordering::SeqCst) {
            let seed = self.seed();
            let before = self.gateway_kills.load(Ordering::SeqCst);
            match self.generate(seed).await {
                Ok(file) => {
                    self.answers.fetch_add(1, Ordering::SeqCst);
                    self.report.lock().await.pictures += 1;
                    self.compare(seed, &file, "an answer").await;
                }
                Err(error) => {
                    self.judge(error, before).await;
                    time::sleep(POLL).await;
                }
            }
        }
    }

    async fn generate(&self, seed: u64) -> Result<Vec<u8>, Trouble> {
        let request = self.client.post(format!("{}/api/generate", self.url));
        let response = request.json(&body(seed, STEPS)).send().await?;
        Ok(Trouble::of(response).await?.bytes().await?.to_vec())
    }

    async fn make_jobs(self: Arc<Self>) {
        while !self.over.load(Ordering::SeqCst) {
            let (number, seed) = (self.next_job.fetch_add(1, Ordering::SeqCst), self.seed());
            let Some(job) = self.accepted(number, seed).await else { continue };
            self.report.lock().await.accepted += 1;
            let cancelled = if number.is_multiple_of(CANCEL_EVERY) {
                self.cancel(&job).await
            } else {
                Cancelled::No
            };
            if cancelled == Cancelled::Removed {
                self.report.lock().await.removed += 1;
                continue;
            }
            match self.end(&job).await {
                Ok(job) => self.check_job(number, seed, cancelled == Cancelled::Yes, &job).await,
                Err(why) => self.report.lock().await.lost.push(format!("job {number}: {why}")),
            }
        }
    }

    /// The path of a job that was accepted, perhaps with an answer that got lost.
    async fn accepted(&self, number: u64, seed: u64) -> Option<String> {
        let mut body = body(seed, STEPS);
        // Of no effect without guidance, but kept with the picture.
        body["negative_prompt"] = json!(Self::mark(number));
        loop {
            let before = self.gateway_kills.load(Ordering::SeqCst);
            let request = self.client.post(format!("{}/api/jobs", self.url)).json(&body);
            let asked = async {
                let request = request.header("idempotency-key", Self::mark(number));
                Ok(Trouble::of(request.send().await?).await?.json::<Value>().await?)
            };
            match asked.await {
                Ok(job) => return Some(format!("/api/jobs/{}", job["id"].as_str()?)),
                Err(error) => self.judge(error, before).await,
            }
            if self.over.load(Ordering::SeqCst) {
                return None;
            }
            time::sleep(POLL).await;
        }
    }

    async fn cancel(&self, job: &str) -> Cancelled {
        let mut asked = false;
        loop {
            let before = self.gateway_kills.load(Ordering::SeqCst);
            let now = async {
                let response = self.client.get(format!("{}{job}", self.url)).send().await?;
                let now: Value = Trouble::of(response).await?.json().await?;
                if is_over(&now) {
                    return Ok((now, false));
                }
                asked = true;
                let response = self.client.delete(format!("{}{job}", self.url)).send().await?;
                Ok((Trouble::of(response).await?.json().await?, true))
            };
            match now.await {
                Ok((now, _)) if now["status"] == "cancelled" => return Cancelled::Yes,
                Ok((_, true)) => return Cancelled::Removed,
                Ok((_, false)) => return Cancelled::No,
                // The answer to that got lost.
                Err(Trouble::Status(StatusCode::NOT_FOUND, _)) if asked => {
                    return Cancelled::Removed;
                }
                Err(error) => self.judge(error, before).await,
            }
            time::sleep(POLL).await;
        }
    }

    /// The job when it is over.
    async fn end(&self, job: &str) -> Result<Value, String> {
        let mut last = Instant::now();
        loop {
            let before = self.gateway_kills.load(Ordering::SeqCst);
            let now = async {
                let response = self.client.get(format!("{}{job}", self.url)).send().await?;
                Ok(Trouble::of(response).await?.json::<Value>().await?)
            };
            match now.await {
                Ok(now) if is_over(&now) => return Ok(now),
                Ok(_) => {}
                Err(Trouble::Status(StatusCode::NOT_FOUND, why)) => return Err(why),
                Err(error) => self.judge(error, before).await,
            }
            if !self.over.load(Ordering::SeqCst) {
                last = Instant::now();
            } else if last.elapsed() > LAST_JOBS {
                return Err("it did not end".to_owned());
            }
            time::sleep(POLL).await;
        }
    }

    async fn check_job(&self, number: u64, seed: u64, cancelled: bool, job: &Value) {
        self.answers.fetch_add(1, Ordering::SeqCst);
        let id = job["id"].as_str().unwrap_or_default().to_owned();
        self.ended.lock().await.insert(id, job["status"].clone());
        if cancelled || job["status"] != "done" {
            let mut report = self.report.lock().await;
            if cancelled && job["status"] == "cancelled" {
                report.cancelled += 1;
            } else {
                report.lost.push(format!("job {number}, cancelled {cancelled}: {job}"));
            }
            return;
        }
        let path = job["result"]["image_url"].as_str().unwrap_or_default();
        let file = loop {
            let before = self.gateway_kills.load(Ordering::SeqCst);
            let file = async {
                let response = self.client.get(format!("{}{path}", self.url)).send().await?;
                Ok(Trouble::of(response).await?.bytes().await?)
            };
            match file.await {
                Ok(file) => break file,
                Err(Trouble::Status(StatusCode::NOT_FOUND | StatusCode::GONE, why)) => {
                    return self.report.lock().await.lost.push(format!("job {number}: {why}"));
                }
                Err(error) => self.judge(error, before).await,
            }
            time::sleep(POLL).await;
        };
        self.report.lock().await.done += 1;
        self.compare(seed, &file, &Self::mark(number)).await;
    }

    async fn compare(&self, seed: u64, file: &[u8], whose: &str) {
        if pixels(file).as_ref() != self.references.get(&seed) {
            self.report.lock().await.wrong.push(format!("{whose} is not the picture of {seed}"));
        }
    }

    /// Counts an error under its kind, if it is one that clients must expect.
    async fn judge(&self, error: Trouble, gateway_kills_before: u64) {
        let gateway_fell = !self.gateway_is_up.load(Ordering::SeqCst)
            || self.gateway_kills.load(Ordering::SeqCst) != gateway_kills_before;
        let mut report = self.report.lock().await;
        let kind = match &error {
            Trouble::Status(StatusCode::BAD_GATEWAY, _) => "502 service lost",
            Trouble::Status(StatusCode::SERVICE_UNAVAILABLE, _) => "503 unavailable or busy",
            Trouble::Connection(_) if gateway_fell => "no gateway",
            Trouble::Connection(error) => return report.undeclared.push(error.to_string()),
            Trouble::Status(status, said) => {
                return report.undeclared.push(format!("{status}: {said}"));
            }
        };
        *report.errors.entry(kind.to_owned()).or_default() += 1;
    }

    /// Looks whether jobs are what they were when they ended.
    async fn check_again(&self) {
        let jobs = self.client.get(format!("{}/api/jobs", self.url)).send().await;
        let jobs: Value = jobs.expect("nothing is killed any more").json().await.expect("JSON");
        let jobs = jobs["jobs"].as_array().expect("an array");
        let now: BTreeMap<_, _> = jobs.iter().map(|job| (job["id"].as_str(), job)).collect();
        for (id, ended) in &*self.ended.lock().await {
            let now = now.get(&Some(id.as_str())).map(|job| &job["status"]);
            if now != Some(ended) {
                self.report.lock().await.lost.push(format!("{id} was {ended}, is now {now:?}"));
            }
        }
    }

    /// Looks for pictures of one job in the history.
    async fn count_duplicates(&self) {
        let (mut seen, mut before) = (BTreeSet::new(), u64::MAX >> 1);
        loop {
            let url = format!("{}/api/history?limit=200&before={before}", self.url);
            let page = self.client.get(url).send().await.expect("nothing is killed any more");
            let page: Value = page.json().await.expect("JSON");
            let entries = page["history"].as_array().expect("an array");
            for entry in entries {
                let mark = entry["parameters"]["negative_prompt"].as_str().unwrap_or_default();
                if !mark.is_empty() && !seen.insert(mark.to_owned()) {
                    self.report.lock().await.duplicates.push(mark.to_owned());
                }
            }
            match entries.last().and_then(|entry| entry["id"].as_u64()) {
                Some(oldest) => before = oldest,
                None => return,
            }
        }
    }

    fn mark(number: u64) -> String {
        format!("job {number}")
    }
}

/// Why there is no answer.
#[derive(Debug)]
enum Trouble {
    Connection(reqwest::Error),
    /// With the problem's words.
    Status(StatusCode, String),
}

impl From<reqwest::Error> for Trouble {
    fn from(error: reqwest::Error) -> Self {
        Self::Connection(error)
    }
}

impl Trouble {
    /// The response, if it is no problem.
    async fn of(response: reqwest::Response) -> Result<reqwest::Response, Self> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(Self::Status(status, response.text().await?))
    }
}

fn is_over(job: &Value) -> bool {
    !matches!(job["status"].as_str(), Some("queued" | "running"))
}

/// A small picture, whose seed says which.
pub(crate) fn body(seed: u64, steps: u32) -> Value {
    let prompt = PROMPTS[(seed % PROMPTS.len() as u64) as usize];
    json!({"prompt": prompt, "seed": seed, "width": 64, "height": 64, "steps": steps})
}

pub(crate) fn pixels(file: &[u8]) -> Option<RgbImage> {
    image::load_from_memory(file).ok().map(image::DynamicImage::into_rgb8)
}
