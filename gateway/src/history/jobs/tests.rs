//! The contract of stores, for the one in the database and the one in memory.

use super::*;
use crate::{
    jobs::{
        InMemoryJobStore,
        contract::{self, create, record},
        store::JobStore,
    },
    options::{self, KeepOptions},
};

/// One of each kind; the folder must outlive it.
async fn stores() -> (tempfile::TempDir, [JobStore; 2]) {
    let folder = tempfile::tempdir().expect("a folder");
    let embedded = JobStore::of(embedded(&folder).await);
    (folder, [embedded, JobStore::of(InMemoryJobStore::default())])
}

async fn embedded(folder: &tempfile::TempDir) -> EmbeddedJobStore {
    let history = options::History::Folder(folder.path().to_owned());
    let keep = KeepOptions { history, ..KeepOptions::default() };
    // An earlier one's thread has the file until it sees that its last handle is gone.
    let history = loop {
        match EmbeddedHistory::open(&keep, None) {
            Ok(history) => break history.expect("one is kept"),
            Err(error) => assert!(error.to_string().contains("in use"), "{error}"),
        }
        tokio::task::yield_now().await;
    };
    EmbeddedJobStore::open(Arc::new(history)).await.expect("reads")
}

#[tokio::test]
async fn a_record_is_replaced_by_who_knows_its_revision() {
    let (_folder, stores) = stores().await;
    for store in &stores {
        contract::a_record_is_replaced_by_who_knows_its_revision(store).await;
    }
}

#[tokio::test]
async fn jobs_are_claimed_in_order_and_again_when_they_were_requeued() {
    let (_folder, stores) = stores().await;
    for store in &stores {
        contract::jobs_are_claimed_in_order_and_again_when_they_were_requeued(store).await;
    }
}

#[tokio::test]
async fn the_first_end_stands_with_its_picture() {
    let (_folder, stores) = stores().await;
    for store in &stores {
        contract::the_first_end_stands_with_its_picture(store).await;
    }
}

#[tokio::test]
async fn a_watch_tells_what_is_known_and_then_what_changes() {
    let (_folder, stores) = stores().await;
    for store in &stores {
        contract::a_watch_tells_what_is_known_and_then_what_changes(store).await;
    }
}

#[tokio::test]
async fn after_a_restart_unfinished_jobs_wait_in_order_with_what_they_start_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = JobStore::of(embedded(&folder).await);
    let jobs = [record(None), record(None), record(None)];
    store.pictures.put(jobs[2].id, Bytes::from_static(b"source")).await.expect("kept");
    for job in &jobs {
        create(&store, job).await;
    }
    let mut over = jobs[1].clone();
    over.end(JobState::Cancelled);
    let first = store.queue.claim().await;
    let mut second = store.queue.claim().await;
    second.finish(over, None).await.expect("stored");
    drop((first, second, store));
    let store = embedded(&folder).await;
    for job in [&jobs[0], &jobs[2]] {
        assert_eq!(store.claim().await.job(), job.id);
    }
    let source = PictureStore::get(&store, jobs[2].id).await.expect("reads");
    assert_eq!(source.as_deref(), Some(&b"source"[..]));
}
