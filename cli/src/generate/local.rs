//! Pictures in this process: the same engines as the services, called directly.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use diffusion_service::{
    defaults,
    engine::{GenerateError, GenerateJob, ImageGenerator, LoraChoice, Step},
    picture::{self, encode_png},
    source,
};
use llm_dit_params::{GenerateParams, Limits, ModelDefaults};
use llm_dit_proto::Tensor;
use llm_dit_recipe::{Lora, Settings};
use llm_dit_weights::model_label;
use tokio_util::sync::CancellationToken;

use super::{
    Made, News, Report, Studio,
    conditions::{self, Conditions},
    plan::Item,
};
use crate::{
    args::GenerateArgs,
    error::CliError,
    files::{self, TensorFile},
    lora,
    progress::Progress,
};

/// Not loaded before [`Studio::prepare`].
pub struct Local<'a> {
    args: &'a GenerateArgs,
    folder: PathBuf,
    defaults: ModelDefaults,
    stop: &'a CancellationToken,
    loaded: Option<Loaded>,
}

struct Loaded {
    generator: Box<dyn ImageGenerator>,
    /// One for each item, in order.
    conditions: std::vec::IntoIter<Conditions>,
    latents: Option<Tensor>,
    took: Option<Duration>,
}

impl<'a> Local<'a> {
    pub fn open(args: &'a GenerateArgs, stop: &'a CancellationToken) -> Result<Self, CliError> {
        let folder = args.model.folder()?;
        let options = args.model.diffusion(&folder, Vec::new());
        let defaults = defaults(&options).map_err(CliError::failed)?;
        Ok(Self { args, folder, defaults, stop, loaded: None })
    }

    /// Wrong parameters are refused before gigabytes are read. The model may set narrower limits
    /// once it is loaded.
    fn params(&self, item: &Item) -> Result<GenerateParams, CliError> {
        item.options()?
            .resolve(&self.defaults, &Limits::default())
            .map_err(|error| item.usage(error))
    }
}

impl Studio for Local<'_> {
    fn model(&self) -> Option<String> {
        let model = &self.args.model;
        Some(model_label(model.dit_path.as_deref().unwrap_or(&self.folder)))
    }

    fn loras(&self) -> Result<Option<Vec<Lora>>, CliError> {
        let choices = self.args.lora.choices().map_err(CliError::usage)?;
        let lora = |choice: LoraChoice| Lora {
            name: choice.name,
            scale: choice.scale,
            trigger_words: choice.trigger_words,
        };
        Ok(Some(choices.into_iter().map(lora).collect()))
    }

    fn resolve(&self, item: &mut Item) -> Result<u32, CliError> {
        if let Some(image) = &item.image {
            let size = source::size(&image.bytes)
                .map_err(|e| item.usage(format!("{}: {e}", image.path.display())))?;
            let settings = &mut item.settings;
            let (width, height) =
                Limits::default().size_from(size, settings.width, settings.height);
            (settings.width, settings.height) = (Some(width), Some(height));
        }
        let params = self.params(item)?;
        let first = if item.image.is_some() { params.first_step() } else { 0 };
        if first >= params.steps {
            return Err(item.usage(format!(
                "strength {} leaves none of the {} steps; give a strength above 0",
                params.strength, params.steps
            )));
        }
        let resolved = Settings {
            width: Some(params.width),
            height: Some(params.height),
            steps: Some(params.steps),
            guidance_scale: Some(params.guidance_scale),
            shift: Some(params.shift),
            scheduler: Some(params.scheduler.to_string()),
            ..Settings::default()
        };
        item.settings = resolved.or(std::mem::take(&mut item.settings));
        item.settings.strength = item.image.is_some().then_some(params.strength);
        Ok(params.scheduler.forwards(params.steps - first))
    }

    fn prepare(&mut self, items: &[Item], progress: &Progress) -> Result<(), CliError> {
        let started = Instant::now();
        progress.stage("loading the model");
        let latents = match items.first().and_then(|item| item.settings.latents.as_deref()) {
            Some(path) => Some(load_latents(Path::new(path))?),
            None => None,
        };
        let guided = items
            .iter()
            .map(|item| Ok((item.clone(), self.params(item)?.uses_guidance())))
            .collect::<Result<Vec<_>, CliError>>()?;
        if self.args.given.has("negative_prompt") && guided.iter().all(|(_, guided)| !guided) {
            progress.note(
                "without guidance the negative prompt has no effect; try --guidance-scale 1.5",
            );
        }
        let loras = self.args.lora.choices().map_err(CliError::usage)?;
        let options = self.args.model.diffusion(&self.folder, loras);
        // Both parts are read at once; the encoder is dropped before the first step.
        let loading = thread::spawn(move || diffusion_service::load(&options));
        let conditions = conditions::all(self.args, &self.folder, &guided, progress);
        let generator =
            loading.join().map_err(|_| CliError::Failed("loading the model failed".into()))?;
        let conditions = conditions?.into_iter();
        let generator = generator.map_err(CliError::failed)?;
        lora::note(&generator.loras(), progress);
        self.loaded =
            Some(Loaded { conditions, generator, latents, took: Some(started.elapsed()) });
        Ok(())
    }

    fn make(&mut self, item: &Item, report: Report<'_>) -> Result<Made, CliError> {
        let params = self.params(item)?;
        let (Some(loaded), stop) = (&mut self.loaded, self.stop) else {
            return Err(CliError::Failed("the model is not loaded".into()));
        };
        let Some(conditions) = loaded.conditions.next() else {
            return Err(CliError::Failed("a picture has no embeddings".into()));
        };
        let image = item.image.as_ref().map(|file| {
            source::read(&file.bytes, params.width, params.height)
                .map_err(|e| item.usage(format!("{}: {e}", file.path.display())))
        });
        let job = GenerateJob {
            params,
            embeddings: conditions.embeddings,
            negative_embeddings: conditions.negative,
            latents: loaded.latents.clone(),
            image: image.transpose()?,
            return_latents: self.args.output_latents.is_some(),
            preview: None,
        };
        let mut sink = |step: Step| {
            report(News::Step(step));
            if stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let made = loaded.generator.generate(&job, &mut sink).map_err(|error| match error {
            GenerateError::Cancelled => CliError::interrupted(),
            GenerateError::BadJob(_) => item.usage(error),
            GenerateError::Backend(_) => CliError::failed(error),
        })?;
        if let (Some(path), Some(latents)) = (&self.args.output_latents, &made.latents) {
            let tensors = [("latents".to_owned(), latents)];
            files::stage_tensors(path, &tensors, Default::default())?.publish()?;
        }
        let started = Instant::now();
        let recipe = picture::recipe(&loaded.generator.info(), &loaded.generator.loras(), &job);
        let png = encode_png(&made.picture, &recipe).map_err(CliError::failed)?;
        let seconds = |d: Duration| d.as_secs_f64();
        let load = loaded.took.take().map(seconds);
        let said = format!(
            "{}x{}, seed {}, {} step{}; {}steps {:.2} s, decode {:.2} s, PNG {:.2} s",
            params.width,
            params.height,
            params.seed,
            params.steps,
            if params.steps == 1 { "" } else { "s" },
            load.map(|s| format!("load and encode {s:.2} s, ")).unwrap_or_default(),
            seconds(made.denoise),
            seconds(made.decode),
            seconds(started.elapsed()),
        );
        Ok(Made { png, prompt: conditions.prompt, said, notes: Vec::new() })
    }
}

/// `(16, H/8, W/8)`, or the same with a leading batch axis of 1.
fn load_latents(path: &Path) -> Result<Tensor, CliError> {
    files::squeeze(TensorFile::open(path)?.require("latents")?, 3)
}
