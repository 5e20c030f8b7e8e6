//! Jobs in the database, beside the pictures that come of them.

use redb::{ReadableDatabase as _, ReadableTable as _};

use super::{
    Store, StoreError,
    tables::{JOBS, SOURCES},
};
use crate::{
    history::Entry,
    records::job::{Record, State},
};

impl Store {
    /// All that are known, oldest first.
    pub fn jobs(&mut self) -> Result<Vec<Record>, StoreError> {
        let transaction = self.database()?.begin_read()?;
        let mut jobs = Vec::new();
        for item in transaction.open_table(JOBS)?.iter()? {
            let (number, json) = item?;
            match serde_json::from_slice(json.value()) {
                Ok(record) => jobs.push(record),
                // Of another version. The others must not suffer for it.
                Err(error) => {
                    tracing::error!(number = number.value(), %error, "failed to read a stored job");
                }
            }
        }
        Ok(jobs)
    }

    pub fn add_job(&mut self, record: &Record, source: Option<&[u8]>) -> Result<(), StoreError> {
        let json = serde_json::to_vec(record)?;
        self.change(|tables| {
            tables.jobs.insert(record.number, &json[..])?;
            if let Some(source) = source {
                tables.sources.insert(record.number, source)?;
            }
            Ok(())
        })
    }

    pub fn job_source(&mut self, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let transaction = self.database()?.begin_read()?;
        let source = transaction.open_table(SOURCES)?.get(number)?;
        Ok(source.map(|source| source.value().to_vec()))
    }

    /// What has become of a job that is not over.
    pub fn note_job(&mut self, record: &Record) -> Result<(), StoreError> {
        let json = serde_json::to_vec(record)?;
        self.change(|tables| {
            tables.jobs.insert(record.number, &json[..])?;
            Ok(())
        })
    }

    /// The end of a job, and in the same change its picture under the id `picture` names. A job that
    /// was removed in the meantime leaves nothing behind; false says so.
    pub fn end_job(
        &mut self,
        record: &Record,
        picture: Option<(u64, &Entry, &[u8])>,
    ) -> Result<bool, StoreError> {
        debug_assert!(!matches!(record.state, State::Queued | State::Running), "it is over");
        let json = serde_json::to_vec(record)?;
        let picture = match picture {
            Some((id, entry, file)) => Some((id, serde_json::to_vec(entry)?, file)),
            None => None,
        };
        self.change(|tables| {
            if tables.jobs.get(record.number)?.is_none() {
                return Ok(false);
            }
            tables.jobs.insert(record.number, &json[..])?;
            tables.sources.remove(record.number)?;
            if let Some((id, entry, file)) = &picture {
                tables.keep(*id, entry, file)?;
            }
            Ok(true)
        })
    }

    pub fn remove_jobs(&mut self, numbers: &[u64]) -> Result<(), StoreError> {
        self.change(|tables| {
            for number in numbers {
                tables.jobs.remove(*number)?;
                tables.sources.remove(*number)?;
            }
            Ok(())
        })
    }
}
