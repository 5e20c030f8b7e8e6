//! Kernels for NVIDIA GPUs: bf16 tensors, f32 sums, compute capability 8.0 and newer.
//!
//! Each function returns `None` for shapes that it has no kernel for; the operation is then composed
//! from candle's operators. Products, and convolutions as products, have a kernel for Hopper; other
//! GPUs use cuBLAS. Attention is cuDNN's where there is a cuDNN, else ours.
#![expect(unsafe_code, reason = "calls into the CUDA driver, NVRTC, cuBLAS and cuDNN")]

mod attention;
mod conv;
mod cudnn;
mod expand;
mod function;
mod kernels;
mod matmul;
mod rows;
mod tensor;

use std::{collections::HashMap, sync::Arc};

use candle_core::{CudaDevice, DType, Device, Error, Result, Tensor, cuda_backend::cudarc};
use cudarc::driver::{CudaStream, sys::CUdevice_attribute};
use llm_dit_device::driver_error;
use parking_lot::Mutex;

use crate::cuda_source as source;

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

/// A matrix product with a given tiling, to compare tilings. `a` and `b` are bf16.
///
/// # Errors
///
/// Fails unless the tensors are bf16 on a GPU of compute capability 9.0, or if the driver fails.
#[doc(hidden)]
pub fn matmul_tiled(a: &Tensor, b: &Tensor, tiling: source::Tiling) -> Result<Tensor> {
    match Gpu::of(a)? {
        Some(gpu) if gpu.is_hopper() => gpu.matmul_tiled(a, b, None, tiling),
        _ => Err(Error::Msg("tiled products need bf16 on a GPU of compute capability 9.0".into())),
    }
}

impl Gpu {
    /// The GPU of a tensor, if kernels here know its type and are new enough for them.
    fn of(tensor: &Tensor) -> Result<Option<Self>> {
        Self::on(tensor.device(), tensor.dtype())
    }

    /// Likewise, for tensors of this type on this device.
    pub(crate) fn on(device: &Device, dtype: DType) -> Result<Option<Self>> {
        if dtype != DType::BF16 {
            return Ok(None);
        }
        let Device::Cuda(device) = device else { return Ok(None) };
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
        let mut known = KNOWN.lock();
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
