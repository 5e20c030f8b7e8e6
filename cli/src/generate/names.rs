//! Names of pictures' files: a plain name that is numbered, or a pattern.

use std::path::{Path, PathBuf};

use crate::error::CliError;

/// Bytes of a prompt that go into a name.
const SLUG: usize = 60;

/// How pictures are named.
#[derive(Clone, Debug)]
pub struct Names {
    folder: PathBuf,
    parts: Vec<Part>,
}

/// One picture, as far as names tell of it.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// Number of the prompt, or of the picture where there is one prompt; from 1.
    pub index: usize,
    /// Number of the picture among those of its prompt; from 1.
    pub image: u32,
    pub seed: u64,
    pub prompt: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// With at least so many digits.
    Index(usize),
    Image(usize),
    Seed(usize),
    Prompt,
}

impl Names {
    /// Reads a pattern of file names with fields such as `{index}` and `{seed}`.
    ///
    /// # Errors
    ///
    /// [`CliError`] if a field is unknown or not closed.
    pub fn parse(folder: Option<&Path>, pattern: &str) -> Result<Self, CliError> {
        let folder = folder.map(Path::to_owned).unwrap_or_default();
        Ok(Self { folder, parts: parts(pattern)? })
    }

    /// Whether the names depend on the seed.
    pub fn has_seed(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Seed(_)))
    }

    /// The second and further pictures of a prompt get a number unless the pattern tells them
    /// apart; `index_tells` says that {index} does.
    pub fn path(&self, picture: Named<'_>, index_tells: bool) -> PathBuf {
        let mut name = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Index(digits) => name.push_str(&format!("{:0digits$}", picture.index)),
                Part::Image(digits) => name.push_str(&format!("{:0digits$}", picture.image)),
                Part::Seed(digits) => name.push_str(&format!("{:0digits$}", picture.seed)),
                Part::Prompt => name.push_str(&slug(picture.prompt)),
            }
        }
        let told = self.parts.iter().any(|part| match part {
            Part::Image(_) | Part::Seed(_) => true,
            Part::Index(_) => index_tells,
            Part::Text(_) | Part::Prompt => false,
        });
        let path = self.folder.join(name);
        if told || picture.image < 2 {
            return path;
        }
        numbered(&path, picture.image as usize)
    }
}

/// The name with a number before its extension: `image.png`, `image-2.png` and so on.
pub fn numbered(path: &Path, number: usize) -> PathBuf {
    if number < 2 {
        return path.to_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let end = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}-{number}{end}"))
}

/// Letters and digits of a prompt, with `-` for everything between.
pub fn slug(prompt: &str) -> String {
    let mut slug = String::new();
    for c in prompt.chars().flat_map(char::to_lowercase) {
        if c.is_alphanumeric() {
            if slug.len() + c.len_utf8() > SLUG {
                break;
            }
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "picture".to_owned() } else { slug.to_owned() }
}

fn parts(pattern: &str) -> Result<Vec<Part>, CliError> {
    let bad = |what: &str| {
        CliError::Usage(format!(
            "--output {pattern}: {what}; {{index}}, {{index:03}}, {{image}}, {{seed}} and {{prompt}} are known, and {{{{ is a brace"
        ))
    };
    let (mut parts, mut rest) = (Vec::new(), pattern);
    let mut text = String::new();
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            text.push_str(brace);
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err(bad("a } has no matching {"));
        }
        let Some((inner, after)) = rest.split_once('}') else {
            return Err(bad("a { is not closed"));
        };
        rest = after;
        let (name, digits) = inner.split_once(':').unwrap_or((inner, "0"));
        let digits = digits.parse().ok().filter(|&n: &usize| n <= 20);
        let digits = digits.ok_or_else(|| bad(&format!("{{{inner}}} has no number of digits")))?;
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        parts.push(match name {
            "index" => Part::Index(digits),
            "image" => Part::Image(digits),
            "seed" => Part::Seed(digits),
            "prompt" => Part::Prompt,
            _ => return Err(bad(&format!("{{{inner}}} is not known"))),
        });
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_and_numbers() {
        let name = |pattern: &str, index, image, numbered| {
            let names = Names::parse(Some(Path::new("out")), pattern).expect("valid");
            let named = Named { index, image, seed: 42, prompt: "A fox, in the Snow!" };
            names.path(named, numbered).to_string_lossy().into_owned()
        };
        assert_eq!(name("image.png", 1, 1, true), "out/image.png");
        assert_eq!(name("image.png", 2, 2, true), "out/image-2.png");
        assert_eq!(name("{index:03}-{seed}.png", 7, 7, true), "out/007-42.png");
        assert_eq!(name("{index}.jpg", 7, 7, true), "out/7.jpg");
        assert_eq!(
            name("{index:04}-{prompt}.png", 7, 2, false),
            "out/0007-a-fox-in-the-snow-2.png"
        );
        assert_eq!(name("{{{image:2}}}.png", 7, 2, false), "out/{02}.png");
        assert_eq!(slug("  \u{4e00}\u{53ea}!  "), "\u{4e00}\u{53ea}");
        assert_eq!(slug("../../etc/passwd"), "etc-passwd");
        assert_eq!(slug("?!"), "picture");
        assert!(slug(&"\u{e9}".repeat(500)).len() <= SLUG);
        for pattern in ["{indx}.png", "{index", "a}b", "{index:x}", "{seed:99}"] {
            let error = Names::parse(None, pattern).expect_err("wrong").to_string();
            assert!(error.contains("{index:03}"), "{error}");
        }
    }
}
