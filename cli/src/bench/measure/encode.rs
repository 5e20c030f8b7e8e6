//! The text encoder: from the first token id to embeddings on the host.

use encoder_service::engine::{EncodeError, EncodeJob, EncoderInfo, TextEncoder};

use super::{Lines, PROMPTS, Setup};
use crate::{bench::row::Row, error::CliError};

/// Every vocabulary has as many tokens.
const IDS: u32 = 200;

/// Measures one prompt through the encoder at each length in `PROMPTS`.
///
/// # Errors
///
/// [`CliError`] if the report cannot be written.
pub fn rows(
    setup: &Setup,
    encoder: &mut dyn TextEncoder,
    lines: &mut Lines<'_>,
) -> Result<(), CliError> {
    let info = encoder.info();
    let device = lines.device();
    for tokens in PROMPTS {
        let name = format!("encode {tokens} tokens");
        lines.measure(&name, || {
            let job = EncodeJob {
                token_ids: (0..tokens as u32).map(|i| (i * 37 + 5) % IDS).collect(),
                hidden_layer: info.resolve_hidden_layer(EncoderInfo::DEFAULT_HIDDEN_LAYER)?,
                dtype: info.dtype,
            };
            let times = setup
                .clock
                .time(&[&device], || encoder.encode(&job).map_err(Failed::from))
                .map_err(|Failed(error)| error)?;
            Ok::<_, EncodeError>(Row::new(&name, &times))
        })?;
    }
    Ok(())
}

/// The engine's error, which speaks of no tensor library, beside the clock's.
struct Failed(EncodeError);

impl From<EncodeError> for Failed {
    fn from(error: EncodeError) -> Self {
        Self(error)
    }
}

impl From<candle_core::Error> for Failed {
    fn from(error: candle_core::Error) -> Self {
        Self(EncodeError::Backend(error.to_string()))
    }
}
