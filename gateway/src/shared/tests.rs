//! The contract of stores and what only a shared one has to keep, against a real server.
//!
//! `.ci/queue` runs them; they are ignored elsewhere since they need a nats-server.

use std::{num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use llm_dit_testkit::nats::NatsServer;
use tokio::time;

use super::{server::Shared, sweep::Repairs};
use crate::{
    history::History as _,
    jobs::{
        contract::{self, create, made, record},
        store::{JobIndex, JobQueue as _, JobStore, PictureStore, PutError, Revision},
    },
    options::{KeepOptions, QueueOptions, QueueRole},
    records::job::{JobRecord, JobState},
};

const LEASE: Duration = Duration::from_secs(1);

fn options(server: &NatsServer) -> QueueOptions {
    QueueOptions {
        urls: vec![server.url.clone()],
        role: QueueRole::Both,
        nkey: None,
        ca: None,
        lease: LEASE,
        claims: NonZeroUsize::MIN,
        max_jobs: 3,
        replicas: 1,
    }
}

async fn open(server: &NatsServer) -> Shared {
    Shared::open(&options(server), &KeepOptions::default()).await.expect("connects")
}

fn store(shared: &Shared) -> JobStore {
    JobStore::shared(shared.clone(), QueueRole::Both, NonZeroUsize::MIN)
}

fn done(job: &JobRecord) -> JobRecord {
    let mut done = job.clone();
    done.end(JobState::Done(Box::new(made().about)));
    done
}

#[tokio::test]
#[ignore = "needs nats-server: .ci/queue"]
async fn a_record_is_replaced_by_who_knows_its_revision() {
    let server = NatsServer::start();
    contract::a_record_is_replaced_by_who_knows_its_revision(&store(&open(&server).await)).await;
}

#[tokio::test]
#[ignore = "needs nats-server: .ci/queue"]
async fn jobs_are_claimed_in_order_and_again_when_they_were_requeued() {
    let server = NatsServer::start();
    let options = QueueOptions { lease: Duration::from_secs(30), ..options(&server) };
    let shared = Shared::open(&options, &KeepOptions::default()).await.expect("connects");
    let store = store(&shared);
    contract::jobs_are_claimed_in_order_and_again_when_they_were_requeued(&store).await;
}

#[tokio::test]
#[ignore = "needs nats-server: .ci/queue"]
async fn the_first_end_stands_with_its_picture() {
    let server = NatsServer::start();
    contract::the_first_end_stands_with_its_picture(&store(&open(&server).await)).await;
}

#[tokio::test]
#[ignore = "needs nats-server: .ci/queue"]
async fn a_watch_tells_what_is_known_and_then_what_changes() {
    let server = NatsServer::start();
    let store = store(&open(&server).await);
    contract::a_watch_tells_what_is_known_and_then_what_changes(&store).await;
}

#[tokio::test]
#[ignore = "needs nats-server: .ci/queue"]
async fn a_worker_that_lost_its_lease_is_refused_and_leaves_no_picture() {
    let server = NatsServer::start();
    let (here, there) = (open(&server).await, open(&server).await);
    let job = record(None);
    create(&store(&here), &job).await;
    let mut late = here.claim().await;
    let mut begun = job.clone();
    begun.begin();
    begun.owner = late.owner().map(str::to_owned);
    let stored = here.by_id(job.id).await.expect("reads").expect("known");
    JobIndex::put(&here, begun.clone(), stored.revision).await.expect("begun");
    // The lease ends, since nobody extends it.
    let mut second = there.claim().await;
    assert_eq!(second.job(), job.id);
    let standing = late.finish(done(&begun), Some(made())).await.expect("answers").expect("known");
    assert!(!standing.is_over(), "the second one works at it");
    let standing = second.finish(done(&begun), Some(made())).await.expect("stored");
    assert!(standing.expect("known").is_over());
    // Late once more, now after the end.
    let again = late.finish(done(&begun), Some(made())).await.expect("answers").expect("known");
    assert_eq!(again.owner.as_deref(), second.owner());
    let page = here.page(10, None).await.expect("reads");
    assert_eq!((page.total, page.entries.len()), (1, 1));
    assert_eq!(here.0.objects.all().await.expect("reads").len(), 1, "one picture");
}

#[tokio::test]
#[ignore = "needs nats-server: .ci/queue"]
async fn what_is_extended_is_not_taken_over() {
    let server = NatsServer::start();
    let (here, there) = (open(&server).await, open(&server).await);
    create(&store(&here), &record(None)).await;
    let mut claim = here.claim().await;
    let keep = async {
        for _ in 0..9 {
            time::sleep(claim.extend_every()).await;
            claim.extend().await.expect("extended");
        }
    };
    tokio::select! {
        () = keep => {}
        claim = there.claim() => panic!("taken over: {}", claim.job()),
    }
}

#[tokio::test]
#[ignore = "needs nats-server: .ci/queue"]
async fn a_full_queue_refuses_and_takes_again_when_there_is_room() {
    let server = NatsServer::start();
    let shared = open(&server).await;
    let store = store(&shared);
    let jobs = [record(None), record(None), record(None), record(None)];
    for job in &jobs[..3] {
        create(&store, job).await;
    }
    JobIndex::put(&shared, jobs[3].clone(), Revision::NEW).await.expect("stored");
    let fault = shared.publish(jobs[3].id).await.expect_err("full");
    assert!(fault.to_string().contains("full"), "{fault}");
    // Sent twice, it is there once.
    shared.publish(jobs[0].id).await.expect("there already");
    shared.withdraw(jobs[1].id).await;
    shared.publish(jobs[3].id).await.expect("room");
}

#[tokio::test]
#[ignore = "needs nats-server: .ci/queue"]
async fn a_key_is_of_the_gateway_that_was_first() {
    let server = NatsServer::start();
    let (here, there) = (open(&server).await, open(&server).await);
    let (first, second) = (record(Some("k \u{e9}*>")), record(Some("k \u{e9}*>")));
    JobIndex::put(&here, first.clone(), Revision::NEW).await.expect("stored");
    let refused = JobIndex::put(&there, second, Revision::NEW).await;
    assert!(matches!(refused, Err(PutError::Conflict)), "{refused:?}");
    let known = there.by_key("k \u{e9}*>").await.expect("reads").expect("known");
    assert_eq!(known.record.id, first.id);
}

#[tokio::test]
#[ignore = "needs nats-server: .ci/queue"]
async fn the_sweep_repairs_what_a_killed_process_left_and_finds_nothing_the_second_time() {
    let server = NatsServer::start();
    let shared = open(&server).await;
    let never = Duration::from_secs(3600);
    // Killed between the record and the message.
    let unsent = record(None);
    PictureStore::put(&shared, unsent.id, Bytes::from_static(b"source")).await.expect("stored");
    JobIndex::put(&shared, unsent.clone(), Revision::NEW).await.expect("stored");
    // Killed between the end and the history entry.
    let mut ended = done(&record(None));
    ended.owner = Some("worker".to_owned());
    shared.0.objects.put(&format!("res.{}.worker", ended.id), b"result").await.expect("stored");
    JobIndex::put(&shared, ended.clone(), Revision::NEW).await.expect("stored");
    // Killed before any record.
    let nobodys = record(None).id;
    PictureStore::put(&shared, nobodys, Bytes::from_static(b"source")).await.expect("stored");
    // Killed within an object.
    let chunk = "$O.llm-dit-pictures.C.cutoff";
    shared.0.context.publish(chunk, "x".into()).await.expect("sent").await.expect("stored");

    // What is young may be under way.
    assert_eq!(shared.sweep(never, never).await.expect("sweeps"), Repairs::default());
    let repairs = shared.sweep(Duration::ZERO, Duration::ZERO).await.expect("sweeps");
    assert_eq!(repairs, Repairs { sent: 1, completed: 1, orphans: 2 });
    let again = shared.sweep(Duration::ZERO, Duration::ZERO).await.expect("sweeps");
    assert_eq!(again, Repairs::default());
    assert_eq!(shared.claim().await.job(), unsent.id);
    let source = PictureStore::get(&shared, unsent.id).await.expect("reads");
    assert_eq!(source.as_deref(), Some(&b"source"[..]));
    let JobState::Done(about) =
        shared.by_id(ended.id).await.expect("reads").expect("known").record.state
    else {
        panic!("it is done")
    };
    let id = about.history_id.expect("in the history");
    let picture = shared.picture(id).await.expect("reads").expect("there");
    assert_eq!(&picture.file[..], b"result");
    assert_eq!(shared.delete(id).await.expect("deleted"), Some(0));
    assert!(shared.picture(id).await.expect("reads").is_none());
    assert_eq!(shared.delete(id).await.expect("reads"), None);
    // What a person deleted does not come back.
    let again = shared.sweep(Duration::ZERO, Duration::ZERO).await.expect("sweeps");
    assert_eq!((again, shared.page(1, None).await.expect("reads").total), (Repairs::default(), 0));
}

#[tokio::test]
#[ignore = "needs nats-server: .ci/queue"]
async fn the_oldest_images_go_beyond_the_limit_with_their_objects() {
    let server = NatsServer::start();
    let keep = KeepOptions { history_max: 2, ..KeepOptions::default() };
    let shared = Shared::open(&options(&server), &keep).await.expect("connects");
    let mut ids = Vec::new();
    for _ in 0..3 {
        let entry = crate::history::Entry::of(&made());
        ids.extend(shared.add(entry, Bytes::from_static(b"result")).await);
    }
    let page = shared.page(10, None).await.expect("reads");
    let kept: Vec<u64> = page.entries.iter().map(|(id, _)| *id).collect();
    assert_eq!(kept, [ids[2], ids[1]]);
    assert_eq!(shared.0.objects.all().await.expect("reads").len(), 2);
    // Another gateway reads the same.
    let other = open(&server).await;
    assert!(other.entry(ids[0]).await.expect("reads").is_none());
    assert!(other.picture(ids[1]).await.expect("reads").is_some());
    assert_eq!(other.clear().await.expect("cleared"), 2);
    assert!(shared.0.objects.all().await.expect("reads").is_empty());
}

#[tokio::test]
#[ignore = "needs nats-server: .ci/queue"]
async fn a_killed_server_loses_nothing_and_is_found_again() {
    let mut server = NatsServer::start();
    let shared = open(&server).await;
    let job = record(Some("k"));
    create(&store(&shared), &job).await;
    let mut claim = shared.claim().await;
    server.kill();
    while shared.is_connected() {
        time::sleep(Duration::from_millis(10)).await;
    }
    let fault = shared.publish(record(None).id).await.expect_err("away");
    assert!(fault.to_string().contains("cannot be reached"), "{fault}");
    assert!(claim.finish(done(&job), Some(made())).await.is_err());
    server.restart();
    while !shared.is_connected() {
        time::sleep(Duration::from_millis(10)).await;
    }
    let standing = claim.finish(done(&job), Some(made())).await.expect("stored").expect("known");
    assert!(standing.is_over());
    let other = record(None);
    create(&store(&shared), &other).await;
    assert_eq!(shared.claim().await.job(), other.id);
}
