//! Engines of one device that is too small for all of them at once.

use std::sync::Arc;

use llm_dit_proto::Tensor;
use parking_lot::Mutex;

use crate::{
    MemoryReader,
    image::{
        ActiveLora, GenerateError, ImageGenerator, InspectLora, LoraChoice, LoraReport, Member,
        ModelInfo, SetLorasError,
    },
    text::{EncodeError, EncodeJob, EncoderInfo, TextEncoder},
};

/// Of the engines that are made with it, one computes at a time.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<()>>);

struct InTurn<E: ?Sized> {
    turns: Arc<Mutex<()>>,
    engine: Box<E>,
}

impl Turns {
    /// The same text encoder, which waits for its turn.
    pub fn text_encoder(&self, engine: Box<dyn TextEncoder>) -> Box<dyn TextEncoder> {
        Box::new(InTurn { turns: Arc::clone(&self.0), engine })
    }

    /// The same image generator, which waits for its turn.
    pub fn image_generator(&self, engine: Box<dyn ImageGenerator>) -> Box<dyn ImageGenerator> {
        Box::new(InTurn { turns: Arc::clone(&self.0), engine })
    }
}

impl TextEncoder for InTurn<dyn TextEncoder> {
    fn info(&self) -> EncoderInfo {
        self.engine.info()
    }

    fn encode(&mut self, job: &EncodeJob) -> Result<Tensor, EncodeError> {
        let _turn = self.turns.lock();
        self.engine.encode(job)
    }

    /// A device on which another one computes works.
    fn probe(&mut self) -> Result<(), EncodeError> {
        match self.turns.try_lock() {
            Some(_turn) => self.engine.probe(),
            None => Ok(()),
        }
    }

    fn memory(&self) -> Option<MemoryReader> {
        self.engine.memory()
    }
}

impl ImageGenerator for InTurn<dyn ImageGenerator> {
    fn info(&self) -> ModelInfo {
        self.engine.info()
    }

    fn generate_batch(&mut self, batch: Vec<Member<'_>>) {
        let _turn = self.turns.lock();
        self.engine.generate_batch(batch);
    }

    fn probe(&mut self) -> Result<(), GenerateError> {
        match self.turns.try_lock() {
            Some(_turn) => self.engine.probe(),
            None => Ok(()),
        }
    }

    fn memory(&self) -> Option<MemoryReader> {
        self.engine.memory()
    }

    fn weight_bytes(&self) -> u64 {
        self.engine.weight_bytes()
    }

    fn loaded_bytes(&self) -> u64 {
        self.engine.loaded_bytes()
    }

    fn unload(&mut self) {
        self.engine.unload();
    }

    fn lora_inspector(&self) -> InspectLora {
        self.engine.lora_inspector()
    }

    fn loras(&self) -> Vec<ActiveLora> {
        self.engine.loras()
    }

    fn set_loras(&mut self, choices: &[LoraChoice]) -> Result<LoraReport, SetLorasError> {
        let _turn = self.turns.lock();
        self.engine.set_loras(choices)
    }
}
