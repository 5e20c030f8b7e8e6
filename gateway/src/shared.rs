//! Jobs and history on a NATS server with JetStream, which several gateways share.
//!
//! A work queue holds ids of jobs, a key-value bucket their records, another one the history, an
//! object store the images ([why, and what is guaranteed](../../docs/decisions/0023-shared-queue.md)).
//!
//! A lease only says who should work at a job. What counts is the record: each change of it names
//! the revision that it replaces, so exactly one end of a job is ever stored. An acknowledgement
//! fences nobody off, so it is sent last, and only by a worker whose job is over.

mod claims;
mod events;
mod fault;
mod follow;
mod gallery;
mod mirror;
mod objects;
mod records;
mod server;
mod sweep;

pub(crate) use self::server::Shared;

#[cfg(test)]
mod tests;
