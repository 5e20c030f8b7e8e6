//! Jobs in the database, beside the pictures that come of them.

use bytes::Bytes;
use redb::{ReadableDatabase as _, ReadableTable as _};
use tokio::sync::mpsc::UnboundedSender;

use super::{
    Store,
    error::StoreError,
    tables::{JOBS, PICTURES, SOURCES},
};
use crate::{
    history::entry::Entry,
    jobs::store::{Change, Revision, StoredJob},
    records::job::{JobId, JobRecord, JobState},
};

impl Store {
    /// Finds the jobs that an earlier gateway stored. A picture to start from whose job was never
    /// stored is dropped.
    pub(super) fn recover_jobs(&mut self) -> Result<(), StoreError> {
        let transaction = self.database()?.begin_read()?;
        let mut unread = 0;
        for item in transaction.open_table(JOBS)?.iter()? {
            let (number, json) = item?;
            let number = number.value();
            self.jobs.next_number = number + 1;
            match serde_json::from_slice(json.value()) {
                Ok(record) => self.jobs.restore(number, &record),
                // The record is of another version. The others are read all the same.
                Err(error) => {
                    unread += 1;
                    tracing::error!(number, %error, "failed to read a stored job");
                }
            }
        }
        drop(transaction);
        let numbers = self.jobs.in_order().into_iter().map(|(id, slot)| (slot.number, id));
        let ids: Vec<_> = numbers.collect();
        self.change(|tables| {
            tables.move_numbered_sources(&ids)?;
            if unread == 0 {
                let known = |id| ids.iter().any(|(_, known)| known.as_u128() == id);
                tables.sources.retain(|id, _| known(id))?;
            }
            Ok(())
        })
    }

    /// Ids of the jobs that are not over, oldest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails or a record cannot be read.
    pub fn unfinished_jobs(&mut self) -> Result<Vec<JobId>, StoreError> {
        let all = self.all_jobs()?.into_iter();
        Ok(all.filter(|job| !job.record.is_over()).map(|job| job.record.id).collect())
    }

    /// Sends all jobs to `watcher`, oldest first, and every change from then on.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails or a record cannot be read.
    pub fn watch_jobs(&mut self, watcher: UnboundedSender<Change>) -> Result<(), StoreError> {
        let known = self.all_jobs()?.into_iter().map(|job| Change::Put(Box::new(job)));
        for change in known.chain([Change::UpToDate]) {
            if watcher.send(change).is_err() {
                return Ok(());
            }
        }
        self.jobs.watch(watcher);
        Ok(())
    }

    /// Stores a record in place of revision `expected`; `None` if the job has another one.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn put_job(
        &mut self,
        record: JobRecord,
        expected: Revision,
    ) -> Result<Option<Revision>, StoreError> {
        let Some(number) = self.jobs.place(&record, expected) else { return Ok(None) };
        let json = serde_json::to_vec(&record)?;
        self.change(|tables| {
            tables.jobs.insert(number, &json[..])?;
            Ok(())
        })?;
        Ok(Some(self.jobs.put(number, record)))
    }

    /// Stores the record of a job that waits again. Does nothing if the job was removed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn requeue_job(&mut self, record: JobRecord) -> Result<(), StoreError> {
        if let Some(revision) = self.jobs.get(record.id).map(|slot| slot.revision) {
            self.put_job(record, revision)?;
        }
        Ok(())
    }

    /// Stores the end of a job and, in the same transaction, its picture as `(id, entry, file)`.
    /// Returns the end that counts: this one, or one that was stored before. `None` if the job was
    /// removed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails or a record cannot be read.
    pub fn end_job(
        &mut self,
        record: JobRecord,
        picture: Option<(u64, &Entry, &[u8])>,
    ) -> Result<Option<JobRecord>, StoreError> {
        let Some(known) = self.job(record.id)? else { return Ok(None) };
        if known.record.is_over() {
            return Ok(Some(known.record));
        }
        let Some(number) = self.jobs.place(&record, known.revision) else { return Ok(None) };
        let json = serde_json::to_vec(&record)?;
        let picture = match picture {
            Some((id, entry, file)) => Some((id, serde_json::to_vec(entry)?, file)),
            None => None,
        };
        self.change(|tables| {
            tables.jobs.insert(number, &json[..])?;
            tables.sources.remove(record.id.as_u128())?;
            if let Some((id, entry, file)) = &picture {
                tables.keep(*id, entry, file)?;
            }
            Ok(())
        })?;
        self.jobs.put(number, record.clone());
        Ok(Some(record))
    }

    /// A job's record and its revision; `None` if there is no such job.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails or the record cannot be read.
    pub fn job(&mut self, id: JobId) -> Result<Option<StoredJob>, StoreError> {
        let Some(slot) = self.jobs.get(id).cloned() else { return Ok(None) };
        let json = self.read(|transaction| {
            let json = transaction.open_table(JOBS)?.get(slot.number)?;
            Ok(json.map(|json| json.value().to_vec()))
        })?;
        let record = json.map(|json| serde_json::from_slice(&json)).transpose()?;
        Ok(record.map(|record| StoredJob { record, revision: slot.revision }))
    }

    /// The job with this idempotency key.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails or the record cannot be read.
    pub fn job_with_key(&mut self, key: &str) -> Result<Option<StoredJob>, StoreError> {
        match self.jobs.with_key(key) {
            Some(id) => self.job(id),
            None => Ok(None),
        }
    }

    /// Removes jobs and the pictures that they start from, in one transaction.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn remove_jobs(&mut self, ids: &[JobId]) -> Result<(), StoreError> {
        let numbers: Vec<_> =
            ids.iter().filter_map(|id| Some((*id, self.jobs.get(*id)?.number))).collect();
        self.change(|tables| {
            for (id, number) in &numbers {
                tables.jobs.remove(*number)?;
                tables.sources.remove(id.as_u128())?;
            }
            Ok(())
        })?;
        numbers.iter().for_each(|(id, _)| self.jobs.remove(*id));
        Ok(())
    }

    /// Stores the picture that a job starts from.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub fn put_source(&mut self, job: JobId, file: &[u8]) -> Result<(), StoreError> {
        self.change(|tables| {
            tables.sources.insert(job.as_u128(), file)?;
            Ok(())
        })
    }

    /// The picture that a job starts from or, once it is done, its result, if the history still has
    /// it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails or the record cannot be read.
    pub fn job_picture(&mut self, job: JobId) -> Result<Option<Bytes>, StoreError> {
        let Some(stored) = self.job(job)? else { return Ok(None) };
        self.read(|transaction| {
            let file = match stored.record.state {
                JobState::Queued | JobState::Running => {
                    transaction.open_table(SOURCES)?.get(job.as_u128())?
                }
                JobState::Done(about) => match about.history_id {
                    Some(id) => transaction.open_table(PICTURES)?.get(id)?,
                    None => None,
                },
                JobState::Failed(_) | JobState::Cancelled => None,
            };
            Ok(file.map(|file| Bytes::copy_from_slice(file.value())))
        })
    }

    /// Oldest first. Records that cannot be read are left out.
    pub(super) fn all_jobs(&mut self) -> Result<Vec<StoredJob>, StoreError> {
        let mut all = Vec::new();
        for (id, slot) in self.jobs.in_order() {
            match self.job(id) {
                Ok(job) => all.extend(job),
                Err(StoreError::Entry(error)) => {
                    tracing::error!(number = slot.number, %error, "failed to read a stored job");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}
