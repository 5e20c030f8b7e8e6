//! What holds for every store of jobs.

use futures::StreamExt as _;

use super::*;
use crate::{
    jobs::{InMemoryJobStore, store::JobStore},
    options::{self, KeepOptions},
    records::{job::IdempotencyKey, picture::About, request::GenerateBody},
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
        match History::open(&keep, None) {
            Ok(history) => break history.expect("one is kept"),
            Err(error) => assert!(error.to_string().contains("in use"), "{error}"),
        }
        tokio::task::yield_now().await;
    };
    EmbeddedJobStore::open(Arc::new(history)).await.expect("reads")
}

fn record(key: Option<&str>) -> JobRecord {
    let key = key.map(|text| IdempotencyKey { text: text.into(), body: String::new() });
    JobRecord::new(GenerateBody::default(), key)
}

fn made() -> Made {
    let about = About {
        media_type: "image/png".into(),
        parameters: GenerateBody::default(),
        formatted_prompt: String::new(),
        seconds: 0.5,
        tokens: [0, 0],
        truncated: [0, 0],
        parameters_omitted: None,
        cached: false,
        history_id: None,
    };
    Made { file: Bytes::from_static(b"result"), format: Default::default(), about }
}

async fn create(store: &JobStore, record: &JobRecord) -> Revision {
    let revision = store.index.put(record.clone(), Revision::NEW).await.expect("new");
    store.queue.publish(record.id).await.expect("queued");
    revision
}

#[tokio::test]
async fn a_record_is_replaced_by_who_knows_its_revision() {
    let (_folder, stores) = stores().await;
    for store in stores {
        let mut job = record(Some("k"));
        let first = create(&store, &job).await;
        let same = store.index.put(job.clone(), Revision::NEW).await;
        assert!(matches!(same, Err(PutError::Conflict)), "{same:?}");
        let same_key = store.index.put(record(Some("k")), Revision::NEW).await;
        assert!(matches!(same_key, Err(PutError::Conflict)), "{same_key:?}");
        job.begin();
        let second = store.index.put(job.clone(), first).await.expect("begun");
        assert!(second > first);
        let late = store.index.put(job.clone(), first).await;
        assert!(matches!(late, Err(PutError::Conflict)), "{late:?}");
        let stored = store.index.by_key("k").await.expect("reads").expect("known");
        assert_eq!(
            (stored.record.id, stored.revision, stored.record.attempts),
            (job.id, second, 1)
        );
        let missing = store.index.put(record(None), second).await;
        assert!(matches!(missing, Err(PutError::Conflict)), "{missing:?}");
        store.index.remove(vec![job.id]).await.expect("removed");
        assert!(store.index.by_id(job.id).await.expect("reads").is_none());
        assert!(store.index.by_key("k").await.expect("reads").is_none());
    }
}

#[tokio::test]
async fn jobs_are_claimed_in_order_and_again_when_they_were_requeued() {
    let (_folder, stores) = stores().await;
    for store in stores {
        let jobs = [record(None), record(None)];
        for job in &jobs {
            create(&store, job).await;
        }
        let mut claim = store.queue.claim().await;
        assert_eq!(claim.job(), jobs[0].id);
        claim.extend().await.expect("kept");
        claim.requeue(jobs[0].clone()).await.expect("requeued");
        for job in [&jobs[1], &jobs[0]] {
            assert_eq!(store.queue.claim().await.job(), job.id);
        }
    }
}

#[tokio::test]
async fn the_first_end_stands_with_its_picture() {
    let (_folder, stores) = stores().await;
    for store in stores {
        let job = record(None);
        store.pictures.put(job.id, Bytes::from_static(b"source")).await.expect("kept");
        create(&store, &job).await;
        let picture = async || store.pictures.get(job.id).await.expect("reads");
        assert_eq!(picture().await.as_deref(), Some(&b"source"[..]));
        let mut claim = store.queue.claim().await;
        let mut done = job.clone();
        done.end(JobState::Done(Box::new(made().about)));
        claim.finish(done, Some(made())).await.expect("stored").expect("stands");
        assert_eq!(picture().await.as_deref(), Some(&b"result"[..]));
        let mut cancelled = job.clone();
        cancelled.end(JobState::Cancelled);
        let standing = claim.finish(cancelled.clone(), None).await.expect("reads");
        let standing = standing.expect("known").state;
        assert!(matches!(standing, JobState::Done(_)), "{standing:?}");
        assert_eq!(picture().await.as_deref(), Some(&b"result"[..]));
        // The end of a job that was removed leaves nothing behind.
        store.index.remove(vec![job.id]).await.expect("removed");
        assert!(claim.finish(cancelled, None).await.expect("nothing to do").is_none());
        assert!(store.index.by_id(job.id).await.expect("reads").is_none());
        assert!(picture().await.is_none());
    }
}

#[tokio::test]
async fn a_watch_tells_what_is_known_and_then_what_changes() {
    let (_folder, stores) = stores().await;
    for store in stores {
        let (mut old, new) = (record(None), record(None));
        let revision = create(&store, &old).await;
        let mut changes = store.index.watch().await.expect("reads");
        old.begin();
        store.index.put(old.clone(), revision).await.expect("stored");
        create(&store, &new).await;
        store.index.remove(vec![old.id]).await.expect("removed");
        let mut told = Vec::new();
        for _ in 0..5 {
            told.push(match changes.next().await.expect("goes on") {
                Change::Put(job) => (Some(job.record.id), job.record.attempts),
                Change::UpToDate => (None, 0),
                Change::Removed(id) => (Some(id), u32::MAX),
            });
        }
        let (old, new) = (Some(old.id), Some(new.id));
        assert_eq!(told, [(old, 0), (None, 0), (old, 1), (new, 0), (old, u32::MAX)]);
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
