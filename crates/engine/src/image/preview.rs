//! Which previews a job asks for.

/// Longest side of a preview; those of larger pictures are shrunk.
pub const MAX_SIDE: u32 = 256;

/// Which previews a job asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviewOptions {
    every: u32,
    max_side: u32,
}

impl PreviewOptions {
    /// One after so many forward passes each, no longer than so many pixels. 0 passes: none. 0
    /// pixels, or too many: [`MAX_SIDE`].
    pub fn new(every: u32, max_side: u32) -> Option<Self> {
        let max_side = if max_side == 0 { MAX_SIDE } else { max_side.min(MAX_SIDE) };
        (every > 0).then_some(Self { every, max_side })
    }

    /// Number of steps from one preview to the next.
    pub fn every(self) -> u32 {
        self.every
    }

    /// Longest side of a preview in pixels.
    pub fn max_side(self) -> u32 {
        self.max_side
    }

    /// Whether one follows forward pass `index`, counted from 1.
    pub fn is_due(self, index: u32) -> bool {
        index.is_multiple_of(self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_say_when() {
        assert_eq!(PreviewOptions::new(0, 100), None);
        let options = PreviewOptions::new(3, 100).expect("some");
        assert_eq!((options.every(), options.max_side()), (3, 100));
        let due: Vec<u32> = (1..=8).filter(|&i| options.is_due(i)).collect();
        assert_eq!(due, [3, 6]);
    }
}
