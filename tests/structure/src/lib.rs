//! Which files of a crate import which, and where those imports form a circle.
//!
//! The rule: **no file may reach itself through imports.** File A imports file B when the code of A
//! names an item of B, in a `use` or in a path, however it is spelled: `crate::b::Item`,
//! `super::b::Item`, `self::b::Item`. In detail:
//!
//! - A name that a module only passes on (`pub use child::Item`, or a `use` that its children see)
//!   counts as an import of the file that declares the item, if it is of this crate. The crate's root
//!   is the exception: what it passes on is the crate's public face, and counts as declared there.
//! - A file may use what the modules above it declare: `foo.rs` and the folder `foo/` are one unit,
//!   and `use super::Options` in `foo/bar.rs` is how a part takes its unit's types. So an import of
//!   `foo.rs` by a file in `foo/` does not count, while an import of `foo/bar.rs` by `foo.rs` does:
//!   if `foo/bar.rs` uses a file elsewhere that uses `foo.rs`, this is a circle.
//! - Code under `#[cfg(test)]` does not count, nor does an `impl` block in another file than its
//!   type, since nothing names it.

mod circles;
mod crates;
mod graph;
mod names;
mod scan;

pub use circles::circles;
pub use crates::{Crate, Module, crates};
pub use graph::{Graph, graph};
