//! The demo model inside the binary, for releases that travel without a working tree.

use std::{
    fs,
    path::{Path, PathBuf},
};

use include_dir::{Dir, include_dir};

use crate::LoadError;

static DEMO: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../models/demo");

/// Writes the model to `folder/demo`, whole or not at all, and returns that path.
///
/// # Errors
///
/// [`LoadError::Io`] if the folder cannot be written.
pub fn unpack(folder: &Path) -> Result<PathBuf, LoadError> {
    let target = folder.join("demo");
    let io = |cause| LoadError::Io { path: target.clone(), cause };
    fs::create_dir_all(folder).map_err(io)?;
    let temporary = folder.join(format!(".demo-{}", std::process::id()));
    fs::create_dir_all(&temporary).map_err(io)?;
    let written = DEMO.extract(&temporary).and_then(|()| fs::rename(&temporary, &target));
    if let Err(cause) = written {
        // Best effort: what matters is the error below.
        let _ = fs::remove_dir_all(&temporary);
        // Another process may have been faster; its copy is as good.
        if !target.join("model_index.json").is_file() {
            return Err(io(cause));
        }
    }
    Ok(target)
}
