//! Whether a file is all there. Decoders draw what they have of a file that was cut off, and leave
//! the rest gray.

use image::ImageFormat;

/// Whether the file reaches the end that its format marks. Bytes behind that end do not matter.
pub(crate) fn is_whole(file: &[u8], format: ImageFormat) -> bool {
    match format {
        ImageFormat::Png => png(file),
        ImageFormat::Jpeg => jpeg(file).is_some(),
        ImageFormat::WebP => webp(file),
        _ => true,
    }
}

/// Chunks of length, kind, contents and checksum, up to `IEND`.
fn png(file: &[u8]) -> bool {
    const SIGNATURE: usize = 8;
    const AROUND: usize = 12;
    let mut rest = file.get(SIGNATURE..).unwrap_or_default();
    while let [a, b, c, d, kind @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let Some(next) = length.checked_add(AROUND).and_then(|size| rest.get(size..)) else {
            return false;
        };
        if kind.starts_with(b"IEND") {
            return true;
        }
        rest = next;
    }
    false
}

/// Segments, and behind each start of a scan its data, up to the end of the image.
fn jpeg(file: &[u8]) -> Option<()> {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: u8 = 0xd9;
    let mut at = 2;
    loop {
        at += file.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        // Any number of them may stand before a marker.
        at += file[at..].iter().position(|&byte| byte != 0xff)?;
        let marker = file[at];
        at += 1;
        match marker {
            END_OF_IMAGE => return Some(()),
            // Data that looks like a marker, restarts, and markers without a length.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            _ => {
                let length = file.get(at..at + 2)?;
                at += usize::from(u16::from_be_bytes([length[0], length[1]]));
                if marker == START_OF_SCAN && file.len() <= at {
                    return None;
                }
            }
        }
    }
}

/// A RIFF file says how long it is.
fn webp(file: &[u8]) -> bool {
    const HEAD: usize = 8;
    let Some(&[a, b, c, d]) = file.get(4..HEAD) else { return false };
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    length.checked_add(HEAD).is_some_and(|end| file.len() >= end)
}
