//! Models of the Hugging Face hub: downloads, and the cache on disk that is shared with Python's
//! `huggingface_hub`.
//!
//! Only a command that a person types downloads. [`locate`] finds what is in the cache and never
//! connects, so that no request and no start of a service can make this program fetch anything.
//!
//! Decision: everything that a hub says is hostile until it is checked. File names and commits
//! become paths only through [`FileName`] and [`Commit`], a blob is named by its checksum, and a file
//! gets its name after its content matched that checksum.

mod args;
mod cache;
mod checksum;
mod client;
mod download;
mod error;
mod listing;
mod locate;
mod metadata;
mod name;
mod progress;
mod pull;
mod repo;
mod select;
mod sets;

pub use args::{CacheArgs, HubArgs, RemoteArgs};
pub use cache::{Cache, CachedFile, CachedRepo, CachedSnapshot};
pub use client::{Client, Retry};
pub use error::HubError;
pub use locate::{NotCached, locate};
pub use name::FileName;
pub use progress::{Progress, Silent};
pub use pull::{Pulled, PulledFile, cached, pull};
pub use repo::{Commit, RepoName, RepoSpec, Revision};
pub use sets::{Loaded, SETS, Set, SetFile, Use, set};
