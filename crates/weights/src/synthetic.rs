//! A checkpoint of random numbers, for measuring without files.
//!
//! It has every tensor that it is asked for, in the shape that it is asked for: matrices are normal
//! with a deviation of 0.02, as models begin their training; weights of norms are 1 and biases 0.
//! A tensor's name is its seed, so reading it again gives the same bits, as reading a file does.

use std::{collections::BTreeMap, path::Path};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::{
    LoadError, Precision, Weights,
    checkpoint::Checkpoint,
    source::{Target, TensorSource, TensorSpan, Wanted, cat},
};

/// Standard deviation of matrices.
const DEVIATION: f32 = 0.02;
/// Values made at once: a big tensor is never in f32 as a whole.
const CHUNK: usize = 1 << 24;

/// Whatever is asked for.
#[derive(Default)]
struct Synthetic {
    /// None.
    entries: BTreeMap<String, TensorSpan>,
}

/// A checkpoint that holds whatever is asked for, under this label. Tensors are made on `device` in
/// these types.
pub fn synthetic(label: &Path, device: &Device, precision: impl Into<Precision>) -> Weights {
    Checkpoint::of(label, Box::new(Synthetic::default()), device, precision.into())
}

impl TensorSource for Synthetic {
    fn entries(&self) -> &BTreeMap<String, TensorSpan> {
        &self.entries
    }

    fn check(&self, _: &Wanted<'_>) -> Result<(), LoadError> {
        Ok(())
    }

    fn tensor(&self, parts: &[Wanted<'_>], target: &Target<'_>) -> Result<Tensor, LoadError> {
        let &Target { device, dtype, overlay, .. } = target;
        let tensors = parts
            .iter()
            .map(|Wanted { name, shape }| {
                overlay.fuse(name, tensor(name, shape, device, dtype)?, dtype)
            })
            .collect::<Result<Vec<_>, LoadError>>()?;
        cat(&tensors)
    }
}

/// The tensor `name`.
fn tensor(name: &str, shape: &[usize], device: &Device, dtype: DType) -> Result<Tensor, LoadError> {
    let count = shape.iter().product::<usize>();
    if shape.len() < 2 {
        let value = if name.ends_with("bias") { 0f32 } else { 1f32 };
        return Ok(Tensor::full(value, shape, device)?.to_dtype(dtype)?);
    }
    let seed = hash(name);
    if !device.is_cpu() {
        device.set_seed(seed)?;
    }
    let all = Tensor::zeros(count, dtype, device)?;
    for start in (0..count).step_by(CHUNK) {
        let length = CHUNK.min(count - start);
        let chunk = match device {
            Device::Cpu => Tensor::from_vec(normal(seed, start, length), length, device)?,
            _ => Tensor::randn(0f32, DEVIATION, length, device)?,
        };
        all.slice_set(&chunk.to_dtype(dtype)?, 0, start)?;
    }
    Ok(all.reshape(shape)?)
}

/// Values from `start` on of the endless row that a seed stands for; `start` is even.
fn normal(seed: u64, start: usize, length: usize) -> Vec<f32> {
    let mut values = vec![0f32; length];
    values.par_chunks_mut(1 << 16).enumerate().for_each(|(block, values)| {
        let first = start as u64 / 2 + ((block as u64) << 15);
        for (index, pair) in (first..).zip(values.chunks_mut(2)) {
            let bits = mix(seed ^ mix(index));
            // Two uniform numbers of 24 bits, the first of them not 0, to two normal ones.
            let uniform = |bits: u64| (bits & 0xff_ffff) as f32 / (1 << 24) as f32;
            let radius = DEVIATION * (-2.0 * (1.0 - uniform(bits)).ln()).sqrt();
            let (sin, cos) = (uniform(bits >> 32) * std::f32::consts::TAU).sin_cos();
            pair[0] = radius * cos;
            if let Some(second) = pair.get_mut(1) {
                *second = radius * sin;
            }
        }
    });
    values
}

/// SplitMix64's last step: every bit of the result depends on every bit of the number.
fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a, which is the same in every build, unlike the library's hashes.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Change, Delta, Overlay};

    fn open() -> Weights {
        synthetic(Path::new("tiny"), &Device::Cpu, DType::F32)
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().and_then(|x| x.to_vec1()).expect("f32")
    }

    #[test]
    fn every_tensor_is_there_and_always_the_same() {
        let weights = open().pp("layers").pp(0);
        let matrix = weights.get("w.weight", &[301, 999]).expect("made");
        let (mean, square) = values(&matrix)
            .iter()
            .fold((0f64, 0f64), |(m, s), &v| (m + f64::from(v), s + f64::from(v).powi(2)));
        let count = matrix.elem_count() as f64;
        assert!((mean / count).abs() < 2e-4, "{mean}");
        assert!(((square / count).sqrt() - 0.02).abs() < 2e-4, "{square}");
        let again = open().get("layers.0.w.weight", &[301, 999]).expect("made");
        assert_eq!(values(&matrix), values(&again));
        assert_eq!(values(&weights.get("norm.weight", &[3]).expect("made")), [1.0; 3]);
        assert_eq!(values(&weights.get("w.bias", &[3]).expect("made")), [0.0; 3]);
        weights.finish(|_| false).expect("nothing is left over");
        let asked = weights.asked();
        assert_eq!(asked["layers.0.w.weight"], [301, 999]);
    }

    #[test]
    fn a_stack_is_its_parts_and_changes_lie_on_top() {
        let weights = open();
        let parts: [(&str, &[usize]); 2] = [("a", &[2, 3]), ("b", &[4, 3])];
        let stacked = weights.stack(&parts).expect("made");
        assert_eq!(stacked.dims(), [6, 3]);
        let apart: Vec<f32> =
            parts.iter().flat_map(|(n, s)| values(&weights.get(n, s).expect("made"))).collect();
        assert_eq!(values(&stacked), apart);

        let one =
            |shape: (usize, usize)| Tensor::ones(shape, DType::F32, &Device::Cpu).expect("ones");
        let mut overlay = Overlay::default();
        let delta = Delta::LowRank { up: one((4, 1)), down: one((1, 3)) };
        overlay.add("b", Change::new(delta, 2.0));
        let changed = weights.with_overlay(Arc::new(overlay)).stack(&parts).expect("made");
        let moved: Vec<f32> =
            values(&changed).iter().zip(&apart).map(|(after, before)| after - before).collect();
        assert!(moved[..6].iter().all(|&v| v == 0.0), "{moved:?}");
        assert!(moved[6..].iter().all(|&v| (v - 2.0).abs() < 1e-6), "{moved:?}");
    }
}
