//! `llm-dit generate` in this process: the same engines as the services, called directly.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use diffusion_service::{
    DiffusionOptions, defaults,
    engine::{GenerateError, GenerateJob, Generated, ImageGenerator, Step},
    picture::encode_png,
};
use encoder_service::{
    EncoderOptions,
    engine::{EncodeJob, TextEncoder},
};
use llm_dit_chat::{Chat, ChatTokenizer};
use llm_dit_params::{GenerateParams, Limits, Prompt};
use llm_dit_proto::Tensor;
use llm_dit_weights::model_folder;
use tokio_util::sync::CancellationToken;

use crate::{
    args::{ChatArgs, GenerateArgs},
    error::CliError,
    files::{self, TensorFile},
    progress::Progress,
};

/// What the picture is conditioned on.
struct Conditions {
    embeddings: Tensor,
    negative: Option<Tensor>,
}

/// Runs off the async threads, so that Ctrl-C is heard between steps.
pub async fn generate(args: GenerateArgs) -> Result<(), CliError> {
    let stop = interrupt();
    tokio::task::spawn_blocking(move || run(&args, &stop)).await.map_err(CliError::failed)?
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

fn run(args: &GenerateArgs, stop: &CancellationToken) -> Result<(), CliError> {
    let prompt = args.prompt()?;
    let outputs = [Some(&args.output), args.save_embeddings.as_ref(), args.output_latents.as_ref()];
    outputs.into_iter().flatten().try_for_each(|path| files::check_writable(path))?;
    let folder = model_folder(args.model.model_path.as_deref()).map_err(CliError::failed)?;
    // Wrong parameters are refused before gigabytes are read. The model may set narrower limits
    // once it is loaded.
    let defaults = defaults(&folder).map_err(CliError::failed)?;
    let params = args.options().resolve(&defaults, &Limits::default()).map_err(CliError::usage)?;
    let latents = args.latents.as_deref().map(load_latents).transpose()?;
    let negative = Prompt::parse_negative(args.negative_prompt.clone()).map_err(CliError::usage)?;

    let progress = Arc::new(Progress::new(args.quiet));
    let started = Instant::now();
    progress.stage("loading the model");
    let options = DiffusionOptions {
        model_path: folder.clone(),
        device: args.model.device,
        dtype: args.model.dtype,
    };
    // Both parts are read at once; the encoder is dropped before the first step.
    let loading = thread::spawn(move || diffusion_service::load(&options));
    let conditions = match prompt {
        Some(prompt) => encode_both(args, &folder, prompt, negative, &params, &progress),
        None => load_conditions(args, &params),
    };
    let generator =
        loading.join().map_err(|_| CliError::Failed("loading the model failed".into()))?;
    let conditions = conditions?;
    let mut generator = generator.map_err(CliError::failed)?;
    let loaded = started.elapsed();
    if let Some(path) = &args.save_embeddings {
        save_conditions(path, &conditions)?;
    }

    let job = GenerateJob {
        params,
        embeddings: conditions.embeddings,
        negative_embeddings: conditions.negative,
        latents,
        return_latents: args.output_latents.is_some(),
    };
    let made = denoise(generator.as_mut(), &job, stop, &progress)?;
    if let (Some(path), Some(latents)) = (&args.output_latents, &made.latents) {
        files::write_tensors(path, &[("latents".into(), latents)])?;
    }
    let started = Instant::now();
    let png = encode_png(&made.picture).map_err(CliError::failed)?;
    let encoded = started.elapsed();
    files::write(&args.output, &png)?;
    let seconds = |d: Duration| d.as_secs_f64();
    progress.done(&format!(
        "{}: {}x{}, seed {}, {} steps; load and encode {:.2} s, steps {:.2} s, decode {:.2} s, PNG {:.2} s",
        args.output.display(),
        params.width,
        params.height,
        params.seed,
        params.steps,
        seconds(loaded),
        seconds(made.denoise),
        seconds(made.decode),
        seconds(encoded),
    ));
    Ok(())
}

fn denoise(
    generator: &mut dyn ImageGenerator,
    job: &GenerateJob,
    stop: &CancellationToken,
    progress: &Progress,
) -> Result<Generated, CliError> {
    let mut sink = |step: Step| {
        progress.step(step.index, step.total, step.duration);
        if stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    generator.generate(job, &mut sink).map_err(|error| match error {
        GenerateError::Cancelled => CliError::Interrupted,
        GenerateError::BadJob(_) => CliError::usage(error),
        GenerateError::Backend(_) => CliError::failed(error),
    })
}

fn encode_both(
    args: &GenerateArgs,
    folder: &Path,
    prompt: Prompt,
    negative: Prompt,
    params: &GenerateParams,
    progress: &Progress,
) -> Result<Conditions, CliError> {
    let options = EncoderOptions {
        model_path: folder.to_owned(),
        device: args.model.device,
        dtype: args.model.dtype,
    };
    let (mut encoder, tokenizer) = encoder_service::load(&options).map_err(CliError::failed)?;
    let mut encode =
        |chat: Chat| encode_chat(encoder.as_mut(), &tokenizer, &chat, &args.chat, progress);
    let chat = args.chat.chat(prompt);
    // The negative prompt stands alone, without system prompt or template.
    let negative = params.uses_guidance().then(|| chat.negative(negative.into_string()));
    Ok(Conditions { embeddings: encode(chat)?, negative: negative.map(encode).transpose()? })
}

/// Tokenizes and encodes one conversation, and says so when it had to be cut.
pub fn encode_chat(
    encoder: &mut dyn TextEncoder,
    tokenizer: &ChatTokenizer,
    chat: &Chat,
    args: &ChatArgs,
    progress: &Progress,
) -> Result<Tensor, CliError> {
    let tokenized = tokenizer.tokenize(chat, args.max_tokens).map_err(CliError::usage)?;
    if tokenized.truncated_tokens > 0 {
        progress.note(&format!(
            "the prompt is {} tokens over --max-tokens {}; its end was cut",
            tokenized.truncated_tokens, args.max_tokens
        ));
    }
    let info = encoder.info();
    let hidden_layer = info.resolve_hidden_layer(args.hidden_layer).map_err(CliError::usage)?;
    let job = EncodeJob { token_ids: tokenized.ids, hidden_layer, dtype: info.dtype };
    encoder.encode(&job).map_err(CliError::failed)
}

fn load_conditions(args: &GenerateArgs, params: &GenerateParams) -> Result<Conditions, CliError> {
    let Some(path) = &args.load_embeddings else {
        return Err(CliError::Usage("a prompt or --load-embeddings is needed".into()));
    };
    let file = TensorFile::open(path)?;
    let negative = if params.uses_guidance() {
        Some(files::squeeze(file.require("negative_embeddings")?, 2)?)
    } else {
        None
    };
    Ok(Conditions { embeddings: files::squeeze(file.require("embeddings")?, 2)?, negative })
}

fn save_conditions(path: &Path, conditions: &Conditions) -> Result<(), CliError> {
    let mut tensors = vec![("embeddings".to_owned(), &conditions.embeddings)];
    tensors.extend(conditions.negative.as_ref().map(|n| ("negative_embeddings".to_owned(), n)));
    files::write_tensors(path, &tensors)
}

/// `(16, H/8, W/8)`, or the same with a leading batch axis of 1.
fn load_latents(path: &Path) -> Result<Tensor, CliError> {
    files::squeeze(TensorFile::open(path)?.require("latents")?, 3)
}
