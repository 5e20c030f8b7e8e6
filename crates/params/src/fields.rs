//! The one declaration of what can be asked of an image in numbers and names.
//!
//! Flags, JSON bodies, prompt files, recipes and the wire all take these parameters. Each of them has
//! its own struct with more in it, so the declaration is a macro that calls another macro with the
//! list. A parameter that is added here exists at every door; what is left to write is its check in
//! `options.rs`, its field in `diffusion.proto`, and what it does.

/// Calls `callback! { rest generation { parameters } }`.
///
/// A parameter is its documentation, its name, the type of its value, and in brackets what only some
/// doors need: attributes for serde (`serde`), for clap's `arg` (`flag`) and for the OpenAPI schema
/// (`schema`). Every parameter is optional everywhere; one that is not given takes the model's default.
#[macro_export]
macro_rules! generation_fields {
    ($($callback:ident)::+ ! { $($rest:tt)* }) => {
        $($callback)::+! {
            $($rest)*
            generation {
                /// Width in pixels, a multiple of 16 [default: the model's]
                width: u32, serde [], flag [short = 'W'], schema [example = 256];
                /// Height in pixels, a multiple of 16 [default: the model's]
                height: u32, serde [], flag [short = 'H'], schema [example = 256];
                /// Denoising steps, each one forward pass of the transformer (flow_heun: two)
                /// [default: the model's]
                steps: u32, serde [alias = "num_inference_steps"],
                    flag [short = 's', alias = "num-inference-steps"],
                    schema [minimum = 1, maximum = 200, example = 8];
                /// Seed of the initial noise, the same noise as PyTorch generates on the CPU. The same
                /// seed gives the same image [default: random, and reported]
                seed: u64, serde [], flag [short = 'S', value_parser = $crate::seed], schema [];
                /// Seed of another noise, towards which --variation-strength moves the initial noise
                /// [default: random if a strength is given, and reported]
                variation_seed: u64, serde [], flag [value_parser = $crate::seed], schema [];
                /// How far the initial noise moves from that of the seed (0) to that of the variation
                /// seed (1) [default: 0.2 with a variation seed, else 0]
                variation_strength: f32, serde [], flag [value_name = "S"],
                    schema [minimum = 0, maximum = 1];
                /// Classifier-free guidance scale: pred + G * (pred - negative); 0 turns guidance off
                /// [default: the model's]
                guidance_scale: f32, serde [], flag [short = 'g', value_name = "G"],
                    schema [minimum = 0, maximum = 100];
                /// Limit the norm of the guided prediction to K times that of the unguided one; 0 is
                /// off [default: 0]
                cfg_normalization: f32, serde [], flag [value_name = "K"],
                    schema [minimum = 0, maximum = 100];
                /// Turn guidance off once 1 - sigma exceeds T; 1 - sigma grows from 0 to 1 [default: 1,
                /// never]
                cfg_truncation: f32, serde [], flag [value_name = "T"],
                    schema [minimum = 0, maximum = 1];
                /// Time shift of the sigma grid [default: the model's]
                shift: f64, serde [], flag [], schema [minimum = 0.01, maximum = 100];
                /// Sigmas of the steps instead of an even grid, from 1 down, with commas between them;
                /// they are shifted like the grid. Needs flow_euler or flow_heun [default: the grid]
                sigmas: Vec<f64>, serde [],
                    flag [value_name = "S,S,...", value_delimiter = ',', num_args = 1],
                    schema [example = json!([1.0, 0.8, 0.5])];
                /// Scheduler: flow_euler, flow_heun (two forward passes per step), dpm_solver or unipc
                /// [default: the model's]
                scheduler: String, serde [],
                    flag [value_name = "ID", value_parser = $crate::scheduler_id],
                    schema [example = "flow_euler"];
                /// Fraction of the init image to regenerate, and of the steps to run: 1 regenerates all
                /// of it [default: 0.6, with a mask 1]
                strength: f64, serde [], flag [value_name = "S"], schema [minimum = 0, maximum = 1];
                /// Blur of the edge at which the regenerated part is put back, in pixels; 0 is a hard
                /// edge. Needs a mask [default: 4]
                mask_blur: f64, serde [], flag [value_name = "PIXELS"],
                    schema [minimum = 0, maximum = 64];
                /// Regenerate what is black in the mask instead of what is white. Needs a mask
                mask_invert: bool, serde [],
                    flag [value_name = "BOOL", num_args = 0..=1, require_equals = true,
                        default_missing_value = "true", hide_possible_values = true],
                    schema [];
                /// Enlarge the masked part, with this many pixels around it, to the width and height
                /// that are set, and put it back at its own size; the image keeps its size. Needs a
                /// mask [default: off]
                only_masked: u32, serde [], flag [value_name = "PADDING"],
                    schema [minimum = 0, maximum = 1024];
            }
        }
    };
}
