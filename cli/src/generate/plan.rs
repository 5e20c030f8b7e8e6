//! Turns the command line, and the files that it names, into a list of pictures.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use llm_dit_chat::Chat;
use llm_dit_params::{ParamError, Prompt, Truncation, random_seed};
use llm_dit_pictures::Format;
use llm_dit_recipe::{Recipe, Settings};

use super::{
    item::Item,
    lines::{self, Line},
    names::{Named, Names},
    origin::SourceFile,
    outpaint,
};
use crate::{
    args::{
        ChatArgs, DEFAULT_HIDDEN_LAYER, DEFAULT_MAX_TOKENS, GenerateArgs, Margins, PartArgs,
        TruncationArgs,
    },
    embeddings,
    error::CliError,
    files,
    lora::with_triggers,
};

/// The whole command.
#[derive(Debug)]
pub struct Plan {
    pub items: Vec<Item>,
    /// True with `--prompts`: pictures that are there are kept.
    pub resumable: bool,
}

/// Makes the plan of all images. Everything that can be wrong with a command line is found here,
/// before any work.
///
/// # Errors
///
/// [`CliError`] if flags, files or settings are invalid or contradict each other.
pub fn plan(args: &GenerateArgs, from: Option<&Recipe>, json: bool) -> Result<Plan, CliError> {
    check_files(args)?;
    check_stdout(args, json)?;
    let mut defaults = args.settings();
    let given = defaults.clone().only(|name| args.given.has(name));
    if args.gateway.url.is_some() {
        // The services' own; a configuration file speaks of the encoder in this process.
        defaults.hidden_layer = Some(DEFAULT_HIDDEN_LAYER);
        defaults.max_tokens = Some(DEFAULT_MAX_TOKENS);
    }
    let earlier = from.map(|recipe| recipe.settings.clone()).unwrap_or_default();
    // A picture tells its chat in full, so nothing of it is left to defaults.
    let defaults = if from.is_some() { defaults.without_chat() } else { defaults };
    let base = over(given, over(earlier, defaults));

    let lines = match &args.files.prompts {
        Some(path) => lines::read(path)?,
        None => {
            vec![Line { number: 0, settings: Settings::default(), num_images: None }]
        }
    };
    let many = args.files.prompts.is_some();
    let pattern = match &args.files.output {
        Some(output) => output.to_string_lossy().into_owned(),
        None if many => "{index:04}-{prompt}.png".to_owned(),
        None => "image.png".to_owned(),
    };
    let to_stream = args.files.output.as_deref().is_some_and(llm_dit_files::is_stream);
    if to_stream && (many || args.files.output_dir.is_some()) {
        let flag = if many { "--prompts" } else { "--output-dir" };
        return Err(CliError::Usage(format!(
            "--output {pattern} is no regular file and takes one image; remove {flag}"
        )));
    }
    let names = Names::parse(args.files.output_dir.as_deref(), &pattern)?;
    let is_named = many || args.files.output.is_some();
    let mut read = HashMap::new();
    let mut items = Vec::new();
    for (index, line) in (1..).zip(lines) {
        let place = match &args.files.prompts {
            Some(path) => format!("{} line {}: ", path.display(), line.number),
            None => String::new(),
        };
        let of_a_mask = line.settings.options().of_a_mask();
        let settings = over(line.settings, base.clone());
        let count = line.num_images.unwrap_or(args.files.num_images);
        let item = item(args, settings, place, &mut read)?;
        if let Some(name) = of_a_mask.filter(|_| item.mask.is_none()) {
            return Err(item.usage(format!("{name} needs a mask; set mask or outpaint")));
        }
        if many && names.has_seed() && !item.seed_given {
            return Err(
                item.usage("file names with {seed} cannot be resumed without a seed; set --seed")
            );
        }
        if count > 1 && (item.settings.latents.is_some() || args.output_latents.is_some()) {
            return Err(item
                .usage("--latents and --output-latents apply to one image; remove --num-images"));
        }
        if count > 1 && to_stream {
            return Err(item.usage(format!(
                "--output {pattern} is no regular file and takes one image, not {count}; name a file"
            )));
        }
        let first = item.settings.seed.unwrap_or_else(random_seed);
        let prompt = item.settings.prompt.clone().unwrap_or_default();
        for image in 1..=count {
            let seed = first.wrapping_add(u64::from(image) - 1);
            let index = if many { index } else { image as usize };
            let named = Named { index, image, seed, prompt: &prompt };
            let output = match is_named {
                true => names.path(named, !many),
                false => names.path(Named { image: 1, ..named }, !many),
            };
            let format = Format::from_path(&output).map_err(|error| {
                CliError::Usage(format!("cannot write {}: {error}", output.display()))
            })?;
            let settings = Settings { seed: Some(seed), ..item.settings.clone() };
            items.push(Item { settings, output, is_named, format, ..item.clone() });
        }
    }
    if args.given.has("strength") && items.iter().all(|item| item.image.is_none()) {
        return Err(CliError::Usage("--strength needs an init image; set --image".into()));
    }
    let of_a_mask = ["mask_blur", "mask_invert", "only_masked"];
    if let Some(name) = of_a_mask.into_iter().find(|name| args.given.has(name))
        && items.iter().all(|item| item.mask.is_none())
    {
        let flag = name.replace('_', "-");
        return Err(CliError::Usage(format!("--{flag} needs a mask; set --mask or --outpaint")));
    }
    check_outputs(args, &items)?;
    Ok(Plan { items, resumable: many })
}

/// What one layer says over another. Texts that a lower layer says are not those of the template
/// that a higher one names.
fn over(upper: Settings, lower: Settings) -> Settings {
    let lower = if upper.template.is_some() { lower.without_chat() } else { lower };
    upper.or(lower)
}

/// The picture of these settings, as yet without seed and name.
fn item(
    args: &GenerateArgs,
    mut settings: Settings,
    place: String,
    read: &mut HashMap<String, SourceFile>,
) -> Result<Item, CliError> {
    let usage = |why: String| CliError::Usage(format!("{place}{why}"));
    let chat = match (&settings.prompt, &settings.load_embeddings) {
        (Some(_), Some(_)) => {
            return Err(usage("set a prompt or --load-embeddings, not both".into()));
        }
        (None, Some(_)) => None,
        (Some(prompt), None) => {
            let prompt = Prompt::parse(prompt.as_str()).map_err(|e| usage(e.to_string()))?;
            let chat = chat_args(&args.chat, &settings).chat(prompt)?;
            settings = told(settings, &chat);
            Some(with_triggers(chat, &args.lora))
        }
        (None, None) => {
            return Err(usage(
                "say what to draw: llm-dit generate \"a red apple\" (or give --load-embeddings, --prompts or --from, or a prompt on stdin)"
                    .into(),
            ));
        }
    };
    truncation(&settings).map_err(|e| usage(e.to_string()))?;
    let negative = settings.negative_prompt.clone().unwrap_or_default();
    let negative = Prompt::parse_negative(negative).map_err(|e| usage(e.to_string()))?;
    if settings.image.is_some() && settings.latents.is_some() {
        return Err(usage("--image and --latents exclude each other; remove one".into()));
    }
    let mut source = |path: &Option<String>| -> Result<Option<SourceFile>, CliError> {
        let Some(path) = path else { return Ok(None) };
        if !read.contains_key(path) {
            read.insert(path.clone(), SourceFile::read(Path::new(path))?);
        }
        Ok(read.get(path).cloned())
    };
    let mut image = source(&settings.image)?;
    let mut mask = source(&settings.mask)?;
    let files = [
        ("image", image.clone()),
        ("mask", mask.clone()),
        ("load_embeddings", source(&settings.load_embeddings)?),
        ("latents", source(&settings.latents)?),
    ];
    if let Some(sides) = &settings.outpaint {
        let Some(from) = &image else {
            return Err(usage("--outpaint needs an init image; set --image".into()));
        };
        if mask.is_some() {
            return Err(usage("--mask and --outpaint exclude each other; remove one".into()));
        }
        let margins: Margins = sides.parse().map_err(|why| usage(format!("outpaint: {why}")))?;
        let (canvas, new) = outpaint::extend(from, margins).map_err(usage)?;
        (image, mask) = (Some(canvas), Some(new));
    }
    if mask.is_some() && image.is_none() {
        return Err(usage("--mask needs an init image; set --image".into()));
    }
    if mask.is_none() {
        // A picture that a gateway drew does not name its mask.
        (settings.mask_blur, settings.mask_invert, settings.only_masked) = (None, None, None);
    }
    let mut sha256 = BTreeMap::new();
    for (name, file) in files {
        sha256.extend(file.map(|file| (name.to_owned(), file.sha256)));
    }
    Ok(Item {
        seed_given: settings.seed.is_some(),
        settings,
        chat,
        negative,
        image,
        mask,
        sha256,
        output: PathBuf::new(),
        is_named: true,
        format: Format::Png,
        place,
    })
}

/// The flags about the conversation with this picture's own texts in them.
pub fn chat_args(args: &ChatArgs, settings: &Settings) -> ChatArgs {
    ChatArgs {
        parts: PartArgs {
            template: settings.template.clone(),
            library: args.parts.library.clone(),
            system_prompt: settings.system_prompt.clone(),
            thinking_content: settings.thinking_content.clone(),
            assistant_content: settings.assistant_content.clone(),
            force_think_block: settings.force_think_block.unwrap_or_default(),
            enable_thinking: settings.enable_thinking,
            strip_quotes: settings.strip_quotes.unwrap_or_default(),
            raw_special_tokens: settings.raw_special_tokens.unwrap_or_default(),
        },
        hidden_layer: settings.hidden_layer.unwrap_or(args.hidden_layer),
        max_tokens: settings.max_tokens.unwrap_or(args.max_tokens),
        truncation: TruncationArgs { truncate: truncation(settings).ok().flatten() },
    }
}

/// Where the chat is cut; `None` leaves it to the encoder.
fn truncation(settings: &Settings) -> Result<Option<Truncation>, ParamError> {
    settings.truncate.as_deref().map(str::parse).transpose()
}

/// The chat in full, as the recipe stores it: it makes the same picture even if templates and
/// defaults change.
fn told(settings: Settings, chat: &Chat) -> Settings {
    Settings {
        prompt: Some(chat.user.clone()),
        system_prompt: Some(chat.system.clone()),
        thinking_content: Some(chat.thinking.clone()),
        assistant_content: Some(chat.assistant.clone()),
        enable_thinking: chat.think_block.as_switch(),
        force_think_block: None,
        strip_quotes: None,
        raw_special_tokens: Some(chat.raw_special_tokens),
        ..settings
    }
}

/// Flags that do not go together.
fn check_files(args: &GenerateArgs) -> Result<(), CliError> {
    if args.files.prompts.is_none() {
        return Ok(());
    }
    let alone = [
        ("a prompt", args.prompt.is_some()),
        ("--load-embeddings", args.load_embeddings.is_some()),
        ("--save-embeddings", args.save_embeddings.is_some()),
        ("--latents", args.latents.is_some()),
        ("--output-latents", args.output_latents.is_some()),
    ];
    match alone.iter().find(|(_, given)| *given) {
        Some((what, _)) => Err(CliError::Usage(format!(
            "{what} applies to one image and cannot be combined with --prompts"
        ))),
        None => Ok(()),
    }
}

/// Every name once, and every name writable.
fn check_outputs(args: &GenerateArgs, items: &[Item]) -> Result<(), CliError> {
    if let Some(folder) = &args.files.output_dir {
        std::fs::create_dir_all(folder).map_err(|e| {
            CliError::Usage(format!("cannot create --output-dir {}: {e}", folder.display()))
        })?;
    }
    let mut seen: HashMap<&Path, &Item> = HashMap::new();
    for item in items {
        files::check_writable(&item.output)?;
        if item.is_named && seen.insert(&item.output, item).is_some() {
            return Err(CliError::Usage(format!(
                "two images would be written to {}; add {{index}} or {{image}} to --output",
                item.output.display()
            )));
        }
    }
    if let Some(path) = &args.save_embeddings {
        embeddings::check_writable(path)?;
    }
    args.output_latents.as_deref().map_or(Ok(()), files::check_writable)
}

/// Standard output takes one thing.
fn check_stdout(args: &GenerateArgs, json: bool) -> Result<(), CliError> {
    let to_stdout = |path: &Option<PathBuf>| path.as_deref().is_some_and(llm_dit_files::is_stdout);
    let used: Vec<&str> = [
        ("--output", to_stdout(&args.files.output)),
        ("--save-embeddings", to_stdout(&args.save_embeddings)),
        ("--output-latents", to_stdout(&args.output_latents)),
        ("--json", json),
    ]
    .into_iter()
    .filter_map(|(flag, used)| used.then_some(flag))
    .collect();
    match used[..] {
        [first, second, ..] => Err(CliError::Usage(format!(
            "{first} and {second} both write to stdout; name a file for one of them"
        ))),
        _ => Ok(()),
    }
}
