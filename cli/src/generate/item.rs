//! One picture of those that a command makes.

use std::{collections::BTreeMap, path::PathBuf};

use llm_dit_chat::Chat;
use llm_dit_params::{GenerateOptions, Prompt, Start};
use llm_dit_pictures::Format;
use llm_dit_recipe::Settings;

use super::origin::SourceFile;
use crate::error::CliError;

/// One picture to make.
#[derive(Clone, Debug)]
pub struct Item {
    /// Everything that is asked for, and the seed in any case.
    pub settings: Settings,
    /// False when the seed was drawn at random.
    pub seed_given: bool,
    /// `None` when embeddings stand for it.
    pub chat: Option<Chat>,
    pub negative: Prompt,
    /// What it is drawn from.
    pub image: Option<SourceFile>,
    /// Which part of it is redrawn; never without `image`.
    pub mask: Option<SourceFile>,
    /// SHA-256 of every file that `settings` names.
    pub sha256: BTreeMap<String, String>,
    pub output: PathBuf,
    /// False without `--output`: the file then gets the next free name after `output`.
    pub is_named: bool,
    pub format: Format,
    /// Where it was asked for: "prompts.txt line 3: ", or nothing.
    pub place: String,
}

impl Item {
    /// What is asked of the image in numbers and names.
    ///
    /// # Errors
    /// There is no scheduler of that name.
    pub fn options(&self) -> Result<GenerateOptions, CliError> {
        let options = self.settings.options().from_start(self.start());
        options.scheduler().map_err(|error| self.usage(error))?;
        Ok(options)
    }

    /// What it is drawn from.
    pub fn start(&self) -> Start {
        Start::of(self.image.is_some(), self.mask.is_some())
    }

    /// A wrong setting of this picture.
    pub fn usage(&self, why: impl std::fmt::Display) -> CliError {
        CliError::Usage(format!("{}{why}", self.place))
    }
}
