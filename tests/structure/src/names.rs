//! What a path means: the file that declares the item which it names.

use std::collections::{BTreeMap, BTreeSet};

use crate::{crates::Module, scan::Path};

/// A `use` of a `use` is followed this many times; a circle of them is somebody's mistake.
const FOLLOWED: usize = 16;

/// The names of one crate.
pub struct Names<'a> {
    files: BTreeSet<&'a Module>,
    /// By module: name to the path that a `use` binds to it.
    bound: BTreeMap<&'a Module, BTreeMap<&'a str, &'a Path>>,
}

impl<'a> Names<'a> {
    /// `files` are the modules that have a file of their own; `paths` is all code.
    pub fn new(
        files: impl Iterator<Item = &'a Module>,
        paths: impl Iterator<Item = &'a Path>,
    ) -> Self {
        let mut bound: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for path in paths {
            if let Some(name) = path.binds.as_deref().filter(|name| *name != "*") {
                bound.entry(&path.module).or_default().insert(name, path);
            }
        }
        Self { files: files.collect(), bound }
    }

    /// The module whose file declares what the path names, or `None` for another crate's item and
    /// for one that the file itself declares without a `use`.
    pub fn file_of(&self, path: &Path) -> Option<Module> {
        let target = self.resolve(&path.module, &path.segments, FOLLOWED)?;
        Some(self.file_around(&target))
    }

    /// The nearest module at or above this one that is a file.
    pub fn file_around(&self, module: &Module) -> Module {
        let mut module = module.clone();
        while !self.files.contains(&module) && module.pop().is_some() {}
        module
    }

    fn resolve(&self, module: &Module, segments: &[String], left: usize) -> Option<Module> {
        let left = left.checked_sub(1)?;
        let mut at = module.clone();
        let mut rest = segments;
        match rest.first()?.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop()?;
            }
            // What is no module and no `use` here is another crate, or the file's own.
            name => return self.member(&at, name, &rest[1..], left).unwrap_or(None),
        }
        rest = &rest[1..];
        while rest.first().is_some_and(|segment| segment == "super") {
            at.pop()?;
            rest = &rest[1..];
        }
        self.within(at, rest, left)
    }

    /// What the rest of a path means inside a module of this crate.
    fn within(&self, at: Module, rest: &[String], left: usize) -> Option<Module> {
        let [name, rest @ ..] = rest else { return Some(at) };
        // What is no module and no `use` is declared there.
        self.member(&at, name, rest, left).unwrap_or(Some(at))
    }

    /// What a name means inside a module: a module below it, or what a `use` binds, which may be
    /// another crate's (`Some(None)`). `None` for a name that is neither.
    fn member(
        &self,
        at: &Module,
        name: &str,
        rest: &[String],
        left: usize,
    ) -> Option<Option<Module>> {
        let mut inner = at.clone();
        inner.push(name.to_owned());
        if self.files.contains(&inner) {
            return Some(self.within(inner, rest, left));
        }
        // What the crate's root passes on is its face.
        let path = self.bound.get(at)?.get(name).filter(|_| !at.is_empty())?;
        let segments: Vec<String> = path.segments.iter().chain(rest).cloned().collect();
        Some(self.resolve(at, &segments, left))
    }
}
