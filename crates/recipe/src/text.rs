//! The recipe in words, laid out as other programs lay it out, for people and their tools.

use std::fmt::Write as _;

use crate::Recipe;

impl Recipe {
    fn loras(&self) -> Option<String> {
        let one = |lora: &crate::Lora| format!("{} {}", lora.name, lora.scale);
        let all: Vec<String> = self.loras.iter().map(one).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Prompt, negative prompt, and a line of `Name: value` pairs.
    #[must_use]
    pub fn parameters(&self) -> String {
        let settings = &self.settings;
        let mut text = settings.prompt.clone().unwrap_or_default();
        if let Some(negative) = settings.negative_prompt.as_deref().filter(|n| !n.is_empty()) {
            // Writing to a string cannot fail, here and below.
            let _ = write!(text, "\nNegative prompt: {negative}");
        }
        let size = settings.width.zip(settings.height).map(|(w, h)| format!("{w}x{h}"));
        let pairs = [
            ("Steps", settings.steps.map(|n| n.to_string())),
            ("Sampler", settings.scheduler.clone()),
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
            ("LoRAs", self.loras()),
            ("Version", self.program.clone()),
        ];
        let pairs =
            pairs.into_iter().filter_map(|(name, value)| Some(format!("{name}: {}", value?)));
        let _ = write!(text, "\n{}", pairs.collect::<Vec<_>>().join(", "));
        text.replace('\0', " ")
    }
}
