//! Channels on the host, and how neighbours are blended.

use candle_core::{DType, Result, Tensor};

/// Channels of one size, one after the other, rows from the top.
pub(super) struct Planes {
    pub values: Vec<f32>,
    count: usize,
    height: usize,
    width: usize,
}

impl Planes {
    /// `(n, channels, height, width)`.
    pub fn zeros((n, channels, height, width): (usize, usize, usize, usize)) -> Self {
        let count = n * channels;
        Self { values: vec![0.0; count * height * width], count, height, width }
    }

    /// Copies a tensor `(n, channels, height, width)` to the host, as f32.
    ///
    /// # Errors
    ///
    /// Fails unless the tensor has four axes, or if the device fails.
    pub fn read(x: &Tensor) -> Result<Self> {
        let (n, channels, height, width) = x.dims4()?;
        let values = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(Self { values, count: n * channels, height, width })
    }

    /// Lets the first rows grow out of the last ones of what is above.
    pub fn blend_below(&mut self, above: &Self, extent: usize) {
        let extent = extent.min(self.height).min(above.height);
        for plane in 0..self.count {
            for y in 0..extent {
                let weight = y as f32 / extent as f32;
                let from = above.row(plane, above.height - extent + y);
                let row = self.row_mut(plane, y);
                row.iter_mut().zip(from).for_each(|(b, a)| *b = mix(*a, *b, weight));
            }
        }
    }

    /// Lets the first columns grow out of the last ones of what is to the left.
    pub fn blend_right_of(&mut self, left: &Self, extent: usize) {
        let extent = extent.min(self.width).min(left.width);
        for plane in 0..self.count {
            for y in 0..self.height {
                let from = &left.row(plane, y)[left.width - extent..];
                for (x, (b, a)) in self.row_mut(plane, y).iter_mut().zip(from).enumerate() {
                    *b = mix(*a, *b, x as f32 / extent as f32);
                }
            }
        }
    }

    /// The last rows.
    pub fn lower_edge(&self, extent: usize) -> Self {
        let height = extent.min(self.height);
        let mut values = Vec::with_capacity(self.count * height * self.width);
        for plane in 0..self.count {
            (self.height - height..self.height)
                .for_each(|y| values.extend_from_slice(self.row(plane, y)));
        }
        Self { values, count: self.count, height, width: self.width }
    }

    /// Puts the beginning of `tile`, at most `keep` in both directions, to a place in here.
    pub fn paste(&mut self, tile: &Self, top: usize, start: usize, keep: usize) {
        let (rows, cols) = (keep.min(tile.height), keep.min(tile.width));
        for plane in 0..self.count {
            for y in 0..rows {
                let to = &mut self.row_mut(plane, top + y)[start..start + cols];
                to.copy_from_slice(&tile.row(plane, y)[..cols]);
            }
        }
    }

    fn row(&self, plane: usize, y: usize) -> &[f32] {
        let at = (plane * self.height + y) * self.width;
        &self.values[at..at + self.width]
    }

    fn row_mut(&mut self, plane: usize, y: usize) -> &mut [f32] {
        let at = (plane * self.height + y) * self.width;
        &mut self.values[at..at + self.width]
    }
}

fn mix(a: f32, b: f32, weight: f32) -> f32 {
    a * (1.0 - weight) + b * weight
}
