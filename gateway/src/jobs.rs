//! Pictures that are made in the background.
//!
//! A job is a task with a log of events. Whoever looks reads the log from the beginning and then
//! waits for more, so nobody can come too late. Nothing here outlives the process; pictures do, in
//! the history.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use jiff::Timestamp;
use llm_dit_proto::Fault;
use llm_dit_serving::request_id;
use parking_lot::Mutex;
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::{
    error::Error,
    gateway::{Admission, Gateway},
    generation::{Event, Made, Progress, Stage},
    meters,
    problem::Problem,
    request::Request,
};

/// Jobs that are over and still known.
const MAX_OVER: usize = 200;
/// Bytes of their pictures.
const MAX_OVER_BYTES: usize = 256 * 1024 * 1024;
/// Longest pause before a job asks busy services again.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// All jobs that are known, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    list: Mutex<VecDeque<Arc<Job>>>,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub id: Uuid,
    pub created: String,
    log: Mutex<Log>,
    /// Counts what was logged.
    changed: watch::Sender<u64>,
    cancel: CancellationToken,
}

#[derive(Debug)]
struct Log {
    /// What happened, by number. Of the previews only the last is left.
    events: Vec<(u64, Event)>,
    next: u64,
    outcome: Option<Outcome>,
}

/// How a job ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Done(Arc<Made>),
    Failed(Problem),
    Cancelled,
}

/// What a reader has not seen yet.
#[derive(Debug)]
pub(crate) struct News {
    pub events: Vec<(u64, Event)>,
    /// With the number that its event gets.
    pub outcome: Option<(u64, Outcome)>,
}

impl Jobs {
    /// Begins a job.
    pub fn start(gateway: &Arc<Gateway>, request: Request, admission: Admission) -> Arc<Job> {
        let first = Event::Progress(Progress::new(Stage::Encoding));
        let job = Arc::new(Job {
            id: Uuid::new_v4(),
            created: Timestamp::now().to_string(),
            log: Mutex::new(Log { events: vec![(0, first)], next: 1, outcome: None }),
            changed: watch::channel(0).0,
            cancel: CancellationToken::new(),
        });
        gateway.jobs.list.lock().push_back(Arc::clone(&job));
        let span = tracing::info_span!("job", id = %job.id);
        let (gateway, running) = (Arc::clone(gateway), Arc::clone(&job));
        let work = async move {
            let report = |event| running.tell(event);
            // Dropping the work is what stops it.
            let outcome = tokio::select! {
                biased;
                () = running.cancel.cancelled() => Outcome::Cancelled,
                made = patiently(&gateway, &request, &report) => match made {
                    Ok(made) => Outcome::Done(Arc::new(made)),
                    Err(error) => Outcome::Failed(error.into()),
                },
            };
            drop(admission);
            meters::job_ended(&outcome);
            running.end(outcome);
            gateway.jobs.forget();
        };
        tokio::spawn(request_id::keep(work).instrument(span));
        job
    }

    pub fn get(&self, id: Uuid) -> Option<Arc<Job>> {
        self.list.lock().iter().find(|job| job.id == id).cloned()
    }

    /// How many there are, by state.
    pub fn count(&self) -> [(&'static str, usize); 4] {
        let mut counts = ["running", "done", "failed", "cancelled"].map(|state| (state, 0));
        for job in self.list.lock().iter() {
            let state = meters::state(job.log.lock().outcome.as_ref());
            counts.iter_mut().filter(|(s, _)| *s == state).for_each(|(_, count)| *count += 1);
        }
        counts
    }

    /// Newest first.
    pub fn all(&self) -> Vec<Arc<Job>> {
        self.list.lock().iter().rev().cloned().collect()
    }

    /// Forgets a job that is over.
    pub fn remove(&self, id: Uuid) {
        self.list.lock().retain(|job| job.id != id);
    }

    /// Forgets the oldest that are over, beyond what may be kept.
    fn forget(&self) {
        let mut list = self.list.lock();
        let (mut count, mut bytes) = (0, 0);
        let mut keep: Vec<bool> = Vec::with_capacity(list.len());
        for job in list.iter().rev() {
            let size = match job.outcome() {
                None => {
                    keep.push(true);
                    continue;
                }
                Some(Outcome::Done(made)) => made.file.len(),
                Some(Outcome::Failed(_) | Outcome::Cancelled) => 0,
            };
            count += 1;
            bytes += size;
            // The newest stays, however large it is.
            keep.push(count == 1 || count <= MAX_OVER && bytes <= MAX_OVER_BYTES);
        }
        let mut keep = keep.into_iter().rev();
        list.retain(|_| keep.next().unwrap_or(true));
    }
}

impl Job {
    /// Stops the work before its next step, if it is not over.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    pub fn outcome(&self) -> Option<Outcome> {
        self.log.lock().outcome.clone()
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let log = self.log.lock();
        let last = log.events.iter().rev().find_map(|(_, event)| match event {
            Event::Progress(progress) => Some(progress.clone()),
            Event::Preview(_) => None,
        });
        last.unwrap_or_else(|| Progress::new(Stage::Encoding))
    }

    /// What happened from event number `from` on.
    pub fn news(&self, from: u64) -> News {
        let log = self.log.lock();
        let new = log.events.iter().filter(|(number, _)| *number >= from);
        let outcome = log.outcome.clone().map(|outcome| (log.next, outcome));
        News { events: new.cloned().collect(), outcome }
    }

    /// To be had before [`Job::news`], so that nothing slips in between.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn tell(&self, event: Event) {
        let mut log = self.log.lock();
        if matches!(event, Event::Preview(_)) {
            log.events.retain(|(_, event)| !matches!(event, Event::Preview(_)));
        }
        if log.events.last().is_some_and(|(_, last)| *last == event) {
            return;
        }
        let number = log.next;
        log.next += 1;
        log.events.push((number, event));
        drop(log);
        self.changed.send_modify(|changes| *changes += 1);
    }

    fn end(&self, outcome: Outcome) {
        self.log.lock().outcome = Some(outcome);
        self.changed.send_modify(|changes| *changes += 1);
    }
}

/// A job waits for its place where a client would be told to try again.
async fn patiently(
    gateway: &Gateway,
    request: &Request,
    report: &(dyn Fn(Event) + Send + Sync),
) -> Result<Made, Error> {
    loop {
        match gateway.make(request, report).await {
            Err(Error::Fault(Fault::Busy { retry_after, message })) => {
                tracing::debug!(message, "a job waits for its place");
                time::sleep(retry_after.min(MAX_PAUSE)).await;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use llm_dit_pictures::Format;

    use super::*;

    fn add(jobs: &Jobs, outcome: Option<Outcome>) -> Uuid {
        let id = Uuid::new_v4();
        let job = Job {
            id,
            created: String::new(),
            log: Mutex::new(Log { events: Vec::new(), next: 0, outcome }),
            changed: watch::channel(0).0,
            cancel: CancellationToken::new(),
        };
        jobs.list.lock().push_back(Arc::new(job));
        jobs.forget();
        id
    }

    fn done(bytes: usize) -> Option<Outcome> {
        Some(Outcome::Done(Arc::new(Made {
            file: Bytes::from(vec![0; bytes]),
            format: Format::Png,
            parameters: Default::default(),
            formatted_prompt: String::new(),
            seconds: 0.0,
            truncated: [0, 0],
            cached: false,
            history_id: None,
        })))
    }

    fn left(jobs: &Jobs) -> Vec<Uuid> {
        jobs.all().iter().map(|job| job.id).collect()
    }

    #[test]
    fn of_jobs_that_are_over_the_newest_are_known_and_of_others_all() {
        let jobs = Jobs::default();
        let running = [add(&jobs, None), add(&jobs, None)];
        let over: Vec<Uuid> =
            (0..MAX_OVER + 3).map(|_| add(&jobs, Some(Outcome::Cancelled))).collect();
        let newest = over[3..].iter().rev().copied();
        assert_eq!(left(&jobs), newest.chain([running[1], running[0]]).collect::<Vec<_>>());
    }

    #[test]
    fn pictures_are_forgotten_by_their_bytes_but_never_the_newest() {
        let jobs = Jobs::default();
        let half = MAX_OVER_BYTES / 2;
        let (_, second, third) =
            (add(&jobs, done(half)), add(&jobs, done(half)), add(&jobs, done(half)));
        assert_eq!(left(&jobs), [third, second]);
        let large = add(&jobs, done(MAX_OVER_BYTES + 1));
        assert_eq!(left(&jobs), [large]);
    }
}
