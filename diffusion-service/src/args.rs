//! Flags of every program that loads a transformer.

use std::{path::PathBuf, str::FromStr};

use llm_dit_engine::plan::Plan;
use llm_dit_hub::{CacheArgs, NotCached};
use llm_dit_memory::parse_size;

use crate::engine::BatchLimit;

/// Several models in one service.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ModelsArgs {
    /// A model that requests can name, and its folder, instead of --model-path; repeat for several.
    /// The first is the default
    #[arg(long = "model", value_name = "NAME=PATH", conflicts_with = "model_path")]
    pub models: Vec<NamedModel>,
    /// Memory for the weights of all models together, such as 24G or 900M. The model used longest
    /// ago is unloaded when another needs the room [default: no limit; all models stay loaded]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub model_memory: Option<u64>,
}

impl ModelsArgs {
    /// The same with folders in place of the names of downloaded models.
    ///
    /// # Errors
    ///
    /// [`NotCached`] for a model that was not downloaded.
    pub fn located(mut self, cache: &CacheArgs) -> Result<Self, NotCached> {
        for model in &mut self.models {
            model.path = cache.locate(&model.path)?;
        }
        Ok(self)
    }

    /// Names and folders.
    pub fn named(&self) -> Vec<(String, PathBuf)> {
        self.models.iter().map(|model| (model.name.clone(), model.path.clone())).collect()
    }
}

/// `NAME=PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedModel {
    pub name: String,
    pub path: PathBuf,
}

/// What is wrong with the value of a flag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelsArgsError {
    #[error("give NAME=PATH: what requests call the model, and its folder")]
    NoName,
}

impl FromStr for NamedModel {
    type Err = ModelsArgsError;

    fn from_str(text: &str) -> Result<Self, ModelsArgsError> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: name.to_owned(), path: path.into() })
            }
            _ => Err(ModelsArgsError::NoName),
        }
    }
}

/// The batch size.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct BatchArgs {
    /// Maximum batch size: images of the same size computed together. An image larger than
    /// 1024x1024, or with guidance, counts as more than one [default: 1 on the CPU, 4 elsewhere]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub max_batch: Option<u16>,
}

impl BatchArgs {
    /// As it was given.
    pub fn images(self) -> Option<usize> {
        self.max_batch.map(usize::from)
    }

    /// As it was given, or else as planned.
    pub fn planned(self, plan: Option<&Plan>) -> Option<BatchLimit> {
        self.limit().or_else(|| plan.map(|plan| BatchLimit::new(plan.batch)))
    }

    /// `None` leaves it to the device.
    pub fn limit(self) -> Option<BatchLimit> {
        self.max_batch.map(|pictures| BatchLimit::new(pictures.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_has_a_name_and_a_path() {
        let model = "ink=models/a=b".parse::<NamedModel>().expect("both");
        assert_eq!((model.name.as_str(), model.path), ("ink", PathBuf::from("models/a=b")));
        for wrong in ["ink", "=path", "ink=", ""] {
            assert_eq!(wrong.parse::<NamedModel>(), Err(ModelsArgsError::NoName), "{wrong}");
        }
    }
}
