//! `llm-dit generate`: one code path for one picture and for many, local or through a gateway.
//!
//! A [`plan`](plan::plan) lists the pictures, a [`Studio`] makes each as a PNG, and
//! [`finish`](finish::finish) turns that into the file that was asked for.

pub mod conditions;
pub mod deliver;
mod finish;
mod item;
mod lines;
#[cfg(feature = "local")]
pub mod local;
pub mod names;
mod origin;
mod outpaint;
mod plan;
mod remote;
pub mod report;
mod resume;
mod studio;

use llm_dit_settings::Settings;
use tokio_util::sync::CancellationToken;

pub use self::studio::Studio;
use self::{
    deliver::Deliveries, item::Item, plan::Plan, remote::Remote, resume::State, studio::News,
};
use crate::{args::GenerateCommand, error::CliError, progress::Progress, stdin};

/// Generates the images that the flags ask for. It runs off the async threads, so that Ctrl-C is
/// handled between steps.
///
/// # Errors
///
/// [`CliError`] if the flags are wrong, if an image fails or cannot be written, or after Ctrl-C.
pub async fn generate(command: GenerateCommand, settings: Settings) -> Result<(), CliError> {
    let stop = interrupt();
    tokio::task::spawn_blocking(move || run(command, &settings, &stop))
        .await
        .map_err(CliError::failed)?
}

/// A token that Ctrl-C fires. The second Ctrl-C ends the program at once.
pub fn interrupt() -> CancellationToken {
    let token = CancellationToken::new();
    let fire = token.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            fire.cancel();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    token
}

fn run(
    command: GenerateCommand,
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<(), CliError> {
    let GenerateCommand { mut args, json } = command;
    // Something else may stand for a prompt; a pipe is only waited for when nothing does.
    let is_needed =
        args.load_embeddings.is_none() && args.files.from.is_none() && args.files.prompts.is_none();
    if is_needed || args.prompt.is_some() {
        args.prompt = stdin::prompt(args.prompt)?;
    }
    if args.gateway.url.is_some() {
        Remote::check(settings)?;
    }
    if args.gateway.url.is_none() {
        args.lora.loras_dir = args.lora.loras_dir.take().or_else(|| args.model.loras());
    }
    let from = origin::recipe(&args)?;
    if let Some(recipe) = &from {
        origin::take_loras(&mut args, recipe)?;
    }
    let Plan { mut items, resumable } = plan::plan(&args, from.as_ref(), json)?;
    if let Some(dtype) = from.as_ref().and_then(|recipe| recipe.dtype.as_deref())
        && args.gateway.url.is_none()
        && !args.given.has("dtype")
    {
        args.model.take_dtype(dtype);
    }
    let progress = Progress::new(args.quiet);
    // What a configuration file says of LoRAs is for when this machine computes.
    let named = settings.is_explicit("lora").then(|| origin::loras(&args.lora)).transpose()?;
    let loras = named.or_else(|| from.as_ref().map(|recipe| recipe.loras.clone()));
    let mut studio: Box<dyn Studio> = match &args.gateway.url {
        Some(url) => Box::new(Remote::open(url, &args, loras, stop)?),
        None => {
            args.locate(|chosen| progress.note(chosen))?;
            crate::local::open(&args, stop)?
        }
    };
    let model = studio.model();
    let was = from.and_then(|recipe| recipe.model);
    if let (Some(was), Some(is)) = (&was, &model)
        && was != is
    {
        progress.note(&format!(
            "the image was made with the model {was}, but the loaded model is {is}"
        ));
    }
    let mut steps = Vec::with_capacity(items.len());
    for item in &mut items {
        steps.push(studio.resolve(item)?);
    }
    if resumable {
        let loras = studio.loras()?;
        let count = items.len();
        let mut todo = Vec::new();
        for (item, steps) in items.into_iter().zip(steps) {
            match resume::state(&item, model.as_deref(), loras.as_deref()) {
                State::Done => continue,
                State::Missing => {}
                State::Stale(why) => {
                    progress
                        .note(&format!("{}: {why}; generating it again", item.output.display()));
                }
            }
            todo.push((item, steps));
        }
        (items, steps) = todo.into_iter().unzip();
        if items.len() < count {
            progress.note(&format!("{} of {count} images exist", count - items.len()));
        }
        if items.is_empty() {
            return Ok(());
        }
    }
    studio.prepare(&items, &progress)?;
    progress.begin(items.len(), steps.iter().sum());
    let deliveries = Deliveries::new(&args, json, &progress);
    make_all(studio.as_mut(), &items, deliveries, stop, &progress)
}

fn make_all(
    studio: &mut dyn Studio,
    items: &[Item],
    mut deliveries: Deliveries<'_>,
    stop: &CancellationToken,
    progress: &Progress,
) -> Result<(), CliError> {
    let mut done = 0;
    let mut rest = items;
    while !rest.is_empty() && !stop.is_cancelled() {
        let (now, later) = rest.split_at(studio.together(rest)?.clamp(1, rest.len()));
        rest = later;
        let mut report = |news: News<'_>| match news {
            News::Step(step, together) => progress.step(step, together),
            News::Stage(what) => progress.stage(what),
        };
        let made = studio.make(now, &mut report, &mut |item, made| {
            deliveries.deliver(item, made)?;
            done += 1;
            Ok(())
        });
        match made {
            // Said below, with what was done.
            Err(CliError::Interrupted(_)) => break,
            made => made?,
        }
    }
    if done < items.len() {
        return Err(CliError::Interrupted(match done {
            0 => "no image was written".to_owned(),
            done => format!("{done} of {} images were written", items.len()),
        }));
    }
    progress.end();
    Ok(())
}
