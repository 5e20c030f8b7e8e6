//! Arrows between the gateway's modules run down only.

use std::{collections::BTreeSet, fs, path::Path};

/// From the bottom to the top. A module may use itself and those before it.
const LAYERS: [&str; 20] = [
    "error",
    "forwarded",
    "hosts",
    "options",
    "deadlines",
    "admission",
    "meters",
    "records",
    "backends",
    "encode",
    "maker",
    "jobs",
    "history",
    "shared",
    "guard",
    "state",
    "api",
    "app",
    "serve",
    "program",
];

#[test]
fn no_file_imports_from_a_layer_above_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut upward = Vec::new();
    let mut seen = BTreeSet::new();
    visit(&source, &mut |path| {
        let place = path.strip_prefix(&source).expect("inside").to_string_lossy().into_owned();
        let module = place.split(['/', '.']).next().unwrap_or_default().to_owned();
        if ["lib", "main"].contains(&module.as_str()) || place.ends_with("tests.rs") {
            return;
        }
        let text = fs::read_to_string(path).expect("a source file");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for used in used(code) {
            if rank(&used) > rank(&module) {
                upward.push(format!("{place} uses {used}"));
            }
        }
        seen.insert(module);
    });
    assert!(upward.is_empty(), "{upward:#?}");
    assert_eq!(seen, LAYERS.map(str::to_owned).into());
}

fn rank(module: &str) -> usize {
    let found = LAYERS.iter().position(|layer| *layer == module);
    found.unwrap_or_else(|| panic!("{module} has no place among the layers"))
}

/// Modules of the crate that a file names, in imports or in paths.
fn used(code: &str) -> BTreeSet<String> {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut all = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            None => drop(all.insert(first_word(rest))),
            Some(list) => all.extend(items(list)),
        }
    }
    all
}

/// The first word of every item of a list that ends with its closing brace.
fn items(list: &str) -> Vec<String> {
    let (mut depth, mut item, mut all) = (0, String::new(), Vec::new());
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => all.push(first_word(&std::mem::take(&mut item))),
            c => item.push(c),
        }
    }
    all.push(first_word(&item));
    all.retain(|word| !word.is_empty());
    all
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn visit(folder: &Path, file: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            visit(&path, file);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            file(&path);
        }
    }
}
