//! Output to stdout.

use std::io::{self, ErrorKind, Write as _};

use crate::error::CliError;

/// Writes text to stdout. A reader that closes the pipe early, such as `head`, is no error.
///
/// # Errors
///
/// [`CliError`] if stdout cannot be written.
pub fn print(text: &str) -> Result<(), CliError> {
    print_bytes(text.as_bytes())
}

/// As [`print()`], of bytes.
///
/// # Errors
///
/// [`CliError`] if stdout cannot be written.
pub fn print_bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CliError::Failed(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
