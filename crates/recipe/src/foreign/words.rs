//! Automatic1111's `parameters`: the prompt, `Negative prompt: ...`, and a last line of `Name: value`
//! pairs, in which values that contain a comma are JSON strings.

use super::Foreign;

const NEGATIVE: &str = "Negative prompt:";

/// A last line with fewer pairs belongs to the prompt, as in Automatic1111.
const FEWEST_PAIRS: usize = 3;

/// Pairs that say what was used but change nothing here.
const ABOUT: [&str; 10] = [
    "Version",
    "Model",
    "Model hash",
    "VAE",
    "VAE hash",
    "Lora hashes",
    "Hashes",
    "User",
    "Civitai resources",
    "Civitai metadata",
];

pub(super) fn read(text: &str) -> Option<Foreign> {
    let text = text.trim();
    let (before, last) = text.rsplit_once('\n').unwrap_or(("", text));
    let pairs = pairs(last);
    if pairs.len() < FEWEST_PAIRS || pairs[0].0 != "Steps" {
        return None;
    }
    let mut found = Foreign::default();
    let (prompt, negative) = split_prompts(before);
    let prompt = without_loras(&prompt, &mut found);
    let settings = &mut found.recipe.settings;
    settings.prompt = Some(prompt).filter(|text| !text.is_empty());
    settings.negative_prompt = Some(negative).filter(|text| !text.is_empty());
    for (name, value) in &pairs {
        take(&mut found, name, value);
    }
    Some(found)
}

/// One pair into the recipe, or to what is left out.
fn take(found: &mut Foreign, name: &str, value: &str) {
    let settings = &mut found.recipe.settings;
    let understood = match name {
        "Steps" => set(&mut settings.steps, value),
        "Seed" => set(&mut settings.seed, value),
        "Shift" => set(&mut settings.shift, value),
        "Size" => match value.split_once('x') {
            Some((width, height)) => {
                set(&mut settings.width, width) && set(&mut settings.height, height)
            }
            None => false,
        },
        "CFG scale" => match value.parse() {
            Ok(cfg) => {
                found.set_guidance(cfg);
                true
            }
            Err(_) => false,
        },
        "Sampler" => {
            found.set_sampler(value);
            true
        }
        _ => ABOUT.contains(&name),
    };
    match name {
        "Model" => found.recipe.model = Some(value.to_owned()),
        "Version" => found.recipe.program = Some(value.to_owned()),
        _ => {}
    }
    if !understood {
        found.leave_out(name, value);
    }
}

fn set<T: std::str::FromStr>(setting: &mut Option<T>, value: &str) -> bool {
    *setting = value.trim().parse().ok();
    setting.is_some()
}

/// `Name: value, Name: "value, with a comma"`.
fn pairs(line: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = line.trim();
    while let Some((name, after)) = rest.split_once(':') {
        let (value, after) = value(after.trim_start());
        pairs.push((name.trim().to_owned(), value));
        rest = after.trim_start_matches([',', ' ']);
    }
    pairs
}

/// The value that a text begins with, and the text behind it.
fn value(text: &str) -> (String, &str) {
    if text.starts_with('"') {
        let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
        if let Some(Ok(value)) = strings.next() {
            return (value, &text[strings.byte_offset()..]);
        }
    }
    let (value, after) = text.split_once(',').unwrap_or((text, ""));
    (value.trim().to_owned(), after)
}

fn split_prompts(text: &str) -> (String, String) {
    match text.find(NEGATIVE).filter(|at| *at == 0 || text[..*at].ends_with('\n')) {
        Some(at) => {
            let negative = &text[at + NEGATIVE.len()..];
            (text[..at].trim().to_owned(), negative.trim().to_owned())
        }
        None => (text.trim().to_owned(), String::new()),
    }
}

/// The prompt without `<lora:name:scale>`, which are left out: their files have to be named.
fn without_loras(prompt: &str, found: &mut Foreign) -> String {
    let mut rest = prompt;
    let mut text = String::new();
    while let Some(at) = rest.find("<lora:") {
        let Some(length) = rest[at..].find('>') else { break };
        found.leave_out("LoRA", rest[at + "<lora:".len()..at + length].trim());
        text += &rest[..at];
        rest = &rest[at + length + 1..];
    }
    (text + rest).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_automatic1111_writes_is_read() {
        let text = "a fox, <lora:ink_v2:0.8> drawn\nin ink\nNegative prompt: blurry, low\nquality\n\
            Steps: 9, Sampler: Euler, Schedule type: Simple, CFG scale: 1.1, Seed: 18446744073709551615, \
            Size: 832x1216, Model hash: 0123456789, Model: z_image_turbo, \
            Lora hashes: \"ink_v2: abc, other: def\", Clip skip: 2, Version: f2.0.1";
        let found = read(text).expect("parameters");
        let settings = &found.recipe.settings;
        assert_eq!(settings.prompt.as_deref(), Some("a fox,  drawn\nin ink"));
        assert_eq!(settings.negative_prompt.as_deref(), Some("blurry, low\nquality"));
        assert_eq!((settings.steps, settings.seed), (Some(9), Some(u64::MAX)));
        assert_eq!((settings.width, settings.height), (Some(832), Some(1216)));
        assert_eq!(settings.guidance_scale, Some(0.1));
        assert_eq!(settings.scheduler.as_deref(), Some("flow_euler"));
        assert_eq!(found.recipe.model.as_deref(), Some("z_image_turbo"));
        assert_eq!(
            found.left_out,
            ["LoRA: ink_v2:0.8", "Schedule type: Simple", "Clip skip: 2"],
            "what changes the image and is not taken"
        );
    }

    #[test]
    fn a_prompt_alone_and_damaged_pairs_are_no_settings() {
        assert_eq!(read(""), None);
        assert_eq!(read("Steps: to the moon"), None, "a prompt");
        assert_eq!(read("a fox\nSize: 8x8, Seed: 1, Steps: 3"), None, "another program's line");
        let found = read("Steps: many, Seed: -1, Size: 8, CFG scale: x, Sampler: Euler a, T: \"");
        let found = found.expect("parameters");
        assert_eq!(found.recipe, crate::Recipe::default());
        assert_eq!(found.left_out.len(), 6, "{:?}", found.left_out);
    }

    #[test]
    fn our_own_words_are_read() {
        let settings = crate::Settings {
            prompt: Some("a fox".into()),
            negative_prompt: Some("blurry".into()),
            seed: Some(7),
            steps: Some(8),
            guidance_scale: Some(2.5),
            width: Some(640),
            height: Some(480),
            scheduler: Some("unipc".into()),
            shift: Some(3.0),
            ..Default::default()
        };
        let recipe = crate::Recipe { settings, ..Default::default() };
        assert_eq!(read(&recipe.parameters()).map(|found| found.recipe), Some(recipe));
    }
}
