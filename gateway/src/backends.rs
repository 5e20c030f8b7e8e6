//! The services behind the gateway.

use std::path::PathBuf;

use llm_dit_params::{Limits, ModelDefaults};
use llm_dit_proto::{
    Fault,
    v1::{
        DescribeDiffusionRequest, DiffusionDescription, diffusion_client::DiffusionClient,
        encoder_client::EncoderClient,
    },
};
use llm_dit_serving::{Remote, client::BadUrl};
use tonic::transport::Channel;

pub const DEFAULT_ENCODER: &str = "http://127.0.0.1:50051";
pub const DEFAULT_DIFFUSION: &str = "http://127.0.0.1:50052";

/// Where the services are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayOptions {
    /// The encoder whose embeddings are piped into the diffusion service. `None`: the diffusion
    /// service's own when it has one, which takes the gateway out of the data path, else the one
    /// at [`DEFAULT_ENCODER`].
    pub encoder: Option<String>,
    pub diffusion: String,
    /// Templates beside the built-in ones.
    pub templates_dir: Option<PathBuf>,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self { encoder: None, diffusion: DEFAULT_DIFFUSION.to_owned(), templates_dir: None }
    }
}

/// Connections to the services.
#[derive(Clone, Debug)]
pub(crate) struct Backends {
    pub diffusion: Remote,
    encoder: Remote,
    /// False when nobody named the encoder and the diffusion service's own is as good.
    encoder_is_named: bool,
}

/// What the diffusion service says of itself, checked.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub cap_feat_dim: u64,
    pub max_caption_tokens: u32,
    pub has_encoder: bool,
    /// Of the LoRAs in use; belong before a prompt that we have encoded.
    pub trigger_words: Vec<String>,
    pub defaults: ModelDefaults,
    pub limits: Limits,
}

impl Backends {
    pub fn new(options: &GatewayOptions) -> Result<Self, BadUrl> {
        let encoder = options.encoder.as_deref();
        Ok(Self {
            diffusion: Remote::new("diffusion service", &options.diffusion)?,
            encoder: Remote::new("encoder", encoder.unwrap_or(DEFAULT_ENCODER))?,
            encoder_is_named: encoder.is_some(),
        })
    }

    /// The encoder to pipe from, or `None` when the diffusion service is to fetch the embeddings.
    pub fn encoder_for(&self, has_encoder: bool) -> Option<&Remote> {
        (self.encoder_is_named || !has_encoder).then_some(&self.encoder)
    }

    pub fn encoder_client(encoder: &Remote) -> EncoderClient<Channel> {
        EncoderClient::new(encoder.channel())
    }

    pub fn diffusion_client(&self) -> DiffusionClient<Channel> {
        DiffusionClient::new(self.diffusion.channel())
    }

    /// Asked for every request, which costs a fraction of a millisecond: what was loaded may have
    /// changed with a restart, and a service that is down should be known before a prompt is
    /// encoded for it.
    pub async fn describe(&self) -> Result<Model, Fault> {
        let answer = self.diffusion_client().describe(DescribeDiffusionRequest {}).await;
        Model::try_from(answer.map_err(|status| self.diffusion.fault(status))?.into_inner())
    }
}

impl TryFrom<DiffusionDescription> for Model {
    type Error = Fault;

    fn try_from(description: DiffusionDescription) -> Result<Self, Fault> {
        let complete = || {
            let defaults = description.defaults.as_ref()?;
            Some(ModelDefaults {
                width: defaults.width?,
                height: defaults.height?,
                steps: defaults.steps?,
                guidance_scale: defaults.guidance_scale?,
                shift: defaults.shift?,
                scheduler: defaults.scheduler.as_deref()?.parse().ok()?,
            })
        };
        let defaults = complete().filter(|_| description.side_multiple > 0).ok_or_else(|| {
            Fault::Unavailable(
                "the diffusion service does not say what it accepts; is it another version?"
                    .to_owned(),
            )
        })?;
        Ok(Self {
            cap_feat_dim: description.cap_feat_dim.into(),
            max_caption_tokens: description.max_caption_tokens,
            has_encoder: description.has_encoder,
            trigger_words: description.loras.into_iter().map(|l| l.trigger_words).collect(),
            defaults,
            limits: Limits {
                side_multiple: description.side_multiple,
                min_side: description.min_side,
                max_side: description.max_side,
                max_pixels: description.max_pixels,
                max_steps: description.max_steps,
            },
        })
    }
}
