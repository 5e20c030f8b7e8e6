//! The model's names for a file's tensors, which the caller provides.

use candle_core::Tensor;

/// Where a tensor of a file goes: to a tensor of the model, whole or by a share of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The model's name for it.
    pub name: String,
    /// The share that goes there; `None`: all of it.
    pub rows: Option<Rows>,
}

/// The `index`-th of `of` equal shares along the first axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    pub index: usize,
    pub of: usize,
}

impl Rows {
    /// This share of a tensor.
    pub(crate) fn share(self, tensor: &Tensor) -> candle_core::Result<Tensor> {
        let rows = tensor.dim(0)? / self.of;
        tensor.narrow(0, self.index * rows, rows)?.contiguous()
    }
}

impl Part {
    /// All of a file's tensor, under this name of the model's.
    pub fn whole(name: impl Into<String>) -> Self {
        Self { name: name.into(), rows: None }
    }
}

/// A model's names for the tensors of a checkpoint, given the names of all of them: for each, the
/// parts it goes to. None at all: it belongs to another model, of which the file holds more.
pub type Naming = fn(names: &[&str]) -> Vec<Vec<Part>>;

/// What programs put before the names of one of several models in a file.
const MODELS: [&str; 19] = [
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "unet.",
    "model_ema.",
    "control_model.",
    "first_stage_model.",
    "vae.",
    "autoencoder.",
    "text_encoders.",
    "text_encoder.",
    "text_encoder_2.",
    "text_encoder_3.",
    "cond_stage_model.",
    "conditioner.",
    "clip_l.",
    "clip_g.",
    "clip_vision.",
    "te.",
];

/// The names without the prefix that marks a model's own tensors in a file that holds several
/// models; `None` for tensors of the others. The first prefix that occurs is the one; when none
/// does, all tensors without another model's prefix are the model's own.
pub fn own<'a>(names: &[&'a str], prefixes: &[&str]) -> Vec<Option<&'a str>> {
    match prefixes.iter().find(|prefix| names.iter().any(|name| name.starts_with(**prefix))) {
        Some(prefix) => names.iter().map(|name| name.strip_prefix(prefix)).collect(),
        None => names.iter().copied().map(|name| (!is_of_a_model(name)).then_some(name)).collect(),
    }
}

fn is_of_a_model(name: &str) -> bool {
    MODELS.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_marks_a_models_own_tensors() {
        let names = ["vae.a", "model.diffusion_model.b", "c"];
        assert_eq!(own(&names, &["vae."]), [Some("a"), None, None]);
        assert_eq!(own(&names, &["model.", "vae."]), [None, Some("diffusion_model.b"), None]);
        assert_eq!(own(&names, &["other."]), [None, None, Some("c")]);
    }

    #[test]
    fn a_model_without_a_prefix_lies_beside_others_that_have_one() {
        let names = ["layers.0.weight", "text_encoders.qwen3_4b.logit_scale", "vae.decoder.x"];
        assert_eq!(own(&names, &["transformer."]), [Some("layers.0.weight"), None, None]);
        let names = ["model.norm.weight", "model.diffusion_model.x", "first_stage_model.y"];
        assert_eq!(own(&names, &["text_encoder."]), [Some("model.norm.weight"), None, None]);
    }
}
