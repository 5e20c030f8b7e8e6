//! `--outpaint`: the init image on a larger canvas, of which the new part is drawn.

use std::io::Cursor;

use bytes::Bytes;
use image::{GrayImage, ImageFormat, Luma, RgbImage};
use llm_dit_pictures::{MAX_PIXELS, decode, size};

use super::origin::SourceFile;
use crate::args::Margins;

/// The canvas has whole multiples, so that the image on it is not resized.
const MULTIPLE: u32 = 16;

/// The image on its canvas, whose new part has the colours of the nearest edge, and the mask of
/// that part. Their files are PNGs; hashes and names stay those of the image.
///
/// # Errors
///
/// Words, if the image cannot be read or the canvas is too large.
pub fn extend(source: &SourceFile, margins: Margins) -> Result<(SourceFile, SourceFile), String> {
    let name = source.path.display();
    let (width, height) = size(&source.bytes).map_err(|error| format!("{name}: {error}"))?;
    let Margins { left, right, top, bottom } = rounded(margins, width, height);
    let (across, down) = (width + left + right, height + top + bottom);
    if u64::from(across) * u64::from(down) > MAX_PIXELS {
        return Err(format!(
            "the canvas of {across}x{down} is too large; use a smaller --outpaint"
        ));
    }
    let image = decode(&source.bytes).map_err(|error| format!("{name}: {error}"))?.into_rgb8();
    let nearest = |x: u32, y: u32| {
        let (x, y) = (x.saturating_sub(left), y.saturating_sub(top));
        *image.get_pixel(x.min(width - 1), y.min(height - 1))
    };
    let canvas = RgbImage::from_fn(across, down, nearest);
    let is_old =
        |x: u32, y: u32| (left..left + width).contains(&x) && (top..top + height).contains(&y);
    let mask = GrayImage::from_fn(across, down, |x, y| Luma([if is_old(x, y) { 0 } else { 255 }]));
    let mut files = [Cursor::new(Vec::new()), Cursor::new(Vec::new())];
    canvas.write_to(&mut files[0], ImageFormat::Png).map_err(|error| error.to_string())?;
    mask.write_to(&mut files[1], ImageFormat::Png).map_err(|error| error.to_string())?;
    let [canvas, mask] =
        files.map(|file| SourceFile { bytes: Bytes::from(file.into_inner()), ..source.clone() });
    Ok((canvas, mask))
}

/// Grown to a canvas of whole multiples, on a side that grows.
fn rounded(margins: Margins, width: u32, height: u32) -> Margins {
    let missing = |side: u32| side.next_multiple_of(MULTIPLE) - side;
    let grow = |first: u32, second: u32, side: u32| match (first, second) {
        (0, 0) => (0, 0),
        (first, 0) => (first + missing(side + first), 0),
        (first, second) => (first, second + missing(side + first + second)),
    };
    let (left, right) = grow(margins.left, margins.right, width);
    let (top, bottom) = grow(margins.top, margins.bottom, height);
    Margins { left, right, top, bottom }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn the_new_part_has_the_colours_of_the_edge_and_is_masked() {
        let image = RgbImage::from_fn(40, 20, |x, y| Rgb([x as u8, y as u8, 9]));
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, ImageFormat::Png).expect("encodes");
        let bytes = Bytes::from(file.into_inner());
        let source = SourceFile { path: "s.png".into(), sha256: "hash".to_owned(), bytes };
        let margins = Margins { left: 10, top: 12, ..Default::default() };
        let (canvas, mask) = extend(&source, margins).expect("extends");
        assert_eq!((&*canvas.sha256, &*mask.sha256), ("hash", "hash"));
        let canvas = decode(&canvas.bytes).expect("a PNG").into_rgb8();
        let mask = decode(&mask.bytes).expect("a PNG").into_luma8();
        // 24 on the left, so that the whole is a multiple of 16.
        assert_eq!((canvas.dimensions(), mask.dimensions()), ((64, 32), (64, 32)));
        for (x, y, pixel) in canvas.enumerate_pixels() {
            let (from_x, from_y) = (x.saturating_sub(24), y.saturating_sub(12));
            assert_eq!(pixel, image.get_pixel(from_x, from_y), "{x} {y}");
            assert_eq!(mask.get_pixel(x, y).0[0] == 0, x >= 24 && y >= 12, "{x} {y}");
        }
    }
}
