//! Initial noise, the same numbers as `torch.randn` with PyTorch's CPU generator.
//!
//! mt19937 seeded with the low 32 bits of the seed; uniforms for the whole tensor first, then
//! Box-Muller over blocks of 16 (first half cosines, second half sines). When the size is no
//! multiple of 16, the last 16 values are drawn again.

use rayon::prelude::*;

/// Values a block of PyTorch's vectorized transform takes.
const BLOCK: usize = 16;

const STATE: usize = 624;
const SHIFT: usize = 397;

/// The Mersenne Twister of Matsumoto and Nishimura.
struct Mt19937 {
    state: [u32; STATE],
    next: usize,
}

impl Mt19937 {
    /// `init_genrand`.
    fn new(seed: u32) -> Self {
        let mut state = [seed; STATE];
        for i in 1..STATE {
            let previous = state[i - 1];
            state[i] =
                1_812_433_253u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: STATE }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == STATE {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..STATE {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % STATE] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT) % STATE] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// In [0, 1), 24 bits.
    fn uniform(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0)
    }
}

/// `torch.randn(count, generator=torch.Generator("cpu").manual_seed(seed))`, to rounding.
///
/// `count` must be at least 16: PyTorch draws fewer values in another way, and no latents are
/// that small.
pub fn randn(seed: u64, count: usize) -> Vec<f32> {
    Noise::new(seed).randn(count)
}

/// `torch.Generator("cpu")`: each draw goes on where the last one ended.
pub struct Noise(Mt19937);

impl Noise {
    /// A generator that draws the values of PyTorch's CPU generator. As there, only the low 32 bits
    /// of the seed count.
    pub fn new(seed: u64) -> Self {
        // The high bits do not take part in PyTorch either.
        Self(Mt19937::new(seed as u32))
    }

    /// As [`randn`].
    pub fn randn(&mut self, count: usize) -> Vec<f32> {
        assert!(count >= BLOCK, "PyTorch draws fewer than {BLOCK} values in another way");
        let mut values: Vec<f32> = (0..count).map(|_| self.0.uniform()).collect();
        // A device waits for them.
        values.par_chunks_exact_mut(BLOCK).with_min_len(256).for_each(box_muller);
        if !count.is_multiple_of(BLOCK) {
            let last = &mut values[count - BLOCK..];
            last.fill_with(|| self.0.uniform());
            box_muller(last);
        }
        values
    }
}

fn box_muller(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * (1.0 - *a).ln()).sqrt();
        let theta = 2.0 * std::f32::consts::PI * *b;
        (*a, *b) = (radius * theta.cos(), radius * theta.sin());
    }
}
