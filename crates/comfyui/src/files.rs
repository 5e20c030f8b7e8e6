//! The weight files below a folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Folders inside folders that are looked into.
const MAX_DEPTH: usize = 4;
/// Files that are looked at.
const MAX_FILES: usize = 1000;
/// Ends of the names of weights that are read here.
const ENDS: [&str; 2] = ["safetensors", "gguf"];

/// Names relative to the folder, with `/`, and paths, in the order of their names. Links are followed:
/// many keep their files elsewhere.
pub(super) fn files(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    collect(folder, "", 0, &mut found);
    found.sort();
    found
}

fn collect(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<(String, PathBuf)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        if path.is_dir() {
            if depth < MAX_DEPTH && !name.starts_with('.') {
                collect(&path, &format!("{prefix}{name}/"), depth + 1, found);
            }
        } else if found.len() < MAX_FILES
            && path.is_file()
            && path.extension().is_some_and(|end| ENDS.iter().any(|known| end == *known))
        {
            found.push((format!("{prefix}{name}"), path));
        }
    }
}
