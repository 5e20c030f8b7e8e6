//! Capturing a stream's work as a CUDA graph.

use candle_core::{CudaDevice, Error, Result, cuda_backend::cudarc};
use cudarc::driver::{
    CudaGraph,
    sys::{CUgraphInstantiate_flags, CUstreamCaptureMode},
};

use super::driver_error;

/// CUDA work that was captured once and can be launched again. It holds the addresses of its
/// tensors, not the tensors.
pub struct Graph {
    graph: CudaGraph,
}

// SAFETY: the driver's graph may be used by any thread, one at a time, and nothing here shares it.
unsafe impl Send for Graph {}

impl Graph {
    /// Captures what `work` launches on the device's stream, without running it.
    ///
    /// # Errors
    ///
    /// Fails if the driver refuses the capture, if `work` fails, or if `work` launched nothing.
    pub fn capture(device: &CudaDevice, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let stream = device.cuda_stream();
        let _uploads_are_kept = device.enable_cuda_graph_htod_cache();
        // Other threads allocate and copy on streams of their own meanwhile.
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(driver_error)?;
        let done = work();
        // The stream leaves its capture even when the work failed.
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).map_err(driver_error);
        done?;
        let graph = graph?.ok_or_else(|| Error::Msg("CUDA: nothing was captured".into()))?;
        Ok(Self { graph })
    }

    /// Launches the captured work on the stream that it was captured from.
    ///
    /// # Errors
    ///
    /// Fails if the driver refuses the launch or reports an earlier asynchronous error.
    pub fn launch(&self) -> Result<()> {
        self.graph.launch().map_err(driver_error)
    }
}
