//! What a diffusion service says of itself.

use llm_dit_fault::Fault;
use llm_dit_params::{Limits, LoraSelection, LoraSet, ModelDefaults, ParamError, choose_model};
use llm_dit_proto::{
    DType,
    v1::{ActiveLora, DiffusionDescription},
};

/// Far above the 2560 of Z-Image and the 1504 tokens that it takes.
const MAX_WIDTH: u32 = 65_536;
const MAX_CAPTION_TOKENS: u32 = 65_536;
/// Of a model, a version or a device.
const MAX_NAME_BYTES: usize = 1024;
/// Of what a model says of itself, all together.
const MAX_ABOUT_BYTES: usize = 64 << 10;

/// Checked.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub cap_feat_dim: u64,
    pub max_caption_tokens: u32,
    pub has_encoder: bool,
    pub has_previews: bool,
    /// The other models of the service; this one is its default.
    pub others: Vec<Self>,
    /// The service's default set.
    pub loras: LoraSet,
    /// The same, with what the service says of the files.
    pub active: Vec<ActiveLora>,
    /// The checkpoint's label.
    pub name: String,
    /// What the model says of itself to people; empty if nothing.
    pub description: String,
    /// Prompts that suit it.
    pub examples: Vec<String>,
    pub device: String,
    pub dtype: Option<DType>,
    pub version: String,
    pub defaults: ModelDefaults,
    pub limits: Limits,
}

impl Model {
    /// The model that a request names, or this one.
    ///
    /// # Errors
    /// When the service has no model of this name.
    pub fn named(&self, wanted: Option<&str>) -> Result<&Self, ParamError> {
        let others: Vec<&str> = self.others.iter().map(|other| &*other.name).collect();
        let name = choose_model(wanted, &self.name, &others)?;
        Ok(self.others.iter().find(|other| other.name == name).unwrap_or(self))
    }

    /// Names of all models of the service, the default first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self).chain(&self.others).map(|model| &*model.name)
    }
}

impl TryFrom<DiffusionDescription> for Model {
    type Error = Fault;

    fn try_from(description: DiffusionDescription) -> Result<Self, Fault> {
        let complete = || {
            let defaults = description.defaults.as_ref()?;
            Some(ModelDefaults {
                width: defaults.width?,
                height: defaults.height?,
                steps: defaults.steps?,
                guidance_scale: defaults.guidance_scale?,
                shift: defaults.shift?,
                scheduler: defaults.scheduler.as_deref()?.parse().ok()?,
            })
        };
        let defaults = complete().filter(|_| description.side_multiple > 0).ok_or_else(|| {
            Fault::Unavailable(
                "the diffusion service does not report its limits; it may be another version"
                    .to_owned(),
            )
        })?;
        if !is_plausible(&description) {
            return Err(Fault::Unavailable(
                "the diffusion service reports sizes that no model has; it may be another version"
                    .to_owned(),
            ));
        }
        let loras = set_of(&description.loras).map_err(|error| {
            Fault::Unavailable(format!("the diffusion service has an odd set of LoRAs: {error}"))
        })?;
        let (has_encoder, version) = (description.has_encoder, description.version.clone());
        let other = |mut other: DiffusionDescription| {
            // These are the service's. Nothing nests deeper.
            (other.has_encoder, other.version) = (has_encoder, version.clone());
            other.others.clear();
            Self::try_from(other)
        };
        Ok(Self {
            others: description.others.into_iter().map(other).collect::<Result<_, _>>()?,
            cap_feat_dim: description.cap_feat_dim.into(),
            max_caption_tokens: description.max_caption_tokens,
            has_encoder: description.has_encoder,
            has_previews: description.max_preview_side > 0,
            loras,
            active: description.loras,
            name: description.model,
            description: description.description,
            examples: description.examples,
            device: description.device,
            dtype: DType::from_wire(description.dtype).ok().flatten(),
            version: description.version,
            defaults,
            limits: Limits {
                side_multiple: description.side_multiple,
                min_side: description.min_side,
                max_side: description.max_side,
                max_pixels: description.max_pixels,
                max_steps: description.max_steps,
            },
        })
    }
}

/// Whether these can be the sizes of a model. What a service says of itself bounds what is sent to
/// it, so it is not taken on trust.
fn is_plausible(description: &DiffusionDescription) -> bool {
    (1..=MAX_WIDTH).contains(&description.cap_feat_dim)
        && (1..=MAX_CAPTION_TOKENS).contains(&description.max_caption_tokens)
        && description.min_side <= description.max_side
        && description.model.len() <= MAX_NAME_BYTES
        && description.version.len() <= MAX_NAME_BYTES
        && description.device.len() <= MAX_NAME_BYTES
        && description.examples.iter().map(String::len).sum::<usize>()
            + description.description.len()
            <= MAX_ABOUT_BYTES
}

/// The default set of a service, as a request takes it.
///
/// # Errors
/// When it is out of bounds.
fn set_of(active: &[ActiveLora]) -> Result<LoraSet, ParamError> {
    let lora = |lora: &ActiveLora| -> Result<LoraSelection, ParamError> {
        LoraSelection::new(&lora.name, Some(lora.scale), &lora.trigger_words)?
            .with_scales(lora.blocks.clone())?
            .in_named_pass(lora.pass.as_deref())
    };
    LoraSet::new(active.iter().map(lora).collect::<Result<_, _>>()?)
}
