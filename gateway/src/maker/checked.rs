//! Whether a diffusion service sent what it was asked for.

use bytes::Bytes;
use llm_dit_pictures as pictures;
use llm_dit_recipe::Recipe;

use crate::error::Error;

/// A file that a diffusion service sent, and which can be read.
pub(super) struct Checked {
    pub png: Bytes,
    /// What the service wrote into it.
    pub recipe: Recipe,
}

impl Checked {
    /// Looks at every chunk of the file, and whether it has this size. `place` names the service.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the service sent something else than the image that it was asked for.
    pub fn new(png: Bytes, size: (u32, u32), place: &str) -> Result<Self, Error> {
        let broken = |why: String| {
            let what = "sent an image that cannot be used";
            Error::Lost(format!("{place} {what}: {why}"))
        };
        let recipe = llm_dit_recipe::read(png.clone()).map_err(|e| broken(e.to_string()))?;
        let (width, height) = pictures::size(&png).map_err(|e| broken(e.to_string()))?;
        if (width, height) != size {
            return Err(broken(format!("it is {width}x{height}")));
        }
        Ok(Self { png, recipe: recipe.unwrap_or_default() })
    }
}
