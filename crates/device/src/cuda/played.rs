//! What each opened GPU is taken for.

use std::{collections::HashMap, sync::Mutex};

use candle_core::{
    CudaDevice, Result,
    cuda_backend::{DeviceId, cudarc::driver::CudaContext},
};

use super::{CudaError, driver_error};
use crate::{Capability, capability::emulation};

/// What kernels are chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Played {
    pub capability: Capability,
    /// Whether cuDNN may be used where it is installed.
    pub cudnn: bool,
}

static PLAYED: Mutex<Option<HashMap<DeviceId, Played>>> = Mutex::new(None);

/// What this GPU is taken for since it was opened: itself, unless a test or the benchmark says
/// otherwise.
///
/// # Errors
///
/// The driver's, for a device that another function than [`super::cuda_device`] opened.
pub fn played(device: &CudaDevice) -> Result<Played> {
    let known = PLAYED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match known.as_ref().and_then(|known| known.get(&device.id())) {
        Some(played) => Ok(*played),
        None => Ok(Played { capability: own(device.cuda_stream().context())?, cudnn: true }),
    }
}

/// Remembers what a GPU that was just opened plays, and refuses it if that is too old.
pub(super) fn enter(device: &CudaDevice) -> Result<()> {
    let emulation = emulation();
    let own = own(device.cuda_stream().context())?;
    let capability = emulation.capability.map_or(own, |played| played.min(own));
    if capability < Capability::TURING {
        return Err(CudaError::TooOld(capability).into());
    }
    let mut known = PLAYED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let played = Played { capability, cudnn: emulation.cudnn };
    known.get_or_insert_with(HashMap::new).insert(device.id(), played);
    Ok(())
}

fn own(context: &CudaContext) -> Result<Capability> {
    let (major, minor) = context.compute_capability().map_err(driver_error)?;
    Ok(Capability::new(major.unsigned_abs(), minor.unsigned_abs()))
}
