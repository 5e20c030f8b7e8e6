//! Copies bytes of a mapped file to a tensor on a GPU, at the speed of the bus.
//!
//! The driver copies from pageable memory through a small buffer of its own, with one thread, and
//! the file is not read meanwhile. Here several threads fill one page-locked buffer, page faults
//! included, while the GPU fetches the ones before it.
#![expect(unsafe_code, reason = "copies that go on behind the program's back")]

use candle_core::{
    CudaDevice, CudaStorage, DType, Device, Error, Result, Storage, Tensor,
    cuda_backend::{CudaDType, cudarc},
    op::BackpropOp,
};
use cudarc::driver::{CudaEvent, DevicePtrMut as _, DeviceRepr, PinnedHostSlice, result};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::driver_error;

/// Bytes of one buffer. Less, and the GPU waits between copies; more only costs memory.
const SIZE: usize = 16 << 20;
/// One is filled, the others are on their way.
const BUFFERS: usize = 4;
/// What a thread copies at once.
const SHARE: usize = 256 << 10;

/// Buffers between the host and one GPU.
pub struct Uploader {
    device: CudaDevice,
    buffers: Vec<Buffer>,
    next: usize,
}

struct Buffer {
    bytes: PinnedHostSlice<u8>,
    /// The copy out of it. cudarc's own events do not tell where the device's tracking is off.
    fetched: CudaEvent,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // If this fails nothing can be fetched any more either.
        let _ = self.fetched.synchronize();
    }
}

impl Uploader {
    /// Page-locks the buffers. `device` is a CUDA device.
    ///
    /// # Errors
    ///
    /// For other devices, and where the system gives no page-locked memory.
    pub fn new(device: &Device) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let stream = device.cuda_stream();
        let buffer = || {
            let context = stream.context();
            // SAFETY: what is read of a buffer was written before.
            let bytes = unsafe { context.alloc_pinned_with_flags(SIZE, 0) };
            let fetched = context.new_event(None).map_err(driver_error)?;
            Ok(Buffer { bytes: bytes.map_err(driver_error)?, fetched })
        };
        let buffers = (0..BUFFERS).map(|_| buffer()).collect::<Result<Vec<_>>>()?;
        Ok(Self { device, buffers, next: 0 })
    }

    /// A tensor of these little-endian values, on the device in the same type: f32, bf16 or f16.
    /// `None` for other types, which have no kernels to go on with.
    ///
    /// The copy may still be under way. What is asked of the device from now on waits for it.
    ///
    /// # Errors
    ///
    /// Where `bytes` are not those of `shape`, and the driver's.
    pub fn upload(
        &mut self,
        bytes: &[u8],
        dtype: DType,
        shape: &[usize],
    ) -> Result<Option<Tensor>> {
        Ok(Some(match dtype {
            DType::F32 => self.values::<f32>(bytes, shape)?,
            DType::BF16 => self.values::<bf16>(bytes, shape)?,
            DType::F16 => self.values::<f16>(bytes, shape)?,
            _ => return Ok(None),
        }))
    }

    fn values<T: CudaDType + DeviceRepr>(
        &mut self,
        bytes: &[u8],
        shape: &[usize],
    ) -> Result<Tensor> {
        let count = shape.iter().product::<usize>();
        if count * size_of::<T>() != bytes.len() {
            return Err(Error::Msg(format!("{} bytes for the shape {shape:?}", bytes.len())));
        }
        let stream = self.device.cuda_stream();
        // SAFETY: below, every byte is written before anything else on this stream can run.
        let mut slice = unsafe { self.device.alloc::<T>(count)? };
        {
            let (mut to, _written) = slice.device_ptr_mut(&stream);
            for chunk in bytes.chunks(SIZE) {
                let buffer = &mut self.buffers[self.next];
                self.next = (self.next + 1) % BUFFERS;
                buffer.fetched.synchronize().map_err(driver_error)?;
                let staged = &mut buffer.bytes.as_mut_slice().map_err(driver_error)?[..chunk.len()];
                staged
                    .par_chunks_mut(SHARE)
                    .zip(chunk.par_chunks(SHARE))
                    .for_each(|(to, from)| to.copy_from_slice(from));
                // SAFETY: the buffer is neither filled again nor freed before the event that is
                // recorded behind the copy. There is room for `count` values at the address, which
                // is given back in the stream's order, and so after the copy.
                unsafe { result::memcpy_htod_async(to, staged, stream.cu_stream()) }
                    .map_err(driver_error)?;
                buffer.fetched.record(&stream).map_err(driver_error)?;
                to += chunk.len() as u64;
            }
        }
        let storage = CudaStorage::wrap_cuda_slice(slice, self.device.clone());
        Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
    }
}
