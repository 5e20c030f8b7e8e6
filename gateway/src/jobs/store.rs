//! Where jobs are kept.

use std::fmt;

use bytes::Bytes;
use llm_dit_fault::Fault;

use crate::{generation::Made, records::job::Record};

/// Keeps jobs for the next gateway. What a method was given is kept when it has returned.
#[tonic::async_trait]
pub(crate) trait JobStore: fmt::Debug + Send + Sync {
    /// All that are known, oldest first.
    async fn load(&self) -> Result<Vec<Record>, Fault>;
    /// A new job, and the picture that it draws from.
    async fn accept(&self, record: Record, source: Option<Bytes>) -> Result<(), Fault>;
    /// The picture that a job draws from, until it is over.
    async fn source(&self, number: u64) -> Result<Option<Bytes>, Fault>;
    /// What has become of a job that is not over.
    async fn note(&self, record: Record) -> Result<(), Fault>;
    /// The end of a job, in one change with the picture, if there is one. Returns the picture's id
    /// in the history; `None` if it is not kept.
    async fn end(&self, record: Record, made: Option<Made>) -> Result<Option<u64>, Fault>;
    async fn remove(&self, numbers: Vec<u64>) -> Result<(), Fault>;
}

/// For gateways that keep nothing: what is known of jobs is what [`Jobs`](super::Jobs) has in memory.
#[derive(Debug)]
pub(crate) struct Forgetful;

#[tonic::async_trait]
impl JobStore for Forgetful {
    async fn load(&self) -> Result<Vec<Record>, Fault> {
        Ok(Vec::new())
    }

    async fn accept(&self, _: Record, _: Option<Bytes>) -> Result<(), Fault> {
        Ok(())
    }

    async fn source(&self, _: u64) -> Result<Option<Bytes>, Fault> {
        Ok(None)
    }

    async fn note(&self, _: Record) -> Result<(), Fault> {
        Ok(())
    }

    async fn end(&self, _: Record, _: Option<Made>) -> Result<Option<u64>, Fault> {
        Ok(None)
    }

    async fn remove(&self, _: Vec<u64>) -> Result<(), Fault> {
        Ok(())
    }
}
