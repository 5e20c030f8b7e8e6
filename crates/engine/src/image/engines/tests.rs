use super::*;
use crate::image::{About, ActiveLora, LoraChoice, LoraReport, LoraSummary, Member, SetLorasError};

use llm_dit_device::DeviceId;
use llm_dit_params::{Limits, ModelDefaults};
use llm_dit_proto::DType;

/// Has weights in name only.
struct Weighed {
    name: &'static str,
    bytes: u64,
    loaded: bool,
}

impl ImageGenerator for Weighed {
    fn info(&self) -> ModelInfo {
        ModelInfo {
            model: self.name.to_owned(),
            about: About::default(),
            cap_feat_dim: 1,
            latent_channels: 1,
            vae_scale_factor: 8,
            max_caption_tokens: 1,
            device: DeviceId::Cpu,
            dtype: DType::F32,
            defaults: ModelDefaults::z_image_turbo(),
            limits: Limits::default(),
            preview: None,
        }
    }

    fn generate_batch(&mut self, _: Vec<Member<'_>>) {
        self.loaded = true;
    }

    fn weight_bytes(&self) -> u64 {
        self.bytes
    }

    fn loaded_bytes(&self) -> u64 {
        if self.loaded { self.bytes } else { 0 }
    }

    fn unload(&mut self) {
        self.loaded = false;
    }

    /// It can use files that are called as it is.
    fn lora_inspector(&self) -> InspectLora {
        let own = self.name;
        Arc::new(move |_: &Path, name: String| LoraSummary {
            bytes: 1,
            modules: 1,
            rank: 1,
            alpha: None,
            problem: (name != own).then(|| format!("not for {own}")),
            name,
        })
    }

    fn loras(&self) -> Vec<ActiveLora> {
        Vec::new()
    }

    fn set_loras(&mut self, _: &[LoraChoice]) -> Result<LoraReport, SetLorasError> {
        Ok(LoraReport::default())
    }
}

fn engines(models: &[(&'static str, u64)], budget: Option<u64>) -> Result<Engines, EnginesError> {
    let model = |&(name, bytes): &(&'static str, u64)| {
        Box::new(Weighed { name, bytes, loaded: false }) as Box<dyn ImageGenerator>
    };
    Engines::new(models.iter().map(model).collect(), budget)
}

fn draw(engines: &mut Engines, model: Option<&str>) {
    engines.turn(model).expect("a known model").generate_batch(Vec::new());
}

fn loaded(engines: &Engines) -> Vec<&str> {
    let slots = engines.slots.iter().filter(|slot| slot.engine.loaded_bytes() > 0);
    slots.map(|slot| &*slot.name).collect()
}

#[test]
fn the_model_used_longest_ago_leaves_when_memory_is_short() {
    let models = [("a", 4), ("b", 3), ("c", 3)];
    let mut engines = engines(&models, Some(7)).expect("each fits alone");
    draw(&mut engines, None);
    draw(&mut engines, Some("b"));
    assert_eq!(loaded(&engines), ["a", "b"]);
    draw(&mut engines, Some("a"));
    draw(&mut engines, Some("c"));
    assert_eq!(loaded(&engines), ["a", "c"]);
    for model in ["b", "a", "c", "b", "b", "a"] {
        draw(&mut engines, Some(model));
        assert!(engines.loaded_bytes() <= 7, "{:?}", loaded(&engines));
        assert!(loaded(&engines).contains(&model));
    }
}

#[test]
fn without_a_budget_all_stay() {
    let mut engines = engines(&[("a", 4), ("b", u64::MAX / 2)], None).expect("no limit");
    draw(&mut engines, Some("b"));
    draw(&mut engines, Some("a"));
    assert_eq!(loaded(&engines), ["a", "b"]);
}

#[test]
fn a_model_that_is_not_there_has_no_turn_and_moves_nobody() {
    let mut engines = engines(&[("a", 4), ("b", 3)], Some(4)).expect("each fits alone");
    draw(&mut engines, Some("a"));
    assert!(engines.turn(Some("z")).is_none());
    assert_eq!(loaded(&engines), ["a"]);
}

#[test]
fn what_cannot_be_served_is_refused_with_what_could() {
    let refused = |models: &[(&'static str, u64)], budget| {
        engines(models, budget).expect_err("refused").to_string()
    };
    let message = refused(&[("a", 4), ("b", 9)], Some(8));
    assert!(message.contains("'b'") && message.ends_with("that can work is 9"), "{message}");
    assert!(refused(&[("a", 4), ("a", 4)], None).contains("'a'"));
    assert!(refused(&[], None).contains("no model"));
    assert!(engines(&[("a", 4), ("b", 9)], Some(9)).is_ok());
}

#[test]
fn a_lora_is_of_use_if_one_model_can_use_it() {
    let engines = engines(&[("a", 1), ("b", 1)], None).expect("two models");
    let inspect = engines.lora_inspector();
    let problem = |name: &str| inspect(Path::new("x"), name.to_owned()).problem;
    assert_eq!((problem("a"), problem("b")), (None, None));
    assert_eq!(problem("c").as_deref(), Some("not for a"));
}
