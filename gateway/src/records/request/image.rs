//! The picture to draw from, and its mask.

use std::mem;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use llm_dit_fault::Fault;
use llm_dit_memory::{MemoryBudget, Reservation};
use llm_dit_params::Start;
use llm_dit_pictures::{SourceError, media_type, size};
use llm_dit_proto::{
    chunks,
    v1::{GenerateRequest, ImageHeader, ImageRole, generate_request::Part},
};

use crate::error::{Error, bad};

/// Largest file, before base64.
pub(crate) const MAX_SOURCE_BYTES: usize = 16 * 1024 * 1024;

/// What two files begin with that are stored as one.
const TOGETHER: &[u8] = b"llm-dit image and mask\n";

/// A picture to draw from.
#[derive(Clone, Debug)]
pub(crate) struct SourceImage {
    image: SourceFile,
    /// Which part of it is redrawn; all of it without one.
    mask: Option<SourceFile>,
}

/// A file that looks like a picture.
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    file: Bytes,
    media_type: &'static str,
    size: (u32, u32),
}

impl SourceFile {
    /// From base64, or from a `data:` URL. No other URL is ever looked at. `name` is the field's.
    pub fn from_text(name: &str, mut text: String) -> Result<Self, Error> {
        let encoded = match text.strip_prefix("data:") {
            None => &text,
            Some(url) => match url.split_once(',') {
                Some((about, data)) if about.ends_with(";base64") => data,
                _ => return Err(bad(format!("{name}: a data: URL must be in base64"))),
            },
        };
        if encoded.starts_with("http:") || encoded.starts_with("https:") {
            let why = "URLs are not fetched; send the file itself in base64";
            return Err(bad(format!("{name}: {why}")));
        }
        // In place, since a copy would take as much memory as the body.
        let begin = text.len() - encoded.len();
        text.drain(..begin);
        // Lines as `base64` prints them.
        text.retain(|c| !c.is_ascii_whitespace());
        let file = STANDARD
            .decode(text)
            .map_err(|error| bad(format!("{name}: it is not base64: {error}")))?;
        Self::new(name, file.into())
    }

    pub fn new(name: &str, file: Bytes) -> Result<Self, Error> {
        if file.len() > MAX_SOURCE_BYTES {
            let limit = MAX_SOURCE_BYTES >> 20;
            return Err(Fault::TooLarge(format!("{name}: the file is over {limit} MiB")).into());
        }
        let fault = |error: SourceError| bad(format!("{name}: {error}"));
        let media_type = media_type(&file).map_err(fault)?;
        let size = size(&file).map_err(fault)?;
        Ok(Self { file, media_type, size })
    }

    /// Width and height.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    pub fn bytes(&self) -> &Bytes {
        &self.file
    }

    /// As the diffusion service takes it.
    fn parts(&self, role: ImageRole) -> impl Iterator<Item = Part> + use<> {
        let header = ImageHeader {
            media_type: self.media_type.to_owned(),
            total_bytes: self.file.len() as u64,
            role: role.into(),
            ..Default::default()
        };
        std::iter::once(Part::Image(header)).chain(chunks(self.file.clone()).map(Part::Data))
    }
}

impl SourceImage {
    /// From the texts of a body. A mask needs an image.
    pub fn from_texts(image: Option<String>, mask: Option<String>) -> Result<Option<Self>, Error> {
        let image = image.map(|text| SourceFile::from_text("image", text)).transpose()?;
        let mask = mask.map(|text| SourceFile::from_text("mask", text)).transpose()?;
        match (image, mask) {
            (Some(image), mask) => Ok(Some(Self::new(image, mask))),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(bad("mask needs an init image; send it in image".to_owned())),
        }
    }

    pub fn new(image: SourceFile, mask: Option<SourceFile>) -> Self {
        Self { image, mask }
    }

    /// Width and height of the picture.
    pub fn size(&self) -> (u32, u32) {
        self.image.size
    }

    pub fn start(&self) -> Start {
        Start::of(true, self.mask.is_some())
    }

    pub(super) fn hold(&mut self, mut memory: Reservation) {
        let files = [Some(&mut self.image), self.mask.as_mut()];
        for source in files.into_iter().flatten() {
            let part = memory.split(source.file.len() as u64);
            source.file = part.hold(mem::take(&mut source.file));
        }
    }

    /// Both files in one, to be stored; a picture without a mask stays as it is.
    ///
    /// # Errors
    ///
    /// [`Fault`] if `memory` has no room for both.
    pub fn to_stored(&self, memory: &MemoryBudget) -> Result<Bytes, Fault> {
        let Some(mask) = &self.mask else { return Ok(self.image.file.clone()) };
        let length = (self.image.file.len() as u64).to_be_bytes();
        let parts = [TOGETHER, &length[..], &self.image.file, &mask.file];
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        let memory = memory.reserve("the image and its mask", bytes)?;
        Ok(memory.hold(parts.concat().into()))
    }

    /// From [`SourceImage::to_stored`].
    pub fn from_stored(stored: Bytes) -> Result<Self, Error> {
        let Some(rest) = stored.strip_prefix(TOGETHER) else {
            return Ok(Self::new(SourceFile::new("image", stored)?, None));
        };
        let broken = || Error::Lost("the stored image of a job is damaged".to_owned());
        let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(broken)?;
        let length = usize::try_from(u64::from_be_bytes(*length)).map_err(|_| broken())?;
        let (image, mask) = rest.split_at_checked(length).ok_or_else(broken)?;
        let image = SourceFile::new("image", stored.slice_ref(image))?;
        Ok(Self::new(image, Some(SourceFile::new("mask", stored.slice_ref(mask))?)))
    }

    /// As the diffusion service takes it.
    pub fn parts(&self) -> impl Iterator<Item = GenerateRequest> + use<> {
        let mask = self.mask.as_ref().map(|mask| mask.parts(ImageRole::Mask));
        let parts = self.image.parts(ImageRole::Init).chain(mask.into_iter().flatten());
        parts.map(|part| GenerateRequest { part: Some(part) })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{GrayImage, ImageFormat};

    use super::*;

    fn file(side: u32) -> SourceFile {
        let mut file = Cursor::new(Vec::new());
        GrayImage::new(side, side).write_to(&mut file, ImageFormat::Png).expect("encodes");
        SourceFile::new("image", file.into_inner().into()).expect("a picture")
    }

    #[test]
    fn a_picture_and_its_mask_are_stored_as_one_and_read_again() {
        let alone = SourceImage::new(file(16), None);
        let memory = MemoryBudget::new(1 << 20);
        assert_eq!(alone.to_stored(&memory).expect("fits"), *file(16).bytes());
        let masked = SourceImage::new(file(16), Some(file(32)));
        for source in [alone, masked] {
            let stored = source.to_stored(&memory).expect("fits");
            let read = SourceImage::from_stored(stored.clone()).expect("as it was stored");
            assert_eq!((read.size(), read.start()), ((16, 16), source.start()));
            assert_eq!(read.mask.map(|mask| mask.size), source.mask.as_ref().map(|m| m.size));
            for cut in 0..stored.len() {
                assert!(SourceImage::from_stored(stored.slice(..cut)).is_err(), "{cut}");
            }
        }
    }

    #[test]
    fn a_mask_needs_an_image() {
        let text = |side| STANDARD.encode(file(side).bytes());
        let error = SourceImage::from_texts(None, Some(text(16))).expect_err("no image");
        assert!(format!("{error:?}").contains("mask needs an init image"), "{error:?}");
        let both = SourceImage::from_texts(Some(text(16)), Some(text(32))).expect("both");
        assert_eq!(both.expect("an image").start(), Start::MaskedImage);
        let error = SourceImage::from_texts(Some(text(16)), Some("x".to_owned())).expect_err("bad");
        assert!(format!("{error:?}").contains("mask: it is not base64"), "{error:?}");
    }
}
