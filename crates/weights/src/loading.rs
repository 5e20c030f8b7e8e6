//! A load in progress: its bytes, its start, and the transfer to the device.

use std::{path::Path, time::Instant};

use candle_core::{Device, Tensor};
use llm_dit_device::device_id;
use safetensors::tensor::TensorView;

use crate::{LoadError, read::load};

/// From the first tensor of a part to its last. The next load of the part begins anew.
#[derive(Default)]
pub(crate) struct Loading {
    begun: Option<Instant>,
    bytes: u64,
    #[cfg(feature = "cuda")]
    uploader: Option<llm_dit_device::Uploader>,
}

impl Loading {
    /// A tensor is about to be read that takes so many bytes in its file.
    pub fn read(&mut self, bytes: usize) {
        self.begun.get_or_insert_with(Instant::now);
        self.bytes += bytes as u64;
    }

    /// A file's values on a device that is not the host, in the file's type.
    ///
    /// # Errors
    ///
    /// Fails if the device refuses the memory or the copy.
    pub fn upload(
        &mut self,
        view: &TensorView<'_>,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        #[cfg(feature = "cuda")]
        if device.is_cuda()
            && let Ok(dtype) = view.dtype().try_into()
        {
            let uploader = match &mut self.uploader {
                Some(uploader) => uploader,
                none => none.insert(llm_dit_device::Uploader::new(device)?),
            };
            if let Some(tensor) = uploader.upload(view.data(), dtype, view.shape())? {
                return Ok(tensor);
            }
        }
        load(view, device)
    }

    /// All is read: waits until it is on the device, and says how long that took.
    ///
    /// # Errors
    ///
    /// Fails if the device reports an error of the copies.
    pub fn finish(&mut self, path: &Path, device: &Device) -> Result<(), LoadError> {
        let Self { begun, bytes, .. } = std::mem::take(self);
        let Some(begun) = begun else { return Ok(()) };
        device.synchronize()?;
        let (seconds, gigabytes) = (begun.elapsed().as_secs_f64(), bytes as f64 / 1e9);
        tracing::info!(
            path = %path.display(),
            device = %device_id(device),
            gigabytes = round(gigabytes),
            seconds = round(seconds),
            gigabytes_per_second = round(gigabytes / seconds.max(1e-9)),
            "loaded weights"
        );
        Ok(())
    }
}

/// Three digits are as many as a person reads.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
