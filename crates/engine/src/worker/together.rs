//! Work of one kind, of which a model can do several pieces in one go.

use std::sync::Arc;

use llm_dit_fault::Fault;
use tokio::sync::oneshot;

use super::queue::{Queue, Reply};

/// Such a piece. When the model is free, those that wait behind the oldest one and
/// [fit](Together::fits) go with it.
pub trait Together<M>: Sized + Send + 'static {
    type Output: Send + 'static;

    /// Whether this one can be done in one go with those, which go already and are at least one.
    fn fits(&self, those: &[&Self]) -> bool;

    /// Does them, and answers each as soon as it is done.
    fn run(model: &mut M, together: Vec<(Self, Answer<M, Self>)>);
}

/// The kind of a model that does everything alone.
#[derive(Debug)]
pub enum Alone {}

/// Takes one piece's result. Dropped without one, it tells the caller that the model failed.
pub struct Answer<M, K: Together<M> = Alone> {
    pub(super) name: &'static str,
    pub(super) queue: Arc<Queue<M, K>>,
    pub(super) reply: Option<Reply<K::Output>>,
}

impl<M> Together<M> for Alone {
    type Output = ();

    fn fits(&self, _: &[&Self]) -> bool {
        match *self {}
    }

    fn run(_: &mut M, _: Vec<(Self, Answer<M, Self>)>) {}
}

impl<M, K: Together<M>> Answer<M, K> {
    pub fn send(mut self, output: K::Output) {
        self.deliver(Ok(output));
    }

    fn deliver(&mut self, result: Result<K::Output, Fault>) {
        if let Some(reply) = self.reply.take() {
            // First, so that a caller who asks again on the answer finds the place free.
            self.queue.answered();
            // A caller that left does not read it.
            let _ = reply.send(result);
        }
    }
}

impl<M, K: Together<M>> Drop for Answer<M, K> {
    fn drop(&mut self) {
        self.deliver(Err(failed(self.name)));
    }
}

impl<M, K: Together<M>> std::fmt::Debug for Answer<M, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a caller hears when the model broke off.
pub(super) fn failed(name: &str) -> Fault {
    Fault::Internal(format!("the {name} failed; its log has the cause"))
}

/// Both ends of an answer.
pub(super) fn reply<T>() -> (Reply<T>, oneshot::Receiver<Result<T, Fault>>) {
    oneshot::channel()
}
