//! No circle of imports in this repository, and the rule at work on small crates.

use std::{fs, path::Path};

use llm_dit_structure::{circles, crates, graph};

/// The circles of every crate under a folder, each as the paths of its files.
fn circles_under(root: &Path) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for one in crates(root).expect("readable folders") {
        for circle in circles(&graph(&one).expect("readable code")) {
            let short = |file: &Path| {
                file.strip_prefix(root).expect("under the root").display().to_string()
            };
            found.push(circle.iter().map(|file| short(file)).collect());
        }
    }
    found
}

#[test]
fn no_file_reaches_itself_through_imports() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read: usize = crates(&root).expect("readable").iter().map(|one| one.files.len()).sum();
    assert!(read > 300, "only {read} files of the repository were found");
    let found = circles_under(&root);
    let told: Vec<String> = found.iter().map(|circle| circle.join(" <-> ")).collect();
    assert!(found.is_empty(), "circles of imports; see tests/structure:\n{}", told.join("\n"));
}

/// A crate of these files in a folder of its own, and its circles.
fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let room = tempfile::tempdir().expect("a folder");
    fs::write(room.path().join("Cargo.toml"), "").expect("written");
    for (name, code) in files {
        let path = room.path().join("src").join(name);
        fs::create_dir_all(path.parent().expect("in src")).expect("made");
        fs::write(path, code).expect("written");
    }
    circles_under(room.path())
}

#[test]
fn every_spelling_of_an_import_is_seen() {
    let spellings = [
        "use crate::b::B;",
        "use super::b::B as C;",
        "use crate::{c::C, b::{self}};",
        "fn f(b: &mut crate::b::B) {}",
        "fn f() { println!(\"{}\", crate::b::NUMBER); }",
        "mod inner { use super::super::b::*; }",
        "impl super::c::C { fn f() -> impl Sized + use<> { crate::b::B } }",
    ];
    for spelling in spellings {
        let files = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", spelling),
            ("b.rs", "use crate::a::A;"),
            ("c.rs", "pub struct C;"),
        ];
        assert_eq!(circles_of(&files), [["src/a.rs", "src/b.rs"]], "{spelling}");
    }
    let harmless = [
        "// use crate::b::B;",
        "const TEXT: &str = \"crate::b::B\";",
        "#[cfg(test)] mod tests { use crate::b::B; }",
        "#[cfg(test)] use crate::b::B; use crate::c::C;",
        "use std::b::B; use b::B;",
    ];
    for code in harmless {
        let files = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", code),
            ("b.rs", "use crate::a::A;"),
            ("c.rs", "pub struct C;"),
        ];
        assert_eq!(circles_of(&files), Vec::<Vec<String>>::new(), "{code}");
    }
}

#[test]
fn a_module_that_passes_a_name_on_hides_no_circle() {
    let files = [
        ("lib.rs", "mod work;"),
        ("work.rs", "mod queue; mod batch; pub use batch::Answer; use queue::Queue;"),
        ("work/queue.rs", "use super::Answer; pub struct Queue;"),
        ("work/batch.rs", "use super::Queue; pub struct Answer;"),
    ];
    assert_eq!(circles_of(&files), [["src/work/batch.rs", "src/work/queue.rs"]]);
    // A name of another crate is nobody's here.
    let files = [
        ("lib.rs", "mod args; mod names; mod work;"),
        ("args.rs", "use crate::names::{Flags, Work};"),
        ("names.rs", "pub use clap::Flags; pub use crate::work::Work;"),
        ("work.rs", "use crate::names::Flags; pub struct Work;"),
    ];
    assert_eq!(circles_of(&files), Vec::<Vec<String>>::new());
}

#[test]
fn a_part_may_use_its_unit_but_not_through_a_file_elsewhere() {
    let unit = [
        ("lib.rs", "mod bench;"),
        ("bench.rs", "mod row; use row::Row; pub struct Options;"),
        ("bench/row.rs", "use super::Options; pub struct Row;"),
    ];
    assert_eq!(circles_of(&unit), Vec::<Vec<String>>::new());
    let elsewhere = [
        ("lib.rs", "mod make; mod remote;"),
        ("make.rs", "use crate::remote::Remote; pub struct Report;"),
        ("remote.rs", "mod events; use events::read; pub struct Remote;"),
        ("remote/events.rs", "use crate::make::Report; pub fn read() {}"),
    ];
    let circle = ["src/make.rs", "src/remote/events.rs", "src/remote.rs"];
    assert_eq!(circles_of(&elsewhere), [circle]);
}
