//! Converts the VAE's output to bytes.

use candle_core::{DType, Tensor};
use llm_dit_engine::image::GenerateError;
use rayon::prelude::*;

use crate::error::DrawError;

/// Adding it to a small f32 and taking it away again rounds to a whole number, halves to the even one.
const WHOLE: f64 = 12_582_912.0;

/// A picture `(1, 3, height, width)` around -1 to 1, f32, to interleaved bytes:
/// `round(255 * clamp(x / 2 + 0.5, 0, 1))`.
pub(super) fn bytes(picture: &Tensor) -> Result<Vec<u8>, DrawError> {
    if picture.device().is_cpu() {
        return interleave(&picture.flatten_all()?.to_vec1::<f32>()?);
    }
    // Where it is: a quarter of the bytes cross over, and the next picture waits for them.
    check(picture.sum_all()?.to_scalar::<f32>()?.is_finite())?;
    let shares = picture.squeeze(0)?.permute((1, 2, 0))?.affine(0.5, 0.5)?.clamp(0f32, 1f32)?;
    let whole = ((shares.affine(255.0, 0.0)? + WHOLE)? - WHOLE)?;
    Ok(whole.to_dtype(DType::U8)?.flatten_all()?.to_vec1()?)
}

fn check(finite: bool) -> Result<(), DrawError> {
    if finite { Ok(()) } else { Err(GenerateError::NotFinite.into()) }
}

/// Planes of red, green and blue.
fn interleave(planes: &[f32]) -> Result<Vec<u8>, DrawError> {
    // The device waits for this, so all cores take part.
    check(planes.par_iter().all(|x| x.is_finite()))?;
    let byte = |x: f32| (255.0 * (x / 2.0 + 0.5).clamp(0.0, 1.0)).round_ties_even() as u8;
    let count = planes.len() / 3;
    let (red, rest) = planes.split_at(count);
    let (green, blue) = rest.split_at(count);
    let mut rgb = vec![0; 3 * count];
    rgb.par_chunks_exact_mut(3).with_min_len(4096).enumerate().for_each(|(i, pixel)| {
        pixel.copy_from_slice(&[byte(red[i]), byte(green[i]), byte(blue[i])]);
    });
    Ok(rgb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_become_pixels() {
        let planes = [-1.0, 0.0, 1.0, 2.0, -9.0, 0.5];
        assert_eq!(interleave(&planes).expect("finite"), [0, 255, 0, 128, 255, 191]);
        assert!(interleave(&[0.0, f32::NAN, 0.0]).is_err());
    }
}
