//! Decides which pictures of an earlier run can be kept.

use bytes::Bytes;
use llm_dit_recipe::{Lora, Settings};

use super::{finish, item::Item};

/// Whether the item's file is there, whole, and made as the item asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Missing,
    Done,
    /// There, but to be replaced, for this reason.
    Stale(String),
}

/// Looks at the file. `model` is the model's label and `loras` are its LoRAs, where they are known.
pub fn state(item: &Item, model: Option<&str>, loras: Option<&[Lora]>) -> State {
    let Ok(file) = std::fs::read(&item.output) else { return State::Missing };
    let file = Bytes::from(file);
    let stale = |why: &str| State::Stale(why.to_owned());
    let recipe = match llm_dit_recipe::read(file.clone()) {
        Ok(Some(recipe)) => recipe,
        Ok(None) => return stale("it contains no parameters"),
        Err(error) => return State::Stale(error.to_string()),
    };
    if let Err(error) = finish::pixels(&file) {
        return State::Stale(error.to_string());
    }
    if model.is_some() && recipe.model.as_deref() != model {
        return stale("another model");
    }
    if loras.is_some_and(|loras| recipe.loras != loras) {
        return stale("other LoRAs");
    }
    let mut differences = expected(item).differences(&recipe.settings);
    // Files are compared by content below; where they lie does not matter.
    differences.retain(|name| !item.sha256.contains_key(*name));
    if !differences.is_empty() {
        return State::Stale(format!("another {}", differences.join(", ")));
    }
    if item.sha256 != recipe.sha256 {
        return stale("made from other input files");
    }
    State::Done
}

/// A seed that was drawn at random need not match.
fn expected(item: &Item) -> Settings {
    let mut settings = item.settings.clone().without_blanks();
    if !item.seed_given {
        settings.seed = None;
    }
    settings
}
