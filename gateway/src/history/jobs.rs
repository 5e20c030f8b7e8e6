//! The history as a store of jobs: a job's end and its picture are one change.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use llm_dit_fault::Fault;

use super::{Entry, History, Store, StoreError};
use crate::{
    generation::Made,
    jobs::JobStore,
    records::job::{Record, State},
};

#[tonic::async_trait]
impl JobStore for History {
    async fn load(&self) -> Result<Vec<Record>, Fault> {
        self.ask(|store| store.jobs()).await
    }

    async fn accept(&self, record: Record, source: Option<Bytes>) -> Result<(), Fault> {
        let kept = self.ask_for(move |store| store.add_job(&record, source.as_deref())).await?;
        kept.map_err(|error| {
            tracing::error!(%error, "rejected a job because it cannot be stored");
            let why = error.room().unwrap_or_else(|| "its database has failed".to_owned());
            Fault::Unavailable(format!(
                "the gateway cannot store the job: {why}. POST /api/generate works without storage"
            ))
        })
    }

    async fn source(&self, number: u64) -> Result<Option<Bytes>, Fault> {
        Ok(self.ask(move |store| store.job_source(number)).await?.map(Bytes::from))
    }

    async fn note(&self, record: Record) -> Result<(), Fault> {
        self.ask(move |store| store.note_job(&record)).await
    }

    async fn end(&self, mut record: Record, made: Option<Made>) -> Result<Option<u64>, Fault> {
        let picture = made.map(|made| {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            if let State::Done(about) = &mut record.state {
                about.history_id = Some(id);
            }
            (id, Entry::of(&made), made.file)
        });
        let id = picture.as_ref().map(|(id, ..)| *id);
        let end = move |store: &mut Store| {
            let picture = picture.as_ref().map(|(id, entry, file)| (*id, entry, &file[..]));
            store.end_job(&record, picture)
        };
        let ended: Result<bool, StoreError> = self.ask_for(end).await?;
        match ended {
            Ok(known) => Ok(id.filter(|_| known)),
            Err(error) => Err(Fault::Unavailable(
                error.room().unwrap_or_else(|| format!("the database failed: {error}")),
            )),
        }
    }

    async fn remove(&self, numbers: Vec<u64>) -> Result<(), Fault> {
        self.ask(move |store| store.remove_jobs(&numbers)).await
    }
}
