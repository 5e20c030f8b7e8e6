//! Names of files in a repository. They come from the network and become paths on this machine.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Longest name of one file or folder that file systems take, in bytes.
const MAX_PART: usize = 255;
/// Longest name in all.
const MAX_NAME: usize = 1024;
/// More folders than any model has.
const MAX_DEPTH: usize = 16;

/// Names of devices on Windows, in every folder and with every extension.
const RESERVED: [&str; 22] = [
    "CON", "PRN", "AUX", "NUL", "COM1", "COM2", "COM3", "COM4", "COM5", "COM6", "COM7", "COM8",
    "COM9", "LPT1", "LPT2", "LPT3", "LPT4", "LPT5", "LPT6", "LPT7", "LPT8", "LPT9",
];

/// A relative path with `/` between its parts, which leads to no place outside its folder on any
/// system.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(String);

impl FileName {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(name: &str) -> Result<Self, &'static str> {
        if name.is_empty() {
            return Err("it is empty");
        }
        if name.len() > MAX_NAME {
            return Err("it is too long");
        }
        if name.split('/').count() > MAX_DEPTH {
            return Err("it has too many folders");
        }
        name.split('/').try_for_each(check_part)?;
        Ok(Self(name.to_owned()))
    }

    /// As it is written in the repository.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts of the path.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The path below `folder`.
    pub fn below(&self, folder: &Path) -> PathBuf {
        self.parts().fold(folder.to_owned(), |path, part| path.join(part))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_part(part: &str) -> Result<(), &'static str> {
    if part.is_empty() {
        return Err("it is absolute or has an empty part");
    }
    if part == "." || part == ".." {
        return Err("it leads to another folder");
    }
    if part.len() > MAX_PART {
        return Err("a part of it is too long");
    }
    if part.chars().any(|c| c.is_control() || "\\:*?\"<>|".contains(c)) {
        return Err("it has characters that file names cannot have on every system");
    }
    if part.ends_with(['.', ' ']) {
        return Err("a part of it ends with a dot or a space");
    }
    let stem = part.split('.').next().unwrap_or(part).trim_end();
    if RESERVED.iter().any(|name| name.eq_ignore_ascii_case(stem)) {
        return Err("it is the name of a device on some systems");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [
            "",
            "..",
            ".",
            "../x",
            "a/../b",
            "a/..",
            "/etc/passwd",
            "a//b",
            "a/",
            "a\\b",
            "..\\x",
            "C:/x",
            "C:x",
            "x:stream",
            "a\0b",
            "a\nb",
            "con",
            "Nul.txt",
            "a/COM1.safetensors",
            "aux .txt",
            "x.",
            "x ",
            "a./b",
            &"a/".repeat(20),
            &"a".repeat(256),
            &format!("{}x", "a/".repeat(600)),
        ] {
            assert!(FileName::parse(name).is_err(), "{name:?}");
        }
        for name in [
            "model_index.json",
            "transformer/diffusion_pytorch_model-00001-of-00003.safetensors",
            ".gitattributes",
            "..hidden",
            "console.txt",
            "été/名.safetensors",
            "a b[1](2)^%20.bin",
        ] {
            let parsed = FileName::parse(name).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert!(parsed.below(Path::new("/root")).starts_with("/root"), "{name}");
        }
    }

    proptest! {
        #![proptest_config(llm_dit_testkit::damage::config())]

        #[test]
        fn no_name_leaves_its_folder(name in "[./\\\\a-cC:N\u{0}-\u{1f}]{0,12}") {
            if let Ok(parsed) = FileName::parse(&name) {
                let path = parsed.below(Path::new("root"));
                prop_assert!(path.components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert!(path.components().count() > 1);
            }
        }
    }
}
