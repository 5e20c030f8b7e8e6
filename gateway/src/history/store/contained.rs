//! Values of the database whose destructors may panic.

use std::{
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// A value that is dropped without letting a panic out.
///
/// If the database's code panics at a damaged page while it holds a lock, the destructors of the
/// tables and of the transaction that are open by then find the lock poisoned and panic as well. A
/// second panic that leaves a destructor would end the whole process.
pub(super) struct Contained<T>(Option<T>);

impl<T> Contained<T> {
    pub fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub fn into_inner(mut self) -> T {
        self.0.take().expect(HELD)
    }
}

/// Only [`Contained::into_inner`] and the destructor take the value.
const HELD: &str = "holds a value until it is dropped";

impl<T> Deref for Contained<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for Contained<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(HELD)
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
    }
}
