//! The recipe's place in a file. The pixels are never changed.
//!
//! PNG: an `iTXt` chunk `llm-dit` with the JSON and another, `parameters`, with the words. JPEG and
//! WebP: EXIF, where `MakerNote` is `llm-dit`, a zero byte and the JSON, and `UserComment` is the
//! words.

use std::io::Cursor;

use bytes::Bytes;
use exif::{Field, In, Tag, Value, experimental::Writer};
use img_parts::{
    DynImage, ImageEXIF as _,
    png::{Png, PngChunk},
};

use crate::{Recipe, VERSION};

/// Name of the chunk and mark of the maker note.
const KEYWORD: &str = "llm-dit";
const PARAMETERS: &str = "parameters";

const ITXT: [u8; 4] = *b"iTXt";
const TEXT: [u8; 4] = *b"tEXt";

/// A JPEG segment ends at 64 KiB.
const MAX_EXIF: usize = 65_000;

/// EXIF's name for text that is UTF-8 or close to it.
const UNDEFINED_CODE: &[u8] = b"\0\0\0\0\0\0\0\0";

/// Why a file's recipe could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("it is not a PNG, JPEG or WebP file")]
    Format,
    #[error("the file is damaged: {0}")]
    Damaged(String),
    #[error("its parameters cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "its parameters have version {0}, but this program supports {VERSION}; use a newer version"
    )]
    Version(u32),
    #[error("{0} bytes of parameters do not fit into this file format; use PNG")]
    TooLong(usize),
}

/// The recipe in a picture's file, if there is one.
///
/// # Errors
///
/// [`RecipeError`] if the file is no picture, or if its recipe is invalid or from a newer version.
pub fn read(file: Bytes) -> Result<Option<Recipe>, RecipeError> {
    let json = match open(file)? {
        DynImage::Png(png) => png.chunks().iter().find_map(|chunk| text(chunk, KEYWORD)),
        other => other.exif().and_then(maker_note),
    };
    let Some(json) = json else { return Ok(None) };
    let recipe: Recipe = serde_json::from_str(&json)?;
    if recipe.version > VERSION {
        return Err(RecipeError::Version(recipe.version));
    }
    Ok(Some(recipe))
}

/// The same file with `recipe` in place of any recipe that it had, without the folders of the
/// files that it names. With a prompt, the parameters are written as text too.
///
/// # Errors
///
/// [`RecipeError`] if the file is no picture, or [`RecipeError::TooLong`] if the recipe does not
/// fit into EXIF.
pub fn write(file: Bytes, recipe: &Recipe) -> Result<Bytes, RecipeError> {
    let recipe = &recipe.clone().without_folders();
    let json = serde_json::to_string(recipe)?;
    let words = recipe.settings.prompt.is_some().then(|| recipe.parameters());
    let mut picture = open(file)?;
    if let DynImage::Png(png) = &mut picture {
        write_png(png, json, words);
    } else {
        let exif = exif_block(&json, words.as_deref())?;
        if exif.len() > MAX_EXIF {
            return Err(RecipeError::TooLong(exif.len()));
        }
        picture.set_exif(Some(exif));
    }
    Ok(picture.encoder().bytes())
}

fn open(file: Bytes) -> Result<DynImage, RecipeError> {
    match DynImage::from_bytes(file) {
        Ok(Some(picture)) => Ok(picture),
        Ok(None) => Err(RecipeError::Format),
        Err(error) => Err(RecipeError::Damaged(error.to_string())),
    }
}

fn write_png(png: &mut Png, json: String, words: Option<String>) {
    let ours =
        |chunk: &PngChunk| text(chunk, KEYWORD).is_some() || text(chunk, PARAMETERS).is_some();
    let chunks = png.chunks_mut();
    chunks.retain(|chunk| !ours(chunk));
    // Behind IHDR, so that a reader finds them without reading the pixels.
    let at = chunks.len().min(1);
    let words = words.map(|words| international_text(PARAMETERS, &words));
    chunks.splice(at..at, std::iter::once(international_text(KEYWORD, &json)).chain(words));
}

/// An `iTXt` chunk: keyword, no compression, no language, no translated keyword, UTF-8.
fn international_text(keyword: &str, text: &str) -> PngChunk {
    let contents = [keyword.as_bytes(), b"\0\0\0\0\0", text.as_bytes()].concat();
    PngChunk::new(ITXT, contents.into())
}

/// The text under a keyword, whichever of the two uncompressed chunks a program chose for it.
fn text(chunk: &PngChunk, keyword: &str) -> Option<String> {
    let rest = chunk.contents().strip_prefix(keyword.as_bytes())?.strip_prefix(b"\0")?;
    match chunk.kind() {
        // Latin-1.
        TEXT => Some(rest.iter().map(|&byte| char::from(byte)).collect()),
        ITXT => {
            let rest = rest.strip_prefix(b"\0\0")?;
            let mut parts = rest.splitn(3, |&byte| byte == 0).skip(2);
            String::from_utf8(parts.next()?.to_vec()).ok()
        }
        _ => None,
    }
}

fn exif_block(json: &str, words: Option<&str>) -> Result<Bytes, RecipeError> {
    let undefined = |tag: Tag, mark: &[u8], text: &str| {
        let bytes = [mark, text.as_bytes()].concat();
        Field { tag, ifd_num: In::PRIMARY, value: Value::Undefined(bytes, 0) }
    };
    let mark = format!("{KEYWORD}\0");
    let mut fields = vec![undefined(Tag::MakerNote, mark.as_bytes(), json)];
    fields.extend(words.map(|words| undefined(Tag::UserComment, UNDEFINED_CODE, words)));
    let mut writer = Writer::new();
    fields.iter().for_each(|field| writer.push_field(field));
    let mut block = Cursor::new(Vec::new());
    writer.write(&mut block, false).map_err(|e| RecipeError::Damaged(e.to_string()))?;
    Ok(block.into_inner().into())
}

/// EXIF of another program, even if broken, is no recipe.
fn maker_note(exif: Bytes) -> Option<String> {
    let exif = exif::Reader::new().read_raw(exif.to_vec()).ok()?;
    let Value::Undefined(note, _) = &exif.get_field(Tag::MakerNote, In::PRIMARY)?.value else {
        return None;
    };
    let json = note.strip_prefix(KEYWORD.as_bytes())?.strip_prefix(b"\0")?;
    String::from_utf8(json.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    /// One red pixel: the chunks of a PNG by hand, so that no image library is needed here.
    fn png() -> Bytes {
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        let pixel = b"\x78\x01\x01\x04\0\xfb\xff\0\xff\0\0\x03\x01\x01\0";
        for (kind, contents) in [
            (*b"IHDR", &b"\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0"[..]),
            (*b"IDAT", &pixel[..]),
            (*b"IEND", &b""[..]),
        ] {
            let chunk = PngChunk::new(kind, Bytes::copy_from_slice(contents));
            file.extend_from_slice(&chunk.encoder().bytes());
        }
        file.into()
    }

    fn recipe() -> Recipe {
        let settings = Settings {
            prompt: Some("une pomme \u{1f34e}\nrouge".into()),
            negative_prompt: Some("blurry".into()),
            seed: Some(u64::MAX),
            guidance_scale: Some(0.1),
            strength: Some(0.7),
            force_think_block: Some(true),
            ..Default::default()
        };
        Recipe { model: Some("demo".into()), settings, ..Default::default() }
    }

    #[test]
    fn what_is_written_is_read_and_replaced_whole() {
        assert_eq!(read(png()).expect("a PNG"), None);
        let once = write(png(), &recipe()).expect("written");
        assert_eq!(read(once.clone()).expect("a PNG"), Some(recipe()));
        let bare = write(png(), &Recipe::default()).expect("written");
        assert!(!bare.windows(10).any(|w| w == b"parameters"), "no words without a prompt");
        assert_eq!(write(bare, &recipe()).expect("written"), once, "by whatever way");
        assert_eq!(write(once.clone(), &recipe()).expect("written"), once);
    }

    #[test]
    fn no_folder_of_the_machine_is_written() {
        let lora = |name: &str| crate::Lora {
            name: name.to_owned(),
            scale: 1.0,
            trigger_words: String::new(),
            blocks: Default::default(),
            pass: None,
        };
        let settings = Settings {
            image: Some("/home/me/private/photo.jpg".into()),
            load_embeddings: Some("../private/e.safetensors".into()),
            latents: Some(r"C:\private\noise".into()),
            ..Default::default()
        };
        let loras = ["/home/private/a", "./private/b", r"C:\private\c", "~/private/d", "style/e"];
        let recipe = Recipe {
            model: Some("/home/private/models/demo/".into()),
            settings,
            loras: loras.map(lora).into(),
            ..Default::default()
        };
        let written = write(png(), &recipe).expect("written");
        assert!(!written.windows(7).any(|w| w == b"private"));
        let recipe = read(written).expect("a PNG").expect("a recipe");
        assert_eq!(recipe.settings.image.as_deref(), Some("photo.jpg"));
        assert_eq!(recipe.settings.load_embeddings.as_deref(), Some("e.safetensors"));
        assert_eq!(recipe.settings.latents.as_deref(), Some("noise"));
        assert_eq!(recipe.model.as_deref(), Some("demo"));
        let names: Vec<&str> = recipe.loras.iter().map(|lora| lora.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d", "style/e"], "the last is in the folder of LoRAs");
    }

    #[test]
    fn files_that_are_no_pictures_or_are_cut_are_errors() {
        assert!(matches!(read(Bytes::from_static(b"text")), Err(RecipeError::Format)));
        let whole = write(png(), &recipe()).expect("written");
        for length in 9..whole.len() {
            // A cut between chunks is found when the pixels are read.
            let _ = read(whole.slice(..length));
        }
        assert!(matches!(read(whole.slice(..40)), Err(RecipeError::Damaged(_))));
        let newer = Recipe { version: VERSION + 1, ..Default::default() };
        let newer = write(png(), &newer).expect("written");
        assert!(matches!(read(newer), Err(RecipeError::Version(2))));
    }

    #[test]
    fn unknown_keys_of_a_recipe_are_ignored() {
        let json = r#"{"version":1,"seed":7,"some_day":{"a":[1]},"guidance_scale":1.5}"#;
        let recipe: Recipe = serde_json::from_str(json).expect("tolerant");
        assert_eq!((recipe.settings.seed, recipe.settings.guidance_scale), (Some(7), Some(1.5)));
    }

    #[test]
    fn exif_survives_and_is_bounded() {
        let block = exif_block("{\"version\":1}", Some("words")).expect("small");
        assert_eq!(maker_note(block.clone()).as_deref(), Some("{\"version\":1}"));
        for length in 0..block.len() {
            let _ = maker_note(block.slice(..length));
        }
        // The smallest frame that passes for JPEG: start, an empty comment, end.
        let jpeg = Bytes::from_static(b"\xff\xd8\xff\xfe\0\x02\xff\xd9");
        let long = Settings { prompt: Some("x".repeat(MAX_EXIF)), ..Default::default() };
        let long = Recipe { settings: long, ..Default::default() };
        assert!(matches!(write(jpeg.clone(), &long), Err(RecipeError::TooLong(_))));
        let file = write(jpeg, &recipe()).expect("written");
        assert_eq!(read(file).expect("a JPEG"), Some(recipe()));
    }

    #[test]
    fn the_words_are_those_of_other_programs() {
        let words = recipe().parameters();
        assert!(
            words.starts_with("une pomme \u{1f34e}\nrouge\nNegative prompt: blurry\n"),
            "{words}"
        );
        assert!(
            words.contains("CFG scale: 1.1, Seed: 18446744073709551615, Model: demo"),
            "{words}"
        );
    }
}
