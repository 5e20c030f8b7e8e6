//! Flags that select LoRAs, for every program that loads a transformer.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use llm_dit_hub::{CacheArgs, NotCached};
use llm_dit_params::{LoraBlocks, LoraPass, LoraSelection, LoraSet, ParamError};

use super::{LorasFolder, LorasFolderError};
use crate::engine::LoraChoice;

/// What parts a pass from blocks, of which none is called so.
const PASS: &str = "pass";

/// LoRAs to fuse into the transformer.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LoraArgs {
    /// LoRA file to fuse into the transformer, or ORG/NAME/FILE of a downloaded one, with an optional
    /// scale after the last colon [default scale: 1], optional factors for parts of the model:
    /// FILE:0.8@layers.0-14=0, and optionally for the prompt's pass of guidance only:
    /// FILE@pass=positive. Repeatable
    #[arg(short, long, value_name = "PATH[:SCALE][@BLOCK=FACTOR,...]")]
    pub lora: Vec<LoraArg>,
    /// Trigger words to put before every prompt: the first value belongs to the first --lora, and
    /// so on
    #[arg(long, value_name = "WORDS")]
    pub lora_trigger: Vec<String>,
    /// Folder to search for LoRA files. Clients of a service can select files from this folder only
    #[arg(long, value_name = "DIR")]
    pub loras_dir: Option<PathBuf>,
}

/// `PATH` or `PATH:SCALE`, either with `@BLOCK=FACTOR,...` behind it, where `pass=PASS` may be among the
/// factors.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraArg {
    pub path: PathBuf,
    pub scale: f32,
    pub blocks: LoraBlocks,
    pub pass: LoraPass,
}

/// Why the flags' LoRAs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoraArgsError {
    #[error("--lora has an empty path")]
    Empty,
    #[error("--lora: {0}")]
    Bounds(#[from] ParamError),
    #[error(
        "there are more --lora-trigger ({triggers}) than --lora ({loras}); the first --lora-trigger belongs to the first --lora, and so on"
    )]
    Triggers { triggers: usize, loras: usize },
    #[error("--lora {path}: no such file{}", looked(.folder))]
    Missing { path: PathBuf, folder: Option<PathBuf> },
    #[error("--lora: {cause}{}", looked(.folder))]
    NotCached { cause: NotCached, folder: Option<PathBuf> },
    #[error("--lora {}: name one of its {count} files, such as {}", .path.display(), .first.display())]
    Several { path: PathBuf, count: usize, first: PathBuf },
}

fn looked(folder: &Option<PathBuf>) -> String {
    match folder {
        Some(folder) => format!(", nor in --loras-dir {}", folder.display()),
        None => ", and --loras-dir is not set".to_owned(),
    }
}

impl FromStr for LoraArg {
    type Err = ParamError;

    /// What follows the last `@` are blocks and a pass if there is a `=` in it; else it belongs to the
    /// path. So does what follows the last colon, unless it is a number.
    fn from_str(text: &str) -> Result<Self, ParamError> {
        let (text, (blocks, pass)) = match text.rsplit_once('@') {
            Some((text, behind)) if behind.contains('=') => (text, blocks_and_pass(behind)?),
            _ => (text, Default::default()),
        };
        let scaled = text
            .rsplit_once(':')
            .and_then(|(path, scale)| Some((PathBuf::from(path), scale.parse().ok()?)));
        let (path, scale) = scaled.unwrap_or_else(|| (text.into(), 1.0));
        Ok(Self { path, scale, blocks, pass })
    }
}

/// `layers.0-14=0,pass=positive`, in any order.
fn blocks_and_pass(text: &str) -> Result<(LoraBlocks, LoraPass), ParamError> {
    let (mut blocks, mut passes) = (Vec::new(), Vec::new());
    for part in text.split(',') {
        match part.split_once('=') {
            Some((key, pass)) if key.trim() == PASS => passes.push(pass.trim()),
            _ => blocks.push(part),
        }
    }
    let blocks =
        if blocks.is_empty() { LoraBlocks::default() } else { blocks.join(",").parse()? };
    match passes[..] {
        [] => Ok((blocks, LoraPass::default())),
        [pass] => Ok((blocks, pass.parse()?)),
        _ => Err(ParamError::Invalid { name: "loras", why: format!("'{PASS}' is there twice") }),
    }
}

impl LoraArgs {
    /// The same with the files of downloaded LoRAs, `ORG/NAME/FILE` or `ORG/NAME` of a repository with one
    /// LoRA, in place of their names. What is a file here or in the folder of LoRAs stays as it is.
    ///
    /// # Errors
    ///
    /// [`LoraArgsError`] for a repository that was not downloaded or that has several LoRAs.
    pub fn located(mut self, cache: &CacheArgs) -> Result<Self, LoraArgsError> {
        for at in 0..self.lora.len() {
            let path = &self.lora[at].path;
            if self.find(path).is_ok() {
                continue;
            }
            let found = cache.locate(path);
            let found = found.map_err(|cause| LoraArgsError::NotCached {
                cause,
                folder: self.loras_dir.clone(),
            })?;
            self.lora[at].path = if found.is_dir() { only_lora(path, &found)? } else { found };
        }
        Ok(self)
    }

    /// Finds the files and pairs them with their trigger words.
    ///
    /// # Errors
    ///
    /// [`LoraArgsError`] if a file does not exist, or if names, scales or trigger words are
    /// invalid.
    pub fn choices(&self) -> Result<Vec<LoraChoice>, LoraArgsError> {
        let named = self.selections(|path| self.name(path))?;
        let found = self.lora.iter().zip(named.iter()).map(|(LoraArg { path, .. }, lora)| {
            Ok(LoraChoice {
                name: lora.name().to_owned(),
                path: self.find(path)?,
                scale: lora.scale(),
                trigger_words: lora.trigger_words().to_owned(),
                blocks: lora.blocks().clone(),
                pass: lora.pass(),
            })
        });
        found.collect()
    }

    /// The set as another machine is asked for it, where paths are names in its folder.
    ///
    /// # Errors
    /// When a value is out of bounds, or words have no LoRA.
    pub fn set(&self) -> Result<LoraSet, LoraArgsError> {
        self.selections(|path| path.to_string_lossy().into_owned())
    }

    fn selections(&self, name: impl Fn(&Path) -> String) -> Result<LoraSet, LoraArgsError> {
        let (triggers, loras) = (self.lora_trigger.len(), self.lora.len());
        if triggers > loras {
            return Err(LoraArgsError::Triggers { triggers, loras });
        }
        let words = self.lora_trigger.iter().map(String::as_str).chain(std::iter::repeat(""));
        let selection = |(LoraArg { path, scale, blocks, pass }, words): (&LoraArg, &str)| {
            if path.as_os_str().is_empty() {
                return Err(LoraArgsError::Empty);
            }
            let lora = LoraSelection::new(&name(path), Some(*scale), words)?;
            Ok(lora.with_blocks(blocks.clone()).in_pass(*pass))
        };
        let all = self.lora.iter().zip(words).map(selection).collect::<Result<_, _>>()?;
        Ok(LoraSet::new(all)?)
    }

    /// The folder that callers may choose from, if there is one.
    ///
    /// # Errors
    ///
    /// [`LorasFolderError`] if the folder cannot be opened.
    pub fn folder(&self) -> Result<Option<LorasFolder>, LorasFolderError> {
        self.loras_dir.as_deref().map(LorasFolder::open).transpose()
    }

    /// A relative path means a file here, or else one in the folder of LoRAs.
    fn find(&self, path: &Path) -> Result<PathBuf, LoraArgsError> {
        if path.exists() {
            return Ok(path.to_owned());
        }
        let inside = self.loras_dir.as_ref().map(|folder| folder.join(path));
        inside.filter(|path| path.exists()).ok_or_else(|| LoraArgsError::Missing {
            path: path.to_owned(),
            folder: self.loras_dir.clone(),
        })
    }

    /// As callers of a service know it: a path in the folder, or else only the file's name.
    fn name(&self, path: &Path) -> String {
        let folder = self.loras_dir.as_deref();
        let inside = folder.and_then(|folder| path.strip_prefix(folder).ok());
        let is_in_folder = folder.is_some_and(|f| !path.exists() && f.join(path).exists());
        let name = match inside {
            Some(inside) => inside.as_os_str(),
            None if is_in_folder => path.as_os_str(),
            None => path.file_name().unwrap_or(path.as_os_str()),
        };
        name.to_string_lossy().into_owned()
    }
}

/// The LoRA in a repository's folder that has no other.
fn only_lora(named: &Path, folder: &Path) -> Result<PathBuf, LoraArgsError> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    let is_lora = |path: &PathBuf| path.extension().is_some_and(|end| end == "safetensors");
    let mut loras: Vec<PathBuf> = files.filter(is_lora).collect();
    loras.sort();
    let in_repository = |file: &PathBuf| named.join(file.file_name().unwrap_or_default());
    match &loras[..] {
        [] => Err(LoraArgsError::Missing { path: named.to_owned(), folder: None }),
        [_] => Ok(loras.remove(0)),
        [first, ..] => Err(LoraArgsError::Several {
            path: named.to_owned(),
            count: loras.len(),
            first: in_repository(first),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (String, f32) {
        let LoraArg { path, scale, .. } = text.parse().expect("valid");
        (path.to_string_lossy().into_owned(), scale)
    }

    #[test]
    fn the_last_colon_parts_path_and_scale() {
        for (text, path, scale) in [
            ("a.safetensors", "a.safetensors", 1.0),
            ("a.safetensors:0.8", "a.safetensors", 0.8),
            ("a:-1e-2", "a", -0.01),
            ("a:b:2", "a:b", 2.0),
            ("a:b", "a:b", 1.0),
            ("a:", "a:", 1.0),
            (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1.0),
            (r"C:\loras\a.safetensors:.5", r"C:\loras\a.safetensors", 0.5),
        ] {
            assert_eq!(parse(text), (path.to_owned(), scale), "{text}");
        }
    }

    #[test]
    fn blocks_follow_an_at_sign() {
        let lora: LoraArg = "a@b.safetensors:0.8@layers.0-14=0,layers.20=2".parse().expect("valid");
        assert_eq!((&*lora.path.to_string_lossy(), lora.scale), ("a@b.safetensors", 0.8));
        assert_eq!(lora.blocks.to_string(), "layers.0-14=0,layers.20=2");
        let plain: LoraArg = "a@b.safetensors".parse().expect("valid");
        assert!(plain.blocks.is_empty());
        assert_eq!(plain.path, Path::new("a@b.safetensors"));
        assert!("a@layers=x".parse::<LoraArg>().is_err());
    }

    #[test]
    fn a_pass_stands_among_the_blocks_in_any_place() {
        for (text, pass, blocks) in [
            ("a:0.8", LoraPass::Both, ""),
            ("a:0.8@pass=both", LoraPass::Both, ""),
            ("a:0.8@pass=positive", LoraPass::Positive, ""),
            ("a:0.8@layers.0-14=0, pass=positive", LoraPass::Positive, "layers.0-14=0"),
            (
                "a:0.8@pass=positive,layers=1,cap_embedder=2",
                LoraPass::Positive,
                "cap_embedder=2,layers=1",
            ),
        ] {
            let lora: LoraArg = text.parse().expect(text);
            assert_eq!((lora.pass, &*lora.blocks.to_string(), lora.scale), (pass, blocks, 0.8));
            assert_eq!(lora.path, Path::new("a"), "{text}");
        }
        for (text, words) in [
            ("a@pass=negative", "'negative'"),
            ("a@pass=", "positive"),
            ("a@layers=1,pass=Both", "'Both'"),
            ("a@pass=positive,pass=both", "twice"),
            ("a@positive=", "positive="),
        ] {
            let error = text.parse::<LoraArg>().expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let plain: LoraArg = "a@positive".parse().expect("a path");
        assert_eq!((&*plain.path, plain.pass), (Path::new("a@positive"), LoraPass::Both));
    }

    #[test]
    fn downloaded_loras_are_found_by_their_names() {
        let room = tempfile::tempdir().expect("a folder");
        let commit = "c".repeat(40);
        let snapshot = room.path().join("models--someone--inks/snapshots").join(&commit);
        std::fs::create_dir_all(&snapshot).expect("made");
        let refs = room.path().join("models--someone--inks/refs");
        std::fs::create_dir_all(&refs).expect("made");
        std::fs::write(refs.join("main"), &commit).expect("written");
        let cache =
            CacheArgs { hf_hub_cache: Some(room.path().to_owned()), ..CacheArgs::default() };
        let located = |text: &str| {
            let lora = vec![text.parse().expect("valid")];
            let args = LoraArgs { lora, ..Default::default() }.located(&cache);
            args.map(|args| args.lora[0].path.clone()).map_err(|error| error.to_string())
        };
        assert!(located("someone/inks").is_err(), "it is empty");
        std::fs::write(snapshot.join("a.safetensors"), "").expect("written");
        assert_eq!(located("someone/inks:0.8"), Ok(snapshot.join("a.safetensors")));
        std::fs::write(snapshot.join("b.safetensors"), "").expect("written");
        let said = located("someone/inks").expect_err("two");
        assert!(said.contains("2 files") && said.contains("someone/inks/a.safetensors"), "{said}");
        assert_eq!(located("someone/inks/b.safetensors"), Ok(snapshot.join("b.safetensors")));
        assert!(located("no/one").expect_err("missing").contains("llm-dit pull no/one"));
        assert_eq!(located("Cargo.toml"), Ok("Cargo.toml".into()), "a file here");
    }

    #[test]
    fn wrong_flags_are_told_apart() {
        let args = |lora: &[&str], triggers: &[&str]| LoraArgs {
            lora: lora.iter().filter_map(|text| text.parse().ok()).collect(),
            lora_trigger: triggers.iter().map(|t| (*t).to_owned()).collect(),
            loras_dir: Some("nowhere".into()),
        };
        let says = |args: LoraArgs, word: &str| {
            let message = args.choices().expect_err("wrong").to_string();
            assert!(message.contains(word), "{word}: {message}");
        };
        says(args(&["Cargo.toml:nan"], &[]), "finite");
        says(args(&["Cargo.toml:inf"], &[]), "finite");
        says(args(&[":1"], &[]), "empty");
        says(args(&["Cargo.toml"], &["a", "b"]), "more --lora-trigger (2) than --lora (1)");
        says(args(&["no-such-file:0.5"], &[]), "nor in --loras-dir nowhere");
        // Tests run in the package's folder.
        let choices = args(&["Cargo.toml", "src/lib.rs:2"], &["one"]).choices().expect("fine");
        let names: Vec<_> =
            choices.iter().map(|c| (c.name.as_str(), c.trigger_words.as_str(), c.scale)).collect();
        assert_eq!(names, [("Cargo.toml", "one", 1.0), ("lib.rs", "", 2.0)]);
    }
}
