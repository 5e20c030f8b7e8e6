//! Opening NVIDIA GPUs.
#![expect(unsafe_code, reason = "calls into the CUDA driver")]

mod graph;

use candle_core::{CudaDevice, Device, Error, Result, cuda_backend::cudarc};
use cudarc::driver::{DriverError, sys};

pub(crate) use graph::Graph;

/// Opens a GPU: a stream of its own, and memory that stays with the process between uses.
///
/// Tensors of two calls' devices must not meet without a copy over the host. (candle refuses it.)
pub fn cuda_device(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    let Device::Cuda(cuda) = &device else { return Ok(device) };
    // SAFETY: all that happens to this device's tensors happens on its one stream, in order. An
    // event for each tensor would say nothing, cost a call, and forbid capturing graphs.
    unsafe { cuda.disable_event_tracking() };
    keep_memory(cuda)?;
    Ok(device)
}

/// Memory that is freed stays in the driver's pool, else each wait for the GPU gives it back and the
/// next allocation is slow.
fn keep_memory(device: &CudaDevice) -> Result<()> {
    let stream = device.cuda_stream();
    if !stream.context().has_async_alloc() {
        return Ok(());
    }
    let mut pool = std::ptr::null_mut();
    let mut threshold = u64::MAX;
    // SAFETY: the pool is the device's own, and the attribute is 64 bits wide.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, stream.context().cu_device())
            .result()
            .map_err(driver_error)?;
        sys::cuMemPoolSetAttribute(
            pool,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            std::ptr::from_mut(&mut threshold).cast(),
        )
        .result()
        .map_err(driver_error)
    }
}

/// A driver's error as candle's.
pub fn driver_error(error: DriverError) -> Error {
    Error::Msg(format!("CUDA: {error}"))
}
