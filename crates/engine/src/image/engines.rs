//! The models of one device: those used last stay loaded, as far as a memory budget allows.

use std::{path::Path, sync::Arc};

use super::{ImageGenerator, InspectLora, ModelInfo};

/// All models that one thread owns. The first one is the default.
pub struct Engines {
    slots: Vec<Slot>,
    /// Bytes that weights may take; `None`: without a limit.
    budget: Option<u64>,
    /// Counts uses, to know which model was used longest ago.
    clock: u64,
}

struct Slot {
    name: String,
    engine: Box<dyn ImageGenerator>,
    last_use: u64,
}

/// Why these models cannot be served together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnginesError {
    #[error("no model was given")]
    None,
    #[error("two models are named '{0}'; give each --model NAME=PATH a name of its own")]
    Twice(String),
    #[error(
        "--model-memory is {budget} bytes, but the weights of '{model}' take {needed}; the smallest that can work is {needed}"
    )]
    Budget { budget: u64, model: String, needed: u64 },
}

impl Engines {
    /// `budget`: bytes that the weights of all models together may take.
    ///
    /// # Errors
    ///
    /// Without a model, with two of one name, and when the largest exceeds the budget by itself.
    pub fn new(
        models: Vec<Box<dyn ImageGenerator>>,
        budget: Option<u64>,
    ) -> Result<Self, EnginesError> {
        let slot = |engine: Box<dyn ImageGenerator>| Slot {
            name: engine.info().model,
            engine,
            last_use: 0,
        };
        let slots: Vec<Slot> = models.into_iter().map(slot).collect();
        for (at, slot) in slots.iter().enumerate() {
            if slots[..at].iter().any(|other| other.name == slot.name) {
                return Err(EnginesError::Twice(slot.name.clone()));
            }
        }
        let Some(largest) = slots.iter().max_by_key(|slot| slot.engine.weight_bytes()) else {
            return Err(EnginesError::None);
        };
        let needed = largest.engine.weight_bytes();
        match budget {
            Some(budget) if budget < needed => {
                Err(EnginesError::Budget { budget, model: largest.name.clone(), needed })
            }
            _ => Ok(Self { slots, budget, clock: 0 }),
        }
    }

    /// One model without a limit.
    pub fn single(engine: Box<dyn ImageGenerator>) -> Self {
        let slot = Slot { name: engine.info().model, engine, last_use: 0 };
        Self { slots: vec![slot], budget: None, clock: 0 }
    }

    /// What each model is, the default first.
    pub fn infos(&self) -> Vec<ModelInfo> {
        self.slots.iter().map(|slot| slot.engine.info()).collect()
    }

    /// What tells of a LoRA file whether one of the models can use it. The problem of a file that none
    /// can use is the default model's.
    pub fn lora_inspector(&self) -> InspectLora {
        let all: Vec<InspectLora> =
            self.slots.iter().map(|slot| slot.engine.lora_inspector()).collect();
        Arc::new(move |path: &Path, name: String| {
            let first = all[0](path, name);
            if first.problem.is_none() {
                return first;
            }
            let others = all[1..].iter().map(|inspect| inspect(path, first.name.clone()));
            others.into_iter().find(|other| other.problem.is_none()).unwrap_or(first)
        })
    }

    /// The default model, as it is.
    pub fn default_model(&mut self) -> &mut dyn ImageGenerator {
        self.slots[0].engine.as_mut()
    }

    /// The model of this name, or the default one. Before it is used, models used longest ago give
    /// their memory back until it fits the budget. `None`: there is no such model.
    pub fn turn(&mut self, model: Option<&str>) -> Option<&mut dyn ImageGenerator> {
        let at = match model {
            Some(model) => self.slots.iter().position(|slot| slot.name == model)?,
            None => 0,
        };
        self.clock += 1;
        self.slots[at].last_use = self.clock;
        self.make_room(at);
        Some(self.slots[at].engine.as_mut())
    }

    /// Bytes of all weights that are loaded now.
    pub fn loaded_bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.engine.loaded_bytes()).sum()
    }

    fn make_room(&mut self, at: usize) {
        let Some(budget) = self.budget else { return };
        let needed = self.slots[at].engine.weight_bytes();
        // Each unloads at most once, whatever it says that it holds then.
        for _ in 0..self.slots.len() {
            let others = || {
                let slots = self.slots.iter().enumerate().filter(|(other, _)| *other != at);
                slots.filter(|(_, slot)| slot.engine.loaded_bytes() > 0)
            };
            let loaded: u64 = others().map(|(_, slot)| slot.engine.loaded_bytes()).sum();
            let oldest = others().min_by_key(|(_, slot)| slot.last_use).map(|(oldest, _)| oldest);
            let Some(oldest) = oldest.filter(|_| loaded + needed > budget) else { return };
            let slot = &mut self.slots[oldest];
            tracing::info!(model = slot.name, loaded, needed, budget, "unloading a model");
            slot.engine.unload();
        }
    }
}

impl std::fmt::Debug for Engines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.slots.iter().map(|slot| &*slot.name).collect();
        f.debug_struct("Engines").field("models", &names).field("budget", &self.budget).finish()
    }
}

#[cfg(test)]
mod tests;
