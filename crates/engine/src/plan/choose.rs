//! The plan for a demand: every way to use the device is weighed, the fastest first.

use super::{
    error::PlanError,
    types::{
        Course, Demand, Fixed, Form, Part, PartSize, Plan, PlannedPart, Stage, StagePeak, Stay,
    },
};

/// Images of a batch, the most first, of which a plan takes the first that fits.
const BATCHES: [usize; 3] = [4, 2, 1];

impl Plan {
    /// The fastest way that keeps to the limit: parts that stay before parts that are loaded for each
    /// use, expanded weights before packed ones, large batches before small ones.
    ///
    /// # Errors
    ///
    /// [`PlanError`] with the smallest limit that works, if the limit is below it.
    pub fn new(demand: &Demand) -> Result<Self, Box<PlanError>> {
        let limit = demand.limit.bytes();
        let candidates = || choices(demand).map(|choice| choice.plan(demand));
        if let Some(plan) = candidates().find(|plan| plan.peak() <= limit) {
            return Ok(plan);
        }
        let least = candidates().min_by_key(Self::peak);
        // Without what the user fixed, if that is what is in the way.
        let free = Demand { fixed: Fixed::default(), ..demand.clone() };
        let free = choices(&free).map(|choice| choice.plan(&free)).min_by_key(Self::peak);
        Err(Box::new(PlanError::new(demand, least, free)))
    }
}

/// One way to use the device.
#[derive(Clone, Copy, Debug)]
struct Choice {
    /// Of the text encoder, and of the other parts.
    stays: [Stay; 2],
    forms: [Form; 2],
    batch: usize,
}

/// All that the user left open, the fastest first.
fn choices(demand: &Demand) -> impl Iterator<Item = Choice> {
    use {Form::*, Stay::*};
    let Fixed { offload, form, batch } = demand.fixed;
    let most = demand.images.saturating_mul(demand.work.units).max(1);
    let stays: Vec<[Stay; 2]> = match offload {
        Some(true) => vec![[InUse, InUse]],
        Some(false) => vec![[Always, Always]],
        None => vec![[Always, Always], [InUse, Always], [InUse, InUse]],
    };
    let forms: Vec<[Form; 2]> = match form {
        Some(form) => vec![[form, form]],
        // A prompt is encoded once, so its weights are expanded for few products.
        None => {
            vec![[Expanded, Expanded], [Packed, Expanded], [Expanded, Packed], [Packed, Packed]]
        }
    };
    let batches = batch.map_or_else(
        || BATCHES.iter().map(|batch| most.min(*batch)).collect(),
        |batch| vec![batch.max(1)],
    );
    stays.into_iter().flat_map(move |stays| {
        let batches = batches.clone();
        forms.clone().into_iter().flat_map(move |forms| {
            batches.clone().into_iter().map(move |batch| Choice { stays, forms, batch })
        })
    })
}

impl Choice {
    fn plan(self, demand: &Demand) -> Plan {
        let Demand { overhead, work, course, .. } = *demand;
        let planned = |size: &PartSize| {
            let of = usize::from(size.part != Part::TextEncoder);
            // Where both are one size, nothing is packed.
            let form = if size.packed < size.expanded { self.forms[of] } else { Form::Expanded };
            let bytes = if form == Form::Packed { size.packed } else { size.expanded };
            let has_forms = size.packed < size.expanded;
            PlannedPart { part: size.part, bytes, form, has_forms, stay: self.stays[of] }
        };
        let parts: Vec<PlannedPart> = demand.parts.iter().map(planned).collect();
        let has = |part: Part| parts.iter().any(|planned| planned.part == part);
        let weights = |stage: Stage| {
            let is_loaded = |planned: &&PlannedPart| {
                let is_gone = course == Course::Command
                    && planned.part == Part::TextEncoder
                    && stage != Stage::Encode;
                // A command that encodes first loads the others afterwards.
                let is_to_come = course == Course::Command
                    && self.stays[0] == Stay::InUse
                    && planned.part != Part::TextEncoder
                    && stage == Stage::Encode;
                let stays = planned.stay == Stay::Always && !is_gone && !is_to_come;
                stays || planned.part == stage.part()
            };
            parts.iter().filter(is_loaded).map(|planned| planned.bytes).sum::<u64>()
        };
        // Captured graphs keep what a forward took for as long as the transformer stays.
        let images = (self.batch / work.units.max(1)).clamp(1, demand.images.max(1));
        let denoise = work.denoise.saturating_mul(images as u64);
        let stays = self.stays[1] == Stay::Always && has(Part::Transformer);
        let kept = if stays { denoise } else { 0 };
        let room = demand.limit.bytes().saturating_sub(overhead + weights(Stage::Decode) + kept);
        let decode = work.decode.min(room.max(work.decode_least));
        let stage = |stage: Stage, work: u64| {
            let weights = weights(stage);
            StagePeak { stage, weights, work, peak: weights.saturating_add(work) + overhead }
        };
        // A service encodes prompts beside the forwards of other images, unless they take turns.
        let beside = course == Course::Service && stays && self.stays[0] == Stay::Always;
        let encode = work.encode + if beside { denoise } else { kept_by(course, kept) };
        let stages =
            [(Stage::Encode, encode), (Stage::Denoise, denoise), (Stage::Decode, kept + decode)];
        let stages = stages.into_iter().filter(|(stage, _)| has(stage.part()));
        Plan {
            device: demand.device.clone(),
            limit: demand.limit,
            overhead,
            course,
            batch: self.batch,
            images,
            decode: if has(Part::Vae) { room.max(work.decode_least) } else { 0 },
            whole: decode >= work.decode,
            stages: stages.map(|(name, work)| stage(name, work)).collect(),
            parts,
        }
    }
}

/// A command encodes before the first forward.
fn kept_by(course: Course, kept: u64) -> u64 {
    if course == Course::Command { 0 } else { kept }
}
