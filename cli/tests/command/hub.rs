//! Models from a hub: `pull`, `list`, `rm`, and names in place of paths.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use bytes::Bytes;
use llm_dit_testkit::fakes::{FakeHub, hub::Trick};
use serde_json::Value;

use crate::support::{Room, demo_model};

const NAME: &str = "nobody/model";
const LARGE: &str = "weights.safetensors";

/// A repository with one large file.
fn large() -> Bytes {
    (0..4_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

/// Runs a command beside the hub, which lives in the test's runtime.
async fn run(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let output = tokio::task::spawn_blocking(move || child.wait_with_output());
    output.await.expect("not cancelled").expect("it ends")
}

fn command(room: &Room, hub: &FakeHub, args: &[&str]) -> Command {
    let mut command = room.command(args);
    command.env("HF_ENDPOINT", hub.url());
    command
}

async fn pull(room: &Room, hub: &FakeHub, args: &[&str]) -> (Option<i32>, String, String) {
    let output = run(&mut command(room, hub, &[&["pull"], args].concat())).await;
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn repo(room: &Room) -> PathBuf {
    room.path("huggingface/hub/models--nobody--model")
}

/// Names below a folder of the repository.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_download_that_was_killed_is_resumed_and_nothing_half_written_is_seen() {
    let (room, content) = (Room::new(), large());
    let hub = FakeHub::start(&[(LARGE, content.clone()), ("README.md", Bytes::new())]).await;
    hub.trick(LARGE, [Trick::Stall(content.len() / 2)]);
    let mut first = command(&room, &hub, &["pull", NAME]);
    let mut first = first.stderr(Stdio::null()).spawn().expect("starts");
    let blobs = repo(&room).join("blobs");
    let partial = loop {
        let partial = names(&blobs).into_iter().find(|name| name.ends_with(".incomplete"));
        let partial = partial.map(|name| blobs.join(name));
        if let Some(path) = partial.filter(|p| p.metadata().is_ok_and(|file| file.len() > 1 << 20))
        {
            break path;
        }
        tokio::task::yield_now().await;
    };
    // SIGKILL: nothing of the program runs after it.
    first.kill().expect("killed");
    first.wait().expect("ended");
    let kept = partial.metadata().expect("kept").len();
    assert!(!repo(&room).join("refs").exists());
    let snapshots = repo(&room).join("snapshots");
    for snapshot in names(&snapshots) {
        assert!(!names(&snapshots.join(snapshot)).contains(&LARGE.to_owned()));
    }
    assert!(room.fail(64, &["generate", "x", "-m", NAME]).contains("llm-dit pull nobody/model"));
    let listed = String::from_utf8(room.run(&["list"]).stdout).expect("text");
    assert!(listed.contains("of interrupted downloads"), "{listed}");

    let (status, said, errors) = pull(&room, &hub, &[NAME]).await;
    assert_eq!(status, Some(0), "{errors}");
    let store: Vec<_> = hub.gets(LARGE).into_iter().filter(|seen| seen.at_store).collect();
    assert_eq!(store[1].range.as_deref(), Some(&*format!("bytes={kept}-")));
    assert_eq!(fs::read(Path::new(said.trim()).join(LARGE)).expect("there"), content);
    assert!(!partial.exists() && errors.contains("of which"), "{errors}");
}

#[tokio::test]
async fn a_model_is_pulled_used_listed_and_removed() {
    let room = Room::new();
    let mut files = Vec::new();
    collect(&demo_model(), "", &mut files);
    let files: Vec<(&str, Bytes)> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let hub = FakeHub::start(&files).await;
    let said = room.fail(64, &["generate", "a fox", "-m", NAME]);
    assert!(said.contains("there is no nobody/model here"), "{said}");
    assert!(said.contains("to download it: llm-dit pull nobody/model"), "{said}");
    assert!(hub.seen().is_empty(), "nothing is downloaded by itself");

    let (status, path, errors) = pull(&room, &hub, &[NAME]).await;
    assert_eq!(status, Some(0), "{errors}");
    assert!(Path::new(path.trim()).join("model_index.json").is_file());
    let tiny = ["-W", "64", "-H", "64", "-s", "1", "-S", "1", "-q"];
    room.succeed(&[&["generate", "a fox", "-m", NAME, "-o", "a.png"], &tiny[..]].concat());
    room.succeed(&[&["generate", "a fox", "-o", "b.png"], &tiny[..]].concat());
    assert_eq!(room.pixels("a.png"), room.pixels("b.png"));
    // The model has the repository's name, not that of a commit.
    room.succeed(&[
        "generate", "x", "-m", NAME, "--model", "model", "-s", "1", "-W", "64", "-H", "64",
    ]);
    let vae = format!("{NAME}/vae/diffusion_pytorch_model.safetensors");
    room.succeed(&[&["generate", "a fox", "--vae-path", &vae, "-o", "c.png"], &tiny[..]].concat());
    room.succeed(&["format", "a fox", "-m", NAME]);

    let listed = room.run(&["list", "--json"]).stdout;
    let listed: Value = serde_json::from_slice(&listed).expect("JSON");
    assert_eq!(listed[0]["repo"], NAME);
    assert_eq!(listed[0]["snapshots"][0]["revisions"][0], "main");
    let listed = String::from_utf8(room.run(&["list", NAME]).stdout).expect("text");
    assert!(listed.contains("model_index.json") && listed.contains("(main)"), "{listed}");
    let said = room.fail(64, &["rm", NAME]);
    assert!(said.contains("--yes"), "{said}");
    assert!(room.succeed(&["rm", NAME, "--yes"]).contains("removed nobody/model"));
    assert!(room.fail(64, &["rm", NAME, "--yes"]).contains("not in the cache"));
    assert!(room.succeed(&["list"]).contains("has no models"));
}

#[tokio::test]
async fn offline_uses_the_cache_and_a_wrong_name_is_a_usage_error() {
    let room = Room::new();
    let hub = FakeHub::start(&[(LARGE, large())]).await;
    let offline = |room: &Room| {
        let mut command = command(room, &hub, &["pull", NAME, "--json"]);
        command.env("HF_HUB_OFFLINE", "1");
        command
    };
    let output = run(&mut offline(&room)).await;
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.code() == Some(1) && said.contains("HF_HUB_OFFLINE"), "{said}");
    assert!(hub.seen().is_empty());
    let (status, said, errors) = pull(&room, &hub, &[NAME, "--json"]).await;
    assert_eq!(status, Some(0), "{errors}");
    let online: Value = serde_json::from_str(&said).expect("JSON");
    let output = run(&mut offline(&room)).await;
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["path"], online["path"]);
    assert_eq!(online["files"][0]["bytes"], large().len());

    for (args, words) in [
        (&["pull", "model"][..], "short names are z-image-turbo"),
        (&["pull", "z-image-turbo-8gb", "--file", "x"], "leave out --file"),
        (&["rm", "../x", "--yes"], "write it as ORG/NAME"),
        (&["download", "a/b"], "use pull"),
    ] {
        let said = room.fail(64, args);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    let (status, _, errors) = pull(&room, &hub, &[NAME, "--file", "weight.safetensors"]).await;
    assert!(status == Some(64) && errors.contains("did you mean"), "{errors}");
}

/// The files below a folder, by name.
fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, Bytes)>) {
    for entry in fs::read_dir(folder).expect("it ships with the repository") {
        let path = entry.expect("readable").path();
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            collect(&path, &format!("{name}/"), files);
        } else {
            files.push((name, fs::read(&path).expect("readable").into()));
        }
    }
}
