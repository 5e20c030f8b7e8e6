//! A part of a model that is on its device always, or only while it is used.

use crate::LoadError;

type Load<T> = Box<dyn Fn() -> Result<T, LoadError> + Send>;

/// How long a part keeps its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residency {
    /// From the start to the end.
    #[default]
    Always,
    /// While it computes. It is read from its mapped files again each time, which the operating
    /// system keeps in memory as long as nothing else needs it.
    InUse,
}

/// A part and how to load it.
pub struct Resident<T> {
    load: Load<T>,
    part: Option<T>,
    residency: Residency,
}

impl<T> Resident<T> {
    /// Loads at once what is to stay; the rest is loaded by the first [`Resident::get`].
    pub fn new(
        residency: Residency,
        load: impl Fn() -> Result<T, LoadError> + Send + 'static,
    ) -> Result<Self, LoadError> {
        let part = match residency {
            Residency::Always => Some(load()?),
            Residency::InUse => None,
        };
        Ok(Self { load: Box::new(load), part, residency })
    }

    /// As [`Resident::new`], but the first [`Resident::get`] loads in any case.
    pub fn lazy(
        residency: Residency,
        load: impl Fn() -> Result<T, LoadError> + Send + 'static,
    ) -> Self {
        Self { load: Box::new(load), part: None, residency }
    }

    /// The part, loaded if need be.
    pub fn get(&mut self) -> Result<&mut T, LoadError> {
        let part = match self.part.take() {
            Some(part) => part,
            None => (self.load)()?,
        };
        Ok(self.part.insert(part))
    }

    /// The part, if it is loaded.
    pub fn loaded(&self) -> Option<&T> {
        self.part.as_ref()
    }

    /// Likewise, to be changed.
    pub fn loaded_mut(&mut self) -> Option<&mut T> {
        self.part.as_mut()
    }

    /// Gives its memory back in any case. The next [`Resident::get`] loads it again.
    pub fn unload(&mut self) {
        self.part = None;
    }

    /// To be called after use: what is not to stay gives its memory back.
    pub fn release(&mut self) {
        if self.residency == Residency::InUse {
            self.part = None;
        }
    }

    /// From now on it is loaded in another way; what is loaded is that way already.
    pub fn load_with(&mut self, load: impl Fn() -> Result<T, LoadError> + Send + 'static) {
        self.load = Box::new(load);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    fn counted(residency: Residency) -> (Resident<usize>, Arc<AtomicUsize>) {
        let loads = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&loads);
        let load = move || Ok(count.fetch_add(1, Ordering::Relaxed));
        (Resident::new(residency, load).expect("loads"), loads)
    }

    #[test]
    fn what_stays_is_loaded_once() {
        let (mut part, loads) = counted(Residency::Always);
        for _ in 0..3 {
            assert_eq!(part.get().copied().ok(), Some(0));
            part.release();
            assert!(part.part.is_some());
        }
        assert_eq!(loads.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_is_in_use_only_is_loaded_for_each_use() {
        let (mut part, loads) = counted(Residency::InUse);
        assert!(part.part.is_none());
        for use_ in 0..3 {
            assert_eq!(part.get().copied().ok(), Some(use_));
            assert_eq!(part.get().copied().ok(), Some(use_));
            part.release();
            assert!(part.part.is_none());
        }
        assert_eq!(loads.load(Ordering::Relaxed), 3);
    }
}
