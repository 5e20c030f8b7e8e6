//! Circles in a graph: its strongly connected components of more than one file.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::Graph;

/// Every set of files that reach each other through imports, in order.
pub fn circles(graph: &Graph) -> Vec<BTreeSet<PathBuf>> {
    let reach = |file: &PathBuf| reached(graph, file);
    let reached: Vec<(&PathBuf, BTreeSet<&Path>)> =
        graph.keys().map(|file| (file, reach(file))).collect();
    let mut circles = BTreeSet::new();
    for (file, there) in &reached {
        if there.contains(file.as_path()) {
            let back = reached.iter().filter(|(other, back)| {
                there.contains(other.as_path()) && back.contains(file.as_path())
            });
            circles.insert(back.map(|(other, _)| (*other).clone()).collect::<BTreeSet<_>>());
        }
    }
    circles.into_iter().collect()
}

/// Every file at the end of a way of at least one import.
fn reached<'a>(graph: &'a Graph, from: &PathBuf) -> BTreeSet<&'a Path> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&Path> = graph[from].iter().map(PathBuf::as_path).collect();
    while let Some(file) = open.pop() {
        if found.insert(file) {
            open.extend(graph.get(file).into_iter().flatten().map(PathBuf::as_path));
        }
    }
    found
}
