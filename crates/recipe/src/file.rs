//! The recipe's place in a file. The pixels are never changed.
//!
//! PNG: an `iTXt` chunk `llm-dit` with the JSON and another, `parameters`, with the words. JPEG and
//! WebP: EXIF, where `MakerNote` is `llm-dit`, a zero byte and the JSON, and `UserComment` is the
//! words in UTF-16, as Automatic1111 writes them. Other programs' settings are read from the places
//! where they write them: the same words, and in PNG a chunk `prompt` with ComfyUI's graph, which in
//! EXIF stands behind `prompt:` in a text field.

use std::io::Cursor;

use bytes::Bytes;
use exif::{Exif, Field, In, Tag, Value, experimental::Writer as ExifWriter};
use img_parts::{
    DynImage, ImageEXIF as _,
    png::{Png, PngChunk},
};

use crate::{
    Recipe, VERSION,
    foreign::{self, Foreign, Writer},
};

/// Name of the chunk and mark of the maker note.
const KEYWORD: &str = "llm-dit";
const PARAMETERS: &str = "parameters";
const GRAPH: &str = "prompt";

const ITXT: [u8; 4] = *b"iTXt";
const TEXT: [u8; 4] = *b"tEXt";

/// A JPEG segment ends at 64 KiB.
const MAX_EXIF: usize = 65_000;

/// EXIF's name for text in UTF-16.
const UNICODE: &[u8] = b"UNICODE\0";
/// What text in a `UserComment` begins with.
const MARK_LENGTH: usize = 8;

/// Fields in which ComfyUI writes its graph.
const GRAPH_FIELDS: [Tag; 3] = [Tag::Make, Tag::Model, Tag::ImageDescription];

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
    of(&open(file)?)
}

/// Settings in a picture's file, and whose they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub recipe: Recipe,
    pub writer: Writer,
    /// What has no counterpart here, as `Name: value`.
    pub left_out: Vec<String>,
}

/// [`read`], or what another program wrote, as far as it means something here.
///
/// # Errors
///
/// As [`read`].
pub fn read_any(file: Bytes) -> Result<Option<Found>, RecipeError> {
    let picture = open(file)?;
    if let Some(recipe) = of(&picture)? {
        return Ok(Some(Found { recipe, writer: Writer::Ours, left_out: Vec::new() }));
    }
    let (words, graph) = match &picture {
        DynImage::Png(png) => {
            let find = |keyword| png.chunks().iter().find_map(|chunk| text(chunk, keyword));
            (find(PARAMETERS), find(GRAPH))
        }
        other => {
            let exif = other.exif().and_then(parse);
            (exif.as_ref().and_then(user_comment), exif.as_ref().and_then(graph_field))
        }
    };
    let found = |foreign: Option<Foreign>, writer| {
        foreign.map(|Foreign { recipe, left_out }| Found { recipe, writer, left_out })
    };
    let of_words = words.as_deref().and_then(foreign::of_words);
    let of_graph = || graph.as_deref().and_then(foreign::of_graph);
    Ok(found(of_words, Writer::Automatic1111).or_else(|| found(of_graph(), Writer::ComfyUi)))
}

fn of(picture: &DynImage) -> Result<Option<Recipe>, RecipeError> {
    let json = match picture {
        DynImage::Png(png) => png.chunks().iter().find_map(|chunk| text(chunk, KEYWORD)),
        other => other.exif().and_then(parse).as_ref().and_then(maker_note),
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
    let undefined = |tag: Tag, mark: &[u8], text: &[u8]| {
        let bytes = [mark, text].concat();
        Field { tag, ifd_num: In::PRIMARY, value: Value::Undefined(bytes, 0) }
    };
    let mark = format!("{KEYWORD}\0");
    let mut fields = vec![undefined(Tag::MakerNote, mark.as_bytes(), json.as_bytes())];
    let utf16 = |words: &str| words.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
    fields.extend(words.map(|words| undefined(Tag::UserComment, UNICODE, &utf16(words))));
    let mut writer = ExifWriter::new();
    fields.iter().for_each(|field| writer.push_field(field));
    let mut block = Cursor::new(Vec::new());
    writer.write(&mut block, false).map_err(|e| RecipeError::Damaged(e.to_string()))?;
    Ok(block.into_inner().into())
}

/// EXIF of another program may be broken; then it says nothing.
fn parse(exif: Bytes) -> Option<Exif> {
    exif::Reader::new().read_raw(exif.to_vec()).ok()
}

fn undefined(exif: &Exif, tag: Tag) -> Option<&[u8]> {
    match &exif.get_field(tag, In::PRIMARY)?.value {
        Value::Undefined(bytes, _) => Some(bytes),
        _ => None,
    }
}

fn maker_note(exif: &Exif) -> Option<String> {
    let json = undefined(exif, Tag::MakerNote)?.strip_prefix(KEYWORD.as_bytes())?;
    String::from_utf8(json.strip_prefix(b"\0")?.to_vec()).ok()
}

/// In UTF-16 of either order, or in UTF-8, whatever the mark says that is not UTF-16.
fn user_comment(exif: &Exif) -> Option<String> {
    let (mark, text) = undefined(exif, Tag::UserComment)?.split_at_checked(MARK_LENGTH)?;
    if mark != UNICODE {
        return String::from_utf8(text.to_vec()).ok();
    }
    // The order is not told. Of most letters, Chinese ones apart, the higher byte is zero; settings
    // end with a line of Latin letters.
    let zeros = |at: usize| text.chunks_exact(2).filter(|pair| pair[at] == 0).count();
    let unit = if zeros(0) >= zeros(1) { u16::from_be_bytes } else { u16::from_le_bytes };
    let units = text.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    let text = char::decode_utf16(units).collect::<Result<String, _>>().ok()?;
    Some(text.trim_start_matches('\u{feff}').to_owned())
}

fn graph_field(exif: &Exif) -> Option<String> {
    GRAPH_FIELDS.into_iter().find_map(|tag| {
        let Value::Ascii(texts) = &exif.get_field(tag, In::PRIMARY)?.value else { return None };
        let text = String::from_utf8(texts.concat()).ok()?;
        Some(text.strip_prefix(GRAPH)?.strip_prefix(':')?.to_owned())
    })
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
        let exif = parse(block.clone()).expect("EXIF");
        assert_eq!(maker_note(&exif).as_deref(), Some("{\"version\":1}"));
        assert_eq!(user_comment(&exif).as_deref(), Some("words"));
        for length in 0..block.len() {
            let cut = parse(block.slice(..length));
            let _ = cut.as_ref().map(|exif| (maker_note(exif), user_comment(exif)));
        }
        // The smallest frame that passes for JPEG: start, an empty comment, end.
        let jpeg = Bytes::from_static(b"\xff\xd8\xff\xfe\0\x02\xff\xd9");
        let long = Settings { prompt: Some("x".repeat(MAX_EXIF)), ..Default::default() };
        let long = Recipe { settings: long, ..Default::default() };
        assert!(matches!(write(jpeg.clone(), &long), Err(RecipeError::TooLong(_))));
        let file = write(jpeg, &recipe()).expect("written");
        assert_eq!(read(file).expect("a JPEG"), Some(recipe()));
    }

    /// What piexif's helper, which Automatic1111 uses, and other writers of EXIF make of a text.
    fn commented(mark: &[u8], text: &[u8]) -> Bytes {
        let value = Value::Undefined([mark, text].concat(), 0);
        let field = Field { tag: Tag::UserComment, ifd_num: In::PRIMARY, value };
        with_exif(&field)
    }

    fn with_exif(field: &Field) -> Bytes {
        let mut writer = ExifWriter::new();
        writer.push_field(field);
        let mut block = Cursor::new(Vec::new());
        writer.write(&mut block, false).expect("EXIF");
        let jpeg = Bytes::from_static(b"\xff\xd8\xff\xfe\0\x02\xff\xd9");
        let mut picture = open(jpeg).expect("a JPEG");
        picture.set_exif(Some(block.into_inner().into()));
        picture.encoder().bytes()
    }

    #[test]
    fn settings_of_other_programs_are_found_where_they_write_them() {
        let words = "\u{72d0}\u{72f8} fox\nSteps: 9, Sampler: Euler, Seed: 5, Clip skip: 2";
        let utf16 =
            |order: fn(u16) -> [u8; 2]| words.encode_utf16().flat_map(order).collect::<Vec<u8>>();
        let chunk = |kind: [u8; 4], contents: Vec<u8>| {
            let DynImage::Png(mut picture) = open(png()).expect("a PNG") else { panic!("a PNG") };
            picture.chunks_mut().insert(1, PngChunk::new(kind, contents.into()));
            picture.encoder().bytes()
        };
        let latin = b"parameters\0fox\nSteps: 9, Sampler: Euler, Seed: 5, Clip skip: 2".to_vec();
        for file in [
            chunk(ITXT, [&b"parameters\0\0\0\0\0"[..], words.as_bytes()].concat()),
            chunk(TEXT, latin),
            commented(b"UNICODE\0", &utf16(u16::to_be_bytes)),
            commented(b"UNICODE\0", &utf16(u16::to_le_bytes)),
            commented(b"\0\0\0\0\0\0\0\0", words.as_bytes()),
        ] {
            assert_eq!(read(file.clone()).expect("a picture"), None, "not ours");
            let found = read_any(file).expect("a picture").expect("settings");
            assert_eq!(found.writer, Writer::Automatic1111);
            assert!(found.recipe.settings.prompt.is_some_and(|prompt| prompt.ends_with("fox")));
            assert_eq!((found.recipe.settings.seed, found.left_out.len()), (Some(5), 1));
        }
        let graph = r#"{"1": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 9}}}"#;
        let ascii = Value::Ascii(vec![format!("prompt:{graph}").into_bytes()]);
        let field = Field { tag: Tag::Model, ifd_num: In::PRIMARY, value: ascii };
        for file in [chunk(TEXT, [b"prompt\0", graph.as_bytes()].concat()), with_exif(&field)] {
            let found = read_any(file).expect("a picture").expect("settings");
            assert_eq!(found.writer, Writer::ComfyUi);
            assert_eq!(found.recipe.settings.seed, Some(5));
        }
        let ours = write(png(), &recipe()).expect("written");
        let found = read_any(ours).expect("a PNG").expect("a recipe");
        assert_eq!((found.writer, found.recipe), (Writer::Ours, recipe()));
        assert_eq!(read_any(png()).expect("a PNG"), None);
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
