//! A client that asks for images and jobs while others attack.

use std::time::{Duration, Instant};

use image::RgbImage;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::OnceCell, time};

use super::{
    PATIENCE,
    stack::{Setup, Stack},
};
use crate::faults::pixels;

/// Different images, so that a mixed-up one is noticed.
const SEEDS: u64 = 4;
/// Of quiet images, to have a time to compare with.
const ROUNDS: usize = 6;
const SIDE: u32 = 192;
const STEPS: u32 = 8;

/// What the client got.
#[derive(Debug, Default)]
pub(super) struct Honest {
    pub images: u64,
    pub jobs: u64,
    /// Seconds of an image without an attack: the median.
    pub quiet: f64,
    /// Seconds of the slowest image during the attack.
    pub slowest: f64,
    pub wrong: Vec<String>,
}

pub(super) struct HonestClient {
    client: Client,
    url: String,
    references: &'static [RgbImage],
    quiet: f64,
}

/// Images of programs that nobody attacks, by seed.
static REFERENCES: OnceCell<Vec<RgbImage>> = OnceCell::const_new();

async fn references() -> Vec<RgbImage> {
    let stack = Stack::start(&Setup::default());
    let client = HonestClient {
        client: crate::http(),
        url: stack.gateway.url.clone(),
        references: &[],
        quiet: 0.0,
    };
    let mut references = Vec::new();
    for seed in 0..SEEDS {
        let file = client.generate(seed).await.expect("nobody attacks");
        references.push(pixels(&file).expect("an image"));
    }
    references
}

impl HonestClient {
    /// A client of a gateway that is under attack from the start.
    ///
    /// # Panics
    ///
    /// When images cannot be had even though nobody attacks.
    pub async fn new(gateway: &str) -> Self {
        let references = REFERENCES.get_or_init(references).await;
        Self { client: crate::http(), url: gateway.to_owned(), references, quiet: 0.0 }
    }

    /// Likewise, of a gateway that nobody attacks yet: measures how long an image takes.
    ///
    /// # Panics
    ///
    /// When images cannot be had even though nobody attacks.
    pub async fn measured(gateway: &str) -> Self {
        let mut client = Self::new(gateway).await;
        let mut times = Vec::new();
        for seed in 0..ROUNDS as u64 {
            let begun = Instant::now();
            client.generate(seed % SEEDS).await.expect("nobody attacks yet");
            times.push(begun.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        client.quiet = times[ROUNDS / 2];
        client
    }

    /// Asks for so many images, and as many jobs.
    pub async fn rounds(&self, count: usize) -> Honest {
        let mut report = Honest::default();
        for seed in 0..count as u64 {
            self.round(seed % SEEDS, &mut report).await;
        }
        report
    }

    /// Asks for images and jobs until `attack` is over, and then for two more.
    pub async fn beside<T>(&self, attack: impl Future<Output = T>) -> (T, Honest) {
        let mut report = Honest { quiet: self.quiet, ..Honest::default() };
        let mut seeds = (0..SEEDS).cycle();
        let mut next = || seeds.next().unwrap_or_default();
        tokio::pin!(attack);
        let result = loop {
            tokio::select! {
                biased;
                result = &mut attack => break result,
                () = self.round(next(), &mut report) => {}
            }
        };
        self.round(next(), &mut report).await;
        self.round(next(), &mut report).await;
        (result, report)
    }

    /// One image and one job.
    async fn round(&self, seed: u64, report: &mut Honest) {
        let begun = Instant::now();
        let image = time::timeout(PATIENCE, self.generate(seed)).await;
        let image = image.unwrap_or_else(|_| Err("no image within a minute".to_owned()));
        report.slowest = report.slowest.max(begun.elapsed().as_secs_f64());
        match image {
            Ok(file) if pixels(&file).as_ref() == Some(&self.references[seed as usize]) => {
                report.images += 1;
            }
            Ok(_) => report.wrong.push(format!("another image than that of seed {seed}")),
            Err(why) => report.wrong.push(why),
        }
        let job = time::timeout(PATIENCE, self.job(seed)).await;
        match job.unwrap_or_else(|_| Err("no job within a minute".to_owned())) {
            Ok(file) if pixels(&file).as_ref() == Some(&self.references[seed as usize]) => {
                report.jobs += 1;
            }
            Ok(_) => report.wrong.push(format!("a job with another image than seed {seed}")),
            Err(why) => report.wrong.push(format!("job: {why}")),
        }
    }

    fn body(seed: u64) -> Value {
        let prompt = format!("a red apple, number {seed}");
        json!({"prompt": prompt, "seed": seed, "width": SIDE, "height": SIDE, "steps": STEPS})
    }

    async fn generate(&self, seed: u64) -> Result<Vec<u8>, String> {
        let request = self.client.post(format!("{}/api/generate", self.url));
        let answer = request.json(&Self::body(seed)).send().await.map_err(|e| chain(&e))?;
        success(answer).await
    }

    /// The image of a job, when it is done.
    async fn job(&self, seed: u64) -> Result<Vec<u8>, String> {
        let request = self.client.post(format!("{}/api/jobs", self.url));
        let answer = request.json(&Self::body(seed)).send().await.map_err(|e| chain(&e))?;
        let job: Value = serde_json::from_slice(&success(answer).await?).unwrap_or_default();
        let id = job["id"].as_str().unwrap_or_default().to_owned();
        loop {
            let job: Value = self.json(&format!("/api/jobs/{id}")).await?;
            match job["status"].as_str() {
                Some("queued" | "running") => time::sleep(Duration::from_millis(10)).await,
                Some("done") => {
                    let path = job["result"]["image_url"].as_str().unwrap_or_default();
                    return self.get(path).await;
                }
                _ => return Err(format!("lost: {job}")),
            }
        }
    }

    /// Of the gateway, as JSON.
    pub async fn json(&self, path: &str) -> Result<Value, String> {
        serde_json::from_slice(&self.get(path).await?).map_err(|e| e.to_string())
    }

    async fn get(&self, path: &str) -> Result<Vec<u8>, String> {
        let answer = self.client.get(format!("{}{path}", self.url)).send().await;
        success(answer.map_err(|e| chain(&e))?).await
    }
}

async fn success(answer: reqwest::Response) -> Result<Vec<u8>, String> {
    let status = answer.status();
    let body = answer.bytes().await.map_err(|e| chain(&e))?;
    if status == StatusCode::OK || status == StatusCode::ACCEPTED {
        return Ok(body.to_vec());
    }
    Err(format!("{status}: {}", String::from_utf8_lossy(&body)))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
