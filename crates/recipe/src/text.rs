//! The recipe in words, laid out as other programs lay it out, for people and their tools.

use std::fmt::Write as _;

use crate::{Recipe, foreign::sampler_name, settings::file_name};

impl Recipe {
    /// Prompt with `<lora:name:scale>`, negative prompt, and a line of `Name: value` pairs.
    #[must_use]
    pub fn parameters(&self) -> String {
        let settings = &self.settings;
        let mut text = settings.prompt.clone().unwrap_or_default();
        for lora in &self.loras {
            // Writing to a string cannot fail, here and below.
            let _ = write!(text, " <lora:{}:{}>", file_stem(&lora.name), lora.scale);
        }
        if let Some(negative) = settings.negative_prompt.as_deref().filter(|n| !n.is_empty()) {
            let _ = write!(text, "\nNegative prompt: {negative}");
        }
        let size = settings.width.zip(settings.height).map(|(w, h)| format!("{w}x{h}"));
        let pairs = [
            ("Steps", settings.steps.map(|n| n.to_string())),
            ("Sampler", settings.scheduler.as_deref().map(sampler_name)),
            // Other programs count from 1, where 1 is without guidance.
            ("CFG scale", settings.guidance_scale.map(|g| (g + 1.0).to_string())),
            ("Seed", settings.seed.map(|n| n.to_string())),
            ("Size", size),
            ("Model", self.model.clone()),
            ("Shift", settings.shift.map(|s| s.to_string())),
            (
                "Denoising strength",
                settings.strength.filter(|_| settings.image.is_some()).map(|s| s.to_string()),
            ),
            ("Mask blur", settings.mask_blur.map(|blur| blur.to_string())),
            ("Version", self.program.clone()),
        ];
        let pairs =
            pairs.into_iter().filter_map(|(name, value)| Some(format!("{name}: {}", value?)));
        let _ = write!(text, "\n{}", pairs.collect::<Vec<_>>().join(", "));
        text.replace('\0', " ")
    }
}

/// What other programs call a LoRA: its file's name without folder and ending.
fn file_stem(name: &str) -> &str {
    let name = file_name(name);
    name.strip_suffix(".safetensors").unwrap_or(name)
}
