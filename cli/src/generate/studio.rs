//! The source of pictures, as [`generate`](super::generate) sees it: local engines, or a gateway.

use bytes::Bytes;
use llm_dit_engine::image::Step;
use llm_dit_recipe::Lora;

use super::{
    item::Item,
    report::{Times, Truncated},
};
use crate::{error::CliError, progress::Progress};

/// How far a picture is.
pub enum News<'a> {
    /// A step of so many pictures that are made together.
    Step(Step, usize),
    /// Something else goes on, in words.
    Stage(&'a str),
}

/// Hears of it.
pub type Report<'a> = &'a mut dyn FnMut(News<'_>);

/// Takes a picture that is done.
pub type Deliver<'a> = &'a mut dyn FnMut(&Item, Made) -> Result<(), CliError>;

/// A picture as it was made.
pub struct Made {
    pub png: Bytes,
    /// The prompt, where only the embeddings' file knew it.
    pub prompt: Option<String>,
    /// Size, seed and times, for people.
    pub said: String,
    pub notes: Vec<String>,
    pub times: Times,
    pub truncated: Truncated,
}

/// Where pictures are made.
pub trait Studio {
    /// The model's label, if it is known before a picture is made.
    fn model(&self) -> Option<String>;
    /// The LoRAs, if they are known before a picture is made.
    ///
    /// # Errors
    ///
    /// [`CliError`] if the flags name LoRAs that cannot be used.
    fn loras(&self) -> Result<Option<Vec<Lora>>, CliError>;
    /// Checks a picture and fills in the model's defaults; returns the number of its steps.
    ///
    /// # Errors
    ///
    /// [`CliError`] if a parameter is invalid for the model.
    fn resolve(&self, item: &mut Item) -> Result<u32, CliError>;
    /// Does the work that precedes all pictures. [`Studio::make`] is then called with these items,
    /// in order.
    ///
    /// # Errors
    ///
    /// [`CliError`] if the model cannot be loaded, or a prompt cannot be encoded.
    fn prepare(&mut self, items: &[Item], progress: &Progress) -> Result<(), CliError>;
    /// How many of these can be made together, counted from the first; at least that one.
    ///
    /// # Errors
    ///
    /// [`CliError`] if a parameter is invalid for the model.
    fn together(&self, items: &[Item]) -> Result<usize, CliError>;
    /// Makes them together, and hands over each as soon as it is done.
    ///
    /// # Errors
    ///
    /// [`CliError`] if a picture fails or is cancelled, or the error of `deliver`.
    fn make(
        &mut self,
        items: &[Item],
        report: Report<'_>,
        deliver: Deliver<'_>,
    ) -> Result<(), CliError>;
}
