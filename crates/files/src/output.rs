//! Writes files that a person names.
//!
//! A regular file is written beside its target and renamed, so that no reader sees half of it. What
//! is no regular file cannot be replaced; it is written to.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::target::{Refused, Target, folder};

/// A file that cannot be written, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {why}", shown(path))]
pub struct WriteError {
    path: PathBuf,
    why: String,
}

fn shown(path: &Path) -> String {
    if path == Path::new(crate::STDOUT) {
        "to stdout".to_owned()
    } else {
        path.display().to_string()
    }
}

/// A file that is ready, all of it, and has yet to get its name.
#[derive(Debug)]
pub struct Staged {
    /// As the person named it.
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    /// Beside the target, which links may lead to.
    Beside(NamedTempFile, PathBuf),
    /// For a device or a pipe, where nothing can be prepared.
    Kept(Vec<u8>, Target),
}

/// What became of [`Staged::publish_new`].
#[derive(Debug)]
pub enum Published {
    Done,
    /// The name was taken.
    Taken(Staged),
}

/// Checks, before any work, that a file could be written later.
///
/// # Errors
///
/// [`WriteError`] if the path is a folder, if its folder does not exist, or if the file or its
/// folder cannot be written.
pub fn check_writable(path: &Path) -> Result<(), WriteError> {
    let target = Target::of(path).map_err(|why| refused(path, why))?;
    let Target::File(file) = target else { return Ok(()) };
    check_existing(&file)
        .and_then(|()| beside(&file, Mode::Private).map(drop))
        .map_err(|cause| cannot_write(path, &cause))
}

/// Prepares a file; [`Staged::publish`] gives it its name. A file that is replaced keeps its
/// permissions, and a new one has those of any new file.
///
/// # Errors
///
/// [`WriteError`] if the file cannot be written.
pub fn stage(path: &Path, bytes: &[u8]) -> Result<Staged, WriteError> {
    stage_as(path, bytes, Mode::Usual)
}

/// As [`stage`], for a file that only its owner may read.
///
/// # Errors
///
/// [`WriteError`] if the file cannot be written.
pub fn stage_private(path: &Path, bytes: &[u8]) -> Result<Staged, WriteError> {
    stage_as(path, bytes, Mode::Private)
}

/// [`stage`] and [`Staged::publish`] in one.
///
/// # Errors
///
/// [`WriteError`] if the file cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    stage(path, bytes)?.publish()
}

impl Staged {
    /// Renames the file to its target, or writes it to the device that its path names.
    ///
    /// # Errors
    ///
    /// [`WriteError`] if that fails.
    pub fn publish(self) -> Result<(), WriteError> {
        let Self { path, bytes } = self;
        let published = match bytes {
            Bytes::Beside(file, target) => file.persist(target).map(drop).map_err(|e| e.error),
            Bytes::Kept(bytes, Target::Stdout) => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&bytes).and_then(|()| stdout.flush())
            }
            Bytes::Kept(bytes, Target::Stream(target) | Target::File(target)) => {
                // Appended: what a shell opened for several programs keeps what others wrote.
                let open = OpenOptions::new().append(true).open(target);
                open.and_then(|mut stream| stream.write_all(&bytes))
            }
        };
        published.map_err(|cause| cannot_write(&path, &cause))
    }

    /// Gives the file this name unless something has it already, in one step. The name must be in
    /// the folder that the file was staged for.
    ///
    /// # Errors
    ///
    /// [`WriteError`] if the file cannot be renamed for another reason.
    pub fn publish_new(self, path: &Path) -> Result<Published, WriteError> {
        let Bytes::Beside(file, target) = self.bytes else {
            return Ok(Published::Taken(self));
        };
        match file.persist_noclobber(path) {
            Ok(_) => Ok(Published::Done),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                let bytes = Bytes::Beside(error.file, target);
                Ok(Published::Taken(Self { path: self.path, bytes }))
            }
            Err(error) => Err(cannot_write(path, &error.error)),
        }
    }
}

/// Who may read a new file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Whom the process's umask lets.
    Usual,
    Private,
}

fn stage_as(path: &Path, bytes: &[u8], mode: Mode) -> Result<Staged, WriteError> {
    let target = Target::of(path).map_err(|why| refused(path, why))?;
    let bytes = match target {
        Target::File(target) => {
            let staged = prepare(&target, bytes, mode);
            Bytes::Beside(staged.map_err(|cause| cannot_write(path, &cause))?, target)
        }
        target @ (Target::Stream(_) | Target::Stdout) => Bytes::Kept(bytes.to_vec(), target),
    };
    Ok(Staged { path: path.to_owned(), bytes })
}

fn prepare(target: &Path, bytes: &[u8], mode: Mode) -> io::Result<NamedTempFile> {
    check_existing(target)?;
    let mut file = beside(target, mode)?;
    file.write_all(bytes)?;
    if mode == Mode::Usual {
        keep_permissions(target, file.as_file())?;
    }
    file.as_file().sync_all()?;
    Ok(file)
}

/// A rename would replace a file that its owner protected against writing.
fn check_existing(target: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).open(target) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

fn beside(target: &Path, mode: Mode) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".llm-dit-");
    #[cfg(unix)]
    if mode == Mode::Usual {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    #[cfg(not(unix))]
    let _ = mode;
    builder.tempfile_in(folder(target))
}

fn keep_permissions(target: &Path, new: &File) -> io::Result<()> {
    let Ok(old) = fs::metadata(target) else { return Ok(()) };
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt as _, fchown};
        // Only the superuser can give a file away; for anybody else the new file is their own.
        let _ = fchown(new, Some(old.uid()), Some(old.gid()));
    }
    new.set_permissions(old.permissions())
}

fn cannot_write(path: &Path, cause: &io::Error) -> WriteError {
    WriteError { path: path.to_owned(), why: cause.to_string() }
}

fn refused(path: &Path, why: Refused) -> WriteError {
    let why = match why {
        Refused::Folder => "it is a folder".to_owned(),
        Refused::NoFolder(folder) => format!("there is no folder {}", folder.display()),
        Refused::Kind(kind) => format!("it is {kind}"),
        Refused::Io(cause) => cause.to_string(),
    };
    WriteError { path: path.to_owned(), why }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;
    use crate::is_stdout;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let name = |e: io::Result<fs::DirEntry>| e.expect("readable").file_name();
        let mut names: Vec<String> =
            entries.map(|e| name(e).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_link_stays_and_its_target_is_replaced_with_its_permissions() {
        let room = tempfile::tempdir().expect("a folder");
        let at = |name: &str| room.path().join(name);
        fs::create_dir(at("there")).expect("ours");
        fs::write(at("there/file"), "old").expect("ours");
        fs::set_permissions(at("there/file"), fs::Permissions::from_mode(0o640)).expect("ours");
        symlink("there/file", at("one")).expect("ours");
        symlink("one", at("two")).expect("ours");
        let inode = fs::metadata(at("two")).expect("there").ino();
        write(&at("two"), b"new").expect("written");
        assert_eq!(fs::read(at("there/file")).expect("there"), b"new");
        assert_eq!(mode(&at("there/file")), 0o640);
        assert_ne!(fs::metadata(at("two")).expect("there").ino(), inode, "in one step");
        assert!(fs::symlink_metadata(at("two")).expect("there").is_symlink());

        symlink("there/later", at("dangling")).expect("ours");
        write(&at("dangling"), b"now").expect("written");
        assert_eq!(fs::read(at("there/later")).expect("there"), b"now");
        symlink("loop", at("loop")).expect("ours");
        assert!(check_writable(&at("loop")).is_err() && write(&at("loop"), b"").is_err());
        assert_eq!(names(&at("there")), ["file", "later"]);
    }

    #[test]
    fn folders_and_what_is_not_there_are_told_apart() {
        let room = tempfile::tempdir().expect("a folder");
        let at = |name: &str| room.path().join(name);
        symlink(".", at("here")).expect("ours");
        for (name, words) in [
            ("", "it is a folder"),
            ("here", "it is a folder"),
            ("new/", "it is a folder"),
            ("no/such/file", "there is no folder"),
        ] {
            let error = check_writable(&at(name)).expect_err(name).to_string();
            assert!(error.contains(words), "{name}: {error}");
            assert_eq!(write(&at(name), b"x").expect_err(name).to_string(), error);
        }
        let socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("ours");
        let error = check_writable(&at("socket")).expect_err("no file").to_string();
        assert!(error.ends_with("it is a socket"), "{error}");
        drop(socket);
        assert_eq!(names(room.path()), ["here", "socket"]);
    }

    #[test]
    fn devices_are_written_to() {
        use std::os::unix::fs::FileTypeExt as _;
        check_writable(Path::new("/dev/null")).expect("a device");
        write(Path::new("/dev/null"), b"x").expect("written");
        assert!(fs::metadata("/dev/null").expect("there").file_type().is_char_device());
        assert!(is_stdout(Path::new("-")) && is_stdout(Path::new("/dev/stdout")));
        assert!(!is_stdout(Path::new("./-")) && !is_stdout(Path::new("/dev/stderr")));
        if Path::new("/dev/full").exists() {
            let error = write(Path::new("/dev/full"), b"x").expect_err("full").to_string();
            assert!(error.starts_with("cannot write /dev/full: No space left"), "{error}");
        }
    }

    #[test]
    fn a_taken_name_is_left_alone() {
        let room = tempfile::tempdir().expect("a folder");
        let at = |name: &str| room.path().join(name);
        fs::write(at("a"), "old").expect("ours");
        let staged = stage(&at("a"), b"new").expect("staged");
        let Published::Taken(staged) = staged.publish_new(&at("a")).expect("no error") else {
            panic!("it is taken");
        };
        let published = staged.publish_new(&at("b")).expect("published");
        assert!(matches!(published, Published::Done));
        assert_eq!(fs::read(at("a")).expect("there"), b"old");
        assert_eq!(fs::read(at("b")).expect("there"), b"new");
        stage_private(&at("key"), b"x").and_then(Staged::publish).expect("written");
        assert_eq!(mode(&at("key")), 0o600);
        assert_eq!(names(room.path()), ["a", "b", "key"]);
    }
}
