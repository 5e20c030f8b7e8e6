//! A file of a snapshot, which is a link to its content.

use std::{fs, io, path::Path};

/// Makes `pointer` lead to `blob`, which is `target` as seen from there. What is there already is
/// replaced in one step, unless it is that link.
pub(super) fn link(target: &Path, blob: &Path, pointer: &Path) -> io::Result<()> {
    if fs::read_link(pointer).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let beside = tempfile::Builder::new()
        .prefix(".llm-dit-")
        .make_in(super::folder_of(pointer), |path| make(target, blob, path))?;
    beside.persist(pointer).map(drop).map_err(|error| error.error)
}

#[cfg(unix)]
fn make(target: &Path, _: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Links need rights that few have on Windows, and Python copies there too.
#[cfg(not(unix))]
fn make(_: &Path, blob: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(drop))
}
