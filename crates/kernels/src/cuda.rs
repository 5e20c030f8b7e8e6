//! Kernels for NVIDIA GPUs: bf16 tensors, f32 sums, compute capability 8.0 and newer.
//!
//! Each function returns `None` for shapes that it has no kernel for; the operation is then composed
//! from candle's operators. Products, and convolutions as products, have a kernel for Hopper; other
//! GPUs use cuBLAS. Attention is cuDNN's where there is a cuDNN, else ours.
#![expect(unsafe_code, reason = "calls into the CUDA driver, NVRTC, cuBLAS and cuDNN")]

mod attention;
mod conv;
mod cudnn;
mod function;
mod graph;
mod matmul;
mod rows;
mod tensor;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{CudaDevice, DType, Device, Error, Result, Tensor, cuda_backend::cudarc};
use cudarc::driver::{
    CudaStream, DriverError,
    sys::{self, CUdevice_attribute},
};

use crate::cuda_source as source;
pub(crate) use conv::{ConvWeights, Upsampling};
pub(crate) use graph::Graph;

/// A GPU that the kernels run on.
pub(crate) struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    properties: Properties,
}

#[derive(Clone, Copy)]
struct Properties {
    ordinal: usize,
    capability: (i32, i32),
    multiprocessors: usize,
}

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

/// A product cut up as told, to compare the ways.
#[doc(hidden)]
pub fn matmul_tiled(a: &Tensor, b: &Tensor, tiling: source::Tiling) -> Result<Tensor> {
    match Gpu::of(a)? {
        Some(gpu) if gpu.is_hopper() => gpu.matmul_tiled(a, b, None, tiling),
        _ => Err(Error::Msg("tiled products need bf16 on a GPU of compute capability 9.0".into())),
    }
}

impl Gpu {
    /// The GPU of a tensor, if kernels here know its type and are new enough for them.
    pub(crate) fn of(tensor: &Tensor) -> Result<Option<Self>> {
        if tensor.dtype() != DType::BF16 {
            return Ok(None);
        }
        let Device::Cuda(device) = tensor.device() else { return Ok(None) };
        let stream = device.cuda_stream();
        let properties = Properties::of(&stream)?;
        let new_enough = properties.capability >= (8, 0);
        Ok(new_enough.then(|| Self { device: device.clone(), stream, properties }))
    }

    fn is_hopper(&self) -> bool {
        self.properties.capability == (9, 0)
    }
}

impl Properties {
    /// Asked of the driver once a device.
    fn of(stream: &CudaStream) -> Result<Self> {
        static KNOWN: Mutex<Option<HashMap<usize, Properties>>> = Mutex::new(None);
        let context = stream.context();
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_with(HashMap::new);
        if let Some(properties) = known.get(&context.ordinal()) {
            return Ok(*properties);
        }
        let multiprocessors =
            context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        let properties = Self {
            ordinal: context.ordinal(),
            capability: context.compute_capability().map_err(driver_error)?,
            multiprocessors: multiprocessors.map_err(driver_error)? as usize,
        };
        known.insert(properties.ordinal, properties);
        Ok(properties)
    }
}

fn driver_error(error: DriverError) -> Error {
    Error::Msg(format!("CUDA: {error}"))
}
