//! Scales of parts of the model, for one LoRA.
//!
//! A part is a dotted path as the names of tensors begin: `layers`, `layers.3`, `layers.0-14`,
//! `layers.0-14.attention`. Numbers may be ranges; both ends belong to them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    str::FromStr,
};

use crate::{ParamError, excerpt, lora::check_scale};

/// More parts than this say nothing that fewer could not.
pub const MAX_BLOCKS: usize = 64;
/// A path of a few words.
const MAX_BLOCK_BYTES: usize = 128;

/// Parts of the model, each with the number that a LoRA's scale is multiplied with there. Where
/// several parts contain a tensor, all their numbers count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoraBlocks(BTreeMap<String, f32>);

impl LoraBlocks {
    /// # Errors
    ///
    /// When there are too many, a path is malformed, or a scale is not finite or too large.
    pub fn new(blocks: impl IntoIterator<Item = (String, f32)>) -> Result<Self, ParamError> {
        let mut all = BTreeMap::new();
        for (path, scale) in blocks {
            if all.len() == MAX_BLOCKS {
                return Err(invalid(format!("a LoRA has more than {MAX_BLOCKS} blocks")));
            }
            check_path(&path)?;
            check_scale(&path, scale)?;
            if all.insert(path.clone(), scale).is_some() {
                return Err(invalid(format!("the block '{path}' is there twice")));
            }
        }
        Ok(Self(all))
    }

    /// Each with its scale, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f32)> {
        self.0.iter().map(|(path, &scale)| (path.as_str(), scale))
    }

    /// Whether all parts have the LoRA's own scale.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the scale is multiplied with for this tensor of the model.
    pub fn factor(&self, tensor: &str) -> f32 {
        self.iter().filter(|(path, _)| contains(path, tensor)).map(|(_, scale)| scale).product()
    }
}

/// Whether a block contains a tensor of this name.
pub fn contains(path: &str, tensor: &str) -> bool {
    let mut names = tensor.split('.');
    path.split('.').all(|part| match (names.next(), range(part)) {
        (None, _) => false,
        (Some(name), None) => name == part,
        (Some(name), Some((first, last))) => {
            name.parse().is_ok_and(|number: u32| (first..=last).contains(&number))
        }
    })
}

/// The numbers of a part of a path; `None` for a name.
fn range(part: &str) -> Option<(u32, u32)> {
    match part.split_once('-') {
        Some((first, last)) => first.parse().ok().zip(last.parse().ok()),
        None => part.parse().ok().map(|one| (one, one)),
    }
}

fn check_path(path: &str) -> Result<(), ParamError> {
    let is_part = |part: &str| {
        let is_name = part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        !part.is_empty() && (is_name || range(part).is_some_and(|(first, last)| first <= last))
    };
    if path.len() <= MAX_BLOCK_BYTES && path.split('.').all(is_part) {
        return Ok(());
    }
    Err(invalid(format!(
        "'{}' is no block of a model; write layers.3, layers.0-14 or noise_refiner",
        excerpt(path)
    )))
}

fn invalid(why: String) -> ParamError {
    ParamError::Invalid { name: "loras", why }
}

/// `layers.0-14=0,noise_refiner=0.5`.
impl FromStr for LoraBlocks {
    type Err = ParamError;

    fn from_str(text: &str) -> Result<Self, ParamError> {
        let block = |text: &str| {
            let (path, scale) = text.split_once('=')?;
            Some((path.trim().to_owned(), scale.trim().parse().ok()?))
        };
        let blocks = text.split(',').map(|text| {
            block(text).ok_or_else(|| {
                invalid(format!("'{}' is not BLOCK=SCALE, such as layers.0-14=0", excerpt(text)))
            })
        });
        Self::new(blocks.collect::<Result<Vec<_>, _>>()?)
    }
}

impl fmt::Display for LoraBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (path, scale)) in self.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{path}={scale}")?;
        }
        Ok(())
    }
}

impl From<&LoraBlocks> for BTreeMap<String, f32> {
    fn from(blocks: &LoraBlocks) -> Self {
        blocks.0.clone()
    }
}

/// As messages of the wire hold it.
impl From<&LoraBlocks> for HashMap<String, f32> {
    fn from(blocks: &LoraBlocks) -> Self {
        blocks.0.clone().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_paths_with_ranges() {
        let text = "layers.0-14=0,noise_refiner=0.5,layers.3-3.attention=2";
        let blocks: LoraBlocks = text.parse().expect("valid");
        assert_eq!(blocks.to_string(), "layers.0-14=0,layers.3-3.attention=2,noise_refiner=0.5");
        assert_eq!(blocks.to_string().parse::<LoraBlocks>(), Ok(blocks.clone()));
        for (tensor, factor) in [
            ("layers.0.feed_forward.w1.weight", 0.0),
            ("layers.14.attention.to_q.weight", 0.0),
            ("layers.15.attention.to_q.weight", 1.0),
            ("noise_refiner.1.attention.to_q.weight", 0.5),
            ("noise_refiner_2.1.weight", 1.0),
            ("layers", 1.0),
        ] {
            assert_eq!(blocks.factor(tensor), factor, "{tensor}");
        }
        let both: LoraBlocks = "layers=0.5,layers.2.attention=3".parse().expect("valid");
        assert_eq!(both.factor("layers.2.attention.to_q.weight"), 1.5);
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for bad in
            ["", "layers", "layers=", "layers=x", "=1", "layers..3=1", "layers.3-1=1", "a/b=1"]
        {
            let error = bad.parse::<LoraBlocks>().expect_err(bad).to_string();
            assert!(error.contains("layers"), "{bad}: {error}");
        }
        assert!("layers=nan".parse::<LoraBlocks>().is_err());
        assert!("layers=1,layers=2".parse::<LoraBlocks>().is_err());
        let many: Vec<String> = (0..=MAX_BLOCKS).map(|i| format!("layers.{i}=1")).collect();
        assert!(many.join(",").parse::<LoraBlocks>().is_err());
    }
}
