//! One model on one server.

use std::sync::{Arc, OnceLock};

use llm_dit_proto::{DType, Tensor};
use serde::Serialize;

use crate::{
    About, HeylookError, HeylookOptions, HeylookServer, SetupError, answer::Answer, layer::Layer,
    refusal::layers_in,
};

/// A text encoder that another machine runs. Clones are the same encoder.
#[derive(Clone, Debug)]
pub struct HeylookEncoder {
    server: HeylookServer,
    model: Arc<str>,
    configured: Configured,
    observed: Arc<Observed>,
}

/// The shape of a model, which the server never reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// Width of one embedding.
    pub hidden_size: usize,
    /// Decoder layers.
    pub layers: usize,
}

/// Embeddings of one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// `(tokens, hidden_size)`.
    pub tensor: Tensor,
    /// Index into `output_hidden_states`, from 0.
    pub hidden_layer: usize,
    /// There are as many tokens as were allowed. The server does not say whether more did not fit.
    /// If so, the end of the chat was cut, the header that opens the answer first of all.
    pub hit_limit: bool,
}

/// What we were configured in place of a default.
#[derive(Clone, Copy, Debug, Default)]
struct Configured {
    hidden_size: Option<usize>,
    layers: Option<usize>,
    dtype: Option<DType>,
}

/// The shape that was observed in the answers.
#[derive(Debug, Default)]
struct Observed {
    hidden_size: OnceLock<usize>,
    layers: OnceLock<usize>,
    dtype: OnceLock<DType>,
}

/// The body of `POST /v1/hidden_states`, in the order of the Python program.
#[derive(Serialize)]
struct Ask<'a> {
    input: &'a str,
    model: &'a str,
    layer: i64,
    max_length: u32,
    encoding_format: &'a str,
}

impl ModelShape {
    /// Qwen3-4B, the text encoder of Z-Image.
    pub const QWEN3_4B: Self = Self { hidden_size: 2560, layers: 36 };
}

impl HeylookEncoder {
    /// The encoder that `model` names at `url`.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if `model` is empty, or as [`HeylookServer::new`].
    pub fn new(url: &str, model: &str, options: HeylookOptions) -> Result<Self, SetupError> {
        Self::on(HeylookServer::new(url, options)?, model)
    }

    /// Another model of a server, which then still gets one request at a time.
    ///
    /// # Errors
    ///
    /// [`SetupError::EmptyModel`] if `model` is blank.
    pub fn on(server: HeylookServer, model: &str) -> Result<Self, SetupError> {
        // The server would take whichever model it used last.
        if model.trim().is_empty() {
            return Err(SetupError::EmptyModel);
        }
        Ok(Self {
            server,
            model: model.into(),
            configured: Configured::default(),
            observed: Arc::default(),
        })
    }

    /// For a model that is not Qwen3-4B. Embeddings of another width are refused.
    pub fn with_shape(mut self, hidden_size: Option<usize>, layers: Option<usize>) -> Self {
        self.configured = Configured { hidden_size, layers, ..self.configured };
        self
    }

    /// Embeddings of this type, unless a request says another. `None`: what the model computed in.
    pub fn with_dtype(mut self, dtype: Option<DType>) -> Self {
        self.configured.dtype = dtype;
        self
    }

    /// The server's URL, without a slash at its end.
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// The model's name on the server.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// What we were configured, else what the answers so far have shown, else Qwen3-4B.
    pub fn shape(&self) -> ModelShape {
        let ModelShape { hidden_size, layers } = ModelShape::QWEN3_4B;
        let observed = |value: &OnceLock<usize>| value.get().copied();
        ModelShape {
            hidden_size: self.known_width().unwrap_or(hidden_size),
            layers: observed(&self.observed.layers).or(self.configured.layers).unwrap_or(layers),
        }
    }

    /// What embeddings have: what we were configured, else what the model computes in, which is bf16
    /// until an answer has said otherwise.
    pub fn dtype(&self) -> DType {
        if let Some(dtype) = self.configured.dtype {
            return dtype;
        }
        self.observed.dtype.get().copied().unwrap_or(DType::Bf16)
    }

    /// Asks the server for its version and models.
    ///
    /// # Errors
    ///
    /// [`HeylookError`] if the server cannot be reached, refuses, or answers in another form.
    pub async fn about(&self) -> Result<About, HeylookError> {
        About::ask(&self.server).await
    }

    /// Checks, without a request, that the server can return this hidden layer.
    ///
    /// # Errors
    ///
    /// [`HeylookError`] if the layer is out of range or not available from the server.
    pub fn check_layer(&self, hidden_layer: i32) -> Result<(), HeylookError> {
        self.layer(hidden_layer).map(drop)
    }

    /// Encodes a chat that [`crate::format`] has laid out. `hidden_layer` counts as transformers
    /// does; `dtype` is the result's type, by default the one that the model computes in.
    ///
    /// # Errors
    ///
    /// [`HeylookError`] if an argument is invalid, if the server cannot be reached or refuses, or
    /// if its answer is not the requested hidden states.
    pub async fn encode(
        &self,
        formatted: &str,
        hidden_layer: i32,
        max_length: usize,
        dtype: Option<DType>,
    ) -> Result<Encoded, HeylookError> {
        if formatted.is_empty() {
            return Err(HeylookError::EmptyText);
        }
        let limit = u32::try_from(max_length).ok().filter(|&n| n > 0);
        let limit = limit.ok_or(HeylookError::BadMaxLength(max_length))?;
        let layer = self.layer(hidden_layer)?;
        let ask = Ask {
            input: formatted,
            model: &self.model,
            layer: layer.theirs,
            max_length: limit,
            encoding_format: "base64",
        };
        let body = serde_json::to_vec(&ask).map_err(|e| self.bad(e.to_string()))?;
        let sent = self.server.post("/v1/hidden_states", body).await;
        let body = sent.map_err(|error| self.with_layers(error, hidden_layer))?;
        let answer = Answer::parse(&body).map_err(|reason| self.bad(reason))?;
        self.check(&answer, layer)?;
        let tensor = answer.tensor(max_length).map_err(|reason| self.bad(reason))?;
        self.check_width(&tensor)?;
        let computed_in = *self.observed.dtype.get_or_init(|| answer.computed_in());
        let hit_limit = tensor.shape()[0] == max_length;
        let tensor = round(tensor, dtype.or(self.configured.dtype).unwrap_or(computed_in))?;
        Ok(Encoded { tensor, hidden_layer: layer.index, hit_limit })
    }

    fn layer(&self, hidden_layer: i32) -> Result<Layer, HeylookError> {
        Layer::resolve(hidden_layer, self.shape().layers, &self.model)
    }

    /// The server's numbering of layers is not ours, so we say it ourselves.
    fn with_layers(&self, error: HeylookError, layer: i32) -> HeylookError {
        match &error {
            HeylookError::Refused { detail, .. } => match layers_in(detail) {
                Some(layers) => {
                    let layers = *self.observed.layers.get_or_init(|| layers);
                    HeylookError::LayerOutOfRange { layer, layers, model: self.model.to_string() }
                }
                None => error,
            },
            _ => error,
        }
    }

    fn check(&self, answer: &Answer<'_>, layer: Layer) -> Result<(), HeylookError> {
        if answer.layer != layer.theirs {
            return Err(HeylookError::LayerReplaced {
                url: self.url().to_owned(),
                asked: layer.theirs,
                got: answer.layer,
                instead: layer.index,
            });
        }
        if answer.model != *self.model {
            let (asked, got) = (&self.model, &answer.model);
            return Err(self.bad(format!("it is from the model {got:?}, not {asked:?}")));
        }
        Ok(())
    }

    /// The first answer sets the width, unless we were configured it.
    fn check_width(&self, tensor: &Tensor) -> Result<(), HeylookError> {
        let got = tensor.shape()[1];
        let configured = self.configured.hidden_size;
        let expected = configured.unwrap_or_else(|| *self.observed.hidden_size.get_or_init(|| got));
        if got == expected {
            return Ok(());
        }
        let (url, model) = (self.url().to_owned(), self.model.to_string());
        Err(HeylookError::WrongWidth { url, model, got, expected })
    }

    fn known_width(&self) -> Option<usize> {
        self.configured.hidden_size.or(self.observed.hidden_size.get().copied())
    }

    fn bad(&self, reason: String) -> HeylookError {
        HeylookError::BadAnswer { url: self.url().to_owned(), reason }
    }
}

/// Loses nothing when `dtype` is what the values were computed in.
fn round(tensor: Tensor, dtype: DType) -> Result<Tensor, HeylookError> {
    if dtype == tensor.dtype() {
        return Ok(tensor);
    }
    let does_not_fit = |_| HeylookError::DoesNotFit(dtype);
    let rounded = Tensor::from_f32(&tensor.to_f32(), tensor.shape().to_vec(), dtype);
    let rounded = rounded.map_err(does_not_fit)?;
    rounded.check_finite().map_err(does_not_fit)?;
    Ok(rounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_that_of_the_python_program() {
        let ask = Ask {
            input: "a\n\"é\"",
            model: "Qwen3-4B",
            layer: -2,
            max_length: 512,
            encoding_format: "base64",
        };
        assert_eq!(
            serde_json::to_string(&ask).expect("plain"),
            r#"{"input":"a\n\"é\"","model":"Qwen3-4B","layer":-2,"max_length":512,"encoding_format":"base64"}"#
        );
    }

    #[test]
    fn values_that_the_type_cannot_hold_are_refused() {
        let tensor = Tensor::from_f32(&[70000.0, 1.0], vec![1, 2], DType::F32).expect("whole");
        let error = round(tensor.clone(), DType::F16).expect_err("f16 ends at 65504");
        assert!(matches!(error, HeylookError::DoesNotFit(DType::F16)), "{error}");
        assert_eq!(round(tensor, DType::Bf16).expect("fits").dtype(), DType::Bf16);
    }

    #[tokio::test]
    async fn what_cannot_be_asked_is_refused_without_asking() {
        let new = |model| HeylookEncoder::new("http://127.0.0.1:9", model, Default::default());
        assert!(matches!(new(" "), Err(SetupError::EmptyModel)));
        let encoder = new("m").expect("valid");
        assert_eq!((encoder.shape(), encoder.dtype()), (ModelShape::QWEN3_4B, DType::Bf16));
        let encode = async |text, layer, max| {
            encoder.encode(text, layer, max, None).await.expect_err("refused")
        };
        assert!(matches!(encode("", -2, 512).await, HeylookError::EmptyText));
        assert!(matches!(encode("x", -2, 0).await, HeylookError::BadMaxLength(0)));
        assert!(matches!(encode("x", -1, 512).await, HeylookError::UnreachableLayer { .. }));
        assert!(matches!(encode("x", 99, 512).await, HeylookError::LayerOutOfRange { .. }));
    }
}
