//! A repository of 300 MB on loopback: `llm-dit pull` is killed in the middle and resumed, and then
//! timed beside curl.
//!
//! ```sh
//! cargo build --release
//! cargo run --release -p llm-dit-hub --example download -- target/release/llm-dit
//! ```

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use llm_dit_testkit::fakes::{FakeHub, hub::Trick, hub::etag};

const WORDS: u32 = 75_000_000;
const FILE: &str = "weights.safetensors";
const ROUNDS: usize = 7;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let program = env::args_os().nth(1).map(PathBuf::from);
    let program = program.expect("the path of llm-dit").canonicalize().expect("built");
    let content: Bytes =
        (0..WORDS).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let hub = FakeHub::start(&[(FILE, content.clone())]).await;
    let room = tempfile::tempdir().expect("a folder");

    let home = room.path().join("killed");
    hub.trick(FILE, [Trick::Stall(content.len() / 2)]);
    let mut first = pull(&program, &hub, &home).spawn().expect("starts");
    let blobs = home.join("hub/models--nobody--model/blobs");
    let partial = blobs.join(format!("{}.incomplete", etag(&content)));
    while partial.metadata().map_or(0, |file| file.len()) < content.len() as u64 / 4 {
        tokio::task::yield_now().await;
    }
    first.kill().expect("killed");
    first.wait().expect("ended");
    let kept = partial.metadata().expect("kept").len();
    assert!(!home.join("hub/models--nobody--model/refs").exists(), "nothing is visible");
    assert!(!blobs.join(etag(&content)).exists(), "nothing is visible");
    let resumed = timed(pull(&program, &hub, &home)).await;
    let asked = hub.gets(FILE).pop().expect("asked").range;
    assert_eq!(asked.as_deref(), Some(&*format!("bytes={kept}-")));
    assert!(fs::read(blobs.join(etag(&content))).expect("whole") == content, "the same bytes");
    println!(
        "killed with {kept} of {} bytes, resumed in {:.2} s",
        content.len(),
        resumed.as_secs_f64()
    );

    let (mut ours, mut curls) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let home = room.path().join(format!("ours-{round}"));
        ours.push(timed(pull(&program, &hub, &home)).await);
        fs::remove_dir_all(home).expect("ours");
        let file = room.path().join("curl");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--noproxy", "*", "--output"]).arg(&file);
        curl.arg(hub.store_url(FILE));
        curls.push(timed(curl).await);
        fs::remove_file(file).expect("curl's");
    }
    let rate = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        content.len() as f64 / 1e6 / times[ROUNDS / 2].as_secs_f64()
    };
    let (ours, curls) = (rate(&mut ours), rate(&mut curls));
    println!(
        "llm-dit pull {ours:.0} MB/s, curl {curls:.0} MB/s, ratio {:.2} (medians of {ROUNDS})",
        ours / curls
    );
}

fn pull(program: &Path, hub: &FakeHub, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["pull", "nobody/model", "--quiet"]).env("HF_ENDPOINT", hub.url());
    command.env("HF_HOME", home).env_remove("HF_HUB_CACHE").env_remove("HF_TOKEN");
    command.stdout(Stdio::null());
    command
}

/// The whole process, from its start to its end.
async fn timed(mut command: Command) -> Duration {
    let run = move || {
        let start = Instant::now();
        let status = command.status().expect("starts");
        assert!(status.success(), "{command:?}: {status}");
        start.elapsed()
    };
    tokio::task::spawn_blocking(run).await.expect("not cancelled")
}
