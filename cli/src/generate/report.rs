//! The report of a finished image: a line for people and, with `--json`, an object for programs.

use std::time::Duration;

use llm_dit_recipe::{Lora, Recipe};
use serde::Serialize;

/// How long the parts of a picture took. A gateway tells only the whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Loading the model and encoding all prompts; of the first picture only.
    pub load: Option<Duration>,
    pub denoise: Option<Duration>,
    pub decode: Option<Duration>,
    /// Compressing the pixels.
    pub compress: Option<Duration>,
    /// From the request to a gateway to its picture.
    pub request: Option<Duration>,
}

/// Tokens that were cut from the two prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truncated {
    pub prompt: u64,
    pub negative_prompt: u64,
}

/// A picture as `--json` tells of it. `None` is left out.
#[derive(Serialize)]
pub struct Told<'a> {
    path: String,
    format: &'static str,
    prompt: Option<&'a str>,
    seed: Option<u64>,
    width: Option<u32>,
    height: Option<u32>,
    steps: Option<u32>,
    scheduler: Option<&'a str>,
    guidance_scale: Option<f32>,
    shift: Option<f64>,
    model: Option<&'a str>,
    loras: &'a [Lora],
    truncated_tokens: u64,
    truncated_negative_tokens: u64,
    seconds: Seconds,
    notes: &'a [String],
}

#[derive(Serialize)]
struct Seconds {
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    denoise: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decode: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compress: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<f64>,
}

impl<'a> Told<'a> {
    /// Of the file at `path`, which has this recipe.
    pub fn new(
        path: String,
        format: &'static str,
        recipe: &'a Recipe,
        truncated: Truncated,
        times: Times,
        notes: &'a [String],
    ) -> Self {
        let settings = &recipe.settings;
        // Milliseconds are as much as means something.
        let seconds = |time: Option<Duration>| {
            time.map(|time| (time.as_secs_f64() * 1000.0).round() / 1000.0)
        };
        Self {
            path,
            format,
            prompt: settings.prompt.as_deref(),
            seed: settings.seed,
            width: settings.width,
            height: settings.height,
            steps: settings.steps,
            scheduler: settings.scheduler.as_deref(),
            guidance_scale: settings.guidance_scale,
            shift: settings.shift,
            model: recipe.model.as_deref(),
            loras: &recipe.loras,
            truncated_tokens: truncated.prompt,
            truncated_negative_tokens: truncated.negative_prompt,
            seconds: Seconds {
                load: seconds(times.load),
                denoise: seconds(times.denoise),
                decode: seconds(times.decode),
                compress: seconds(times.compress),
                request: seconds(times.request),
            },
            notes,
        }
    }

    /// With the size of the file, which is not that of the recipe where only a part was drawn.
    pub fn sized(self, (width, height): (u32, u32)) -> Self {
        Self { width: Some(width), height: Some(height), ..self }
    }
}
