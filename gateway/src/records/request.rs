//! What a client asks for, before and after its texts and files were looked at.

mod image;

use std::collections::{BTreeMap, BTreeSet};

use llm_dit_chat::{Chat, ChatOptions};
use llm_dit_memory::Reservation;
use llm_dit_params::{
    GenerateOptions, GenerateParams, LoraSelection, LoraSet, MAX_PROMPT_BYTES, ParamError, Prompt,
    Start, Truncation,
    bounds::{COMPRESSION, TOKENS},
    generation_fields,
};
use llm_dit_pictures::Format;
use llm_dit_proto::v1;
use llm_dit_recipe::Settings;
use llm_dit_serving::Deadline;
use llm_dit_templates::Library;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::model::Model;
use crate::error::{Error, bad};

pub(crate) use self::image::{MAX_SOURCE_BYTES, SourceFile, SourceImage};

/// Of diffusion services, for a request that somebody waits for.
const MAX_CRASHES: u32 = 2;

/// Tokens that an encoder is asked for at most when nobody says, as in diffusers' pipeline.
const DEFAULT_MAX_TOKENS: u32 = 512;
/// Likewise the hidden layer.
const DEFAULT_HIDDEN_LAYER: i32 = -2;
/// JPEG's quality when nobody says.
const DEFAULT_QUALITY: u8 = 90;

macro_rules! body {
    // With the parameters of an image, which are declared in llm-dit-params.
    (
        $(#[$about:meta])* $name:ident { $($before:tt)* } { $($after:tt)* }
        generation {
            $($(#[doc = $doc:literal])* $field:ident: $type:ty,
                serde [$($serde:tt)*], flag [$($flag:tt)*], schema [$($schema:tt)*];)*
        }
    ) => {
        body! {
            $(#[$about])* $name {
                $($before)*
                $($(#[doc = $doc])* #[serde($($serde)*)] #[schema($($schema)*)] $field: $type,)*
                $($after)*
            }
        }

        impl $name {
            /// What it says of the image in numbers and names.
            fn options(&self) -> GenerateOptions {
                GenerateOptions { $($field: self.$field.clone()),* }
            }

            /// The same body with these numbers and names.
            fn with_options(self, options: GenerateOptions) -> Self {
                Self { $($field: options.$field,)* ..self }
            }
        }
    };
    ($(#[$about:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            $(
                $(#[$attribute])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
        }

        impl $name {
            /// What the body may hold.
            pub const FIELDS: &[&str] = &[$(stringify!($field)),*];
        }
    };
}

generation_fields! { body! {
    /// Everything but the prompt is optional and defaults to the model's value.
    GenerateBody {
        /// The prompt; at most 64 KiB.
        #[schema(required = true, nullable = false, example = "a red apple", max_length = 65536)]
        prompt: String,
        /// Prompt to guide away from.
        #[schema(max_length = 65536)]
        negative_prompt: String,
    } {
        /// One of `/api/templates`, with or without `z_image_`.
        template: String,
        system_prompt: String,
        thinking_content: String,
        assistant_content: String,
        /// Writes or omits the think block, overriding everything else.
        enable_thinking: bool,
        /// Writes a think block even if it is empty.
        force_think_block: bool,
        /// Removes double quotes from the prompt.
        strip_quotes: bool,
        /// Tokenizes special tokens in texts as special tokens.
        raw_special_tokens: bool,
        /// Index of the text encoder's hidden state.
        hidden_layer: i32,
        /// Maximum prompt length in tokens; longer prompts are truncated.
        #[schema(minimum = 1, maximum = 1504)]
        max_tokens: u32,
        /// Where a longer prompt is truncated: `prompt`, at the end of the prompt (the default), or
        /// `end`, at the end of the chat, as in diffusers.
        #[schema(example = "prompt")]
        truncate: String,
        /// Name of an encoder in `/health`.
        encoder: String,
        /// Name of the model, as in `/api/model`.
        #[schema(example = "demo")]
        model: String,
        /// Exactly these LoRAs for this image.
        loras: Vec<LoraBody>,
        /// Init image: a PNG, JPEG or WebP file in base64, or a `data:` URL.
        image: String,
        /// Mask of the init image, likewise: white is regenerated, black is kept pixel by pixel.
        mask: String,
        /// `png`, `jpeg` or `webp`.
        #[schema(example = "png")]
        output_format: String,
        /// JPEG quality; PNG and WebP are lossless with any value.
        #[schema(minimum = 0, maximum = 100)]
        output_compression: u32,
    }
}}

body! {
    /// A prompt with what stands around it.
    EncodeBody {
        /// At most 64 KiB.
        #[schema(required = true, nullable = false, example = "a red apple", max_length = 65536)]
        prompt: String,
        system_prompt: String,
        thinking_content: String,
        assistant_content: String,
        /// Writes or omits the think block, overriding everything else.
        enable_thinking: bool,
        /// Writes a think block even if it is empty.
        force_think_block: bool,
        /// Removes double quotes from the prompt.
        strip_quotes: bool,
        /// Tokenizes special tokens in texts as special tokens.
        raw_special_tokens: bool,
        /// One of `/api/templates`, with or without `z_image_`.
        template: String,
        /// Name of an encoder in `/health`.
        encoder: String,
        /// Index of the text encoder's hidden state.
        hidden_layer: i32,
        /// Maximum prompt length in tokens; longer prompts are truncated.
        #[schema(minimum = 1, maximum = 1504)]
        max_tokens: u32,
        /// Where a longer prompt is truncated: `prompt`, at the end of the prompt (the default), or
        /// `end`, at the end of the chat, as in diffusers.
        #[schema(example = "prompt")]
        truncate: String,
    }
}

/// A LoRA in the folder of the diffusion services.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoraBody {
    /// Path in the folder; `path` is an alias.
    #[serde(alias = "path")]
    pub name: String,
    /// Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// Put before the prompt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trigger_words: String,
    /// Parts of the model (`layers.3`, `layers.0-14`, `noise_refiner`), and what the scale is
    /// multiplied by there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blocks: BTreeMap<String, f32>,
    /// The forward passes of guidance that it is in: `both` (the default), or `positive`, that of
    /// the prompt only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "positive")]
    pub pass: Option<String>,
    /// False skips this LoRA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// What is asked of an encoder beside the prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub hidden_layer: i32,
    pub max_tokens: u32,
    pub truncation: Option<Truncation>,
    pub deadline: Deadline,
}

/// A checked body.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// As it was said, without the picture.
    pub body: GenerateBody,
    pub chat: Chat,
    pub negative_prompt: String,
    pub ask: Ask,
    /// The set that it names.
    pub loras: Option<LoraSet>,
    pub image: Option<SourceImage>,
    pub format: Format,
    pub quality: u8,
    /// Whether somebody looks at the picture on its way.
    pub previews: bool,
    /// Diffusion services that may crash with it before it fails.
    pub max_crashes: u32,
    pub deadline: Deadline,
}

impl Request {
    /// Keeps as much of the reservation for the body as the init image needs, for as long as any
    /// copy of the image exists.
    pub fn hold(&mut self, memory: Reservation) {
        if let Some(image) = &mut self.image {
            image.hold(memory);
        }
    }
}

impl GenerateBody {
    pub fn check(mut self, templates: &Library) -> Result<Request, Error> {
        let image = SourceImage::from_texts(self.image.take(), self.mask.take())?;
        self.check_with(templates, image)
    }

    /// Likewise, with a picture to draw from that the body does not hold.
    pub fn check_with(
        self,
        templates: &Library,
        image: Option<SourceImage>,
    ) -> Result<Request, Error> {
        let around = EncodeBody {
            prompt: self.prompt.clone(),
            system_prompt: self.system_prompt.clone(),
            thinking_content: self.thinking_content.clone(),
            assistant_content: self.assistant_content.clone(),
            enable_thinking: self.enable_thinking,
            force_think_block: self.force_think_block,
            strip_quotes: self.strip_quotes,
            raw_special_tokens: self.raw_special_tokens,
            template: self.template.clone(),
            hidden_layer: self.hidden_layer,
            max_tokens: self.max_tokens,
            truncate: self.truncate.clone(),
            ..EncodeBody::default()
        };
        let chat = around.chat(templates, false)?;
        let negative = self.negative_prompt.clone().unwrap_or_default();
        let negative = Prompt::parse_negative(negative)?;
        self.options().scheduler()?;
        let format = self.output_format.as_deref().map(str::parse).transpose();
        let format = format.map_err(|e: llm_dit_pictures::UnknownFormat| bad(e.to_string()))?;
        let quality = self.quality()?;
        let start = image.as_ref().map(SourceImage::start).unwrap_or_default();
        if !start.is_image() && self.strength.is_some() {
            return Err(bad("strength needs an init image".to_owned()));
        }
        if let Some(name) = self.options().of_a_mask().filter(|_| start != Start::MaskedImage) {
            return Err(bad(format!("{name} needs a mask; send one in mask")));
        }
        let loras = self.loras.as_deref().map(loras).transpose()?;
        Ok(Request {
            chat,
            negative_prompt: negative.into_string(),
            ask: around.ask()?,
            loras,
            image,
            format: format.unwrap_or_default(),
            quality,
            previews: false,
            max_crashes: MAX_CRASHES,
            deadline: Deadline::NEVER,
            body: self,
        })
    }
}

impl GenerateBody {
    fn quality(&self) -> Result<u8, Error> {
        let Some(given) = self.output_compression else { return Ok(DEFAULT_QUALITY) };
        let quality = u8::try_from(given).ok().filter(|_| COMPRESSION.allows(given.into()));
        quality.ok_or_else(|| bad(COMPRESSION.out_of_range(given)))
    }
}

impl EncodeBody {
    /// The conversation, with what the template says where nothing else does.
    pub fn chat(&self, templates: &Library, may_be_empty: bool) -> Result<Chat, Error> {
        let prompt = self.prompt.clone().ok_or_else(|| bad("missing field `prompt`".to_owned()))?;
        let strip = self.strip_quotes.unwrap_or(false);
        let prompt = if may_be_empty {
            let text = Prompt::parse_negative(prompt)?.into_string();
            if strip { text.replace('"', "") } else { text }
        } else {
            let prompt = Prompt::parse(prompt)?;
            if strip { prompt.without_quotes()?.into_string() } else { prompt.into_string() }
        };
        for (name, text) in [
            ("system_prompt", &self.system_prompt),
            ("thinking_content", &self.thinking_content),
            ("assistant_content", &self.assistant_content),
        ] {
            if let Some(bytes) = text.as_ref().map(String::len).filter(|&n| n > MAX_PROMPT_BYTES) {
                return Err(ParamError::PromptTooLong { name, bytes }.into());
            }
        }
        if let Some(tokens) = self.max_tokens.filter(|tokens| !TOKENS.allows(u64::from(*tokens))) {
            return Err(bad(TOKENS.out_of_range(tokens)));
        }
        let mut around = ChatOptions {
            system: self.system_prompt.clone(),
            thinking: self.thinking_content.clone(),
            assistant: self.assistant_content.clone(),
            enable_thinking: self.enable_thinking,
            force_think_block: self.force_think_block.unwrap_or(false),
            raw_special_tokens: self.raw_special_tokens.unwrap_or(false),
        };
        if let Some(name) = &self.template {
            around = templates.get(name)?.fill(around);
        }
        Ok(around.chat(prompt))
    }

    /// What is asked of the encoder.
    ///
    /// # Errors
    ///
    /// `truncate` is not known.
    pub fn ask(&self) -> Result<Ask, Error> {
        Ok(Ask {
            hidden_layer: self.hidden_layer.unwrap_or(DEFAULT_HIDDEN_LAYER),
            max_tokens: self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
            truncation: self.truncate.as_deref().map(str::parse).transpose()?,
            deadline: Deadline::NEVER,
        })
    }
}

/// The set that a body names, all switched-off ones left out.
pub(crate) fn loras(bodies: &[LoraBody]) -> Result<LoraSet, Error> {
    let loras = selections(bodies)?;
    let mut seen = BTreeSet::new();
    if let Some(lora) = loras.iter().find(|lora| !seen.insert(lora.name())) {
        return Err(bad(format!("the LoRA {} is named twice", lora.name())));
    }
    Ok(loras)
}

/// Likewise, of a set that may name a LoRA twice, as the command line of a service can.
pub(crate) fn selections(bodies: &[LoraBody]) -> Result<LoraSet, ParamError> {
    let on = bodies.iter().filter(|lora| lora.enabled.unwrap_or(true));
    let loras = on.map(|lora| {
        LoraSelection::new(&lora.name, lora.scale, &lora.trigger_words)?
            .with_scales(lora.blocks.clone())?
            .in_named_pass(lora.pass.as_deref())
    });
    LoraSet::new(loras.collect::<Result<_, ParamError>>()?)
}

/// A set as a body names it.
pub(crate) fn lora_bodies(set: &LoraSet) -> Vec<LoraBody> {
    let body = |lora: &LoraSelection| LoraBody {
        name: lora.name().to_owned(),
        scale: Some(lora.scale()),
        trigger_words: lora.trigger_words().to_owned(),
        blocks: lora.blocks().into(),
        pass: lora.pass().written(),
        enabled: None,
    };
    set.iter().map(body).collect()
}

/// The LoRAs that a picture was made with, if there were any.
fn used_loras(params: &GenerateParams) -> Option<Vec<LoraBody>> {
    params.loras.as_ref().filter(|set| !set.is_empty()).map(lora_bodies)
}

impl Request {
    /// What it draws from.
    pub fn start(&self) -> Start {
        self.image.as_ref().map(SourceImage::start).unwrap_or_default()
    }

    /// Width and height of what comes of it.
    pub fn size(&self, params: &GenerateParams) -> (u32, u32) {
        match &self.image {
            // Put back at its own size.
            Some(image) if params.used(self.start()).only_masked.is_some() => image.size(),
            _ => (params.width, params.height),
        }
    }

    /// What will be made, by a diffusion service with this model, with this set of LoRAs.
    pub fn resolve(&self, model: &Model, loras: LoraSet) -> Result<GenerateParams, Error> {
        let model = model.named(self.body.model.as_deref())?;
        let mut options = self.body.options().from_start(self.start());
        if let Some(image) = &self.image {
            let (width, height) =
                model.limits.size_from(image.size(), options.width, options.height);
            (options.width, options.height) = (Some(width), Some(height));
        }
        let mut params = options.resolve(&model.defaults, &model.limits)?;
        if self.image.is_some() {
            params.check_strength()?;
        }
        (params.model, params.loras) = (self.body.model.clone(), Some(loras));
        Ok(params)
    }

    /// Checked parameters for the wire.
    pub fn wire(&self, params: &GenerateParams, model: &Model) -> v1::GenerateParams {
        v1::GenerateParams {
            model: params.model.clone(),
            loras: params.loras.as_ref().map(Into::into),
            preview: (self.previews && model.has_previews)
                .then_some(v1::PreviewOptions { every_steps: 1, max_side: 0 }),
            ..params.used(self.start()).into()
        }
    }

    /// The body with every parameter as it was used. Sent again, it makes the same picture.
    pub fn used(&self, params: &GenerateParams) -> GenerateBody {
        let options = GenerateOptions {
            // Values that say "off" stay as the client said them.
            cfg_normalization: self.body.cfg_normalization,
            cfg_truncation: self.body.cfg_truncation,
            ..params.used(self.start())
        };
        let loras = self.body.loras.clone().or_else(|| used_loras(params));
        GenerateBody { loras, ..self.body.clone().with_options(options) }
    }

    /// What the picture's recipe has to say beside what the diffusion service wrote.
    pub fn recipe(&self) -> Settings {
        let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let chat = &self.chat;
        let settings = Settings {
            prompt: text(&chat.user),
            negative_prompt: text(&self.negative_prompt),
            template: self.body.template.clone(),
            system_prompt: text(&chat.system),
            thinking_content: text(&chat.thinking),
            assistant_content: text(&chat.assistant),
            enable_thinking: chat.think_block.as_switch(),
            raw_special_tokens: Some(chat.raw_special_tokens),
            hidden_layer: self.body.hidden_layer,
            max_tokens: self.body.max_tokens.map(|n| n as usize),
            truncate: self.body.truncate.clone(),
            ..Settings::default()
        };
        settings.without_blanks()
    }
}

#[cfg(test)]
mod tests {
    use llm_dit_params::bounds::{BOUNDS, Range};
    use utoipa::PartialSchema as _;

    use super::*;

    #[test]
    fn the_openapi_document_has_the_bounds() {
        let mut seen = 0;
        for schema in [GenerateBody::schema(), EncodeBody::schema()] {
            let schema = serde_json::to_value(schema).expect("JSON");
            for bound in BOUNDS {
                let field = &schema["properties"][bound.name];
                let Some(stated) = field["minimum"].as_f64().zip(field["maximum"].as_f64()) else {
                    continue;
                };
                let range = match bound.range {
                    Range::Whole(min, max) => (min as f64, max as f64),
                    Range::Number(min, max) => (min, max),
                };
                assert_eq!(stated, range, "{}", bound.name);
                seen += 1;
            }
        }
        assert!(seen >= 8, "{seen}");
    }
}
