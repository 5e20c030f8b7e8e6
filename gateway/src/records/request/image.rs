//! The picture to draw from.

use std::mem;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use llm_dit_fault::Fault;
use llm_dit_memory::Reservation;
use llm_dit_pictures::{SourceError, media_type, size};
use llm_dit_proto::{
    chunks,
    v1::{GenerateRequest, ImageHeader, generate_request::Part},
};

use crate::error::{Error, bad};

/// Largest file, before base64.
pub(crate) const MAX_SOURCE_BYTES: usize = 16 * 1024 * 1024;

/// A file that looks like a picture.
#[derive(Clone, Debug)]
pub(crate) struct SourceImage {
    file: Bytes,
    media_type: &'static str,
    /// Width and height.
    pub size: (u32, u32),
}

impl SourceImage {
    /// From base64, or from a `data:` URL. No other URL is ever looked at.
    pub fn from_text(mut text: String) -> Result<Self, Error> {
        let encoded = match text.strip_prefix("data:") {
            None => &text,
            Some(url) => match url.split_once(',') {
                Some((about, data)) if about.ends_with(";base64") => data,
                _ => return Err(bad("image: a data: URL must be in base64".to_owned())),
            },
        };
        if encoded.starts_with("http:") || encoded.starts_with("https:") {
            let why = "image: URLs are not fetched; send the file itself in base64";
            return Err(bad(why.to_owned()));
        }
        // In place, since a copy would take as much memory as the body.
        let begin = text.len() - encoded.len();
        text.drain(..begin);
        // Lines as `base64` prints them.
        text.retain(|c| !c.is_ascii_whitespace());
        let file = STANDARD
            .decode(text)
            .map_err(|error| bad(format!("image: it is not base64: {error}")))?;
        Self::from_file(file.into())
    }

    pub fn from_file(file: Bytes) -> Result<Self, Error> {
        if file.len() > MAX_SOURCE_BYTES {
            let limit = MAX_SOURCE_BYTES >> 20;
            return Err(Fault::TooLarge(format!("image: the file is over {limit} MiB")).into());
        }
        let fault = |error: SourceError| bad(format!("image: {error}"));
        let media_type = media_type(&file).map_err(fault)?;
        let size = size(&file).map_err(fault)?;
        Ok(Self { file, media_type, size })
    }

    pub(super) fn hold(&mut self, memory: Reservation) {
        self.file = memory.hold(mem::take(&mut self.file));
    }

    pub fn file(&self) -> &Bytes {
        &self.file
    }

    /// As the diffusion service takes it.
    pub fn parts(&self) -> impl Iterator<Item = GenerateRequest> + use<> {
        let header = ImageHeader {
            media_type: self.media_type.to_owned(),
            total_bytes: self.file.len() as u64,
            ..Default::default()
        };
        let data = chunks(self.file.clone()).map(Part::Data);
        std::iter::once(Part::Image(header))
            .chain(data)
            .map(|part| GenerateRequest { part: Some(part) })
    }
}
