//! Finds Z-Image's files in the folders of a ComfyUI installation, by what the files hold and not by
//! what they are called.

mod files;
mod kind;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use self::{
    files::files,
    kind::{Kind, read},
};

/// A file that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Dit,
    TextEncoder,
    Vae,
}

/// Z-Image's files; `None` for one that was not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub dit: Option<PathBuf>,
    pub text_encoder: Option<PathBuf>,
    pub vae: Option<PathBuf>,
    /// The folder of LoRAs, if there is one.
    pub loras: Option<PathBuf>,
}

/// Why the files are not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComfyError {
    #[error(
        "{0} is no folder of ComfyUI: it has no diffusion_models/, unet/, text_encoders/, clip/ or vae/, nor models/ with one of them"
    )]
    NotComfy(PathBuf),
    #[error("{folder} has no {part} of Z-Image in {places}; name a file with {flag}{passed}")]
    Missing {
        folder: PathBuf,
        part: &'static str,
        places: String,
        flag: &'static str,
        passed: String,
    },
    #[error("{folder} has several files that can be the {part}; choose one:{choices}")]
    Several { folder: PathBuf, part: &'static str, choices: String },
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Dit, Self::TextEncoder, Self::Vae];

    /// Folders of ComfyUI that have such files, newer names first.
    fn folders(self) -> &'static [&'static str] {
        match self {
            Self::Dit => &["diffusion_models", "unet"],
            Self::TextEncoder => &["text_encoders", "clip"],
            Self::Vae => &["vae"],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Dit => "transformer",
            Self::TextEncoder => "text encoder",
            Self::Vae => "VAE",
        }
    }

    /// The flag that names such a file.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Dit => "--dit-path",
            Self::TextEncoder => "--text-encoder-path",
            Self::Vae => "--vae-path",
        }
    }
}

impl Found {
    /// Of this part.
    pub fn part(&self, part: Part) -> Option<&PathBuf> {
        match part {
            Part::Dit => self.dit.as_ref(),
            Part::TextEncoder => self.text_encoder.as_ref(),
            Part::Vae => self.vae.as_ref(),
        }
    }

    /// Which files were chosen beside those that were given, on one line.
    pub fn told(&self, given: &Self) -> String {
        let chosen = |part: &Part| {
            let path = self.part(*part).filter(|path| given.part(*part) != Some(path))?;
            Some(format!("{} {}", part.name(), path.display()))
        };
        let chosen: Vec<String> = Part::ALL.iter().filter_map(chosen).collect();
        if chosen.is_empty() { "nothing of ComfyUI is used".to_owned() } else { chosen.join(", ") }
    }

    fn set(&mut self, part: Part, path: PathBuf) {
        let place = match part {
            Part::Dit => &mut self.dit,
            Part::TextEncoder => &mut self.text_encoder,
            Part::Vae => &mut self.vae,
        };
        *place = Some(path);
    }
}

/// The files of these parts in a ComfyUI folder or its `models` folder. `given` is what flags name: a
/// path that does not exist here may be a name in ComfyUI's folder of that part.
///
/// # Errors
///
/// [`ComfyError`] if the folder is not one of ComfyUI, or if a part has no file or several.
pub fn find(folder: &Path, parts: &[Part], given: &Found) -> Result<Found, ComfyError> {
    let models = models(folder).ok_or_else(|| ComfyError::NotComfy(folder.to_owned()))?;
    let mut found = Found { loras: loras(folder), ..given.clone() };
    for part in Part::ALL {
        if let Some(path) = given.part(part).filter(|path| !path.exists()) {
            let inside = part.folders().iter().map(|name| models.join(name).join(path));
            if let Some(inside) = inside.into_iter().find(|path| path.is_file()) {
                found.set(part, inside);
            }
        }
    }
    for &part in parts {
        if found.part(part).is_none() {
            found.set(part, choose(folder, &models, part, &found)?);
        }
    }
    Ok(found)
}

/// The folder of LoRAs in a ComfyUI folder, if there is one.
pub fn loras(folder: &Path) -> Option<PathBuf> {
    Some(models(folder)?.join("loras")).filter(|loras| loras.is_dir())
}

/// The folder that has those of the parts.
fn models(folder: &Path) -> Option<PathBuf> {
    let has = |folder: &Path| {
        let mut names = Part::ALL.iter().flat_map(|part| part.folders());
        names.any(|name| folder.join(name).is_dir())
    };
    [folder.join("models"), folder.to_owned()].into_iter().find(|folder| has(folder))
}

fn choose(folder: &Path, models: &Path, part: Part, found: &Found) -> Result<PathBuf, ComfyError> {
    let width = found.dit.as_deref().and_then(|dit| match read(dit) {
        Some(Kind::Dit { caption_width }) => caption_width,
        _ => None,
    });
    let mut passed = Vec::new();
    let mut fitting: Vec<(String, PathBuf)> = Vec::new();
    for place in part.folders() {
        for (name, path) in files(&models.join(place)) {
            match read(&path) {
                Some(kind) if kind.fits(part, width) => fitting.push((name, path)),
                _ => passed.push(format!("{place}/{name}")),
            }
        }
    }
    // Other models have autoencoders of the same shape. The one that belongs to Z-Image has one name
    // wherever it is published.
    if part == Part::Vae && fitting.len() > 1 {
        let released =
            |(name, _): &&(String, PathBuf)| name.rsplit('/').next() == Some("ae.safetensors");
        if let [only] = &fitting.iter().filter(released).collect::<Vec<_>>()[..] {
            return Ok(only.1.clone());
        }
    }
    let (folder, name) = (folder.to_owned(), part.name());
    match &fitting[..] {
        [(_, path)] => Ok(path.clone()),
        [] => {
            let places: Vec<String> =
                part.folders().iter().map(|name| format!("{name}/")).collect();
            let passed = match passed.len() {
                0 => String::new(),
                _ => format!(" (passed over: {})", some(&passed)),
            };
            let (places, flag) = (places.join(" or "), part.flag());
            Err(ComfyError::Missing { folder, part: name, places, flag, passed })
        }
        several => {
            let mut choices = String::new();
            for (name, _) in several.iter().take(SHOWN) {
                // Writing to a String cannot fail.
                let _ = write!(choices, "\n  {} {name}", part.flag());
            }
            Err(ComfyError::Several { folder, part: name, choices })
        }
    }
}

/// Names that a message lists.
const SHOWN: usize = 20;

fn some(names: &[String]) -> String {
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A safetensors file without values: names and shapes.
    fn file(path: &Path, tensors: &[(&str, &[usize])]) {
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        let entries: Vec<String> = tensors
            .iter()
            .map(|(name, shape)| {
                format!(r#""{name}":{{"dtype":"U8","shape":{shape:?},"data_offsets":[0,0]}}"#)
            })
            .collect();
        let header = format!("{{{}}}", entries.join(","));
        let length = (header.len() as u64).to_le_bytes();
        fs::write(path, [&length[..], header.as_bytes()].concat()).expect("written");
    }

    const DIT: &[(&str, &[usize])] = &[
        ("model.diffusion_model.cap_embedder.0.weight", &[2560]),
        ("model.diffusion_model.cap_embedder.1.weight", &[3840, 2560]),
        ("model.diffusion_model.layers.0.adaLN_modulation.0.weight", &[15360, 256]),
    ];
    const LUMINA: &[(&str, &[usize])] = &[
        ("cap_embedder.0.weight", &[2304]),
        ("cap_embedder.1.weight", &[2304, 2304]),
        ("layers.0.adaLN_modulation.0.weight", &[1, 256]),
    ];
    const QWEN: &[(&str, &[usize])] = &[
        ("model.layers.0.self_attn.q_norm.weight", &[128]),
        ("model.layers.0.input_layernorm.weight", &[2560]),
    ];
    const SMALL_QWEN: &[(&str, &[usize])] = &[
        ("model.layers.0.self_attn.q_norm.weight", &[128]),
        ("model.layers.0.input_layernorm.weight", &[1024]),
    ];
    const VAE: &[(&str, &[usize])] = &[("decoder.conv_in.weight", &[512, 16, 3, 3])];

    #[test]
    fn the_files_are_found_by_what_they_hold() {
        let room = tempfile::tempdir().expect("a folder");
        let models = room.path().join("models");
        file(&models.join("diffusion_models/any name.safetensors"), DIT);
        file(&models.join("unet/lumina.safetensors"), LUMINA);
        file(&models.join("text_encoders/sub/x.safetensors"), QWEN);
        file(&models.join("clip/qwen_0.6b.safetensors"), SMALL_QWEN);
        file(
            &models.join("vae/wan.safetensors"),
            &[("decoder.conv_in.weight", &[512, 16, 3, 3, 3])],
        );
        file(&models.join("vae/ae.safetensors"), VAE);
        fs::write(models.join("vae/broken.safetensors"), "x").expect("written");
        fs::create_dir_all(models.join("loras")).expect("made");
        for folder in [room.path(), &models] {
            let found = find(folder, &Part::ALL, &Found::default()).expect("found");
            assert_eq!(found.dit, Some(models.join("diffusion_models/any name.safetensors")));
            assert_eq!(found.text_encoder, Some(models.join("text_encoders/sub/x.safetensors")));
            assert_eq!(found.vae, Some(models.join("vae/ae.safetensors")));
            assert_eq!(found.loras, Some(models.join("loras")));
        }
    }

    #[test]
    fn several_files_are_a_choice_that_a_flag_makes() {
        let room = tempfile::tempdir().expect("a folder");
        file(&room.path().join("unet/a.safetensors"), DIT);
        file(&room.path().join("diffusion_models/b.safetensors"), DIT);
        let error = find(room.path(), &[Part::Dit], &Found::default()).expect_err("a choice");
        let said = error.to_string();
        assert!(said.contains("--dit-path b.safetensors\n  --dit-path a.safetensors"), "{said}");
        let given = Found { dit: Some("a.safetensors".into()), ..Found::default() };
        let found = find(room.path(), &[Part::Dit], &given).expect("chosen");
        assert_eq!(found.dit, Some(room.path().join("unet/a.safetensors")));
        let elsewhere = Found { dit: Some(room.path().into()), ..Found::default() };
        let found = find(room.path(), &[Part::Dit], &elsewhere).expect("a path of its own");
        assert_eq!(found.dit.as_deref(), Some(room.path()));
    }

    #[test]
    fn what_is_missing_is_named_with_its_flag() {
        let room = tempfile::tempdir().expect("a folder");
        let error = find(room.path(), &[Part::Vae], &Found::default()).expect_err("empty");
        assert!(matches!(error, ComfyError::NotComfy(_)), "{error}");
        file(&room.path().join("models/unet/lumina.safetensors"), LUMINA);
        let error = find(room.path(), &[Part::Dit], &Found::default()).expect_err("another model");
        let said = error.to_string();
        assert!(
            said.contains("diffusion_models/ or unet/") && said.contains("--dit-path"),
            "{said}"
        );
        assert!(said.contains("passed over: unet/lumina.safetensors"), "{said}");
        find(room.path(), &[], &Found::default()).expect("nothing was asked for");
    }

    #[test]
    fn of_several_autoencoders_the_released_one_is_taken() {
        let room = tempfile::tempdir().expect("a folder");
        for name in ["ae.safetensors", "sd3_vae.safetensors"] {
            file(&room.path().join("vae").join(name), VAE);
        }
        let found = find(room.path(), &[Part::Vae], &Found::default()).expect("one");
        assert_eq!(found.vae, Some(room.path().join("vae/ae.safetensors")));
        fs::rename(room.path().join("vae/ae.safetensors"), room.path().join("vae/x.safetensors"))
            .expect("renamed");
        let error = find(room.path(), &[Part::Vae], &Found::default()).expect_err("a choice");
        assert!(matches!(error, ComfyError::Several { .. }), "{error}");
    }

    #[test]
    fn a_gguf_file_is_known_by_the_names_in_its_header() {
        let room = tempfile::tempdir().expect("a folder");
        let gguf = |name: &str, words: &[&str]| {
            let path = room.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            let mut bytes = b"GGUF\x03\0\0\0".to_vec();
            for word in words {
                bytes.extend((word.len() as u64).to_le_bytes());
                bytes.extend(word.as_bytes());
            }
            fs::write(path, bytes).expect("written");
        };
        gguf("unet/z.gguf", &["cap_embedder.0.weight", "layers.0.adaLN_modulation.0.weight"]);
        gguf("unet/flux.gguf", &["double_blocks.0.img_attn.qkv.weight"]);
        gguf("clip/q.gguf", &["general.architecture", "qwen3", "blk.0.attn_q_norm.weight"]);
        gguf("clip/vl.gguf", &["general.architecture", "qwen3vl", "blk.0.attn_q_norm.weight"]);
        let parts = [Part::Dit, Part::TextEncoder];
        let found = find(room.path(), &parts, &Found::default()).expect("found");
        assert_eq!(found.dit, Some(room.path().join("unet/z.gguf")));
        assert_eq!(found.text_encoder, Some(room.path().join("clip/q.gguf")));
    }
}
