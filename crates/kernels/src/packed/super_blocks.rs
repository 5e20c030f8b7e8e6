//! Blocks of 256 weights: ggml's K types and IQ4_XS. A block is cut into runs with scales of their own.
//!
//! Arithmetic is in f32, in the order of gguf-py's `dequantize`, so that both give the same bits.

use super::blocks::{IQ4, half};

/// Two bits of each weight: 32 bytes hold four planes of 32 weights.
fn two_bits(bytes: &[u8], weight: usize) -> u8 {
    bytes[weight / 128 * 32 + weight % 32] >> (weight / 32 % 4 * 2) & 3
}

pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, least) = (half(block, 80), half(block, 82));
    for (run, (out, scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        let (d, least) = (d * f32::from(scale & 15), least * f32::from(scale >> 4));
        for (i, out) in out.iter_mut().enumerate() {
            *out = d * f32::from(two_bits(codes, run * 16 + i)) - least;
        }
    }
}

pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (mask, codes, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    for (run, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = scales[run % 8] >> (run / 8 * 4) & 15;
        let high = scales[8 + run % 4] >> (run / 4 * 2) & 3;
        let d = d * (f32::from(low | high << 4) - 32.0);
        for (i, out) in out.iter_mut().enumerate() {
            let weight = run * 16 + i;
            let set = mask[weight % 32] >> (weight / 32) & 1;
            // The bit says that nothing is taken away.
            let code = f32::from(two_bits(codes, weight)) - f32::from((set ^ 1) << 2);
            *out = d * code;
        }
    }
}

/// Scale and minimum of a run of 32, 6 bits each, of the 12 bytes of Q4_K and Q5_K.
fn scale_and_least(packed: &[u8], run: usize) -> (f32, f32) {
    let (scale, least) = if run < 4 {
        (packed[run] & 63, packed[run + 4] & 63)
    } else {
        let (low, run) = (packed[run + 4], run - 4);
        (low & 15 | packed[run] >> 2 & 48, low >> 4 | packed[run + 4] >> 2 & 48)
    };
    (f32::from(scale), f32::from(least))
}

/// The nibble of a weight: 32 bytes hold a run in their lower halves and the next one above.
fn nibble(bytes: &[u8], run: usize, i: usize) -> u8 {
    bytes[run / 2 * 32 + i] >> (run % 2 * 4) & 15
}

pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, least) = (half(block, 0), half(block, 2));
    let (scales, codes) = (&block[4..16], &block[16..]);
    for (run, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, lowest) = scale_and_least(scales, run);
        let (d, least) = (d * scale, least * lowest);
        for (i, out) in out.iter_mut().enumerate() {
            *out = d * f32::from(nibble(codes, run, i)) - least;
        }
    }
}

pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, least) = (half(block, 0), half(block, 2));
    let (scales, high, codes) = (&block[4..16], &block[16..48], &block[48..]);
    for (run, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, lowest) = scale_and_least(scales, run);
        let (d, least) = (d * scale, least * lowest);
        for (i, out) in out.iter_mut().enumerate() {
            let fifth = (high[i] >> run & 1) << 4;
            *out = d * f32::from(nibble(codes, run, i) | fifth) - least;
        }
    }
}

pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (run, (out, scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        let d = d * f32::from(*scale as i8);
        for (i, out) in out.iter_mut().enumerate() {
            let weight = run * 16 + i;
            let (half, place) = (weight / 128, weight % 128);
            let low = low[half * 64 + place % 64] >> (place / 64 * 4) & 15;
            *out = d * (f32::from(low | two_bits(high, weight) << 4) - 32.0);
        }
    }
}

pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    let (low, codes) = (&block[4..8], &block[8..]);
    for (run, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = low[run / 2] >> (run % 2 * 4) & 15;
        let high = ((high >> (2 * run) & 3) << 4) as u8;
        let d = d * (f32::from(low | high) - 32.0);
        for (i, out) in out.iter_mut().enumerate() {
            let code = codes[run * 16 + i % 16] >> (i / 16 * 4) & 15;
            *out = d * IQ4[usize::from(code)];
        }
    }
}
