//! Which files of a repository are downloaded.

use std::fmt::Write as _;

use crate::{
    HubError, RepoSpec,
    listing::{Entry, Listed},
};

/// What makes a folder one of a diffusers pipeline.
const INDEX: &str = "model_index.json";
/// Folders of such a pipeline that are read here.
const PARTS: [&str; 5] = ["scheduler", "text_encoder", "tokenizer", "transformer", "vae"];
/// Files beside them that belong to the model: its licence travels with it.
const BESIDE: [&str; 5] = [INDEX, "about.json", "README.md", "LICENSE", "LICENSE.md"];
/// Weights that are read here, by the end of their name.
const WEIGHTS: [&str; 2] = [".safetensors", ".gguf"];
/// Files of other programs, or such as can run code.
const OTHERS: [&str; 11] = [
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".h5",
    ".msgpack",
    ".onnx",
    ".onnx_data",
    ".ot",
    ".py",
];
/// Files that a message lists.
const SHOWN: usize = 40;

/// The files of these names and patterns; with none, what this program reads of a pipeline, or the
/// only weights with what is beside them.
///
/// # Errors
///
/// [`HubError`] if a pattern fits nothing, if there is a choice to make, or if a name is hostile.
pub fn select(
    spec: &RepoSpec,
    files: &[Entry],
    patterns: &[String],
) -> Result<Vec<Listed>, HubError> {
    let mut chosen: Vec<&Entry> = if patterns.is_empty() {
        unasked(spec, files)?
    } else {
        for pattern in patterns {
            if !files.iter().any(|file| fits(pattern, &file.name)) {
                return Err(HubError::NoFile {
                    repo: spec.repo.clone(),
                    file: pattern.chars().take(200).collect(),
                    near: near(pattern, files),
                });
            }
        }
        let asked = |file: &&Entry| patterns.iter().any(|pattern| fits(pattern, &file.name));
        files.iter().filter(asked).collect()
    };
    chosen.sort_by(|a, b| a.name.cmp(&b.name));
    chosen.dedup_by(|a, b| a.name == b.name);
    chosen.into_iter().map(|file| file.listed(spec)).collect()
}

fn unasked<'a>(spec: &RepoSpec, files: &'a [Entry]) -> Result<Vec<&'a Entry>, HubError> {
    let is_other = |name: &str| OTHERS.iter().any(|end| name.ends_with(end));
    if files.iter().any(|file| file.name == INDEX) {
        let is_part = |name: &str| {
            name.split_once('/').is_some_and(|(folder, _)| PARTS.contains(&folder))
                || BESIDE.contains(&name)
        };
        let belongs = |file: &&Entry| is_part(&file.name) && !is_other(&file.name);
        return Ok(files.iter().filter(belongs).collect());
    }
    let is_weights = |file: &&Entry| WEIGHTS.iter().any(|end| file.name.ends_with(end));
    let weights: Vec<&Entry> = files.iter().filter(is_weights).collect();
    if weights.len() == 1 {
        return Ok(files.iter().filter(|file| !is_other(&file.name)).collect());
    }
    let mut listed = String::new();
    for file in weights.iter().take(SHOWN) {
        let name: String = file.name.chars().filter(|c| !c.is_control()).take(200).collect();
        let size = file.size.map_or_else(String::new, |size| format!("  {}", gigabytes(size)));
        // Writing to a String cannot fail.
        let _ = writeln!(listed, "  {name}{size}");
    }
    if weights.len() > SHOWN {
        let _ = writeln!(listed, "  and {} more", weights.len() - SHOWN);
    }
    Err(HubError::Choose {
        repo: spec.repo.clone(),
        count: weights.len(),
        files: listed.trim_end().to_owned(),
    })
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// Whether a name is the pattern, in which `*` stands for any text.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// The file that may have been meant: one of that name in a folder, or one of a similar name.
fn near(pattern: &str, files: &[Entry]) -> Option<String> {
    let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
    let same = files.iter().find(|file| last(&file.name) == last(pattern));
    let similar = || {
        let alike = |file: &&Entry| strsim::jaro_winkler(&last(&file.name), &last(pattern));
        let best = files.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
        (alike(&best) > 0.9).then_some(best)
    };
    let found = same.or_else(similar)?;
    found.listed_name().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(files: &[&str], patterns: &[&str]) -> Result<Vec<String>, String> {
        let files: Vec<Entry> = files.iter().map(|name| Entry::named(name)).collect();
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let spec = "a/b".parse().expect("a name");
        let chosen = select(&spec, &files, &patterns).map_err(|error| error.to_string())?;
        Ok(chosen.into_iter().map(|file| file.name.to_string()).collect())
    }

    #[test]
    fn a_pipeline_comes_without_what_is_not_read() {
        let files = [
            "model_index.json",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model.safetensors",
            "transformer/diffusion_pytorch_model.bin",
            "assets/showcase.jpg",
            "LICENSE",
            ".gitattributes",
            "vae/evil.py",
            "tokenizer/merges.txt",
        ];
        assert_eq!(
            chosen(&files, &[]).expect("a pipeline"),
            [
                "LICENSE",
                "model_index.json",
                "tokenizer/merges.txt",
                "transformer/config.json",
                "transformer/diffusion_pytorch_model.safetensors",
            ]
        );
        assert_eq!(chosen(&files, &["assets/*"]).expect("asked for"), ["assets/showcase.jpg"]);
    }

    #[test]
    fn a_choice_is_left_to_the_person() {
        let files = ["x-Q8_0.gguf", "x-Q4_K_M.gguf", "README.md"];
        let error = chosen(&files, &[]).expect_err("a choice");
        assert!(error.contains("--file") && error.contains("x-Q4_K_M.gguf"), "{error}");
        assert_eq!(chosen(&files, &["*Q4*"]).expect("one"), ["x-Q4_K_M.gguf"]);
        assert_eq!(chosen(&files[1..], &[]).expect("only one"), ["README.md", "x-Q4_K_M.gguf"]);
        assert!(chosen(&["README.md"], &[]).is_err());
    }

    #[test]
    fn names_are_suggested_and_hostile_ones_refused_when_they_are_asked_for() {
        let files = ["split_files/vae/ae.safetensors", "../../etc/passwd"];
        let error = chosen(&files, &["ae.safetensors"]).expect_err("in a folder");
        assert!(error.contains("did you mean 'split_files/vae/ae.safetensors'?"), "{error}");
        assert_eq!(chosen(&files, &["split_files/*"]).expect("one").len(), 1);
        let error = chosen(&files, &["*"]).expect_err("hostile");
        assert!(error.contains("etc/passwd") && error.contains("refused"), "{error}");
        let error = chosen(&["model_index.json", "vae/../../x"], &[]).expect_err("hostile");
        assert!(error.contains("leads to another folder"), "{error}");
    }

    #[test]
    fn a_star_is_any_text() {
        for (pattern, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "a/b", true),
            ("a*", "a", true),
            ("*b", "ab", true),
            ("*b", "ba", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "ace", true),
            ("a*e*c", "ace", false),
            ("ab*ba", "aba", false),
            ("**", "", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
