//! Work on a GPU that is captured once and replayed (a CUDA graph): one launch instead of hundreds.

use candle_core::{Device, Result, Tensor};

/// Captured work. It reads and writes the memory that it was captured with.
pub struct CapturedGraph {
    #[cfg(feature = "cuda")]
    graph: crate::cuda::Graph,
    /// What the work reads and writes, so that it stays where it is.
    _keeps: Vec<Tensor>,
}

/// Runs work once as [`CapturedGraph::capture`] will, so that nothing is left to be compiled, planned
/// or uploaded when it is captured. On devices without graphs it only runs the work.
///
/// # Errors
///
/// Those of `work`.
pub fn warm_up<T>(device: &Device, work: impl FnOnce() -> Result<T>) -> Result<T> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        let _uploads_are_kept = device.enable_cuda_graph_htod_cache();
        return work();
    }
    let _ = device;
    work()
}

impl CapturedGraph {
    /// Captures what `work` does on a GPU, without doing it; `None` on devices without graphs. `work`
    /// was [warmed up](warm_up) on this thread, drops all tensors that it makes, and its results are
    /// in `keeps`, as are the tensors that it reads.
    ///
    /// # Errors
    ///
    /// Those of `work`, and the driver's when the work cannot be captured.
    pub fn capture(
        device: &Device,
        keeps: Vec<Tensor>,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<Option<Self>> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = device {
            let graph = crate::cuda::Graph::capture(device, work)?;
            return Ok(Some(Self { graph, _keeps: keeps }));
        }
        let _ = (device, keeps, work);
        Ok(None)
    }

    /// Does the work again, on what the kept tensors hold now. It may still be under way when this
    /// returns.
    ///
    /// # Errors
    ///
    /// The driver's.
    pub fn replay(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        self.graph.launch()?;
        Ok(())
    }
}
