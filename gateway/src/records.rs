//! Plain data that the layers above share: what is asked for, how far it is, what came of it, what
//! is known of a job, and what went wrong.

pub(crate) mod job;
pub(crate) mod model;
pub(crate) mod picture;
pub(crate) mod problem;
pub(crate) mod progress;
pub(crate) mod request;
