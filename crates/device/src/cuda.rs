//! Opening NVIDIA GPUs, and what their libraries' errors mean.
#![expect(unsafe_code, reason = "calls into the CUDA driver")]

mod graph;
mod played;

use candle_core::{
    CudaDevice, Device, Result,
    cuda_backend::{self, cudarc},
};
use cudarc::{
    cublas::{result::CublasError, sys::cublasStatus_t},
    driver::{
        DriverError,
        sys::{self, CUresult},
    },
};

use crate::Capability;
pub(crate) use graph::Graph;
pub use played::{Played, played};

/// What a library of NVIDIA's reported to code of ours, with its code.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    #[error("CUDA: {0}")]
    Driver(DriverError),
    #[error("cuBLAS: {0:?}")]
    Cublas(CublasError),
    #[error(
        "GPUs of compute capability {0} are not supported: 7.5 (Turing, such as GeForce RTX 20) is the oldest that is. Use --device cpu"
    )]
    TooOld(Capability),
    #[error("cuDNN: {call}: status {status} {text}")]
    Cudnn { call: String, status: i32, text: String },
}

/// cuDNN's "no memory" for the host and for the device, and what older versions said.
const CUDNN_ALLOCATION_FAILED: [i32; 3] = [4003, 4004, 2];

/// Opens a GPU: a stream of its own, and memory that stays with the process between uses.
///
/// Tensors of two calls' devices must not meet without a copy over the host. (candle refuses it.)
///
/// # Errors
///
/// The driver's, where there is no such GPU or it cannot be used; [`CudaError::TooOld`] for GPUs
/// before Turing.
pub fn cuda_device(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    let Device::Cuda(cuda) = &device else { return Ok(device) };
    played::enter(cuda)?;
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
pub fn driver_error(error: DriverError) -> candle_core::Error {
    CudaError::Driver(error).into()
}

/// Whether an error of NVIDIA's libraries means a full memory, by its code; `None` for other
/// errors.
pub(crate) fn is_out_of_memory(error: &(dyn std::error::Error + 'static)) -> Option<bool> {
    let driver = |error: &DriverError| error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    let cublas = |error: &CublasError| error.0 == cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED;
    if let Some(error) = error.downcast_ref::<CudaError>() {
        return Some(match error {
            CudaError::Driver(error) => driver(error),
            CudaError::Cublas(error) => cublas(error),
            CudaError::TooOld(_) => false,
            CudaError::Cudnn { status, .. } => CUDNN_ALLOCATION_FAILED.contains(status),
        });
    }
    if let Some(error) = error.downcast_ref::<cuda_backend::CudaError>() {
        return match error {
            cuda_backend::CudaError::Cuda(error) => Some(driver(error)),
            cuda_backend::CudaError::Load { cuda, .. } => Some(driver(cuda)),
            cuda_backend::CudaError::Cublas(error) => Some(cublas(error)),
            _ => None,
        };
    }
    error.downcast_ref().map(driver).or_else(|| error.downcast_ref().map(cublas))
}

impl From<CudaError> for candle_core::Error {
    fn from(error: CudaError) -> Self {
        Self::Cuda(Box::new(error)).bt()
    }
}
