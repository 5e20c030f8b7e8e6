//! Kernels for NVIDIA GPUs: bf16 tensors, f32 sums, compute capability 8.0 and newer. For GPUs of 7.5,
//! products of f16 weights.
//!
//! Each function returns `None` for shapes that it has no kernel for; the operation is then composed
//! from candle's operators. [`choice`] decides by compute capability: products, and convolutions as
//! products, have a kernel for Hopper; other GPUs use cuBLAS, and a kernel of their own for
//! convolutions. Attention is cuDNN's where there is a cuDNN, else ours.
#![expect(unsafe_code, reason = "calls into the CUDA driver, NVRTC, cuBLAS and cuDNN")]

mod attention;
mod blas;
mod conv;
mod cudnn;
mod expand;
mod function;
mod group_norm;
mod half_products;
mod kernels;
mod matmul;
mod rows;
mod tensor;

use std::{collections::HashMap, sync::Arc};

use candle_core::{CudaDevice, DType, Device, Error, Result, Tensor, cuda_backend::cudarc};
use cudarc::driver::{CudaStream, sys::CUdevice_attribute};
use llm_dit_device::{Capability, driver_error, played};
use parking_lot::Mutex;

use crate::{cuda_choice as choice, cuda_source as source};

/// A GPU that the kernels run on.
pub(crate) struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    properties: Properties,
    kernels: choice::Kernels,
    /// Whether cuDNN may be asked.
    cudnn: bool,
}

/// A GPU that expands packed weights, and the type that it expands them to.
pub(crate) struct Expander {
    gpu: Gpu,
    /// To f16; else to bf16.
    half: bool,
}

/// A GPU that multiplies f16 values.
pub(crate) struct HalfGpu(Gpu);

#[derive(Clone, Copy)]
struct Properties {
    ordinal: usize,
    /// The GPU's own, which kernels are compiled for. They are chosen for the one that it plays.
    capability: Capability,
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
        Some(gpu) if gpu.kernels.hopper => gpu.matmul_tiled(a, b, None, tiling),
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
        Ok(Self::open(device)?.filter(|gpu| gpu.kernels.bf16))
    }

    /// A device, if it is a GPU that is supported.
    fn open(device: &Device) -> Result<Option<Self>> {
        let Device::Cuda(device) = device else { return Ok(None) };
        let stream = device.cuda_stream();
        let properties = Properties::of(&stream)?;
        let played = played(device)?;
        let Some(kernels) = choice::Kernels::of(played.capability) else { return Ok(None) };
        Ok(Some(Self { device: device.clone(), stream, properties, kernels, cudnn: played.cudnn }))
    }
}

impl Expander {
    pub fn on(device: &Device, dtype: DType) -> Result<Option<Self>> {
        let (gpu, half) = match dtype {
            DType::BF16 => (Gpu::on(device, dtype)?, false),
            DType::F16 => (Gpu::open(device)?, true),
            _ => (None, false),
        };
        Ok(gpu.map(|gpu| Self { gpu, half }))
    }
}

impl HalfGpu {
    pub fn on(device: &Device) -> Result<Option<Self>> {
        Ok(Gpu::open(device)?.map(Self))
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
        let (major, minor) = context.compute_capability().map_err(driver_error)?;
        let properties = Self {
            ordinal: context.ordinal(),
            capability: Capability::new(major.unsigned_abs(), minor.unsigned_abs()),
            multiprocessors: multiprocessors.map_err(driver_error)? as usize,
        };
        known.insert(properties.ordinal, properties);
        Ok(properties)
    }
}
