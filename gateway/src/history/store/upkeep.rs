//! What keeps the database's file in order: space that goes back to the disk, and a file that is not
//! as it was written.

use std::{
    any::Any,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    Store,
    tables::{BYTES, NUMBERS},
};

/// Smaller files are not compacted.
const MIN_COMPACTED: u64 = 16 << 20;
/// Bytes of pictures that may be moved to compact a file, while others wait for the thread.
const MAX_MOVED: u64 = 64 << 20;

impl Store {
    /// Does some work. If the database's code panics, because the file was changed by somebody else,
    /// the file is opened again for the next work, and the caller of this one gets no answer.
    pub fn run(&mut self, work: impl FnOnce(&mut Self)) {
        let done = catch_unwind(AssertUnwindSafe(|| work(self)));
        let Err(panic) = done else { return };
        let cause = panic_message(&*panic);
        tracing::error!(cause, "the history's file is damaged; stop the gateway and move it away");
        *self.trouble.lock() = Some("the file of the gateway's history is damaged".to_owned());
        self.database = None;
    }

    /// Gives the space of removed pictures back to the disk, where that is much and little is left to
    /// move. Nothing is lost if it fails.
    pub fn compact(&mut self) {
        let size = |store: &Self| fs::metadata(&store.path).map_or(0, |about| about.len());
        let before = size(self);
        let kept = self.read(|transaction| {
            let numbers = transaction.open_table(NUMBERS)?.get(BYTES)?;
            Ok(numbers.map_or(0, |bytes| bytes.value()))
        });
        let Ok(kept) = kept else { return };
        if before < MIN_COMPACTED || kept > before / 4 || kept > MAX_MOVED {
            return;
        }
        let Some(database) = &mut self.database else { return };
        match database.compact() {
            Ok(_) => tracing::info!(before, after = size(self), "compacted the history's file"),
            Err(error) => {
                self.database = None;
                tracing::warn!(%error, "failed to compact the history's file");
            }
        }
    }
}

pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
