//! Plain data that the layers above share: what is asked for, what is known of a job, and what went
//! wrong.

pub(crate) mod job;
pub(crate) mod problem;
pub(crate) mod request;
