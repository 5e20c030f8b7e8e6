//! Downloads that go well.

use std::fs;

use bytes::Bytes;
use llm_dit_hub::{FileName, HubError, cached, locate};
use llm_dit_testkit::fakes::hub::{COMMIT, etag};

use crate::support::{LARGE, Room, large};

#[tokio::test]
async fn a_repository_is_laid_out_as_python_lays_it_out() {
    let room = Room::new().await;
    let pulled = room.pull(&[]).await.expect("downloaded");
    assert_eq!(pulled.commit.as_str(), COMMIT);
    room.all_right(&pulled);
    let small = etag(b"{}");
    let expected = [
        format!("blobs/{}", etag(&large())),
        format!("blobs/{small}"),
        format!("blobs/{}", etag(b"{\"version\": 1}")),
        "refs/main".to_owned(),
        format!("snapshots/{COMMIT}/model_index.json"),
        format!("snapshots/{COMMIT}/tokenizer/tokenizer.json"),
        format!("snapshots/{COMMIT}/transformer/config.json"),
        format!("snapshots/{COMMIT}/{LARGE}"),
    ];
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(room.files(), expected);
    assert_eq!(fs::read_to_string(room.repo().join("refs/main")).expect("there"), COMMIT);
    assert_eq!(
        room.hub.gets("config.json").len() + room.hub.gets("model_index.json").len(),
        1,
        "the same content is downloaded once"
    );

    // It is found by its name, and nothing is downloaded again.
    let found = locate("nobody/model".as_ref(), &room.cache()).expect("in the cache");
    assert_eq!(found, pulled.path);
    let before = room.hub.gets(LARGE).len();
    assert_eq!(room.pull(&[]).await.expect("there"), pulled);
    assert_eq!(room.hub.gets(LARGE).len(), before);
    let spec = "nobody/model".parse().expect("a name");
    assert_eq!(cached(&room.cache(), &spec, &[]).expect("there").path, pulled.path);
    let missing = cached(&room.cache(), &spec, &["assets/empty".to_owned()]);
    assert!(matches!(missing, Err(HubError::Offline { .. })));
}

#[tokio::test]
async fn files_are_chosen_and_an_empty_one_is_one() {
    let room = Room::new().await;
    let pulled = room.pull(&["assets/*", "*.json"]).await.expect("downloaded");
    let names: Vec<&str> = pulled.files.iter().map(|file| file.name.as_str()).collect();
    let all = ["assets/empty", "model_index.json", "tokenizer/tokenizer.json"];
    assert_eq!(names, [&all[..], &["transformer/config.json"]].concat());
    assert_eq!(fs::read(&pulled.files[0].path).expect("there"), b"");
    let error = room.pull(&["config.json"]).await.expect_err("in a folder").to_string();
    assert!(error.contains("did you mean 'transformer/config.json'?"), "{error}");
}

#[tokio::test]
async fn a_new_commit_shares_what_has_not_changed() {
    let room = Room::new().await;
    let first = room.pull(&[]).await.expect("downloaded");
    let newer = "f".repeat(40);
    room.hub.commit(&newer, "model_index.json", Bytes::from_static(b"{\"new\": 1}"));
    let second = room.pull(&[]).await.expect("downloaded");
    assert_eq!(second.commit.as_str(), newer);
    assert_eq!(room.hub.gets(LARGE).len(), 2, "a redirect at the hub, and the content: once");
    room.all_right(&second);
    room.all_right(&first);
    let found = locate("nobody/model".as_ref(), &room.cache()).expect("in the cache");
    assert_eq!(found, second.path);
    let older = format!("nobody/model@{COMMIT}");
    assert_eq!(locate(older.as_ref(), &room.cache()).expect("in the cache"), first.path);
}

#[tokio::test]
async fn a_mirror_that_lists_names_alone_will_do() {
    let room = Room::new().await;
    room.hub.without_blobs();
    let pulled = room.pull(&[]).await.expect("downloaded");
    room.all_right(&pulled);
}

#[tokio::test]
async fn two_downloads_of_one_file_are_one() {
    let room = Room::new().await;
    let (one, two) = tokio::join!(room.pull(&[]), room.pull(&[]));
    assert_eq!(one.expect("downloaded"), two.expect("downloaded"));
    assert_eq!(room.hub.gets(LARGE).iter().filter(|seen| seen.at_store).count(), 1);
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused_before_anything_is_written() {
    for name in ["../../../escape", "/tmp/escape", "vae/..\\escape", "vae/nul", "vae/a\nb"] {
        let room = Room::new().await;
        room.hub.list(name);
        let error = room.pull(&["*"]).await.expect_err(name);
        assert!(matches!(error, HubError::FileName { .. }), "{name}: {error}");
        assert!(!error.to_string().contains('\n'), "{error}");
        assert_eq!(room.files(), Vec::<String>::new());
        // Nobody asked for it here, where it is no part of a pipeline.
        if FileName::parse(name).is_err() && !name.starts_with("vae/") {
            room.pull(&[]).await.expect("the rest");
        }
    }
}
