//! The channel from the model's thread back to a caller.

use llm_dit_fault::Fault;
use tokio::sync::oneshot;

/// Where a result goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Fault>>;

/// Takes one job's result. Dropped without one, it tells the caller that the model failed.
pub struct Answer<T> {
    name: &'static str,
    /// Called once, right before the result is sent.
    answered: Option<Box<dyn FnOnce() + Send>>,
    reply: Option<Reply<T>>,
}

impl<T> Answer<T> {
    /// `name` is the worker's. `answered` frees the job's place in the queue, so that a caller who
    /// sends another request on the answer finds it free.
    pub(super) fn new(
        name: &'static str,
        reply: Reply<T>,
        answered: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self { name, answered: Some(Box::new(answered)), reply: Some(reply) }
    }

    /// Delivers the job's output to the caller.
    pub fn send(mut self, output: T) {
        self.deliver(Ok(output));
    }

    fn deliver(&mut self, result: Result<T, Fault>) {
        let Some(reply) = self.reply.take() else { return };
        if let Some(answered) = self.answered.take() {
            answered();
        }
        // A caller that left does not read it.
        let _ = reply.send(result);
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        self.deliver(Err(failed(self.name)));
    }
}

impl<T> std::fmt::Debug for Answer<T> {
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
