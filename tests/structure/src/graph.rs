//! Who imports whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
};

use proc_macro2::TokenStream;

use crate::{
    crates::{Crate, Module},
    names::Names,
    scan,
};

/// Files, and for each the files of the same crate that it imports.
pub type Graph = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

/// The imports between the files of one crate.
///
/// # Errors
/// A file that cannot be read, or that is not Rust.
pub fn graph(crate_: &Crate) -> io::Result<Graph> {
    let mut code = Vec::new();
    for (module, file) in &crate_.files {
        let text = fs::read_to_string(file)?;
        let tokens: TokenStream = text.parse().map_err(|error| {
            io::Error::other(format!("{} is not Rust: {error}", file.display()))
        })?;
        code.push((module, scan::paths(tokens, module)));
    }
    let paths = || code.iter().flat_map(|(_, paths)| paths);
    let names = Names::new(crate_.files.keys(), paths());
    let mut graph = Graph::new();
    for (module, paths) in &code {
        let targets = paths.iter().filter_map(|path| names.file_of(path));
        let imports = targets
            .filter(|target| !is_around(target, module))
            .filter_map(|target| crate_.files.get(&target).cloned());
        graph.insert(crate_.files[*module].clone(), imports.collect());
    }
    Ok(graph)
}

/// Whether `outer` is `module`, or one of those above it.
fn is_around(outer: &Module, module: &Module) -> bool {
    module.starts_with(outer)
}
