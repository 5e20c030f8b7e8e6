mod unwritable;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use llm_dit_memory::MemoryBudget;

use super::{list::MAX_MEMORY_BYTES, store::StoredJob, *};
use crate::{
    backends::Backends,
    encode::Cache,
    options::GatewayOptions,
    records::{
        job::JobState,
        picture::About,
        progress::{Event, Progress, Stage},
        request::GenerateBody,
    },
};

const LIMITS: JobLimits =
    JobLimits { max: 200, days: 7, attempts: 10, crashes: 2, unstored_bytes: MAX_MEMORY_BYTES };

fn add(list: &JobList, end: Option<(JobState, usize)>) -> JobId {
    let job = list.add(Job::new(JobRecord::new(GenerateBody::default(), None)));
    if let Some((state, bytes)) = end {
        let mut record = job.record();
        record.end(state);
        job.end(record, bytes);
    }
    list.take_expired(LIMITS, Timestamp::now(), Instant::now());
    job.id
}

fn done(bytes: usize) -> Option<(JobState, usize)> {
    let about = About {
        media_type: "image/png".into(),
        parameters: Default::default(),
        formatted_prompt: String::new(),
        seconds: 0.0,
        tokens: [0, 0],
        truncated: [0, 0],
        parameters_omitted: None,
        cached: false,
        history_id: None,
    };
    Some((JobState::Done(Box::new(about)), bytes))
}

fn left(list: &JobList) -> Vec<JobId> {
    list.all().iter().map(|job| job.id).collect()
}

#[test]
fn of_jobs_that_are_over_the_newest_are_known_and_of_others_all() {
    let list = JobList::default();
    let running = [add(&list, None), add(&list, None)];
    let over: Vec<_> = (0..203).map(|_| add(&list, Some((JobState::Cancelled, 0)))).collect();
    let newest = over[3..].iter().rev().copied();
    assert_eq!(left(&list), newest.chain([running[1], running[0]]).collect::<Vec<_>>());
}

#[test]
fn pictures_in_memory_are_forgotten_by_their_bytes_but_never_the_newest() {
    let list = JobList::default();
    let half = MAX_MEMORY_BYTES / 2;
    let (_, second, third) =
        (add(&list, done(half)), add(&list, done(half)), add(&list, done(half)));
    assert_eq!(left(&list), [third, second]);
    let large = add(&list, done(MAX_MEMORY_BYTES + 1));
    assert_eq!(left(&list), [large]);
}

#[test]
fn jobs_are_forgotten_when_they_have_been_over_for_long() {
    let list = JobList::default();
    let (over, running) = (add(&list, done(1)), add(&list, None));
    let expired = |clock: u32, passed: u32| {
        let days = |days: u32| Duration::from_secs(24 * 3600) * days;
        list.take_expired(LIMITS, Timestamp::now() + days(clock), Instant::now() + days(passed))
    };
    assert_eq!(expired(6, 6), [] as [JobId; 0]);
    assert_eq!(expired(365, 0), [] as [JobId; 0], "somebody set the clock");
    assert_eq!(expired(8, 8), [over]);
    assert_eq!(left(&list), [running]);
}

#[test]
fn a_restored_job_counts_its_events_from_above_those_before() {
    let mut record = JobRecord::new(GenerateBody::default(), None);
    let restored = |record: &JobRecord| {
        Job::restored(StoredJob { record: record.clone(), revision: Revision(1) })
    };
    let first = Job::new(record.clone());
    first.tell(Event::Progress(Progress::new(Stage::Queued)));
    let told = first.news(0).events.last().expect("events").0;
    record.begin();
    let again = restored(&record);
    assert!(matches!(again.record().state, JobState::Queued));
    assert!(again.news(told + 1).events[0].0 > told);
    record.end(JobState::Cancelled);
    let over = restored(&record);
    assert!(over.news(0).events.is_empty());
    assert!(over.news(told + 1).outcome.is_some_and(|(number, _)| number > told));
}

#[test]
fn only_what_is_newer_replaces_a_record() {
    let job = Job::new(JobRecord::new(GenerateBody::default(), None));
    let stored = |revision, attempts| {
        let record = JobRecord { attempts, ..job.record() };
        StoredJob { record, revision: Revision(revision) }
    };
    let (old, new) = (stored(1, 0), stored(3, 2));
    job.stored(Revision(2));
    job.change(JobRecord::begin);
    job.catch_up(old);
    assert_eq!(job.record().attempts, 1, "what was not stored yet stays");
    job.catch_up(new);
    assert_eq!((job.record().attempts, job.revision()), (2, Revision(3)));
}

/// Jobs in front of services that are not there.
async fn jobs(store: &InMemoryJobStore) -> Arc<Jobs> {
    let nowhere = vec!["http://127.0.0.1:1".to_owned()];
    let options = GatewayOptions { diffusion: nowhere, ..GatewayOptions::default() };
    jobs_with(JobStore::of(store.clone()), &options, LIMITS).await
}

async fn jobs_with(store: JobStore, options: &GatewayOptions, limits: JobLimits) -> Arc<Jobs> {
    let backends = Backends::new(options).expect("valid");
    let maker =
        Arc::new(Maker::new(Arc::new(backends), Arc::new(Cache::new(0)), MemoryBudget::default()));
    let templates = Arc::new(Library::load(None).expect("built in"));
    let admissions = Arc::new(Admissions::new(8));
    let jobs = Arc::new(Jobs::new(store, limits, maker, templates, admissions));
    jobs.start().await.expect("starts");
    jobs
}

async fn accept(jobs: &Arc<Jobs>, key: Option<&IdempotencyKey>) -> Result<(JobId, bool), Problem> {
    let body = GenerateBody { prompt: Some("x".into()), ..Default::default() };
    let request = body.check(&jobs.worker.templates).expect("valid");
    let admission = jobs.worker.admissions.admit().expect("a place");
    let (job, again) = jobs.accept(request, key.cloned(), admission).await?;
    Ok((job.id, again))
}

#[tokio::test]
async fn a_key_is_of_one_request() {
    let jobs = jobs(&InMemoryJobStore::default()).await;
    let key = |body: &str| IdempotencyKey { text: "k".into(), body: body.into() };
    let (id, again) = accept(&jobs, Some(&key("a"))).await.expect("accepted");
    assert!(!again);
    assert_eq!(accept(&jobs, Some(&key("a"))).await.expect("the same"), (id, true));
    let problem = accept(&jobs, Some(&key("b"))).await.expect_err("another");
    assert_eq!(problem.status().as_u16(), 422);
    let other = IdempotencyKey { text: "l".into(), body: "a".into() };
    assert!(jobs.with_key(&other).await.expect("new").is_none());
    assert!(!accept(&jobs, None).await.expect("accepted").1);
}

#[tokio::test]
async fn requests_with_one_key_take_turns_and_others_do_not_wait() {
    let jobs = jobs(&InMemoryJobStore::default()).await;
    let key = |text: &str| IdempotencyKey { text: text.into(), body: "a".into() };
    let first = jobs.turn(&key("k")).await;
    drop(jobs.turn(&key("l")).await);
    let again = {
        let (jobs, key) = (Arc::clone(&jobs), key("k"));
        tokio::spawn(async move {
            let _turn = jobs.turn(&key).await;
            jobs.with_key(&key).await.expect("the same request").map(|job| job.id)
        })
    };
    tokio::task::yield_now().await;
    // All places but one are taken, and then the last one is.
    let places: Vec<_> = (0..7).map(|_| jobs.worker.admissions.admit().expect("a place")).collect();
    let (id, _) = accept(&jobs, Some(&key("k"))).await.expect("accepted");
    assert!(!again.is_finished(), "it waits for what becomes of the first");
    drop(first);
    assert_eq!(again.await.expect("no panic"), Some(id));
    drop(places);
}

#[tokio::test]
async fn what_another_gateway_stores_is_known_here() {
    let store = InMemoryJobStore::default();
    let (here, there) = (jobs(&store).await, jobs(&store).await);
    let (id, _) = accept(&there, None).await.expect("accepted");
    let wait = async |done: &dyn Fn() -> bool| {
        while !done() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    wait(&|| here.get(id).is_some()).await;
    there.get(id).expect("known").cancel();
    // Whoever has claimed it, both hear of an end.
    here.get(id).expect("known").cancel();
    let over = |jobs: &Jobs| jobs.get(id).is_some_and(|job| job.is_over());
    wait(&|| over(&here) && over(&there)).await;
    let job = there.get(id).expect("known");
    there.remove(&job).await.expect("removed");
    wait(&|| here.get(id).is_none()).await;
}

#[tokio::test]
async fn a_job_that_ended_the_gateway_each_time_fails() {
    let store = InMemoryJobStore::default();
    let mut record = JobRecord::new(GenerateBody::default(), None);
    for _ in 0..LIMITS.attempts {
        record.begin();
    }
    let (id, parts) = (record.id, JobStore::of(store.clone()));
    parts.index.put(record, Revision::NEW).await.expect("stored");
    parts.queue.publish(id).await.expect("queued");
    let jobs = jobs(&store).await;
    let job = jobs.get(id).expect("known");
    while !job.is_over() {
        time::sleep(Duration::from_millis(5)).await;
    }
    let Some(Outcome::Failed(problem)) = job.outcome() else { panic!("it failed") };
    assert!(problem.detail.contains("10 attempts"), "{problem:?}");
}
