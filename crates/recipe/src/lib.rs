//! How a picture was made, written into the picture's own file so that it can be made again.
//!
//! Every door writes the same JSON. The diffusion service puts in what it knows, and the command
//! adds the prompt and its surroundings without touching the pixels, so a picture is the same
//! file whether one process made it or three. This crate knows files, not models.

mod file;
mod foreign;
mod settings;
mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use file::{Found, RecipeError, read, read_any, write};
pub use foreign::Writer;
pub use settings::Settings;

/// Version of the JSON. A reader refuses higher ones and takes lower ones.
pub const VERSION: u32 = 1;

/// Everything about one picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    pub version: u32,
    /// Program and version that made the picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The checkpoint's label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The transformer's compute dtype.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    #[serde(flatten)]
    pub settings: Settings,
    /// What was fused into the transformer, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<Lora>,
    /// SHA-256 of the files that `settings` names, by the setting's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sha256: BTreeMap<String, String>,
}

/// A LoRA as it was used. Its file is not part of the recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// The file's name, or its path in the folder of LoRAs.
    pub name: String,
    pub scale: f32,
    /// Put before the recipe's prompt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trigger_words: String,
    /// Parts of the model, and what the scale is multiplied with there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blocks: BTreeMap<String, f32>,
    /// The passes of guidance that it was in, if not in both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass: Option<String>,
}

impl Recipe {
    /// The recipe with the names of files, and no folder of the machine that they were on. A LoRA
    /// may be in a folder of the folder of LoRAs, which is part of its name.
    #[must_use]
    pub fn without_folders(self) -> Self {
        let is_elsewhere = |path: &str| {
            path.starts_with(['/', '\\', '.', '~']) || path.get(1..2).is_some_and(|c| c == ":")
        };
        let inside = |path: String| match is_elsewhere(&path) {
            true => settings::file_name(&path).to_owned(),
            false => path,
        };
        let lora = |lora: Lora| Lora { name: inside(lora.name), ..lora };
        Self {
            model: self.model.map(inside),
            settings: self.settings.without_folders(),
            loras: self.loras.into_iter().map(lora).collect(),
            ..self
        }
    }
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            version: VERSION,
            program: None,
            model: None,
            dtype: None,
            settings: Settings::default(),
            loras: Vec::new(),
            sha256: BTreeMap::new(),
        }
    }
}
