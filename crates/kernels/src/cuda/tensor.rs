//! Tensors of a GPU as addresses, and launches.

use candle_core::{
    CudaStorage, Error, Layout, Result, Storage, Tensor,
    cuda_backend::{CudaDType, cudarc},
    op::BackpropOp,
};
use cudarc::driver::{DevicePtr, DeviceRepr, LaunchConfig, sys};
use half::bf16;
use llm_dit_device::driver_error;

use super::Gpu;

/// Bytes of the vectors that kernels load and store.
const VECTOR: u64 = 16;

/// Where packed sequences end, as kernels get it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ends {
    count: i32,
    ends: [i32; 31],
}

// SAFETY: plain integers in the layout of `common.cuh`.
unsafe impl DeviceRepr for Ends {}

impl Ends {
    /// `None` for more sequences than fit.
    pub fn new(seq_lens: &[usize]) -> Option<Self> {
        let mut ends = [0; 31];
        if seq_lens.len() > ends.len() {
            return None;
        }
        let mut sum = 0;
        for (end, len) in ends.iter_mut().zip(seq_lens) {
            sum += i32::try_from(*len).ok()?;
            *end = sum;
        }
        Some(Self { count: seq_lens.len() as i32, ends })
    }
}

impl Gpu {
    /// A new tensor whose values are still to be written.
    ///
    /// # Errors
    ///
    /// Fails if the device does not have the memory.
    pub fn empty<T: CudaDType + DeviceRepr>(&self, dims: &[usize]) -> Result<Tensor> {
        // SAFETY: every kernel here writes the whole of its output before it is read.
        let slice = unsafe { self.device.alloc::<T>(dims.iter().product())? };
        let storage = CudaStorage::wrap_cuda_slice(slice, self.device.clone());
        Ok(Tensor::from_storage(Storage::Cuda(storage), dims, BackpropOp::none(), false))
    }

    /// The tensor as kernels read it: one value after the other, from an address that vectors can be
    /// read at.
    ///
    /// # Errors
    ///
    /// Fails if the copy fails, or if the tensor is not of type `T` on this device.
    pub fn dense<T: CudaDType + DeviceRepr>(&self, tensor: &Tensor) -> Result<Tensor> {
        let tensor = tensor.contiguous()?;
        if address::<T>(&tensor)? % VECTOR == 0 { Ok(tensor) } else { tensor.force_contiguous() }
    }
}

/// Rows of a table that may be part of a wider one: a row a sequence.
pub struct Rows {
    pub address: u64,
    /// Vectors from a row to the next.
    pub stride: i32,
    /// What is to live as long.
    _tensor: Option<Tensor>,
}

impl Rows {
    /// No table.
    pub const NONE: Self = Self { address: 0, stride: 0, _tensor: None };

    /// `tensor`: `(sequences, width)` in bf16, copied only if its rows are not aligned to vectors.
    ///
    /// # Errors
    ///
    /// Fails if the copy fails, or if the tensor is not bf16 on this device.
    pub fn new(gpu: &Gpu, tensor: &Tensor) -> Result<Self> {
        let lies_well = {
            let (_, layout) = tensor.storage_and_layout();
            let stride = layout.stride();
            stride[1] == 1 && stride[0].is_multiple_of(8) && layout.start_offset().is_multiple_of(8)
        };
        let tensor = if lies_well { tensor.clone() } else { gpu.dense::<bf16>(tensor)? };
        let stride = tensor.stride()[0] / 8;
        Ok(Self {
            address: address::<bf16>(&tensor)?,
            stride: stride as i32,
            _tensor: Some(tensor),
        })
    }

    /// [`Self::new`], or no table.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn optional(gpu: &Gpu, tensor: Option<&Tensor>) -> Result<Self> {
        tensor.map_or(Ok(Self::NONE), |tensor| Self::new(gpu, tensor))
    }
}

/// Device address of the tensor's first value. It is valid as long as the tensor lives.
///
/// # Errors
///
/// Fails if the tensor is not of type `T` on a CUDA device.
pub fn address<T: CudaDType + DeviceRepr>(tensor: &Tensor) -> Result<u64> {
    let (storage, layout): (_, &Layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        return Err(Error::Msg("a CUDA kernel was given a tensor of another device".into()));
    };
    let slice = storage.as_cuda_slice::<T>()?;
    let (start, _guard) = slice.device_ptr(slice.stream());
    Ok(start + (layout.start_offset() * size_of::<T>()) as u64)
}

/// [`address`], or null.
///
/// # Errors
///
/// As [`address`].
pub fn optional<T: CudaDType + DeviceRepr>(tensor: Option<&Tensor>) -> Result<u64> {
    tensor.map_or(Ok(0), address::<T>)
}

/// A launch of `grid` blocks of `threads` threads, with this many bytes of dynamic shared memory a
/// block.
///
/// # Errors
///
/// Fails if an axis of the grid does not fit `u32`.
pub fn blocks(
    grid: (usize, usize, usize),
    threads: u32,
    shared_bytes: u32,
) -> Result<LaunchConfig> {
    let size = |n: usize| u32::try_from(n).map_err(|_| Error::Msg(format!("{n} blocks")));
    Ok(LaunchConfig {
        grid_dim: (size(grid.0)?, size(grid.1)?, size(grid.2)?),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: shared_bytes,
    })
}

/// Launches a kernel on the GPU's stream. Arguments are numbers and addresses, in the kernel's order.
macro_rules! launch {
    ($gpu:expr, $function:expr, $config:expr, $($argument:expr),+ $(,)?) => {{
        let function = $function;
        let mut builder = $gpu.stream.launch_builder(&function);
        $(
            let argument = $argument;
            cudarc::driver::PushKernelArg::arg(&mut builder, &argument);
        )+
        // SAFETY: the function that launches has checked shapes and types against the kernel's
        // parameters, and holds the tensors that the addresses belong to.
        unsafe { builder.launch($config) }.map(|_| ()).map_err(llm_dit_device::driver_error)
    }};
}
pub(super) use launch;

/// A layout of memory that the copy engine reads or writes in tiles, zero outside its bounds.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct TensorMap(sys::CUtensorMap);

// SAFETY: the driver's own structure, made to be a kernel's parameter.
unsafe impl DeviceRepr for TensorMap {}

impl TensorMap {
    /// bf16 values. `dims` and `tile` from the innermost; `strides` in bytes, of all but the innermost.
    ///
    /// # Errors
    ///
    /// Fails if the driver refuses the description.
    pub fn new(address: u64, dims: &[usize], strides: &[usize], tile: &[u32]) -> Result<Self> {
        let dims: Vec<u64> = dims.iter().map(|&d| d as u64).collect();
        let strides: Vec<u64> = strides.iter().map(|&s| s as u64).collect();
        let steps = vec![1u32; dims.len()];
        let mut map = std::mem::MaybeUninit::<sys::CUtensorMap>::uninit();
        // SAFETY: the arrays have the lengths that the rank says, and the driver writes the map when
        // it reports success.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                dims.len() as u32,
                address as *mut _,
                dims.as_ptr(),
                strides.as_ptr(),
                tile.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
            .result()
            .map_err(driver_error)?;
            Ok(Self(map.assume_init()))
        }
    }
}
