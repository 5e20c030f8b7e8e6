//! What a loaded model and its service accept, and what they use when nothing is said.

/// Bounds on a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Width and height are multiples of this: VAE scale times patch size, 16.
    pub side_multiple: u32,
    pub min_side: u32,
    /// The RoPE axis: 512 patches of 16 pixels.
    pub max_side: u32,
    pub max_pixels: u64,
    pub max_steps: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            side_multiple: 16,
            min_side: 64,
            max_side: 8192,
            max_pixels: 2048 * 2048,
            max_steps: 200,
        }
    }
}

/// What a model does when the caller leaves a parameter out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelDefaults {
    pub width: u32,
    pub height: u32,
    pub steps: u32,
    pub guidance_scale: f32,
    pub shift: f64,
}

impl ModelDefaults {
    /// Z-Image-Turbo: distilled for 8 forwards without guidance.
    pub fn z_image_turbo() -> Self {
        Self { width: 1024, height: 1024, steps: 8, guidance_scale: 0.0, shift: 3.0 }
    }
}
