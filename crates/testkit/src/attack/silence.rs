//! Peers that say nothing, or next to nothing.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

use super::{
    Outcome, PATIENCE, Plan,
    honest::HonestClient,
    stack::{Setup, Stack, signal},
};

/// Of requests beside a service that hangs.
const REQUESTS: usize = 12;
/// A service that hangs is noticed within the time of two health checks.
const NOTICED: Duration = Duration::from_secs(10);

/// More connections than a port takes, which send nothing: they must be gone after a time, so that
/// other clients find a place.
pub(super) async fn sockets(plan: &Plan) -> Outcome {
    let limit = plan.count(512, 32);
    let setup = Setup {
        gateway_args: vec!["--max-connections".to_owned(), limit.to_string()],
        ..Setup::default()
    };
    let mut stack = Stack::start(&setup);
    let honest = HonestClient::measured(&stack.gateway.url).await;
    stack.watch_memory();
    let addresses = [&stack.gateway.url, &stack.diffusion[0].url, &stack.encoders[0].url]
        .map(|url| url.trim_start_matches("http://").to_owned());
    let begun = Instant::now();
    let mut held = Vec::new();
    for address in &addresses {
        for _ in 0..plan.count(1000, 40) {
            held.extend(TcpStream::connect(address).await);
        }
    }
    let opened = held.len();
    let attack = async {
        // Every one must be closed by the other side.
        let closed = join_all(held.into_iter().map(|mut stream| async move {
            let mut byte = [0; 256];
            // A server may say something, such as its settings, before it closes.
            time::timeout(PATIENCE, async {
                while stream.read(&mut byte).await.is_ok_and(|n| n > 0) {}
            })
            .await
            .is_ok()
        }));
        closed.await.into_iter().filter(|&closed| closed).count()
    };
    let (closed, honest) = honest.beside(attack).await;
    let seconds = begun.elapsed().as_secs_f64();
    let mut broken = Vec::new();
    if closed < opened {
        broken.push(format!("{} of {opened} connections are still open", opened - closed));
    }
    let mut fresh = Vec::new();
    for address in &addresses {
        let url = format!("http://{address}/metrics");
        let answer = crate::http().get(url).timeout(PATIENCE).send().await;
        fresh.extend(answer.err().map(|error| format!("a new connection: {error}")));
    }
    broken.extend(fresh);
    let seen = format!("{closed} of {opened} closed after {seconds:.0} s");
    Outcome { honest, memory: stack.memory(), seen, broken, ..Outcome::default() }
}

/// Heads and bodies that come byte by byte, on as many connections as the gateway takes but a few.
pub(super) async fn slow(plan: &Plan) -> Outcome {
    let limit = plan.count(600, 40);
    let setup = Setup {
        gateway_args: vec!["--max-connections".to_owned(), (limit + 8).to_string()],
        ..Setup::default()
    };
    let mut stack = Stack::start(&setup);
    let honest = HonestClient::measured(&stack.gateway.url).await;
    stack.watch_memory();
    let address = stack.gateway.url.trim_start_matches("http://").to_owned();
    let begun = Instant::now();
    let clients = (0..limit).map(|n| {
        let address = address.clone();
        async move {
            let Ok(mut stream) = TcpStream::connect(&address).await else { return true };
            let head = "POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n";
            // Half of them never end their head.
            let head = if n % 2 == 0 { format!("{head}\r\n{{\"prompt\": \"") } else { head.into() };
            if stream.write_all(head.as_bytes()).await.is_err() {
                return true;
            }
            let mut byte = [0; 512];
            let trickle = async {
                loop {
                    tokio::select! {
                        read = stream.read(&mut byte) => {
                            if !read.is_ok_and(|n| n > 0) { return }
                        }
                        () = time::sleep(Duration::from_secs(1)) => {
                            if stream.write_all(b"a").await.is_err() { return }
                        }
                    }
                }
            };
            time::timeout(PATIENCE, trickle).await.is_ok()
        }
    });
    let (closed, honest) = honest.beside(join_all(clients)).await;
    let seconds = begun.elapsed().as_secs_f64();
    let ended = closed.iter().filter(|&&closed| closed).count();
    let mut broken = Vec::new();
    if ended < limit {
        broken.push(format!("{} of {limit} slow requests go on", limit - ended));
    }
    let seen = format!("{ended} of {limit} ended after {seconds:.0} s");
    Outcome { honest, memory: stack.memory(), seen, broken, ..Outcome::default() }
}

pub(super) async fn hung_diffusion(_: &Plan) -> Outcome {
    let stack = Stack::start(&Setup { diffusion: 2, ..Setup::default() });
    hung(stack, |stack| signal(&stack.diffusion[0], "STOP")).await
}

pub(super) async fn hung_encoder(_: &Plan) -> Outcome {
    let stack = Stack::start(&Setup { encoders: 2, ..Setup::default() });
    hung(stack, |stack| signal(&stack.encoders[0], "STOP")).await
}

/// One of two services stops as a program does whose machine is gone, and requests come at once.
async fn hung(mut stack: Stack, stop: impl FnOnce(&Stack)) -> Outcome {
    // Only that no image is lost counts here: the first ones wait until the silence is noticed.
    let honest = HonestClient::measured(&stack.gateway.url).await;
    stack.watch_memory();
    stop(&stack);
    let url = format!("{}/api/generate", stack.gateway.url);
    let begun = Instant::now();
    let requests = join_all((0..REQUESTS).map(|n| {
        let body =
            json!({"prompt": format!("fox {n}"), "seed": n, "width": 64, "height": 64, "steps": 2});
        let request = crate::http().post(&url).json(&body).timeout(PATIENCE);
        async move {
            let answer = request.send().await.map_err(|error| error.to_string())?;
            let status = answer.status();
            let text = answer.bytes().await.map_err(|error| error.to_string())?;
            match status.as_u16() {
                200 => Ok(begun.elapsed()),
                _ => Err(format!("{status}: {}", String::from_utf8_lossy(&text))),
            }
        }
    }))
    .await;
    let mut broken: Vec<String> =
        requests.iter().filter_map(|result| result.clone().err()).collect();
    let slowest = requests.iter().filter_map(|result| result.as_ref().ok()).max();
    let slowest = slowest.copied().unwrap_or_default();
    if slowest > NOTICED {
        broken.push(format!("the slowest image took {:.1} s", slowest.as_secs_f64()));
    }
    let asked = Instant::now();
    let health = honest.json("/health").await;
    let answered = asked.elapsed().as_secs_f64();
    if answered > 0.5 {
        broken.push(format!("/health took {answered:.1} s"));
    }
    broken.extend(health.err().map(|why| format!("/health: {why}")));
    // Once it is known, nobody waits any more.
    let ((), honest) = honest.beside(async {}).await;
    let seen = format!(
        "{} of {REQUESTS} came, the slowest after {:.1} s; /health in {:.0} ms",
        requests.iter().filter(|result| result.is_ok()).count(),
        slowest.as_secs_f64(),
        answered * 1e3
    );
    Outcome { honest, memory: stack.memory(), seen, broken, ..Outcome::default() }
}
