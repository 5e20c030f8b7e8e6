//! Where a picture is redrawn.

/// A value for each pixel of the picture to make, rows from the top: 255 is redrawn, 0 is kept, and
/// what is between is redrawn in the later steps only, the fewer of them the darker it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    pub width: u32,
    pub height: u32,
    pub values: Vec<u8>,
}

impl Mask {
    /// Whether it has a value for each of so many pixels.
    pub fn fits(&self, width: u32, height: u32) -> bool {
        (self.width, self.height) == (width, height)
            && self.values.len() as u64 == u64::from(width) * u64::from(height)
    }
}
