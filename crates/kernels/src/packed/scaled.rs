//! Rows of ComfyUI's layouts: small floats and integers behind an f32 scale of the row, some with
//! scales of blocks as well, some rotated.

/// f32 of each e4m3fn byte: four bits of exponent, three of fraction, no infinities.
static E4M3: [f32; 256] = e4m3_table();

/// Values of the four-bit float e2m1, whose top bit is the sign.
const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

const fn e4m3_table() -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = f32::from_bits(e4m3_bits(byte as u32));
        byte += 1;
    }
    table
}

const fn e4m3_bits(byte: u32) -> u32 {
    let (sign, exponent, fraction) = (byte >> 7 << 31, byte >> 3 & 15, byte & 7);
    sign | match (exponent, fraction) {
        (15, 7) => 0x7fc0_0000,
        (0, 0) => 0,
        // Below the smallest normal number: 2^-9 times the fraction, whose highest bit becomes the
        // implied one.
        (0, _) => {
            let highest = 31 - fraction.leading_zeros();
            (118 + highest) << 23 | (fraction << (23 - highest)) & 0x7f_ffff
        }
        _ => (exponent + 120) << 23 | fraction << 20,
    }
}

/// The value of an e4m3fn byte.
pub(super) fn e4m3(byte: u8) -> f32 {
    E4M3[usize::from(byte)]
}

/// The value of an e5m2 byte: it has the exponent of f16, and the first two bits of its fraction.
pub(super) fn e5m2(byte: u8) -> f32 {
    half::f16::from_bits(u16::from(byte) << 8).to_f32()
}

/// 2^(byte - 127), and 0 for the byte 0, as the layout's authors read it.
fn e8m0(byte: u8) -> f32 {
    f32::from_bits(u32::from(byte) << 23)
}

/// 16 values of e2m1 behind their scale in e4m3fn; the upper half of a byte is the first of its two.
pub(super) fn nvfp4(block: &[u8; 9], out: &mut [f32; 16], row: f32) {
    let scale = row * e4m3(block[0]);
    for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(&block[1..]) {
        *pair = [byte >> 4, byte & 15].map(|code| E2M1[usize::from(code)] * scale);
    }
}

/// 32 values of e4m3fn behind their scale, a power of two.
pub(super) fn mxfp8(block: &[u8; 33], out: &mut [f32; 32]) {
    let scale = e8m0(block[0]);
    for (out, byte) in out.iter_mut().zip(&block[1..]) {
        *out = e4m3(*byte) * scale;
    }
}

/// Undoes the rotation of each `group` of values and multiplies by `scale`. The rotation is the Kronecker power
/// of the 4 x 4 matrix with -1 on its antidiagonal and 1 elsewhere, divided by the root of `group`; it
/// is its own inverse. Whole numbers as they are stored stay exact until the last step.
pub(super) fn rotate(values: &mut [f32], group: usize, scale: f32) {
    // A power of four, so the root is exact.
    let scale = scale / (group as f32).sqrt();
    for group_values in values.chunks_mut(group) {
        let mut step = 1;
        while step < group {
            for quad in group_values.chunks_mut(4 * step) {
                if let Ok([a, b, c, d]) = quarters(quad, step) {
                    for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
                        let (w, x, y, z) = (*a, *b, *c, *d);
                        let (first, last) = (w + x, y + z);
                        let (cross, rest) = (w - x, y - z);
                        (*a, *b) = (first + rest, first - rest);
                        (*c, *d) = (cross + last, last - cross);
                    }
                }
            }
            step *= 4;
        }
        for value in group_values {
            *value *= scale;
        }
    }
}

/// Four parts of `step` values each.
fn quarters(values: &mut [f32], step: usize) -> Result<[&mut [f32]; 4], ()> {
    let parts: Vec<&mut [f32]> = values.chunks_exact_mut(step.max(1)).take(4).collect();
    parts.try_into().map_err(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_floats_are_what_their_bits_say() {
        for (byte, value) in [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x03, 3.0 * 2f32.powi(-9)),
            (0x07, 7.0 * 2f32.powi(-9)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0xb8, -1.0),
            (0x7e, 448.0),
            (0xfe, -448.0),
        ] {
            assert_eq!(e4m3(byte), value, "{byte:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        assert!(e4m3(0x80).is_sign_negative());
        assert_eq!((e5m2(0x3c), e5m2(0x7b), e5m2(0x01)), (1.0, 57344.0, 2f32.powi(-16)));
        assert_eq!((e8m0(127), e8m0(130), e8m0(0)), (1.0, 8.0, 0.0));
    }

    #[test]
    fn a_rotation_undoes_itself() {
        let before: Vec<f32> = (0..128).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        for group in [4, 16, 64] {
            let mut values = before.clone();
            rotate(&mut values, group, 2.0);
            assert_ne!(values, before);
            rotate(&mut values, group, 0.5);
            assert_eq!(values, before, "groups of {group}");
        }
        // One column of the matrix itself, and the order of its axes.
        let mut unit = vec![0.0; 16];
        unit[3] = 1.0;
        rotate(&mut unit, 16, 4.0);
        assert_eq!(unit[..4], [-1.0, 1.0, 1.0, 1.0]);
        assert_eq!(unit[12..], [1.0, -1.0, -1.0, -1.0]);
    }
}
