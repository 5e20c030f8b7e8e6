//! The crates of a tree, and the module that each of their files is.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Segments of a module's path, without the crate: `[]` is the root.
pub type Module = Vec<String>;

/// One crate: the modules that have a file of their own.
#[derive(Clone, Debug)]
pub struct Crate {
    /// Folder of its `src`, as it was found.
    pub folder: PathBuf,
    pub files: BTreeMap<Module, PathBuf>,
}

/// Every folder under `root` with `src/lib.rs` or `src/main.rs`, in order of their paths. Hidden
/// folders, `target` and `node_modules` are not looked into.
///
/// # Errors
/// A folder that cannot be read.
pub fn crates(root: &Path) -> io::Result<Vec<Crate>> {
    let mut found = Vec::new();
    visit(root, &mut found)?;
    found.sort_by(|a, b| a.folder.cmp(&b.folder));
    Ok(found)
}

fn visit(folder: &Path, found: &mut Vec<Crate>) -> io::Result<()> {
    let src = folder.join("src");
    let root = ["lib.rs", "main.rs"].map(|name| src.join(name)).into_iter().find(|p| p.is_file());
    if let Some(root) = root.filter(|_| folder.join("Cargo.toml").is_file()) {
        let mut files = BTreeMap::from([(Module::new(), root)]);
        modules(&src, &Module::new(), &mut files)?;
        found.push(Crate { folder: src, files });
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let skipped =
            name.starts_with('.') || ["target", "node_modules", "src"].contains(&name.as_ref());
        if path.is_dir() && !path.is_symlink() && !skipped {
            visit(&path, found)?;
        }
    }
    Ok(())
}

/// `a.rs` is the module `a`, `a/b.rs` is `a::b`. The roots are in `files` already.
fn modules(
    folder: &Path,
    module: &Module,
    files: &mut BTreeMap<Module, PathBuf>,
) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(stem) = path.file_stem() else { continue };
        let mut inner = module.clone();
        inner.push(stem.to_string_lossy().into_owned());
        if path.is_dir() {
            modules(&path, &inner, files)?;
        } else if path.extension().is_some_and(|end| end == "rs")
            && !(module.is_empty() && (stem == "lib" || stem == "main"))
        {
            files.insert(inner, path);
        }
    }
    Ok(())
}
