//! The choice of instruction set, made when the program runs.

use pulp::{Arch, NullaryFnOnce};

/// Chooses once; pass it to the tasks.
#[derive(Clone, Copy)]
pub(crate) struct Simd(Arch);

impl Simd {
    pub(crate) fn new() -> Self {
        Self(Arch::new())
    }

    /// Runs `f` compiled for the chosen instruction set. `f` must be marked `#[inline(always)]`, or
    /// its body stays what the baseline makes of it.
    #[inline(always)]
    pub(crate) fn run<R>(self, f: impl FnMut() -> R) -> R {
        self.0.dispatch(Inlined(f))
    }
}

/// A closure passed as `FnOnce` goes through a shim that is not inlined; as `FnMut` its body lands
/// in the function that was compiled for the instruction set.
struct Inlined<F>(F);

impl<R, F: FnMut() -> R> NullaryFnOnce for Inlined<F> {
    type Output = R;

    #[inline(always)]
    fn call(mut self) -> R {
        (self.0)()
    }
}
