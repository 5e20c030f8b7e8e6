//! Output to stdout.

use std::io::{self, ErrorKind, Write as _};

use crate::error::CliError;

/// Writes text to stdout. A reader that closes the pipe early, such as `head`, is no error.
///
/// # Errors
///
/// [`CliError`] if stdout cannot be written.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CliError::Failed(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
