//! Work on a GPU that is recorded once and replayed (a CUDA graph): one launch instead of hundreds.

use candle_core::{Device, Result, Tensor};

/// Recorded work. It reads and writes the memory that it was recorded with.
pub struct Recording {
    #[cfg(feature = "cuda")]
    graph: crate::cuda::Graph,
    /// What the work reads and writes, so that it stays where it is.
    _keeps: Vec<Tensor>,
}

/// Runs work once as [`Recording::make`] will, so that nothing is left to be compiled, planned or
/// uploaded when it is recorded.
pub fn rehearse<T>(device: &Device, work: impl FnOnce() -> Result<T>) -> Result<T> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        let _uploads_are_kept = device.enable_cuda_graph_htod_cache();
        return work();
    }
    let _ = device;
    work()
}

impl Recording {
    /// Records what `work` does on a GPU, without doing it; `None` on other devices. `work` has been
    /// [rehearsed](rehearse), lets go of all tensors that it makes, and its results are in `keeps`,
    /// as are the tensors that it reads.
    pub fn make(
        device: &Device,
        keeps: Vec<Tensor>,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<Option<Self>> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = device {
            let graph = crate::cuda::Graph::record(device, work)?;
            return Ok(Some(Self { graph, _keeps: keeps }));
        }
        let _ = (device, keeps, work);
        Ok(None)
    }

    /// Does the work again, on what the kept tensors hold now.
    pub fn replay(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        self.graph.launch()?;
        Ok(())
    }
}
