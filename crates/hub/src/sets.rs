//! Short names for the files that most people use. A table: nothing here connects.

/// Files that make pictures together.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    pub name: &'static str,
    /// The machine that it is for.
    pub about: &'static str,
    pub files: &'static [SetFile],
    pub loaded: Loaded,
}

/// Sizes of the parts on a device, in GB (1e9 bytes).
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    pub dit: f32,
    pub text_encoder: f32,
    pub vae: f32,
}

/// A file, or with `None` a whole pipeline, of a repository.
#[derive(Clone, Copy, Debug)]
pub struct SetFile {
    pub repo: &'static str,
    pub file: Option<&'static str>,
    /// Size as its publisher gives it, in GB (1e9 bytes).
    pub gigabytes: f32,
    pub used: Use,
}

/// The flag that a file is given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Model,
    Dit,
    TextEncoder,
    Vae,
}

const COMFY: &str = "Comfy-Org/z_image_turbo";

const fn file(used: Use, repo: &'static str, file: &'static str, gigabytes: f32) -> SetFile {
    SetFile { repo, file: Some(file), gigabytes, used }
}

const BF16: Loaded = Loaded { dit: 12.31, text_encoder: 8.04, vae: 0.34 };

const VAE: SetFile = file(Use::Vae, COMFY, "split_files/vae/ae.safetensors", 0.34);

/// All of them, the largest first.
pub const SETS: &[Set] = &[
    Set {
        name: "z-image-turbo",
        about: "full precision, as its authors publish it",
        files: &[SetFile {
            repo: "Tongyi-MAI/Z-Image-Turbo",
            file: None,
            gigabytes: 32.9,
            used: Use::Model,
        }],
        // The transformer is stored in f32 and loaded in bf16.
        loaded: BF16,
    },
    Set {
        name: "z-image-turbo-bf16",
        about: "bf16, for a card of 24 GB or with --cpu-offload 16 GB",
        files: &[
            file(
                Use::Dit,
                COMFY,
                "split_files/diffusion_models/z_image_turbo_bf16.safetensors",
                12.31,
            ),
            file(Use::TextEncoder, COMFY, "split_files/text_encoders/qwen_3_4b.safetensors", 8.04),
            VAE,
        ],
        loaded: BF16,
    },
    Set {
        name: "z-image-turbo-16gb",
        about: "8 bits, for a card of 16 GB",
        files: &[
            file(Use::Dit, "jayn7/Z-Image-Turbo-GGUF", "z_image_turbo-Q8_0.gguf", 7.22),
            file(
                Use::TextEncoder,
                COMFY,
                "split_files/text_encoders/qwen_3_4b_fp8_mixed.safetensors",
                5.63,
            ),
            VAE,
        ],
        loaded: Loaded { dit: 7.22, text_encoder: 5.63, vae: 0.34 },
    },
    Set {
        name: "z-image-turbo-8gb",
        about: "4 bits, for a card of 8 GB",
        files: &[
            file(Use::Dit, "jayn7/Z-Image-Turbo-GGUF", "z_image_turbo-Q4_K_M.gguf", 4.98),
            file(Use::TextEncoder, "unsloth/Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf", 2.5),
            VAE,
        ],
        loaded: Loaded { dit: 4.98, text_encoder: 2.5, vae: 0.34 },
    },
];

impl Use {
    /// The flag of `llm-dit generate`.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Model => "--model-path",
            Self::Dit => "--dit-path",
            Self::TextEncoder => "--text-encoder-path",
            Self::Vae => "--vae-path",
        }
    }
}

impl Set {
    /// Size of all files together, in GB.
    pub fn gigabytes(&self) -> f32 {
        self.files.iter().map(|file| file.gigabytes).sum()
    }
}

/// The set of this name.
pub fn set(name: &str) -> Option<&'static Set> {
    SETS.iter().find(|set| set.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileName, RepoSpec};

    #[test]
    fn the_table_names_repositories_and_files() {
        for set in SETS {
            assert!(super::set(set.name).is_some() && !set.name.contains('/'));
            for file in set.files {
                assert!(file.repo.parse::<RepoSpec>().is_ok(), "{}", file.repo);
                assert_eq!(file.file.is_none(), file.used == Use::Model);
                assert!(file.file.is_none_or(|name| FileName::parse(name).is_ok()));
            }
        }
    }
}
