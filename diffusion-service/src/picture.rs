//! Encodes 8-bit pixels as an image file, with the parameters that the service knows.
//!
//! Every entry point uses this one function, so that the same picture is the same file, byte for
//! byte, whether one process made it or three.

use bytes::Bytes;
use image::{
    ExtendedColorType, ImageEncoder as _,
    codecs::png::{CompressionType, FilterType, PngEncoder},
};
use llm_dit_fault::Fault;
use llm_dit_recipe::{Lora, Recipe, Settings};

use crate::engine::{GenerateJob, LoraChoice, ModelInfo, Picture};

/// What [`encode_png`] makes.
pub const MEDIA_TYPE: &str = "image/png";

/// What this service knows of how a job's picture is made; the prompt is not part of it.
pub fn recipe(info: &ModelInfo, job: &GenerateJob) -> Recipe {
    let params = &job.params;
    let settings = Settings::from(params.used(job.start()));
    Recipe {
        program: Some(concat!("llm-dit ", env!("CARGO_PKG_VERSION")).to_owned()),
        model: Some(info.model.clone()),
        dtype: Some(info.dtype.to_string()),
        settings,
        loras: job.loras.iter().map(lora).collect(),
        ..Recipe::default()
    }
}

fn lora(choice: &LoraChoice) -> Lora {
    Lora {
        name: choice.name.clone(),
        scale: choice.scale,
        trigger_words: choice.trigger_words.clone(),
        blocks: (&choice.blocks).into(),
        pass: choice.pass.written(),
    }
}

/// Compresses a picture as PNG and writes `recipe` into it. The caller waits, so speed counts
/// (milliseconds a megapixel): choosing the best filter for each row takes five times as long. For
/// pictures with grain, such as photographs, one filter for all rows makes files as small; smooth
/// pictures are a third larger (`benches/png.rs`).
///
/// # Errors
///
/// [`Fault::Internal`] if the pixels do not fit the size, or if an encoder fails.
pub fn encode_png(picture: &Picture, recipe: &Recipe) -> Result<Bytes, Fault> {
    let Picture { width, height, ref rgb } = *picture;
    // The encoder would panic.
    if rgb.len() as u64 != u64::from(width) * u64::from(height) * 3 {
        tracing::error!(width, height, bytes = rgb.len(), "an image has the wrong number of bytes");
        return Err(Fault::Internal("encoding the PNG failed".to_owned()));
    }
    // As much as it can take: growing would copy it again and again.
    let mut file = Vec::with_capacity(rgb.len() + rgb.len() / 8);
    PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Avg)
        .write_image(rgb, width, height, ExtendedColorType::Rgb8)
        .map_err(|error| {
            tracing::error!(%error, "failed to encode an image as PNG");
            Fault::Internal("encoding the PNG failed".to_owned())
        })?;
    llm_dit_recipe::write(file.into(), recipe).map_err(|error| {
        tracing::error!(%error, "failed to write the settings of an image");
        Fault::Internal("encoding the PNG failed".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_survive_and_the_file_is_always_the_same() {
        let rgb: Vec<u8> = (0..5 * 3 * 3).map(|i| (i * 37 % 256) as u8).collect();
        let picture = Picture { width: 5, height: 3, rgb };
        let recipe = Recipe { model: Some("demo".into()), ..Default::default() };
        let file = encode_png(&picture, &recipe).expect("encodes");
        assert_eq!(encode_png(&picture, &recipe), Ok(file.clone()));
        assert_eq!(llm_dit_recipe::read(file.clone()).expect("a PNG"), Some(recipe));
        let read = image::load_from_memory(&file).expect("decodes").into_rgb8();
        assert_eq!(read.dimensions(), (5, 3));
        assert_eq!(read.into_raw(), picture.rgb);
    }

    #[test]
    fn a_picture_of_the_wrong_size_is_an_error_and_no_panic() {
        let picture = Picture { width: 5, height: 3, rgb: vec![0; 7] };
        assert!(matches!(encode_png(&picture, &Recipe::default()), Err(Fault::Internal(_))));
    }
}
