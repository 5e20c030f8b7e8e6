//! Whether an error means that a memory is full. All callers decide it here.

use std::{error::Error, io};

/// How the driver, cuBLAS, cuDNN, Metal, systems and our own engines say it, in lower case.
const WORDS: [&str; 4] =
    ["out of memory", "out_of_memory", "alloc_failed", "cannot allocate memory"];

/// Whether an error, or one of its causes, says that the memory of a device or of the host is full.
///
/// Error codes decide where the library gives them. Where none of the causes has a code, the message
/// of the error decides.
pub fn is_out_of_memory(error: &(dyn Error + 'static)) -> bool {
    by_code(error).unwrap_or_else(|| {
        let message = error.to_string().to_lowercase();
        // With RUST_BACKTRACE, candle puts the stack behind the message, and functions have names.
        let message = message.lines().take_while(|line| !line.trim_start().starts_with("0: "));
        message.into_iter().any(|line| WORDS.iter().any(|words| line.contains(words)))
    })
}

/// Whether the first error that has a code means a full memory; `None` if none has a code.
fn by_code(error: &(dyn Error + 'static)) -> Option<bool> {
    if let Some(error) = error.downcast_ref::<candle_core::Error>() {
        return by_code_of_candle(error);
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        // An error that wraps another one has no code of its own.
        return match error.get_ref() {
            Some(inner) => by_code(inner),
            None => Some(error.kind() == io::ErrorKind::OutOfMemory),
        };
    }
    #[cfg(feature = "cuda")]
    if let Some(full) = crate::cuda::is_out_of_memory(error) {
        return Some(full);
    }
    by_code(error.source()?)
}

/// candle's errors are transparent, so their sources do not name what they wrap.
fn by_code_of_candle(error: &candle_core::Error) -> Option<bool> {
    use candle_core::Error as E;
    match error {
        E::WithBacktrace { inner, .. } | E::Context { inner, .. } | E::WithPath { inner, .. } => {
            by_code_of_candle(inner)
        }
        E::Cuda(cause) => by_code(&**cause),
        E::WrappedContext { wrapped, .. } => by_code(&**wrapped),
        E::Io(cause) => by_code(cause),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Box<dyn Error + Send + Sync>);

    fn message(text: &str) -> candle_core::Error {
        candle_core::Error::Msg(text.into())
    }

    #[test]
    fn libraries_say_it_in_words() {
        for text in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "the model failed: CUBLAS_STATUS_ALLOC_FAILED",
            "Cannot allocate memory (os error 12)",
            "the device is out of memory for this prompt",
        ] {
            assert!(is_out_of_memory(&message(text)), "{text}");
        }
        assert!(!is_out_of_memory(&message("shape mismatch in matmul")));
        let stack = "shape mismatch\n   0: llm_dit_device::out_of_memory::is_out_of_memory\n";
        assert!(!is_out_of_memory(&message(stack)));
    }

    #[test]
    fn a_code_decides_before_words_do() {
        let full = Outer(io::Error::from(io::ErrorKind::OutOfMemory).into());
        assert!(is_out_of_memory(&full));
        let missing = io::Error::from(io::ErrorKind::NotFound);
        let error = candle_core::Error::Io(missing).with_path("out of memory.safetensors");
        assert!(!is_out_of_memory(&error), "{error}");
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn the_drivers_code_is_found_below_candles_error() {
        use candle_core::cuda_backend::{CudaError, WrapErr as _, cudarc};
        use cudarc::driver::{DriverError, sys::CUresult};

        for (code, full) in
            [(CUresult::CUDA_ERROR_OUT_OF_MEMORY, true), (CUresult::CUDA_ERROR_UNKNOWN, false)]
        {
            let ours = crate::driver_error(DriverError(code));
            let candles = Err::<(), _>(CudaError::from(DriverError(code))).w();
            assert_eq!(by_code_of_candle(&ours), Some(full));
            let candles = candles.expect_err("it is one").context("while loading");
            assert_eq!(by_code_of_candle(&candles), Some(full));
        }
    }
}
