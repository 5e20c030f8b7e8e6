//! What a GGUF file says besides its tensors.

use std::{collections::BTreeMap, fmt};

/// Key-value pairs of a file. Those of arrays of text are not kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(pub(crate) BTreeMap<String, Value>);

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// `general.architecture`, which names the keys of a model's sizes. Programs that convert models
    /// write what they like there, or nothing.
    pub fn architecture(&self) -> Option<&str> {
        self.get("general.architecture")?.text()
    }
}

/// A value of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number of any type.
    Whole(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    /// A short array of whole numbers.
    Wholes(Vec<i128>),
    /// Arrays of text, and others that are not looked at.
    Other,
}

impl Value {
    /// The number, if it is whole and not negative.
    pub fn whole(&self) -> Option<u64> {
        match self {
            Self::Whole(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The number, whole or not.
    pub fn float(&self) -> Option<f64> {
        match self {
            Self::Whole(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The numbers of an array, if all are sizes.
    pub fn wholes(&self) -> Option<Vec<usize>> {
        let Self::Wholes(numbers) = self else { return None };
        numbers.iter().map(|number| usize::try_from(*number).ok()).collect()
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Bool(on) => on.fmt(f),
            Self::Text(text) => f.write_str(&llm_dit_params::excerpt(text)),
            Self::Wholes(numbers) => fmt::Debug::fmt(numbers, f),
            Self::Other => f.write_str("an array"),
        }
    }
}
