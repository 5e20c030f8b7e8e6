//! An image generator whose steps wait for the test's permission.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use llm_dit_engine::{
    DeviceId, Memory, MemoryReader,
    image::{
        About, ActiveLora, GenerateError, GenerateJob, Generated, ImageGenerator, InspectLora,
        LatentMap, LoraChoice, LoraReport, LoraSummary, Member, ModelInfo, Picture, SetLorasError,
        Step, X0Prediction,
    },
};
use llm_dit_params::{Limits, ModelDefaults, Scheduler};
use llm_dit_proto::{DType, Tensor};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A job with this seed panics.
pub const PANICKING_SEED: u64 = 666;
/// A job with this seed fails as a backend does.
pub const FAILING_SEED: u64 = 667;
/// The second step of a job with this seed lasts until its caller has left.
pub const LASTING_SEED: u64 = 668;

/// A job with this seed finds no memory.
pub const LARGE_SEED: u64 = 669;

/// A job with this seed comes to NaN.
pub const OVERFLOWING_SEED: u64 = 670;

/// A LoRA of this name fits no model.
pub const MISFIT: &str = "misfit";

/// What every step takes, and all else.
const DURATION: Duration = Duration::from_millis(1);

/// What the generator did, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Several begin together, with these seeds; each is said to begin as well.
    Together(Vec<u64>),
    Began {
        seed: u64,
    },
    Step(u32),
    Stopped {
        after: u32,
    },
    Finished {
        seed: u64,
    },
    /// LoRAs were set, by name.
    Loras(Vec<String>),
}

#[derive(Debug)]
pub struct FakeGenerator {
    info: ModelInfo,
    loras: Vec<ActiveLora>,
    /// One message lets one step run; a closed channel lets all run.
    permits: mpsc::Receiver<()>,
    seen: UnboundedSender<Seen>,
}

/// The test's side.
#[derive(Debug)]
pub struct Control {
    permits: Option<mpsc::Sender<()>>,
    seen: UnboundedReceiver<Seen>,
}

impl FakeGenerator {
    /// A generator whose every step waits for [`Control::permit`].
    pub fn gated(cap_feat_dim: usize) -> (Self, Control) {
        let (permit, permits) = mpsc::channel();
        let (see, seen) = unbounded_channel();
        let info = ModelInfo {
            model: "fake-dit".to_owned(),
            about: About {
                description: "A fake.".to_owned(),
                examples: vec!["a fake apple".to_owned()],
            },
            cap_feat_dim,
            latent_channels: 4,
            vae_scale_factor: 8,
            max_caption_tokens: 100,
            device: DeviceId::Cpu,
            dtype: DType::F32,
            defaults: ModelDefaults {
                width: 64,
                height: 64,
                steps: 3,
                guidance_scale: 0.0,
                shift: 3.0,
                scheduler: Scheduler::FlowEuler,
            },
            limits: Limits { max_side: 1024, max_pixels: 512 * 512, ..Limits::default() },
            preview: Some(LatentMap::new(vec![[1.0, 0.0, 0.0]; 4], [-1.0, -1.0, 1.0])),
        };
        (
            Self { info, loras: Vec::new(), permits, seen: see },
            Control { permits: Some(permit), seen },
        )
    }

    /// A generator that runs freely.
    pub fn free(cap_feat_dim: usize) -> (Self, Control) {
        let (generator, mut control) = Self::gated(cap_feat_dim);
        control.open();
        (generator, control)
    }

    /// A model that nobody knows a map of latents for.
    pub fn without_previews(mut self) -> Self {
        self.info.preview = None;
        self
    }

    /// What step `index` of `total` guesses: latents that make a preview redder with every step.
    fn guess(info: &ModelInfo, job: &GenerateJob, step: Step) -> X0Prediction {
        let count = info.latent_shape(&job.params).iter().product();
        X0Prediction { step, clean: vec![0.5 * step.index as f32 / step.total as f32; count] }
    }

    /// The picture of a job: depends on everything that should matter.
    pub fn picture(job: &GenerateJob) -> Picture {
        let (width, height) = (job.params.width, job.params.height);
        let sum = |tensor: &Option<Tensor>| {
            let bytes = tensor.iter().flat_map(|t| t.bytes().iter());
            bytes.fold(7u64, |sum, &b| sum.wrapping_mul(31).wrapping_add(b.into()))
        };
        let scheduler = job.params.scheduler.id().bytes().fold(0, |sum, b| sum * 31 + u64::from(b));
        let mut state = job.params.seed
            ^ scheduler.rotate_left(10)
            ^ sum(&Some(job.embeddings.clone()))
            ^ sum(&job.negative_embeddings).rotate_left(20)
            ^ sum(&job.latents).rotate_left(40)
            ^ job.loras.iter().fold(0u64, |sum, lora| {
                let name =
                    lora.name.bytes().fold(11u64, |s, b| s.wrapping_mul(31).wrapping_add(b.into()));
                sum.rotate_left(7).wrapping_add(name ^ u64::from(lora.scale.to_bits()))
            })
            ^ job.image.as_ref().map_or(0, |image| {
                let pixels =
                    image.rgb.iter().fold(7u64, |s, &b| s.wrapping_mul(31).wrapping_add(b.into()));
                pixels ^ job.params.strength.to_bits()
            })
            ^ job.mask.as_ref().map_or(0, |mask| {
                let values = mask.values.iter();
                values.fold(3u64, |s, &b| s.wrapping_mul(31).wrapping_add(b.into()))
            });
        let rgb = (0..width * height * 3)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        Picture { width, height, rgb }
    }

    /// The latents of a job that asks for them.
    pub fn latents(info: &ModelInfo, job: &GenerateJob) -> Tensor {
        let shape = info.latent_shape(&job.params);
        let values: Vec<f32> = (0..shape.iter().product()).map(|n: usize| n as f32 / 8.0).collect();
        Tensor::from_f32(&values, shape.to_vec(), DType::F32).expect("as the shape says")
    }

    /// Tells all of a step; returns those who go on.
    fn step<'a>(&self, batch: Vec<Member<'a>>, step: Step) -> Vec<Member<'a>> {
        let mut going = Vec::new();
        for mut member in batch {
            if let ControlFlow::Break(()) = member.sink.step(step) {
                self.see(Seen::Stopped { after: step.index });
                member.finish(Err(GenerateError::Cancelled));
                continue;
            }
            let preview = member.job.preview;
            if step.index > 0 && preview.is_some_and(|preview| preview.is_due(step.index)) {
                member.sink.guess(Self::guess(&self.info, member.job, step));
            }
            going.push(member);
        }
        going
    }

    fn see(&self, what: Seen) {
        let _ = self.seen.send(what);
    }
}

impl ImageGenerator for FakeGenerator {
    fn info(&self) -> ModelInfo {
        self.info.clone()
    }

    /// As the model does it: all take each step together, and are decoded one by one.
    fn generate_batch(&mut self, batch: Vec<Member<'_>>) {
        if batch.len() > 1 {
            self.see(Seen::Together(batch.iter().map(|member| member.job.params.seed).collect()));
        }
        let total = batch[0].job.params.forwards();
        for member in &batch {
            let fused = self.loras.iter().map(|lora| &lora.choice);
            assert!(fused.eq(&member.job.loras), "a picture with the LoRAs of another");
            self.see(Seen::Began { seed: member.job.params.seed });
        }
        let mut going = self.step(batch, Step { index: 0, total, duration: DURATION });
        for index in 1..=total {
            if going.is_empty() {
                return;
            }
            let _ = self.permits.recv();
            let seeds: Vec<u64> = going.iter().map(|member| member.job.params.seed).collect();
            if seeds.contains(&PANICKING_SEED) {
                panic!("the test asked for it");
            }
            let secret = || GenerateError::Backend("a secret of the backend".to_owned());
            for (bad, error) in [
                (FAILING_SEED, &secret as &dyn Fn() -> GenerateError),
                (LARGE_SEED, &|| GenerateError::OutOfMemory),
                (OVERFLOWING_SEED, &|| GenerateError::NotFinite),
            ] {
                if let Some(at) = going.iter().position(|m| m.job.params.seed == bad) {
                    going.remove(at).finish(Err(error()));
                }
            }
            if going.is_empty() {
                return;
            }
            if index == 2 {
                let lasting = going.iter_mut().filter(|m| m.job.params.seed == LASTING_SEED);
                for member in lasting {
                    // Index 0 asks whether to go on and reports nothing.
                    let ask = Step { index: 0, total, duration: DURATION };
                    while member.sink.step(ask).is_continue() {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
            }
            self.see(Seen::Step(index));
            going = self.step(going, Step { index, total, duration: DURATION });
        }
        for member in going {
            let job = member.job;
            self.see(Seen::Finished { seed: job.params.seed });
            let latents = job.return_latents.then(|| Self::latents(&self.info, job));
            member.finish(Ok(Generated {
                picture: Self::picture(job),
                latents,
                denoise: DURATION,
                decode: DURATION,
            }));
        }
    }

    fn memory(&self) -> Option<MemoryReader> {
        Some(Box::new(|| Some(Memory { used: 1, peak: 2, reserved: 3, total: 4 })))
    }

    fn lora_inspector(&self) -> InspectLora {
        Arc::new(lora_summary)
    }

    fn loras(&self) -> Vec<ActiveLora> {
        self.loras.clone()
    }

    /// Every LoRA changes one matrix.
    fn set_loras(&mut self, choices: &[LoraChoice]) -> Result<LoraReport, SetLorasError> {
        let active = |choice: &LoraChoice| ActiveLora {
            choice: choice.clone(),
            rank: 4,
            matrices: 1,
            unmatched: Vec::new(),
        };
        if choices.iter().any(|choice| choice.name.starts_with(MISFIT)) {
            return Err(SetLorasError::Bad(format!("{MISFIT} fits nothing")));
        }
        let restored = self.loras.len().saturating_sub(choices.len());
        self.loras = choices.iter().map(active).collect();
        self.see(Seen::Loras(choices.iter().map(|choice| choice.name.clone()).collect()));
        Ok(LoraReport { active: self.loras.clone(), changed: choices.len(), restored })
    }
}

impl Control {
    /// Lets one step run.
    pub fn permit(&self) {
        if let Some(permits) = &self.permits {
            permits.send(()).expect("the engine is alive");
        }
    }

    /// Lets everything run from now on.
    pub fn open(&mut self) {
        self.permits = None;
    }

    /// What the engine did next; waits for it.
    pub async fn seen(&mut self) -> Seen {
        self.seen.recv().await.expect("the engine is alive")
    }
}

/// What the header of a LoRA file says, without a look at it.
fn lora_summary(path: &Path, name: String) -> LoraSummary {
    let bytes = std::fs::metadata(path).map_or(0, |about| about.len());
    LoraSummary { name, bytes, modules: 1, rank: 4, alpha: None, problem: None }
}
