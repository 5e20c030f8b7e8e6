//! What a caller hears of a download.

use std::time::Duration;

use crate::FileName;

/// Hears of a download. Several files are under way at once.
pub trait Progress: Sync {
    /// The files are known: how many, their bytes, and how many of those are here already.
    fn begin(&self, files: usize, bytes: u64, here: u64);
    /// So many bytes have come.
    fn advance(&self, bytes: u64);
    /// So many bytes have to come again, since the hub sends another content or the rest of none.
    fn retract(&self, bytes: u64);
    /// A file is whole and has its name.
    fn file(&self, name: &FileName, bytes: u64);
    /// A request is repeated after this time, for this reason.
    fn again(&self, after: Duration, why: &str);
    /// Another process downloads this file.
    fn waits(&self, name: &FileName);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: usize, _: u64, _: u64) {}
    fn advance(&self, _: u64) {}
    fn retract(&self, _: u64) {}
    fn file(&self, _: &FileName, _: u64) {}
    fn again(&self, _: Duration, _: &str) {}
    fn waits(&self, _: &FileName) {}
}
