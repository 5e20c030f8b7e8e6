//! Storing how a job ended.

use tokio::time;

use super::{
    job::Job,
    store::Claim,
    unstored::Room,
    worker::{FIRST_PAUSE, MAX_PAUSE, Worker},
};
use crate::{
    admission::Admission,
    meters,
    records::{
        job::{JobRecord, JobState},
        picture::Made,
    },
};

/// The end of a job.
pub(super) struct Finish<'a> {
    pub worker: &'a Worker,
    pub claim: &'a mut dyn Claim,
    pub job: &'a Job,
}

impl Finish<'_> {
    /// Stores the end before clients see it. If that fails, clients see it all the same, and storing
    /// is retried until it succeeds: until then a restart would run the job once more. The job has
    /// no place among the pictures any more then, and its image waits in `room`; if there is none,
    /// the image is dropped, and the job is to be done again when there is room for the
    /// bytes that are returned.
    pub async fn store(
        self,
        state: JobState,
        made: Option<Made>,
        mut admission: Option<Admission>,
        mut room: Option<Room>,
    ) -> Option<usize> {
        let Self { worker, claim, job } = self;
        let name = state.name();
        let mut record = job.record();
        record.end(state);
        let mut pause = FIRST_PAUSE;
        loop {
            let fault = match claim.finish(record.clone(), made.clone()).await {
                Ok(Some(standing)) if !standing.is_over() => {
                    // Another worker has it now.
                    job.end(standing, 0);
                    return None;
                }
                Ok(standing) => {
                    let is_ours = standing.as_ref().is_none_or(|standing| {
                        standing.ended == record.ended && standing.state.name() == name
                    });
                    if job.unstored().is_none() && is_ours {
                        meters::job_ended(name);
                    }
                    let bytes = made.map_or(0, |made| made.file.len());
                    job.end(standing.unwrap_or(record), bytes);
                    return None;
                }
                Err(fault) => fault,
            };
            tracing::error!(%fault, "failed to store the end of a job");
            if let Some(Made { file, .. }) = &made
                && room.is_none()
            {
                room = worker.unstored.try_take(file.len());
                if room.is_none() {
                    tracing::warn!(
                        bytes = file.len(),
                        "too many images wait to be stored; the job runs again when there is room"
                    );
                    job.change(JobRecord::requeue);
                    return Some(file.len());
                }
            }
            if job.unstored().is_none() {
                meters::job_ended(name);
            }
            let file = made.as_ref().map(|made| made.file.clone());
            job.end_unstored(record.clone(), file, fault);
            drop(admission.take());
            tokio::select! {
                () = worker.stop.cancelled() => return None,
                () = time::sleep(pause) => {}
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}
