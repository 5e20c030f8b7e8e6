//! The one table of bounds that hold for every model, whichever door a value comes through.
//!
//! Checks, messages, the OpenAPI document and the table of docs/api/web_server_api.md all have their numbers from here. A model
//! may allow less: its [`Limits`](crate::Limits) say so.

use std::fmt;

use crate::{MAX_LORA_SCALE, limits::DEFAULT_LIMITS};

/// Pictures of one request of OpenAI's API.
pub const MAX_PICTURES: u64 = 10;
/// What Z-Image's caption axis holds.
pub const MAX_TOKENS: u64 = 1504;

/// What one parameter may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// As JSON, flags and the wire call it.
    pub name: &'static str,
    pub range: Range,
    /// The model may allow less.
    pub by_model: bool,
    /// What else a message says of it.
    pub hint: Option<&'static str>,
}

/// Both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    Whole(u64, u64),
    Number(f64, f64),
}

const fn whole(name: &'static str, min: u64, max: u64) -> Bound {
    Bound { name, range: Range::Whole(min, max), by_model: false, hint: None }
}

const fn number(name: &'static str, min: f64, max: f64) -> Bound {
    Bound { name, range: Range::Number(min, max), by_model: false, hint: None }
}

const fn of_the_model(name: &'static str, min: u32, max: u32) -> Bound {
    Bound { by_model: true, ..whole(name, min as u64, max as u64) }
}

pub const SEED: Bound =
    Bound { hint: Some("leave it out for a random one"), ..whole("seed", 0, u64::MAX) };
pub const VARIATION_SEED: Bound = whole("variation_seed", 0, u64::MAX);
pub const VARIATION_STRENGTH: Bound = number("variation_strength", 0.0, 1.0);
pub const GUIDANCE_SCALE: Bound = number("guidance_scale", 0.0, 100.0);
pub const CFG_NORMALIZATION: Bound = number("cfg_normalization", 0.0, 100.0);
pub const CFG_TRUNCATION: Bound = number("cfg_truncation", 0.0, 1.0);
pub const SHIFT: Bound = number("shift", 0.01, 100.0);
pub const STRENGTH: Bound = number("strength", 0.0, 1.0);
pub const MASK_BLUR: Bound = number("mask_blur", 0.0, 64.0);
pub const ONLY_MASKED: Bound = whole("only_masked", 0, 1024);
pub const TOKENS: Bound = whole("max_tokens", 1, MAX_TOKENS);
pub const COMPRESSION: Bound = whole("output_compression", 0, 100);
pub const PICTURES: Bound = whole("n", 1, MAX_PICTURES);
pub const PARTIAL_IMAGES: Bound = whole("partial_images", 0, 3);
pub const LORA_SCALE: Bound = number("scale", -(MAX_LORA_SCALE as f64), MAX_LORA_SCALE as f64);

/// All of them.
pub const BOUNDS: &[Bound] = &[
    of_the_model("width", DEFAULT_LIMITS.min_side, DEFAULT_LIMITS.max_side),
    of_the_model("height", DEFAULT_LIMITS.min_side, DEFAULT_LIMITS.max_side),
    of_the_model("steps", 1, DEFAULT_LIMITS.max_steps),
    SEED,
    VARIATION_SEED,
    VARIATION_STRENGTH,
    GUIDANCE_SCALE,
    CFG_NORMALIZATION,
    CFG_TRUNCATION,
    SHIFT,
    STRENGTH,
    MASK_BLUR,
    ONLY_MASKED,
    TOKENS,
    COMPRESSION,
    PICTURES,
    PARTIAL_IMAGES,
    LORA_SCALE,
];

impl Bound {
    /// The bound of a parameter that has one.
    pub fn of(name: &str) -> Option<&'static Self> {
        BOUNDS.iter().find(|bound| bound.name == name)
    }

    /// Whether a whole number is within it.
    pub fn allows(&self, value: u64) -> bool {
        match self.range {
            Range::Whole(min, max) => (min..=max).contains(&value),
            Range::Number(min, max) => (min..=max).contains(&(value as f64)),
        }
    }

    /// Whether a number is within it.
    pub fn allows_number(&self, value: f64) -> bool {
        match self.range {
            Range::Whole(min, max) => (min as f64..=max as f64).contains(&value),
            Range::Number(min, max) => (min..=max).contains(&value),
        }
    }

    /// The refusal of a value that is not within it.
    pub fn out_of_range(&self, value: impl fmt::Display) -> String {
        let name = self.name;
        match self.range {
            Range::Whole(min, max) => format!("{name} {value} is out of range; use {min} to {max}"),
            Range::Number(min, max) => {
                format!("{name} {value} is out of range; use {min} to {max}")
            }
        }
    }
}

/// "a whole number from 0 to 100".
impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.range {
            // The model's own range is in its refusal of a number.
            Range::Whole(..) if self.by_model => write!(f, "a whole number")?,
            Range::Whole(min, max) => write!(f, "a whole number from {min} to {max}")?,
            Range::Number(min, max) => write!(f, "a number from {min} to {max}")?,
        }
        match self.hint {
            Some(hint) => write!(f, ", or {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_this_table() {
        let page = include_str!("../../../docs/api/web_server_api.md");
        for Bound { name, range, by_model, .. } in BOUNDS {
            let (min, max) = match range {
                Range::Whole(min, max) => (min.to_string(), max.to_string()),
                Range::Number(min, max) => (min.to_string(), max.to_string()),
            };
            let kind = if matches!(range, Range::Whole(..)) { "integer" } else { "number" };
            let model = if *by_model { "; the model may allow less" } else { "" };
            let row = format!("| `{name}` | {kind}, {min} to {max}{model} |");
            assert!(page.contains(&row), "docs/api/web_server_api.md has no row {row}");
        }
    }

    #[test]
    fn both_ends_belong_to_a_bound() {
        assert!(SEED.allows(0) && SEED.allows(u64::MAX));
        assert!(COMPRESSION.allows(100) && !COMPRESSION.allows(101));
        assert!(!TOKENS.allows(0) && Bound::of("max_tokens") == Some(&TOKENS));
        assert_eq!(SHIFT.to_string(), "a number from 0.01 to 100");
    }
}
