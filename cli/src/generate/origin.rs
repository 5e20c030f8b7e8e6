//! Where settings come from besides flags: an earlier picture (`--from`), and files that a picture
//! was made of and that must be the same ones when it is made again.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use diffusion_service::{LoraArg, LoraArgs};
use llm_dit_params::{LoraBlocks, LoraSelection, excerpt};
use llm_dit_recipe::{Found, Lora, Recipe, Writer};

use crate::{args::GenerateArgs, error::CliError, files};

/// A file that a picture is made of.
#[derive(Clone, Debug)]
pub struct SourceFile {
    pub path: PathBuf,
    pub sha256: String,
    pub bytes: Bytes,
}

impl SourceFile {
    /// Reads the file of a source picture and hashes it.
    ///
    /// # Errors
    ///
    /// [`CliError`] if the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let bytes = files::read(path)?;
        Ok(Self { path: path.to_owned(), sha256: files::sha256(&bytes), bytes: bytes.into() })
    }
}

/// The recipe of `--from`, without what the command line replaces.
///
/// # Errors
///
/// [`CliError`] if the file cannot be read or has no recipe.
pub fn recipe(args: &GenerateArgs) -> Result<Option<Recipe>, CliError> {
    let Some(path) = &args.files.from else { return Ok(None) };
    let file = files::read(path)?;
    let fail = |why: String| CliError::Usage(format!("--from {}: {why}", path.display()));
    let found = llm_dit_recipe::read_any(file.into()).map_err(|e| fail(e.to_string()))?;
    let Some(Found { mut recipe, writer, left_out }) = found else {
        let why = "it contains no parameters of llm-dit, Automatic1111 or ComfyUI; converting or editing an image may remove them";
        return Err(fail(why.to_owned()));
    };
    if writer != Writer::Ours {
        eprintln!("note: --from reads the settings of {writer}; the image will be another one");
    }
    if !left_out.is_empty() {
        let shown = |text: &String| excerpt(text).escape_debug().to_string();
        let left_out: Vec<String> = left_out.iter().map(shown).collect();
        eprintln!("note: not taken from it: {}", left_out.join(", "));
    }
    let settings = &mut recipe.settings;
    if args.given.has("prompt") || args.files.prompts.is_some() {
        settings.load_embeddings = None;
    }
    // Noise for one picture is not noise for many.
    if args.files.prompts.is_some() {
        settings.latents = None;
    }
    // Embeddings stand for the prompt that they were made of.
    if args.given.has("load_embeddings") || settings.load_embeddings.is_some() {
        settings.prompt = None;
    }
    // A picture to draw from and initial noise exclude each other.
    if args.given.has("latents") {
        (settings.image, settings.mask, settings.outpaint) = (None, None, None);
    }
    if args.given.has("image") {
        settings.latents = None;
    }
    // Two ways to say which part is drawn.
    if args.given.has("mask") {
        settings.outpaint = None;
    }
    if args.given.has("outpaint") {
        settings.mask = None;
    }
    // Its texts are what came of it; a name would bring in what it has become.
    settings.template = None;
    let folder = path.parent().unwrap_or(Path::new(""));
    for (flag, setting) in [
        ("image", &mut settings.image),
        ("mask", &mut settings.mask),
        ("load_embeddings", &mut settings.load_embeddings),
        ("latents", &mut settings.latents),
    ] {
        if args.given.has(flag) {
            continue;
        }
        if let Some(named) = setting {
            let expected = recipe.sha256.get(flag).map(String::as_str);
            let found = find(folder, Path::new(named.as_str()), expected);
            *named = found.ok_or_else(|| missing(path, named, flag))?;
        }
    }
    Ok(Some(recipe))
}

/// The file of this name whose content is what it was: as named, or near the picture.
fn find(folder: &Path, named: &Path, sha256: Option<&str>) -> Option<String> {
    let beside = named.file_name().map(|name| folder.join(name));
    let candidates = [Some(named.to_owned()), Some(folder.join(named)), beside];
    let same = |path: &PathBuf| {
        let content = std::fs::read(path).ok();
        content.is_some_and(|bytes| sha256.is_none_or(|sha| files::sha256(&bytes) == sha))
    };
    candidates.into_iter().flatten().find(same).map(|path| path.to_string_lossy().into_owned())
}

fn missing(from: &Path, named: &str, flag: &str) -> CliError {
    CliError::Usage(format!(
        "{} was made with {named}, which is missing or has changed; set it with --{}",
        from.display(),
        flag.replace('_', "-")
    ))
}

/// Takes the LoRAs of the recipe, unless the command line chooses others. Their files are searched
/// for like those of the flag; without them it would be another picture.
///
/// # Errors
///
/// [`CliError`] if a file is not found.
pub fn take_loras(args: &mut GenerateArgs, recipe: &Recipe) -> Result<(), CliError> {
    if args.given.has("lora") || recipe.loras.is_empty() {
        return Ok(());
    }
    let lora = |lora: &Lora| {
        let blocks = LoraBlocks::new(lora.blocks.clone()).map_err(CliError::usage)?;
        let pass = lora.pass.as_deref().map(str::parse).transpose().map_err(CliError::usage)?;
        let (path, pass) = (lora.name.clone().into(), pass.unwrap_or_default());
        Ok(LoraArg { path, scale: lora.scale, blocks, pass })
    };
    args.lora.lora = recipe.loras.iter().map(lora).collect::<Result<_, CliError>>()?;
    args.lora.lora_trigger = recipe.loras.iter().map(|lora| lora.trigger_words.clone()).collect();
    if args.gateway.url.is_some() {
        // Their files are the gateway's to find.
        return Ok(());
    }
    args.lora.choices().map(drop).map_err(CliError::usage)
}

/// The LoRAs of the flags, in the form of a gateway's request.
///
/// # Errors
///
/// [`CliError`] if a name, a scale or trigger words are invalid.
pub fn loras(args: &LoraArgs) -> Result<Vec<Lora>, CliError> {
    let lora = |lora: &LoraSelection| Lora {
        name: lora.name().to_owned(),
        scale: lora.scale(),
        trigger_words: lora.trigger_words().to_owned(),
        blocks: lora.blocks().into(),
        pass: lora.pass().written(),
    };
    Ok(args.set().map_err(CliError::usage)?.iter().map(lora).collect())
}
