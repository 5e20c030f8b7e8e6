//! What a path of an output file leads to.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The path that stands for standard output.
pub const STDOUT: &str = "-";

/// As many links as Linux follows.
const MAX_LINKS: usize = 40;

/// Where the bytes of an output file go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A regular file, or a name that is free, with all links followed. Replaced as a whole.
    File(PathBuf),
    /// A device, a FIFO or an open file descriptor. The bytes are written to it; a rename would
    /// remove it.
    Stream(PathBuf),
    /// This process's standard output.
    Stdout,
}

/// What cannot be an output file.
#[derive(Debug)]
pub(crate) enum Refused {
    Folder,
    NoFolder(PathBuf),
    Kind(&'static str),
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(cause: io::Error) -> Self {
        Self::Io(cause)
    }
}

/// Whether the path means this process's standard output: `-`, `/dev/stdout` or the like.
pub fn is_stdout(path: &Path) -> bool {
    matches!(Target::of(path), Ok(Target::Stdout))
}

/// Whether the path means something that bytes are written to, and that cannot be replaced: a
/// device, a FIFO, an open file descriptor or standard output.
pub fn is_stream(path: &Path) -> bool {
    matches!(Target::of(path), Ok(Target::Stdout | Target::Stream(_)))
}

impl Target {
    pub(crate) fn of(path: &Path) -> Result<Self, Refused> {
        if path == Path::new(STDOUT) {
            return Ok(Self::Stdout);
        }
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            if let Some(descriptor) = Descriptor::of(&path) {
                return Ok(match descriptor {
                    Descriptor::Stdout => Self::Stdout,
                    Descriptor::Other => Self::Stream(path),
                });
            }
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Self::free(path),
                Err(cause) => return Err(cause.into()),
            };
            if metadata.is_symlink() {
                path = folder(&path).join(fs::read_link(&path)?);
                continue;
            }
            return Self::existing(path, &metadata);
        }
        Err(io::Error::other("too many levels of symbolic links").into())
    }

    /// A name that nothing has yet.
    fn free(path: PathBuf) -> Result<Self, Refused> {
        let names_a_folder = path.to_string_lossy().ends_with(std::path::is_separator);
        if names_a_folder || path.file_name().is_none() {
            return Err(Refused::Folder);
        }
        if !folder(&path).is_dir() {
            return Err(Refused::NoFolder(folder(&path).to_owned()));
        }
        Ok(Self::File(path))
    }

    fn existing(path: PathBuf, metadata: &fs::Metadata) -> Result<Self, Refused> {
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Err(Refused::Folder);
        }
        if kind.is_file() {
            return Ok(Self::File(path));
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::FileTypeExt as _;
            if kind.is_block_device() {
                return Err(Refused::Kind("a block device"));
            }
            if kind.is_socket() {
                return Err(Refused::Kind("a socket"));
            }
        }
        Ok(Self::Stream(path))
    }
}

/// An open file of a process, such as `/dev/fd/3`. Its link is no path that could be followed.
enum Descriptor {
    Stdout,
    Other,
}

impl Descriptor {
    fn of(path: &Path) -> Option<Self> {
        let number = path.file_name()?.to_str()?;
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let folder = fs::canonicalize(folder(path)).ok()?;
        let own = folder == Path::new("/dev/fd")
            || folder == Path::new("/proc").join(std::process::id().to_string()).join("fd");
        if own && number == "1" {
            return Some(Self::Stdout);
        }
        let is_folder = own || folder.starts_with("/proc") && folder.ends_with("fd");
        is_folder.then_some(Self::Other)
    }
}

/// The folder that holds the file of this path.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
