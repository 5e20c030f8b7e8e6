//! Z-Image's diffusion transformer, as diffusers' `ZImageTransformer2DModel` computes it.
//!
//! Images and captions of all items are packed one after the other, so a batch of unequal
//! captions needs neither padding to a common length nor masks. What does not change from step to
//! step (refined captions, rotations, the packed layout) is made once, as a [`Conditioning`].

mod block;
mod config;
mod embed;
mod forward;
mod layout;
mod modulation;
mod modules;
pub mod names;
mod passes;
mod reload;
mod replay;

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Result, Tensor};
use llm_dit_kernels::{Linear, Rope, rms_norm};
use llm_dit_weights::{LoadError, Weights};

use block::Block;
pub use config::{Config, PATCH};
use embed::TimestepEmbedder;
pub use forward::Inputs;
use forward::{pad_each, split};
pub use layout::MULTIPLE;
use layout::{Layout, RopeTables};
use modulation::Made;
pub use modules::{linear_layers, native_modules, tensors};
use replay::GraphCache;

/// The transformer's weights.
pub struct Dit {
    config: Config,
    device: Device,
    dtype: DType,
    x_embedder: Linear,
    x_pad_token: Tensor,
    cap_norm: Tensor,
    cap_embedder: Linear,
    cap_pad_token: Tensor,
    t_embedder: TimestepEmbedder,
    noise_refiner: Vec<Block>,
    context_refiner: Vec<Block>,
    layers: Vec<Block>,
    final_modulation: Linear,
    final_linear: Linear,
    tables: RopeTables,
    /// Where the above came from, to be read again with other changes.
    weights: Weights,
    /// False while some parts have changes that others lack.
    settled: bool,
    graphs: GraphCache,
    /// See [`Self::negative`].
    negative: Option<Box<Self>>,
}

/// What a forward needs besides latents and time; good for every step of a request.
pub struct Conditioning {
    /// No two have the same.
    id: u64,
    layout: Layout,
    /// Refined captions, one an item, each `(padded tokens, dim)`.
    captions: Vec<Tensor>,
    image_rope: Rope,
    unified_rope: Rope,
    modulations: Made,
}

impl Dit {
    /// Reads the tensors of a transformer of this configuration. Dtype and device are those of
    /// `weights`.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if a tensor is missing or has another shape, or if tensors remain that the
    /// model does not know.
    pub fn load(config: Config, weights: &Weights) -> std::result::Result<Self, LoadError> {
        let blocks = |name: &str, count: usize, modulated: bool| {
            let weights = weights.pp(name);
            (0..count)
                .map(|i| Block::load(&config, modulated, &weights.pp(i)))
                .collect::<std::result::Result<_, _>>()
        };
        let (final_modulation, final_linear) = Self::load_final_layer(&config, weights)?;
        let t_embedder = weights.pp("t_embedder");
        let (cap_norm, cap_embedder) = Self::load_cap_embedder(&config, weights)?;
        let (x_pad_token, cap_pad_token) = Self::load_pads(&config, weights)?;
        let mut dit = Self {
            device: weights.device().clone(),
            dtype: weights.dtype(),
            x_embedder: Self::load_x_embedder(&config, weights)?,
            x_pad_token,
            cap_norm,
            cap_embedder,
            cap_pad_token,
            t_embedder: TimestepEmbedder::load(config.adaln_dim(), config.t_scale, &t_embedder)?,
            noise_refiner: blocks("noise_refiner", config.n_refiner_layers, true)?,
            context_refiner: blocks("context_refiner", config.n_refiner_layers, false)?,
            layers: blocks("layers", config.n_layers, true)?,
            final_modulation,
            final_linear,
            tables: RopeTables::new(&config),
            weights: weights.clone(),
            settled: true,
            graphs: GraphCache::default(),
            negative: None,
            config,
        };
        dit.load_negative(weights)?;
        weights.finish(names::is_unused)?;
        Ok(dit)
    }

    fn load_x_embedder(config: &Config, weights: &Weights) -> Loaded<Linear> {
        linear(&weights.pp("all_x_embedder.2-1"), config.dim, config.patch_dim())
    }

    /// Norm and projection.
    fn load_cap_embedder(config: &Config, weights: &Weights) -> Loaded<(Tensor, Linear)> {
        let at = weights.pp("cap_embedder");
        Ok((
            at.get("0.weight", &[config.cap_feat_dim])?,
            linear(&at.pp("1"), config.dim, config.cap_feat_dim)?,
        ))
    }

    /// Of images and of captions.
    fn load_pads(config: &Config, weights: &Weights) -> Loaded<(Tensor, Tensor)> {
        let pad = |name| weights.get(name, &[1, config.dim]);
        Ok((pad("x_pad_token")?, pad("cap_pad_token")?))
    }

    /// Modulation and projection.
    fn load_final_layer(config: &Config, weights: &Weights) -> Loaded<(Linear, Linear)> {
        let at = weights.pp("all_final_layer.2-1");
        Ok((
            linear(&at.pp("adaLN_modulation.1"), config.dim, config.adaln_dim())?,
            linear(&at.pp("linear"), config.patch_dim(), config.dim)?,
        ))
    }

    /// The transformer's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The device on which it computes and expects its inputs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The dtype in which it computes.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Prepares items: a caption `(tokens, cap_feat_dim)` and the latents' `(height, width)` each.
    ///
    /// # Errors
    ///
    /// Fails if the captions and sizes do not fit each other or the rotary axes, if a change of the
    /// weights was interrupted, or if the device fails.
    pub fn condition(&self, captions: &[Tensor], sizes: &[(usize, usize)]) -> Result<Conditioning> {
        self.check_settled()?;
        let tokens = captions.iter().map(|c| c.dim(0)).collect::<Result<Vec<_>>>()?;
        let layout = Layout::new(&self.config, &tokens, sizes)?;
        let packed = Tensor::cat(captions, 0)?.to_device(&self.device)?.to_dtype(self.dtype)?;
        let embedded =
            self.cap_embedder.forward(&rms_norm(&packed, &self.cap_norm, self.config.norm_eps)?)?;
        let lens = layout.caption_lens();
        let x = pad_each(&embedded, &tokens, &lens, &self.cap_pad_token)?;
        let rope = self.tables.rope(layout.caption_positions(), &self.device)?;
        let x = Block::stack(&self.context_refiner, x, &[], &rope, &lens)?;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Conditioning {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            captions: split(&x, &lens)?,
            image_rope: self.tables.rope(layout.image_positions(), &self.device)?,
            unified_rope: self.tables.rope(layout.unified_positions(), &self.device)?,
            layout,
            modulations: Made::default(),
        })
    }

    /// Computes in advance what depends on the time `1 - sigma` alone, for steps in which all items
    /// are at one time.
    ///
    /// # Errors
    ///
    /// Fails if the device fails.
    pub fn prepare(&self, conditioning: &Conditioning, times: &[f32]) -> Result<()> {
        conditioning.modulations.prepare(self, conditioning.items(), times)
    }

    /// Gives back the memory that captured graphs hold.
    pub fn forget(&self) {
        self.graphs.forget();
        if let Some(negative) = &self.negative {
            negative.forget();
        }
    }

    /// One forward: latents `(channels, height, width)` and the time `1 - sigma` of each item to
    /// the model's output, `x0 - noise`, of the same shape in f32. Negate it for the velocity.
    ///
    /// # Errors
    ///
    /// Fails if latents or times do not fit the items of `conditioning`, or if the device fails.
    pub fn forward(
        &self,
        latents: &[Tensor],
        times: &[f32],
        conditioning: &Conditioning,
    ) -> Result<Vec<Tensor>> {
        let inputs = self.inputs(latents, times, conditioning)?;
        let replayed = self.graphs.forward(self, latents, &inputs.modulations, conditioning)?;
        if let Some(outputs) = replayed {
            return Ok(outputs);
        }
        self.compute(&inputs)
    }
}

type Loaded<T> = std::result::Result<T, LoadError>;

/// A linear layer with a bias.
fn linear(weights: &Weights, outs: usize, ins: usize) -> Loaded<Linear> {
    let weight = weights.matrix("weight", &[outs, ins])?;
    Ok(Linear::new(weight, Some(weights.get("bias", &[outs])?)))
}

impl Conditioning {
    /// How many captions, and so images, a forward takes.
    pub fn items(&self) -> usize {
        self.captions.len()
    }
}
