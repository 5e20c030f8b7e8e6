//! Blocks of 32 weights: ggml's types up to Q8_0, and IQ4_NL.
//!
//! Arithmetic is in f32, in the order of gguf-py's `dequantize`, so that both give the same bits.

use half::f16;

/// The f16 at this byte.
pub(super) fn half(block: &[u8], at: usize) -> f32 {
    match block.get(at..).and_then(<[u8]>::first_chunk) {
        Some(bytes) => f16::from_le_bytes(*bytes).to_f32(),
        None => 0.0,
    }
}

/// Values of the type "nonlinear 4 bits".
pub(super) const IQ4: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// The 32 codes of 16 bytes: the lower halves before the upper ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let low = bytes.iter().map(|byte| byte & 15);
    low.chain(bytes.iter().map(|byte| byte >> 4))
}

/// The same with a fifth bit each, from the word at `at`.
fn five_bits(block: &[u8], at: usize) -> impl Iterator<Item = u8> {
    let high = block[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
    let fifth = move |i: usize| ((high >> i & 1) << 4) as u8;
    nibbles(&block[at + 4..]).enumerate().map(move |(i, low)| low | fifth(i))
}

fn fill(out: &mut [f32; 32], codes: impl Iterator<Item = u8>, value: impl Fn(u8) -> f32) {
    for (out, code) in out.iter_mut().zip(codes) {
        *out = value(code);
    }
}

pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    fill(out, nibbles(&block[2..]), |q| d * (f32::from(q) - 8.0));
}

pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    fill(out, nibbles(&block[4..]), |q| d * f32::from(q) + m);
}

pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half(block, 0);
    fill(out, five_bits(block, 2), |q| d * (f32::from(q) - 16.0));
}

pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    fill(out, five_bits(block, 4), |q| d * f32::from(q) + m);
}

pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block, 0);
    fill(out, block[2..].iter().copied(), |q| d * f32::from(q as i8));
}

pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    fill(out, nibbles(&block[2..]), |q| d * IQ4[usize::from(q & 15)]);
}
