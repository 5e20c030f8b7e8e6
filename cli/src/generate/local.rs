//! Pictures in this process: the same engines as the services, called directly.

use std::{
    cell::{Cell, RefCell},
    ops::ControlFlow,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use diffusion_service::{
    engine::{
        BatchKey, BatchLimit, CheckedJob, GenerateError, GenerateJob, Generated, ImageGenerator,
        LoraChoice, Member, Picture, Step,
    },
    picture::{self, encode_png},
    source::{self, Masked, Paste, SourceError},
};
use llm_dit_engine::plan::{Course, Part};
use llm_dit_params::{GenerateParams, Limits, LoraPass, ModelDefaults, choose_model};
use llm_dit_proto::Tensor;
use llm_dit_recipe::{Lora, Recipe, Settings};
use llm_dit_weights::model_label;
use llm_dit_z_image::{DiffusionOptions, Largest, defaults};
use tokio_util::sync::CancellationToken;

use super::{
    conditions::{self, Conditions},
    item::Item,
    report::{Times, Truncated},
    studio::{Deliver, Made, News, Report, Studio},
};
use crate::{
    args::GenerateArgs,
    error::CliError,
    files::{self, TensorFile},
    lora,
    progress::Progress,
    vram::{Plans, Wanted},
};

/// Not loaded before [`Studio::prepare`].
struct Local<'a> {
    args: &'a GenerateArgs,
    folder: PathBuf,
    defaults: ModelDefaults,
    stop: &'a CancellationToken,
    loaded: Option<Loaded>,
    /// `None` leaves it to the device.
    batch: Option<BatchLimit>,
}

struct Loaded {
    generator: Box<dyn ImageGenerator>,
    /// One for each item, in order.
    conditions: std::vec::IntoIter<Conditions>,
    latents: Option<Tensor>,
    took: Option<Duration>,
}

/// A picture to make.
struct Job {
    job: CheckedJob,
    /// Where it goes.
    paste: Option<Paste>,
    /// Where only the embeddings' file knew it.
    prompt: Option<String>,
    /// What was cut of the prompts.
    truncated: Truncated,
}

/// Opens the engines of this process, with the model that the flags name.
///
/// # Errors
///
/// [`CliError`] if the model is not found or the flags do not fit it.
pub fn open<'a>(
    args: &'a GenerateArgs,
    stop: &'a CancellationToken,
) -> Result<Box<dyn Studio + 'a>, CliError> {
    Ok(Box::new(Local::open(args, stop)?))
}

impl<'a> Local<'a> {
    fn open(args: &'a GenerateArgs, stop: &'a CancellationToken) -> Result<Self, CliError> {
        args.model.complete()?;
        let folder = args.model.folder()?;
        let label = label(args, &folder);
        choose_model(args.model_name.as_deref(), &label, &[]).map_err(|error| {
            let name = args.model_name.as_deref().unwrap_or_default();
            // Other programs have the path under this name.
            match name.contains(['/', '\\']) || Path::new(name).exists() {
                true => CliError::Usage(format!("{error}; a model folder is --model-path {name}")),
                false => CliError::usage(error),
            }
        })?;
        let options = args.model.diffusion(&folder, Vec::new());
        let defaults = defaults(&options).map_err(CliError::usage)?;
        Ok(Self { args, folder, defaults, stop, loaded: None, batch: None })
    }

    /// Wrong parameters are refused before gigabytes are read. The model may set narrower limits
    /// once it is loaded.
    fn params(&self, item: &Item) -> Result<GenerateParams, CliError> {
        item.options()?
            .resolve(&self.defaults, &Limits::default())
            .map_err(|error| item.usage(error))
    }
}

impl Local<'_> {
    /// How these images share the memory of the devices.
    fn plans(&self, items: &[Item], diffusion: &DiffusionOptions) -> Result<Plans, CliError> {
        let args = self.args;
        let comes_from_elsewhere = args.api.api_url.is_some()
            || items.first().is_some_and(|item| item.settings.load_embeddings.is_some());
        let encoder = (!comes_from_elsewhere).then(|| args.model.encoder(&self.folder));
        let params = items.iter().map(|item| self.params(item)).collect::<Result<Vec<_>, _>>()?;
        let largest = |params: &GenerateParams| Largest {
            width: params.width,
            height: params.height,
            is_guided: params.uses_guidance(),
        };
        // Of the same number of pixels, the guided one.
        let area =
            |image: &Largest| (u64::from(image.width) * u64::from(image.height), image.is_guided);
        Wanted {
            encoder: encoder.as_ref(),
            diffusion,
            models: &[],
            model_memory: None,
            course: Course::Command,
            batch: args.batch.images(),
            images: items.len(),
            largest: params.iter().map(largest).max_by_key(area),
        }
        .plan(&args.model.offload)
    }
}

impl Studio for Local<'_> {
    fn model(&self) -> Option<String> {
        Some(label(self.args, &self.folder))
    }

    fn loras(&self) -> Result<Option<Vec<Lora>>, CliError> {
        let choices = self.args.lora.choices().map_err(CliError::usage)?;
        let lora = |choice: LoraChoice| Lora {
            name: choice.name,
            scale: choice.scale,
            trigger_words: choice.trigger_words,
            blocks: (&choice.blocks).into(),
            pass: choice.pass.written(),
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
        let first = if item.image.is_some() {
            params.check_strength().map_err(|error| item.usage(error.to_string()))?;
            params.first_step()
        } else {
            0
        };
        let resolved = Settings {
            width: Some(params.width),
            height: Some(params.height),
            steps: Some(params.steps),
            guidance_scale: Some(params.guidance_scale),
            shift: Some(params.shift),
            scheduler: Some(params.scheduler.to_string()),
            ..Settings::default()
        };
        let used = params.used(item.start());
        item.settings = resolved.or(std::mem::take(&mut item.settings));
        item.settings.strength = used.strength;
        (item.settings.mask_blur, item.settings.mask_invert) = (used.mask_blur, used.mask_invert);
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
        let in_one_pass = loras.iter().any(|lora| lora.pass == LoraPass::Positive);
        if in_one_pass && guided.iter().all(|(_, guided)| !guided) {
            progress.note(
                "without guidance there is one pass, which has all LoRAs; try --guidance-scale 1.5",
            );
        }
        let options = self.args.model.diffusion(&self.folder, loras);
        let plans = self.plans(items, &options)?;
        plans.lines().iter().for_each(|line| progress.note(line));
        let options = options.planned(plans.diffusion.as_ref());
        let mut args = self.args.clone();
        if let Some(part) = plans.encoder.as_ref().and_then(|plan| plan.part(Part::TextEncoder)) {
            args.model.offload.weights = part.form.into();
        }
        let encode = || conditions::all(&args, &self.folder, &guided, progress);
        let load = move || llm_dit_z_image::load(&options);
        let (conditions, generator) = if plans.takes_turns() {
            (encode()?, load())
        } else {
            // Both parts are read at once; the encoder is dropped before the first step.
            let loading = thread::spawn(load);
            let conditions = encode();
            let failed = |_| CliError::Failed("loading the model failed".into());
            let generator = loading.join().map_err(failed)?;
            (conditions?, generator)
        };
        let conditions = conditions.into_iter();
        let generator = generator.map_err(CliError::failed)?;
        self.batch = self.args.batch.planned(plans.diffusion.as_ref());
        lora::note(&generator.loras(), progress);
        self.loaded =
            Some(Loaded { conditions, generator, latents, took: Some(started.elapsed()) });
        Ok(())
    }

    fn together(&self, items: &[Item]) -> Result<usize, CliError> {
        let Some(loaded) = &self.loaded else {
            return Ok(1);
        };
        let device = loaded.generator.info().device;
        let limit = self.batch.unwrap_or_else(|| BatchLimit::of_device(device));
        // The set is the same for the whole command.
        let key = |item| Ok(BatchKey::of(&self.params(item)?, item.start(), &[]));
        let mut count = 0;
        let mut first = None;
        for item in items {
            let key = key(item)?;
            if *first.get_or_insert_with(|| key.clone()) != key || !limit.allows(&key, count + 1) {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    fn make(
        &mut self,
        items: &[Item],
        report: Report<'_>,
        deliver: Deliver<'_>,
    ) -> Result<(), CliError> {
        let params = items.iter().map(|item| self.params(item)).collect::<Result<Vec<_>, _>>()?;
        let (Some(loaded), stop) = (&mut self.loaded, self.stop) else {
            return Err(CliError::Failed("the model is not loaded".into()));
        };
        let mut jobs = Vec::with_capacity(items.len());
        for (item, params) in items.iter().zip(params) {
            jobs.push(loaded.job(item, params, self.args.output_latents.is_some())?);
        }
        let generator = &mut loaded.generator;
        let info = generator.info();
        let (report, deliver) = (RefCell::new(report), RefCell::new(deliver));
        // Each step is reported once, and the first error counts.
        let (told, loading) = (Cell::new(None), Cell::new(loaded.took.take()));
        let (done, failure) = (Cell::new(0), RefCell::new(None));
        let members = items.iter().zip(&jobs).map(|(item, job)| {
            let Job { job, paste, prompt, truncated } = job;
            let sink = |step: Step| {
                if told.get().is_none_or(|told| step.index > told) {
                    told.set(Some(step.index));
                    let is_last = step.index == step.total;
                    (report.borrow_mut())(News::Step(step, items.len()));
                    if is_last {
                        (report.borrow_mut())(News::Stage("decoding"));
                    }
                }
                if stop.is_cancelled() || failure.borrow().is_some() {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            };
            let (info, loading, done, failure) = (&info, &loading, &done, &failure);
            let (deliver, latents) = (&deliver, self.args.output_latents.as_deref());
            let finish = move |made: Result<Generated, GenerateError>| {
                done.set(done.get() + 1);
                let finished = made.map_err(|error| fault(item, error)).and_then(|made| {
                    if let (Some(path), Some(latents)) = (latents, &made.latents) {
                        let tensors = [("latents".to_owned(), latents)];
                        let staged = files::stage_tensors(path, &tensors, Default::default())?;
                        staged.publish().map_err(CliError::failed)?;
                    }
                    let recipe = picture::recipe(info, job);
                    let made = finish(made, paste.clone(), job, &recipe, loading.take())?;
                    let made = Made { prompt: prompt.clone(), truncated: *truncated, ..made };
                    (deliver.borrow_mut())(item, made)
                });
                if let Err(error) = finished {
                    failure.borrow_mut().get_or_insert(error);
                }
            };
            Member::new(job, sink, finish)
        });
        generator.generate_batch(members.collect());
        match failure.into_inner() {
            Some(error) => Err(error),
            None if done.get() < items.len() => {
                Err(CliError::Failed("the model did not finish an image".into()))
            }
            None => Ok(()),
        }
    }
}

impl Loaded {
    /// The next job.
    fn job(
        &mut self,
        item: &Item,
        params: GenerateParams,
        return_latents: bool,
    ) -> Result<Job, CliError> {
        let Some(conditions) = self.conditions.next() else {
            return Err(CliError::Failed("an image has no embeddings".into()));
        };
        let Conditions { embeddings, negative, prompt, truncated } = conditions;
        let (image, masked) = read(item, &params)?;
        let (mask, paste) = masked.map(|masked| (masked.mask, masked.paste)).unzip();
        let job = GenerateJob {
            loras: self.generator.loras().into_iter().map(|lora| lora.choice).collect(),
            params,
            embeddings,
            negative_embeddings: negative,
            latents: self.latents.clone(),
            image,
            mask,
            return_latents,
            preview: None,
        };
        let job = self.generator.info().check(job).map_err(|error| fault(item, error))?;
        Ok(Job { job, paste, prompt, truncated })
    }
}

/// What an image is drawn from.
fn read(
    item: &Item,
    params: &GenerateParams,
) -> Result<(Option<Picture>, Option<Masked>), CliError> {
    let Some(image) = &item.image else { return Ok((None, None)) };
    let failed = |error: SourceError| {
        let is_of_mask =
            matches!(error, SourceError::Mask(_) | SourceError::Transparent | SourceError::Black);
        let file = item.mask.as_ref().filter(|_| is_of_mask).unwrap_or(image);
        item.usage(format!("{}: {error}", file.path.display()))
    };
    match &item.mask {
        Some(mask) => {
            let read = source::read_masked(&image.bytes, &mask.bytes, params);
            read.map(|(picture, masked)| (Some(picture), Some(masked))).map_err(failed)
        }
        None => {
            let read = source::read(&image.bytes, params.width, params.height);
            read.map(|picture| (Some(picture), None)).map_err(failed)
        }
    }
}

/// What the model is called.
fn label(args: &GenerateArgs, folder: &Path) -> String {
    model_label(args.model.dit_path.as_deref().unwrap_or(folder))
}

fn fault(item: &Item, error: GenerateError) -> CliError {
    match error {
        GenerateError::Cancelled => CliError::interrupted(),
        GenerateError::BadJob(_) => item.usage(error),
        GenerateError::Loras(_)
        | GenerateError::NotFinite
        | GenerateError::OutOfMemory
        | GenerateError::TooLarge { .. }
        | GenerateError::Backend(_) => CliError::failed(error),
    }
}

/// From pixels to a file, and what is said of it.
fn finish(
    made: Generated,
    paste: Option<Paste>,
    job: &GenerateJob,
    recipe: &Recipe,
    loading: Option<Duration>,
) -> Result<Made, CliError> {
    let started = Instant::now();
    let picture = match paste {
        Some(paste) => source::paste(paste, made.picture).map_err(CliError::failed)?,
        None => made.picture,
    };
    let png = encode_png(&picture, recipe).map_err(CliError::failed)?;
    let compress = started.elapsed();
    let (params, seconds) = (&job.params, |d: Duration| d.as_secs_f64());
    let said = format!(
        "{}x{}, seed {}, {} step{}; {}steps {:.2} s, decode {:.2} s, PNG {:.2} s",
        picture.width,
        picture.height,
        params.seed,
        params.steps,
        if params.steps == 1 { "" } else { "s" },
        loading.map(|d| format!("load and encode {:.2} s, ", seconds(d))).unwrap_or_default(),
        seconds(made.denoise),
        seconds(made.decode),
        seconds(compress),
    );
    let times = Times {
        load: loading,
        denoise: Some(made.denoise),
        decode: Some(made.decode),
        compress: Some(compress),
        request: None,
    };
    let truncated = Truncated::default();
    Ok(Made { png, prompt: None, said, notes: Vec::new(), times, truncated })
}

/// `(16, H/8, W/8)`, or the same with a leading batch axis of 1.
fn load_latents(path: &Path) -> Result<Tensor, CliError> {
    files::squeeze(TensorFile::open(path)?.require("latents")?, 3)
}
