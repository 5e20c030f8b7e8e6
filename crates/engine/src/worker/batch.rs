//! Work of one kind, of which a model can do several pieces in one go.

use super::reply::Answer;

/// Such a piece. When the model is free, those that wait behind the oldest one and
/// [fit](Batch::compatible) go with it.
pub trait Batch<M>: Sized + Send + 'static {
    type Output: Send + 'static;

    /// Whether this one can be done in one go with those, which go already and are at least one.
    fn compatible(&self, those: &[&Self]) -> bool;

    /// Does them, and answers each as soon as it is done.
    fn run(model: &mut M, together: Vec<(Self, Answer<Self::Output>)>);
}

/// The kind of a model that does everything alone.
#[derive(Debug)]
pub enum Unbatched {}

impl<M> Batch<M> for Unbatched {
    type Output = ();

    fn compatible(&self, _: &[&Self]) -> bool {
        match *self {}
    }

    fn run(_: &mut M, _: Vec<(Self, Answer<Self::Output>)>) {}
}
