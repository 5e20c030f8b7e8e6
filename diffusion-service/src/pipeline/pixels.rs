//! What the VAE made, as bytes.

use rayon::prelude::*;

use crate::engine::GenerateError;

/// Planes of red, green and blue around -1 to 1 to interleaved bytes:
/// `round(255 * clamp(x / 2 + 0.5, 0, 1))`.
pub(super) fn interleave(planes: &[f32]) -> Result<Vec<u8>, GenerateError> {
    // The device waits for this, so all cores take part.
    if planes.par_iter().any(|x| !x.is_finite()) {
        return Err(GenerateError::Backend(
            "the picture holds NaN or infinite values; a wider dtype may help (bf16 or f32)".into(),
        ));
    }
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
