//! Rows of an activation, with as many around them as the convolutions to come read.

use std::ops::Range;

use candle_core::{Result, Tensor};
use llm_dit_kernels::{Conv2d, ConvInput};

use super::{cost::Scale, statistics::Affine};

/// Rows from `start` of an activation that has `height` of them.
pub struct Chunk {
    /// `(n, rows, width, channels)`.
    pub x: Tensor,
    pub start: usize,
    pub height: usize,
}

impl Scale {
    /// Rows of the input, which has `height` of them, that rows of the output are computed from, for
    /// a kernel of three rows.
    pub fn reads(self, out: Range<usize>, height: usize) -> Range<usize> {
        let read = match self {
            Self::Same => out.start.saturating_sub(1)..out.end + 1,
            Self::Double => out.start.saturating_sub(1) / 2..out.end / 2 + 1,
            // An even number, as the whole has.
            Self::Half => 2 * out.start..2 * out.end + 2,
        };
        read.start..read.end.min(height)
    }

    /// The height of the output.
    pub fn height(self, height: usize) -> usize {
        match self {
            Self::Same => height,
            Self::Double => 2 * height,
            Self::Half => height / 2,
        }
    }
}

impl Chunk {
    fn end(&self) -> Result<usize> {
        Ok(self.start + self.x.dim(1)?)
    }

    /// These rows of it, which it has.
    ///
    /// # Errors
    ///
    /// Fails if it does not have them.
    pub fn rows(&self, rows: &Range<usize>) -> Result<Tensor> {
        let Some(first) = rows.start.checked_sub(self.start) else {
            candle_core::bail!("rows {rows:?} of a chunk from {}", self.start);
        };
        self.x.narrow(1, first, rows.len())
    }

    /// Normed, and through SiLU.
    ///
    /// # Errors
    ///
    /// Fails if the device fails.
    pub fn activated(&self, norm: &Affine) -> Result<Self> {
        Ok(Self { x: norm.silu(&self.x)?, ..*self })
    }

    /// Through a convolution of 1x1.
    ///
    /// # Errors
    ///
    /// Fails if the shape does not fit, or if the device fails.
    pub fn pointwise(&self, conv: &Conv2d) -> Result<Self> {
        let x = conv.forward(&ConvInput::plain(&self.x.contiguous()?), None)?;
        Ok(Self { x, ..*self })
    }

    /// Through a convolution of 3x3, plus the same rows of `residual`. The rows at its ends are left
    /// off, unless they are the image's: those that they are computed from are missing.
    ///
    /// # Errors
    ///
    /// Fails if the shape does not fit, or if the device fails.
    pub fn convolved(&self, conv: &Conv2d, scale: Scale, residual: Option<&Self>) -> Result<Self> {
        let (start, end) = (self.start, self.end()?);
        let height = scale.height(self.height);
        let x = self.x.contiguous()?;
        let residual =
            residual.map(|r| r.rows(&(start..end)).and_then(|r| r.contiguous())).transpose()?;
        let input = match scale {
            Scale::Double => ConvInput::upsampled(&x),
            Scale::Same | Scale::Half => ConvInput::plain(&x),
        };
        let made = conv.forward(&input, residual.as_ref())?;
        let (from, top, bottom) = match scale {
            Scale::Same => (start, usize::from(start > 0), usize::from(end < self.height)),
            Scale::Double => (2 * start, usize::from(start > 0), usize::from(end < self.height)),
            Scale::Half => (start / 2, 0, usize::from(end < self.height)),
        };
        let rows = made.dim(1)?.saturating_sub(top + bottom);
        Ok(Self { x: made.narrow(1, top, rows)?, start: from + top, height })
    }
}
