//! LoRAs as a request names them.

use crate::{LoraBlocks, LoraPass, ParamError, excerpt};

/// More at once would say little, and their factors are all held in memory.
pub const MAX_LORAS: usize = 32;
/// A path in a folder.
pub const MAX_LORA_NAME_BYTES: usize = 512;
/// Trigger words are words.
pub const MAX_TRIGGER_BYTES: usize = 1024;
/// Far above what leaves a picture; a larger scale overflows the weights.
pub const MAX_LORA_SCALE: f32 = 1000.0;

/// One LoRA of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSelection {
    name: String,
    scale: f32,
    trigger_words: String,
    blocks: LoraBlocks,
    pass: LoraPass,
}

/// All LoRAs that a picture is made with, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoraSet(Vec<LoraSelection>);

impl LoraSelection {
    /// `name` is a path in the service's folder of LoRAs, or the name of one that the service was
    /// started with. `scale` multiplies the file's own scale; `None` is 1.
    ///
    /// # Errors
    /// When a text is too long, or the scale is not finite or too large.
    pub fn new(name: &str, scale: Option<f32>, trigger_words: &str) -> Result<Self, ParamError> {
        for (what, text, limit) in [
            ("the name of a LoRA", name, MAX_LORA_NAME_BYTES),
            ("the trigger words of a LoRA", trigger_words, MAX_TRIGGER_BYTES),
        ] {
            if text.len() > limit {
                return Err(ParamError::TextTooLong { name: what, bytes: text.len(), limit });
            }
        }
        let scale = scale.unwrap_or(1.0);
        check_scale(name, scale)?;
        let (name, trigger_words) = (name.to_owned(), trigger_words.trim().to_owned());
        let (blocks, pass) = (LoraBlocks::default(), LoraPass::default());
        Ok(Self { name, scale, trigger_words, blocks, pass })
    }

    /// With other scales for these parts of the model.
    #[must_use]
    pub fn with_blocks(self, blocks: LoraBlocks) -> Self {
        Self { blocks, ..self }
    }

    /// Likewise, with the blocks as a message holds them.
    ///
    /// # Errors
    /// As [`LoraBlocks::new`].
    pub fn with_scales(
        self,
        blocks: impl IntoIterator<Item = (String, f32)>,
    ) -> Result<Self, ParamError> {
        Ok(self.with_blocks(LoraBlocks::new(blocks)?))
    }

    /// In these passes of guidance.
    #[must_use]
    pub fn in_pass(self, pass: LoraPass) -> Self {
        Self { pass, ..self }
    }

    /// Likewise, with the pass as a message holds it.
    ///
    /// # Errors
    /// When it is not known.
    pub fn in_named_pass(self, pass: Option<&str>) -> Result<Self, ParamError> {
        Ok(self.in_pass(pass.map(str::parse).transpose()?.unwrap_or_default()))
    }

    /// The path or name by which the service finds the LoRA.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Multiplies the file's own scale.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Go before the prompt; may be empty.
    pub fn trigger_words(&self) -> &str {
        &self.trigger_words
    }

    /// Parts of the model with another scale.
    pub fn blocks(&self) -> &LoraBlocks {
        &self.blocks
    }

    /// The passes of guidance that it is in.
    pub fn pass(&self) -> LoraPass {
        self.pass
    }
}

/// Whether a scale of `what` can be used.
pub(crate) fn check_scale(what: &str, scale: f32) -> Result<(), ParamError> {
    if scale.is_finite() && scale.abs() <= MAX_LORA_SCALE {
        return Ok(());
    }
    let why = format!(
        "the scale {scale} of '{}' must be a finite number from -{MAX_LORA_SCALE} to {MAX_LORA_SCALE}",
        excerpt(what)
    );
    Err(ParamError::Invalid { name: "loras", why })
}

impl LoraSet {
    /// # Errors
    /// When there are more than [`MAX_LORAS`].
    pub fn new(loras: Vec<LoraSelection>) -> Result<Self, ParamError> {
        if loras.len() > MAX_LORAS {
            return Err(ParamError::TooManyLoras { count: loras.len() });
        }
        Ok(Self(loras))
    }

    /// The LoRAs, in order.
    pub fn iter(&self) -> impl Iterator<Item = &LoraSelection> {
        self.0.iter()
    }

    /// Whether no LoRA is selected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order in which they go before a prompt.
    pub fn trigger_words(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(LoraSelection::trigger_words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_scales_words_and_counts_are_bounded() {
        let lora = |name: &str, scale, words: &str| LoraSelection::new(name, scale, words);
        let ink = lora("ink", None, " ink wash ").expect("valid");
        assert_eq!((ink.name(), ink.scale(), ink.trigger_words()), ("ink", 1.0, "ink wash"));
        for scale in [f32::NAN, f32::NEG_INFINITY, 3e38, -1001.0] {
            assert!(matches!(
                lora("ink", Some(scale), ""),
                Err(ParamError::Invalid { name: "loras", .. })
            ));
        }
        for (name, words) in [("n".repeat(513), ""), ("n".to_owned(), &*"w".repeat(1025))] {
            let error = lora(&name, None, words).expect_err("too long");
            assert!(matches!(error, ParamError::TextTooLong { .. }));
            assert!(error.to_string().len() < 200, "{error}");
        }
        assert!(LoraSet::new(vec![ink.clone(); 32]).is_ok());
        let many = LoraSet::new(vec![ink; 33]);
        assert_eq!(many, Err(ParamError::TooManyLoras { count: 33 }));
    }
}
