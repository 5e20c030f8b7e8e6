use bytes::Bytes;

use super::*;
use crate::{
    generation::{About, Event, Progress, Stage},
    records::request::GenerateBody,
};

fn jobs() -> Jobs {
    Jobs::new(Arc::new(Forgetful), JobLimits { max: 200, ..Default::default() })
}

fn add(jobs: &Jobs, end: Option<(State, usize)>) -> u64 {
    let number = jobs.next_number.fetch_add(1, Ordering::Relaxed);
    let job = Job::new(Record::new(number, GenerateBody::default(), None));
    if let Some((state, bytes)) = end {
        let mut record = job.record();
        record.end(state);
        job.end(record, Some(Bytes::from(vec![0; bytes])), None);
    }
    jobs.list.lock().push_back(Arc::new(job));
    jobs.too_old(Timestamp::now());
    number
}

fn done(bytes: usize) -> Option<(State, usize)> {
    let about = About {
        media_type: "image/png".into(),
        parameters: Default::default(),
        formatted_prompt: String::new(),
        seconds: 0.0,
        truncated: [0, 0],
        cached: false,
        history_id: None,
    };
    Some((State::Done(Box::new(about)), bytes))
}

fn left(jobs: &Jobs) -> Vec<u64> {
    jobs.all().iter().map(|job| job.number).collect()
}

#[test]
fn of_jobs_that_are_over_the_newest_are_known_and_of_others_all() {
    let jobs = jobs();
    let running = [add(&jobs, None), add(&jobs, None)];
    let over: Vec<u64> = (0..203).map(|_| add(&jobs, Some((State::Cancelled, 0)))).collect();
    let newest = over[3..].iter().rev().copied();
    assert_eq!(left(&jobs), newest.chain([running[1], running[0]]).collect::<Vec<_>>());
}

#[test]
fn pictures_in_memory_are_forgotten_by_their_bytes_but_never_the_newest() {
    let jobs = jobs();
    let half = MAX_OVER_BYTES / 2;
    let (_, second, third) =
        (add(&jobs, done(half)), add(&jobs, done(half)), add(&jobs, done(half)));
    assert_eq!(left(&jobs), [third, second]);
    let large = add(&jobs, done(MAX_OVER_BYTES + 1));
    assert_eq!(left(&jobs), [large]);
}

#[test]
fn jobs_are_forgotten_when_they_have_been_over_for_long() {
    let jobs = jobs();
    let (over, running) = (add(&jobs, done(1)), add(&jobs, None));
    let in_days = |days: i64| Timestamp::now() + SignedDuration::from_hours(24 * days);
    assert_eq!(jobs.too_old(in_days(6)), [] as [u64; 0]);
    assert_eq!(jobs.too_old(in_days(8)), [over]);
    assert_eq!(left(&jobs), [running]);
}

#[test]
fn a_key_is_of_one_request() {
    let jobs = jobs();
    let key = |body: &str| Key { text: "k".into(), body: body.into() };
    let job = Arc::new(Job::new(Record::new(1, GenerateBody::default(), Some(key("a")))));
    jobs.list.lock().push_back(Arc::clone(&job));
    let known = jobs.with_key(&key("a")).expect("the same").expect("known");
    assert!(Arc::ptr_eq(&known, &job));
    assert_eq!(jobs.with_key(&key("b")).expect_err("another").status().as_u16(), 422);
    let other = Key { text: "l".into(), body: "a".into() };
    assert!(jobs.with_key(&other).expect("new").is_none());
}

#[test]
fn a_restored_job_counts_its_events_from_above_those_before() {
    let mut record = Record::new(1, GenerateBody::default(), None);
    let first = Job::new(record.clone());
    first.tell(Event::Progress(Progress::new(Stage::Queued)));
    let told = first.news(0).events.last().expect("events").0;
    record.begin();
    let restored = Job::restored(record.clone());
    assert!(matches!(restored.record().state, State::Queued));
    assert!(restored.news(told + 1).events[0].0 > told);
    record.end(State::Cancelled);
    let over = Job::restored(record);
    assert!(over.news(0).events.is_empty());
    assert!(over.news(told + 1).outcome.is_some_and(|(number, _)| number > told));
}
