//! Group norms whose statistics are gathered band by band, before any value is normed.

use candle_core::{D, DType, Device, Result, Tensor};
use llm_dit_kernels::GroupNorm;
use rayon::prelude::*;

/// Pixels that one thread sums.
const TASK: usize = 4096;

/// Number, mean and summed squares of deviations of each group of each image, so far.
#[derive(Default)]
pub struct Statistics {
    count: f64,
    /// Images times groups.
    groups: Vec<(f64, f64)>,
}

/// A norm with known statistics: `x * factor + offset`, each `(n, 1, 1, channels)`, f32.
pub struct Affine {
    factor: Tensor,
    offset: Tensor,
}

impl Statistics {
    /// Adds rows `(n, rows, width, channels)`.
    ///
    /// # Errors
    ///
    /// Fails if the shape does not fit, or if the device fails.
    pub fn add(&mut self, norm: &GroupNorm, rows: &Tensor) -> Result<()> {
        let (n, height, width, channels) = rows.dims4()?;
        if channels == 0 || !channels.is_multiple_of(norm.groups) {
            candle_core::bail!("group norm of {} groups over {channels} channels", norm.groups);
        }
        let size = channels / norm.groups;
        let count = (height * width * size) as f64;
        let added = match rows.device() {
            Device::Cpu => on_cpu(rows, n, channels, size, count)?,
            _ => on_device(rows, n, norm.groups, count)?,
        };
        if self.groups.is_empty() {
            self.groups = vec![(0.0, 0.0); added.len()];
        }
        // Chan's rule for joining the moments of two sets.
        let total = self.count + count;
        for ((mean, squares), (other, more)) in self.groups.iter_mut().zip(added) {
            let delta = other - *mean;
            *mean += delta * count / total;
            *squares += more + delta * delta * self.count * count / total;
        }
        self.count = total;
        Ok(())
    }

    /// The norm of what was added.
    ///
    /// # Errors
    ///
    /// Fails if the device fails.
    pub fn affine(&self, norm: &GroupNorm) -> Result<Affine> {
        let values = |x: &Tensor| x.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.to_vec1::<f32>();
        let (weight, bias) = (values(&norm.weight)?, values(&norm.bias)?);
        let (channels, n) = (weight.len(), self.groups.len() / norm.groups);
        let size = channels / norm.groups;
        let (mut factor, mut offset) = (Vec::new(), Vec::new());
        for image in self.groups.chunks(norm.groups) {
            for (channel, (weight, bias)) in weight.iter().zip(&bias).enumerate() {
                let (mean, squares) = image[channel / size];
                let scale = f64::from(*weight) / (squares / self.count + norm.eps).sqrt();
                factor.push(scale as f32);
                offset.push((f64::from(*bias) - mean * scale) as f32);
            }
        }
        let device = norm.weight.device();
        let shape = (n, 1, 1, channels);
        Ok(Affine {
            factor: Tensor::from_vec(factor, shape, device)?,
            offset: Tensor::from_vec(offset, shape, device)?,
        })
    }
}

/// Mean and summed squares of deviations of each group.
fn on_cpu(
    rows: &Tensor,
    n: usize,
    channels: usize,
    size: usize,
    count: f64,
) -> Result<Vec<(f64, f64)>> {
    let values = rows.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let image = values.len() / n;
    let mut groups = Vec::with_capacity(n * channels / size);
    for values in values.chunks(image.max(1)) {
        // Collected in order, so that the result does not depend on which thread was faster.
        let parts: Vec<Vec<(f64, f64)>> =
            values.par_chunks(TASK * channels).map(|part| sums(part, channels, size)).collect();
        for group in 0..channels / size {
            let (sum, squares) = parts.iter().fold((0.0, 0.0), |(sum, squares), part| {
                (sum + part[group].0, squares + part[group].1)
            });
            let mean = sum / count;
            groups.push((mean, (squares - sum * mean).max(0.0)));
        }
    }
    Ok(groups)
}

fn sums(part: &[f32], channels: usize, size: usize) -> Vec<(f64, f64)> {
    let mut sums = vec![(0f64, 0f64); channels / size];
    for pixel in part.chunks_exact(channels) {
        for ((sum, squares), group) in sums.iter_mut().zip(pixel.chunks_exact(size)) {
            for &value in group {
                let value = f64::from(value);
                *sum += value;
                *squares += value * value;
            }
        }
    }
    sums
}

fn on_device(rows: &Tensor, n: usize, groups: usize, count: f64) -> Result<Vec<(f64, f64)>> {
    let wide =
        rows.to_dtype(DType::F32)?.reshape((n, (), groups, rows.dim(D::Minus1)? / groups))?;
    let mean = wide.mean_keepdim(3)?.mean_keepdim(1)?;
    let variance = wide.broadcast_sub(&mean)?.sqr()?.mean_keepdim(3)?.mean_keepdim(1)?;
    let host = |x: Tensor| x.flatten_all()?.to_vec1::<f32>();
    let pairs = host(mean)?.into_iter().zip(host(variance)?);
    Ok(pairs.map(|(mean, variance)| (f64::from(mean), f64::from(variance) * count)).collect())
}

impl Affine {
    /// `silu(x * factor + offset)`: `(n, rows, width, channels)` to the same shape and type.
    ///
    /// # Errors
    ///
    /// Fails if the shape does not fit, or if the device fails.
    pub fn silu(&self, x: &Tensor) -> Result<Tensor> {
        if !x.device().is_cpu() {
            let wide = x.to_dtype(DType::F32)?.broadcast_mul(&self.factor)?;
            return wide.broadcast_add(&self.offset)?.silu()?.to_dtype(x.dtype());
        }
        let (n, _, _, channels) = x.dims4()?;
        let (factor, offset) =
            (self.factor.flatten_all()?.to_vec1()?, self.offset.flatten_all()?.to_vec1::<f32>()?);
        let mut values = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let image = (values.len() / n).max(1);
        for (i, values) in values.chunks_mut(image).enumerate() {
            let of = i * channels..(i + 1) * channels;
            let (factor, offset): (&[f32], &[f32]) = (&factor[of.clone()], &offset[of]);
            values.par_chunks_mut(channels).with_min_len(TASK).for_each(|pixel| {
                for ((value, factor), offset) in pixel.iter_mut().zip(factor).zip(offset) {
                    let normed = value.mul_add(*factor, *offset);
                    *value = normed / (1.0 + (-normed).exp());
                }
            });
        }
        Tensor::from_vec(values, x.dims(), x.device())?.to_dtype(x.dtype())
    }
}
