//! Why there is no plan, and what there is one for.

use super::{
    text::sized,
    types::{Demand, Limit, Plan},
};

/// The limit is too small for every way that the flags allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
pub struct PlanError {
    pub device: String,
    pub limit: Limit,
    /// Bytes of the smallest limit that works with the flags as they are.
    pub least: u64,
    /// The flags that reach it.
    pub flags: Vec<String>,
    /// The stage that takes the most, and what it takes: weights, work, overhead.
    pub widest: Option<(&'static str, u64, u64, u64)>,
    /// Flags that the user gave, and the smallest limit without them, if that is smaller.
    pub without: Option<(Vec<String>, u64, Vec<String>)>,
}

impl PlanError {
    pub(super) fn new(demand: &Demand, least: Option<Plan>, free: Option<Plan>) -> Self {
        let needed = least.as_ref().map_or(demand.overhead, Plan::peak);
        let widest = least.as_ref().and_then(|plan| {
            let stage = plan.stages.iter().max_by_key(|stage| stage.peak)?;
            Some((stage.stage.name(), stage.weights, stage.work, plan.overhead))
        });
        let without = free
            .filter(|free| free.peak() < needed)
            .map(|free| (demand.fixed.flags(), free.peak(), free.flags()));
        Self {
            device: demand.device.clone(),
            limit: demand.limit,
            least: needed,
            flags: least.map(|plan| plan.flags()).unwrap_or_default(),
            widest,
            without,
        }
    }

    fn message(&self) -> String {
        let limit = match self.limit {
            Limit::Given(bytes) => format!("--max-vram is {}", sized(bytes)),
            Limit::Free(bytes) => format!("{} has {} free", self.device, sized(bytes)),
        };
        let mut text = format!("{limit}, but this model needs at least {}", sized(self.least));
        if !self.flags.is_empty() {
            text += &format!(", with {}", self.flags.join(" "));
        }
        if let Some((stage, weights, work, overhead)) = self.widest {
            text += &format!(
                " ({stage}: weights {}, work {}, other {})",
                sized(weights),
                sized(work),
                sized(overhead)
            );
        }
        match &self.without {
            Some((given, least, flags)) => {
                text + &format!(
                    "; without {}, {} suffice ({})",
                    given.join(" "),
                    sized(*least),
                    flags.join(" ")
                )
            }
            None => {
                text + "; use a smaller quantized file, a smaller image, or another device for a part"
            }
        }
    }
}
