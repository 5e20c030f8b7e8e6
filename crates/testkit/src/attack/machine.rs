//! A machine that fails: memory, disk, descriptors, clock and names.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time};

use super::{
    Outcome, PATIENCE, Plan,
    honest::{Honest, HonestClient},
    stack::{Setup, Stack, is_alive},
};
use crate::{process::Process, repository};

/// Address space of a service that is to run out of memory, in KiB.
const LITTLE: u64 = 700_000;
/// Services before the gateway; a job may cost at most two of them.
const SERVICES: usize = 4;
/// Longer than the time between two look-ups of a name.
const LOOKED_UP: Duration = Duration::from_secs(20);
/// Processor time, in seconds, of a gateway that cannot open files for [`WATCHED`].
const BUSY: f64 = 1.0;
const WATCHED: Duration = Duration::from_secs(3);

/// A job that takes more memory than the machine has, which ends the service that runs it.
pub(super) async fn poison(_: &Plan) -> Outcome {
    let stack = Stack::start(&Setup {
        diffusion: SERVICES,
        diffusion_shell: Some(format!("ulimit -v {LITTLE}")),
        ..Setup::default()
    });
    let client = crate::http();
    let url = format!("{}/api/jobs", stack.gateway.url);
    let body = json!({"prompt": "x", "width": 2048, "height": 2048, "steps": 1});
    let attack = async {
        let answer = client.post(&url).json(&body).send().await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let job: Value = answer.json().await.map_err(|e| e.to_string())?;
        let Some(id) = job["id"].as_str() else { return Ok(format!("{status}: {job}")) };
        loop {
            let job: Value = client
                .get(format!("{url}/{id}"))
                .send()
                .await
                .map_err(|e| e.to_string())?
                .json()
                .await
                .map_err(|e| e.to_string())?;
            match job["status"].as_str() {
                Some("queued" | "running") => time::sleep(Duration::from_millis(50)).await,
                Some("failed") => return Ok(job["error"]["detail"].to_string()),
                _ => return Err(format!("it ended as {job}")),
            }
        }
    };
    let ended = time::timeout(PATIENCE, attack).await;
    let dead = stack.diffusion.iter().filter(|process| !is_alive(process)).count();
    let mut broken = Vec::new();
    let said = match ended {
        Ok(Ok(said)) => said,
        Ok(Err(why)) => {
            broken.push(why.clone());
            why
        }
        Err(_) => {
            broken.push("the job has not ended after a minute".to_owned());
            String::new()
        }
    };
    if dead > 2 {
        broken.push(format!("{dead} services died"));
    }
    // Those that live do their work.
    let honest = HonestClient::new(&stack.gateway.url).await.rounds(2).await;
    let said: String = said.chars().take(160).collect();
    let seen = format!("{dead} of {SERVICES} services died; {said}");
    Outcome { honest, seen, broken, ..Outcome::default() }
}

/// No byte more can be stored while jobs and requests go on.
pub(super) async fn full_disk(_: &Plan) -> Outcome {
    let most = 8;
    let mut stack = Stack::start(&Setup {
        gateway_args: vec!["--max-requests".to_owned(), most.to_string()],
        // A file that grows past the limit would end the process.
        gateway_shell: Some("trap '' XFSZ".to_owned()),
        ..Setup::default()
    });
    let honest = HonestClient::measured(&stack.gateway.url).await;
    stack.watch_memory();
    let client = crate::http();
    let url = |path: &str| format!("{}{path}", stack.gateway.url);
    // As many jobs as there may be requests are accepted, and end while nothing can be stored.
    let body = json!({"prompt": "x", "width": 128, "height": 128, "steps": 20});
    let jobs = join_all((0..most).map(|_| async {
        let answer = client.post(url("/api/jobs")).json(&body).send().await.ok()?;
        let job: Value = answer.json().await.ok()?;
        Some(job["id"].as_str()?.to_owned())
    }))
    .await;
    if !limit_files(&stack.gateway, "1") {
        return Outcome::skipped("prlimit is not there");
    }
    let mut broken = Vec::new();
    let accepted: Vec<String> = jobs.into_iter().flatten().collect();
    let ended = join_all(accepted.iter().map(|id| ended(&client, url(&format!("/api/jobs/{id}")))));
    for job in ended.await {
        if job["status"] != "done" {
            broken.push(format!("a job: {job}"));
        }
    }
    let mut images = 0;
    for seed in 0..4 {
        let body = json!({"prompt": "x", "seed": seed, "width": 64, "height": 64, "steps": 1});
        match client.post(url("/api/generate")).json(&body).send().await {
            Ok(answer) if answer.status().is_success() => images += 1,
            Ok(answer) => {
                broken.push(format!("a request: {}", answer.text().await.unwrap_or_default()))
            }
            Err(error) => broken.push(error.to_string()),
        }
    }
    let health = honest.json("/health").await.unwrap_or_default();
    if health["history"]["status"] != "failing" {
        broken.push(format!("/health says of the history {}", health["history"]));
    }
    limit_files(&stack.gateway, "unlimited");
    // All of them are stored now.
    let stored = async {
        for id in &accepted {
            while
                ended_once(&client, &url(&format!("/api/jobs/{id}"))).await["result"]["history_id"]
                    .is_null()
            {
                time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    if time::timeout(PATIENCE, stored).await.is_err() {
        broken.push("some jobs were not stored when there was room again".to_owned());
    }
    let ((), honest) = honest.beside(async {}).await;
    let seen = format!("{} jobs done, {images} of 4 images answered", accepted.len());
    Outcome { honest, memory: stack.memory(), seen, broken, ..Outcome::default() }
}

/// Programs that may open 64 files, and more clients than that.
pub(super) async fn descriptors(_: &Plan) -> Outcome {
    let few = Some("ulimit -n 64".to_owned());
    let mut stack = Stack::start(&Setup {
        gateway_shell: few.clone(),
        diffusion_shell: few,
        ..Setup::default()
    });
    let honest = HonestClient::measured(&stack.gateway.url).await;
    stack.watch_memory();
    let mut held = Vec::new();
    for url in [&stack.gateway.url, &stack.diffusion[0].url] {
        for _ in 0..150 {
            held.extend(TcpStream::connect(url.trim_start_matches("http://")).await);
        }
    }
    let before = [stack.gateway.processor_seconds(), stack.diffusion[0].processor_seconds()];
    time::sleep(WATCHED).await;
    let mut broken = Vec::new();
    let used = [stack.gateway.processor_seconds(), stack.diffusion[0].processor_seconds()];
    let used: Vec<f64> = used.iter().zip(before).map(|(now, before)| now - before).collect();
    if used.iter().any(|&seconds| seconds > BUSY) {
        broken.push(format!("processor seconds without work: {used:?}"));
    }
    let opened = held.len();
    // The honest client has a connection; those of others that say nothing are ended by and by.
    let ((), honest) = honest.beside(async {}).await;
    drop(held);
    let (gateway, diffusion) = (used[0], used[1]);
    let seconds = WATCHED.as_secs();
    let seen = format!(
        "{opened} connections; {gateway:.2} and {diffusion:.2} s of processor time in {seconds} s"
    );
    Outcome { honest, memory: stack.memory(), seen, broken, ..Outcome::default() }
}

/// The wall clock of all programs jumps by a day, forwards and backwards, during requests.
pub(super) async fn clock(_: &Plan) -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, library) = (folder.path().join("clock.c"), folder.path().join("clock.so"));
    let offset = folder.path().join("offset");
    fs::write(&source, CLOCK).expect("room");
    fs::write(&offset, 0i64.to_ne_bytes()).expect("room");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .status();
    if !built.is_ok_and(|status| status.success()) {
        return Outcome::skipped("there is no C compiler that makes a library to preload");
    }
    let shell = format!(
        "export LD_PRELOAD='{}' ATTACK_CLOCK_OFFSET='{}'",
        library.display(),
        offset.display()
    );
    let mut stack = Stack::start(&Setup {
        gateway_shell: Some(shell.clone()),
        diffusion_shell: Some(shell),
        ..Setup::default()
    });
    let honest = HonestClient::measured(&stack.gateway.url).await;
    stack.watch_memory();
    let day = 24 * 3600_i64;
    let steps = [day, -day, 0, 365 * day, -365 * day, 0];
    let attack = async {
        for step in steps {
            fs::write(&offset, step.to_ne_bytes()).expect("room");
            time::sleep(Duration::from_millis(700)).await;
        }
    };
    let ((), honest) = honest.beside(attack).await;
    let mut broken = Vec::new();
    let listed = crate::http().get(format!("{}/api/history", stack.gateway.url)).send().await;
    if !listed.is_ok_and(|answer| answer.status().is_success()) {
        broken.push("the history cannot be listed".to_owned());
    }
    let seen = format!("{} steps of up to a year", steps.len());
    Outcome { honest, memory: stack.memory(), seen, broken, ..Outcome::default() }
}

/// A name with two addresses cannot be looked up for a time, and then has two other addresses while
/// nothing answers at the old ones. Likewise one that is unknown when the gateway starts.
pub(super) async fn names(_: &Plan) -> Outcome {
    // In a namespace of its own, the program sees this file in place of the system's.
    let allowed = Command::new("unshare").args(["-rm", "true"]).stderr(Stdio::null()).status();
    if !allowed.is_ok_and(|status| status.success()) {
        return Outcome::skipped("this system allows no mount namespaces");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let hosts = folder.path().join("hosts");
    let write = |addresses: &[&Process]| {
        let lines = addresses.iter().filter_map(|process| {
            let address = process.url.trim_start_matches("http://").split(':').next()?;
            Some(format!("{address} gpus.internal\n"))
        });
        fs::write(&hosts, format!("127.0.0.1 localhost\n{}", lines.collect::<String>()))
    };
    write(&[]).expect("room");
    let service = |host: &str, port: &str| {
        let model = repository("models/demo");
        let model = model.to_str().expect("a path of text");
        let args = ["--model-path", model, "--host", host];
        Process::start_at("diffusion-service", port, &args)
    };
    let first = service("127.0.0.2", "0");
    let port = first.port().to_owned();
    let old = [first, service("127.0.0.3", &port)];
    let new = [service("127.0.0.4", &port), service("127.0.0.5", &port)];
    let setup = Setup {
        diffusion: 0,
        false_diffusion: vec![format!("http://gpus.internal:{port}")],
        gateway_shell: Some(format!(
            "exec unshare -rm sh -c 'mount --bind \"{}\" /etc/hosts && exec \"$0\" \"$@\"' \"$0\" \"$@\"",
            hosts.display()
        )),
        ..Setup::default()
    };
    let early = Stack::start(&setup);
    write(&[&old[0], &old[1]]).expect("room");
    let late = Stack::start(&setup);
    let mut broken = Vec::new();
    let mut seen = Vec::new();
    let mut honest = Honest::default();
    let mut found = async |what: &str| {
        for (whose, stack) in [("early", &early), ("late", &late)] {
            let client = HonestClient::new(&stack.gateway.url).await;
            let begun = Instant::now();
            let image = async {
                loop {
                    let round = client.rounds(1).await;
                    if round.wrong.is_empty() {
                        break round;
                    }
                    time::sleep(Duration::from_millis(200)).await;
                }
            };
            match time::timeout(PATIENCE, image).await {
                Ok(round) => {
                    honest.images += round.images;
                    honest.jobs += round.jobs;
                    seen.push(format!("{what} after {:.0} s", begun.elapsed().as_secs_f64()));
                }
                Err(_) => broken.push(format!("{whose} gateway, {what}: no image within a minute")),
            }
        }
    };
    found("found").await;
    write(&[]).expect("room");
    // The gateway looks up the names again within this time.
    time::sleep(LOOKED_UP).await;
    found("kept").await;
    drop(old);
    write(&[&new[0], &new[1]]).expect("room");
    found("found elsewhere").await;
    Outcome { honest, seen: seen.join(", "), broken, ..Outcome::default() }
}

/// Sets the largest size of a file that the program may write.
fn limit_files(process: &Process, bytes: &str) -> bool {
    let limit = ["--pid", &process.id(), &format!("--fsize={bytes}:")];
    Command::new("prlimit").args(limit).status().is_ok_and(|status| status.success())
}

async fn ended(client: &reqwest::Client, url: String) -> Value {
    loop {
        let job = ended_once(client, &url).await;
        if !matches!(job["status"].as_str(), Some("queued" | "running")) {
            return job;
        }
        time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ended_once(client: &reqwest::Client, url: &str) -> Value {
    match client.get(url).send().await {
        Ok(answer) => answer.json().await.unwrap_or_default(),
        Err(error) => json!({"status": error.to_string()}),
    }
}

/// `CLOCK_REALTIME` of a program that loads this is off by as many seconds as a file says.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int64_t offset(void) {
    int64_t seconds = 0;
    const char *path = getenv("ATTACK_CLOCK_OFFSET");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        if (read(file, &seconds, sizeof seconds) != sizeof seconds) seconds = 0;
        close(file);
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME) time->tv_sec += offset();
    return result;
}
"#;
