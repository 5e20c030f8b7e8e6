//! What holds for every store of jobs. The tests of each store call these with a store that is empty.

use bytes::Bytes;
use futures::StreamExt as _;

use super::store::{Change, JobStore, PutError, Revision};
use crate::records::{
    job::{IdempotencyKey, JobRecord, JobState},
    picture::{About, Made},
    request::GenerateBody,
};

pub(crate) fn record(key: Option<&str>) -> JobRecord {
    let key = key.map(|text| IdempotencyKey { text: text.into(), body: String::new() });
    JobRecord::new(GenerateBody::default(), key)
}

pub(crate) fn made() -> Made {
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

pub(crate) async fn create(store: &JobStore, record: &JobRecord) -> Revision {
    let revision = store.index.put(record.clone(), Revision::NEW).await.expect("new");
    store.queue.publish(record.id).await.expect("queued");
    revision
}

pub(crate) async fn a_record_is_replaced_by_who_knows_its_revision(store: &JobStore) {
    let mut job = record(Some("k"));
    let first = create(store, &job).await;
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
    assert_eq!((stored.record.id, stored.revision, stored.record.attempts), (job.id, second, 1));
    let missing = store.index.put(record(None), second).await;
    assert!(matches!(missing, Err(PutError::Conflict)), "{missing:?}");
    store.index.remove(vec![job.id]).await.expect("removed");
    assert!(store.index.by_id(job.id).await.expect("reads").is_none());
    assert!(store.index.by_key("k").await.expect("reads").is_none());
}

pub(crate) async fn jobs_are_claimed_in_order_and_again_when_they_were_requeued(store: &JobStore) {
    let jobs = [record(None), record(None)];
    for job in &jobs {
        create(store, job).await;
    }
    let mut claim = store.queue.claim().await;
    assert_eq!(claim.job(), jobs[0].id);
    claim.extend().await.expect("kept");
    claim.requeue(jobs[0].clone()).await.expect("requeued");
    for job in [&jobs[1], &jobs[0]] {
        assert_eq!(store.queue.claim().await.job(), job.id);
    }
}

pub(crate) async fn the_first_end_stands_with_its_picture(store: &JobStore) {
    let job = record(None);
    store.pictures.put(job.id, Bytes::from_static(b"source")).await.expect("kept");
    create(store, &job).await;
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

pub(crate) async fn a_watch_tells_what_is_known_and_then_what_changes(store: &JobStore) {
    let (mut old, new) = (record(None), record(None));
    let revision = create(store, &old).await;
    let mut changes = store.index.watch().await.expect("reads");
    old.begin();
    store.index.put(old.clone(), revision).await.expect("stored");
    create(store, &new).await;
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
