//! The settings that PEFT keeps apart from the factors.
//!
//! diffusers writes them into the file's own header, PEFT into `adapter_config.json` beside it.
//! They hold the alpha of a file that has no `.alpha` keys.

use std::{collections::BTreeMap, io::ErrorKind, path::Path};

use serde::Deserialize;

use super::{LoraError, header::Header};
use crate::schema::{Kind, Library, Rule, Schema, parse};

/// Where diffusers writes them.
const METADATA_KEY: &str = "lora_adapter_metadata";
/// What diffusers puts before the names of the settings.
const COMPONENT: &str = "transformer.";

#[derive(Debug, Default, Deserialize)]
pub(super) struct AdapterConfig {
    lora_alpha: Option<f64>,
    /// Modules that differ, by the end of their names.
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
    /// `alpha / sqrt(rank)` instead of `alpha / rank`.
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    /// OFT: whether rotations are the sum of the first terms of a series, and of how many.
    use_cayley_neumann: Option<bool>,
    num_cayley_neumann_terms: Option<usize>,
}

/// `LoraConfig` and `OFTConfig` of PEFT, as far as they change what the factors mean.
const SCHEMA: Schema = Schema {
    keys: &[
        ("peft_type", Rule::Only(&["\"LORA\"", "\"OFT\"", "null"])),
        ("lora_alpha", Rule::Read(Kind::Number)),
        ("alpha_pattern", Rule::Read(Kind::NumbersByName)),
        ("use_rslora", Rule::Read(Kind::Switch)),
        ("use_dora", Rule::Read(Kind::Switch)),
        ("use_qalora", Rule::Only(&["false", "null"])),
        ("layer_replication", Rule::Only(&["null"])),
        ("use_cayley_neumann", Rule::Read(Kind::Switch)),
        ("num_cayley_neumann_terms", Rule::Read(Kind::Whole)),
        ("coft", Rule::Only(&["false", "null"])),
        ("fan_in_fan_out", Rule::Only(&["false", "null"])),
    ],
    library: Library::Peft,
};

impl AdapterConfig {
    /// Settings in the header, or beside the file, or none.
    ///
    /// # Errors
    ///
    /// [`LoraError`] if the settings are not valid JSON or describe an unsupported adapter.
    pub fn of(path: &Path, header: &Header) -> Result<Self, LoraError> {
        let invalid = |e: String| header.invalid(format!("its adapter settings: {e}"));
        let settings: Self = if let Some(text) = header.metadata(METADATA_KEY) {
            let all = parse(text).map_err(invalid)?.into_iter();
            let own = all
                .filter_map(|(key, value)| Some((key.strip_prefix(COMPONENT)?.to_owned(), value)));
            SCHEMA.read(&own.collect()).map_err(invalid)?
        } else if let Some(text) = beside(path, header)? {
            parse(&text).and_then(|object| SCHEMA.read(&object)).map_err(invalid)?
        } else {
            Self::default()
        };
        // PEFT reads these as regular expressions. What diffusers and PEFT write are names.
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-^".contains(c);
        if let Some(odd) = settings.alpha_pattern.keys().find(|key| !key.chars().all(plain)) {
            return Err(header.invalid(format!("alpha_pattern '{odd}' is no module's name")));
        }
        Ok(settings)
    }

    /// Whether the file, which may have magnitudes (`decomposed`), has what the settings speak of.
    ///
    /// # Errors
    ///
    /// [`LoraError::Invalid`] if they speak of DoRA and the file has no magnitudes.
    pub fn check(&self, header: &Header, decomposed: bool) -> Result<(), LoraError> {
        if self.use_dora && !decomposed {
            return Err(header.invalid(
                "its adapter settings have use_dora, but it has no lora_magnitude_vector".into(),
            ));
        }
        Ok(())
    }

    /// The alpha that the file states for this module.
    pub fn alpha(&self, module: &str) -> Option<f64> {
        let ends = |pattern: &str| match pattern.strip_prefix('^') {
            Some(whole) => module == whole,
            None => {
                let before = module.strip_suffix(pattern);
                before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }
        };
        let own = self.alpha_pattern.iter().find(|(pattern, _)| ends(pattern));
        own.map(|(_, &alpha)| alpha).or(self.lora_alpha)
    }

    /// How many terms of the series a rotation is; `None`: it is computed exactly. PEFT's default, and
    /// what OneTrainer does, is 5.
    pub fn cayley_terms(&self) -> Option<usize> {
        let series = self.use_cayley_neumann.unwrap_or(true);
        series.then(|| self.num_cayley_neumann_terms.unwrap_or(5))
    }

    /// 1 when nothing is said.
    pub fn scale(&self, module: &str, rank: usize) -> f64 {
        let rank = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        self.alpha(module).map_or(1.0, |alpha| alpha / rank)
    }
}

/// The settings in a file beside one of PEFT's.
fn beside(path: &Path, header: &Header) -> Result<Option<String>, LoraError> {
    if path.file_name().is_none_or(|name| name != "adapter_model.safetensors") {
        return Ok(None);
    }
    match llm_dit_text::read(&path.with_file_name("adapter_config.json")) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(header.invalid(format!("adapter_config.json beside it: {error}"))),
    }
}
