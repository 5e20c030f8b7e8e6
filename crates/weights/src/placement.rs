//! From flags and a device to what is planned, and from a plan to how parts are loaded.

use candle_core::Device;
use llm_dit_device::{device_id, meter};
use llm_dit_engine::plan::{
    Course, Demand, Fixed, Form, GPU_OVERHEAD, Limit, PartSize, Plan, PlanError, Stay, Work,
};

use crate::{
    Packing, Residency, Weights,
    args::{MaxVram, OffloadArgs},
};

/// What the CPU's kernels, buffers and libraries take beside weights and activations: at most so much
/// more was measured than is counted, from 64x64 to 1536x1536.
pub const HOST_OVERHEAD: u64 = 80 << 20;

/// The parts of a model on one device, before they are loaded.
#[derive(Clone, Debug)]
pub struct Parts {
    pub device: Device,
    pub sizes: Vec<PartSize>,
    pub work: Work,
}

/// What a part may take, and what others take there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceBudget {
    /// Bytes that this process may take on the device.
    pub limit: u64,
    /// Of them, bytes of what has no part in this model's work: other models, libraries.
    pub others: u64,
    /// What is taken whatever is computed.
    pub overhead: u64,
}

impl OffloadArgs {
    /// Plans these parts, for `images` at once at most, within the limit of the flags; `None` where there is no limit: on the CPU,
    /// unless one was given, and on devices that do not tell what is free.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if they do not fit in any way that the flags allow.
    pub fn plan(
        &self,
        parts: &Parts,
        course: Course,
        images: usize,
        batch: Option<usize>,
    ) -> Result<Option<Plan>, Box<PlanError>> {
        let Some(limit) = self.limit(&parts.device) else { return Ok(None) };
        // Together, images are no faster there.
        let images = if parts.device.is_cpu() && batch.is_none() { 1 } else { images };
        let demand = Demand {
            device: device_id(&parts.device).to_string(),
            limit,
            overhead: overhead(&parts.device),
            parts: parts.sizes.clone(),
            work: parts.work,
            course,
            images,
            fixed: Fixed { offload: self.cpu_offload, form: self.weights.form(), batch },
        };
        Plan::new(&demand).map(Some)
    }

    fn limit(&self, device: &Device) -> Option<Limit> {
        match self.max_vram {
            MaxVram::Size(bytes) => Some(Limit::Given(bytes)),
            MaxVram::Auto if device.is_cpu() => None,
            MaxVram::Auto => meter::available(device).map(Limit::Free),
        }
    }

    /// Without a plan: what the flag says, or that parts stay.
    pub fn residency(&self) -> Residency {
        if self.cpu_offload == Some(true) { Residency::InUse } else { Residency::Always }
    }
}

/// What a process takes of a device whatever it computes.
pub fn overhead(device: &Device) -> u64 {
    if device.is_cpu() { HOST_OVERHEAD } else { GPU_OVERHEAD }
}

impl DeviceBudget {
    /// Of the part of a plan that makes images.
    pub fn of(plan: &Plan) -> Self {
        Self { limit: plan.limit.bytes(), others: plan.others(), overhead: plan.overhead }
    }
}

impl Parts {
    /// These and others of the same device together.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.sizes.extend(other.sizes);
        let Work { encode, denoise, units, decode, decode_least } = other.work;
        self.work.encode = self.work.encode.max(encode);
        self.work.denoise = self.work.denoise.max(denoise);
        self.work.units = self.work.units.max(units);
        self.work.decode = self.work.decode.max(decode);
        self.work.decode_least = self.work.decode_least.max(decode_least);
        self
    }
}

impl Weights {
    /// What they take as this part of a model.
    pub fn size(&self, part: llm_dit_engine::plan::Part) -> PartSize {
        let (packed, expanded) = self.bytes_by_form();
        PartSize { part, packed, expanded }
    }
}

impl Packing {
    /// The form that it fixes.
    pub fn form(self) -> Option<Form> {
        match self {
            Self::Auto => None,
            Self::Packed => Some(Form::Packed),
            Self::Expanded => Some(Form::Expanded),
        }
    }
}

impl From<Form> for Packing {
    fn from(form: Form) -> Self {
        match form {
            Form::Packed => Self::Packed,
            Form::Expanded => Self::Expanded,
        }
    }
}

impl From<Stay> for Residency {
    fn from(stay: Stay) -> Self {
        match stay {
            Stay::Always => Self::Always,
            Stay::InUse => Self::InUse,
        }
    }
}
