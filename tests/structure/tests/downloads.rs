//! Nothing downloads a model but the command that a person types.

use std::{fs, path::Path};

use llm_dit_structure::crates;

/// What a download needs, as a user of the crate names it.
const DOWNLOADS: [&str; 3] = ["HubArgs", "Client", "pull"];

#[test]
fn only_the_command_pull_connects_to_a_hub() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut users = Vec::new();
    for one in crates(&root).expect("readable") {
        if one.folder.ends_with("crates/hub/src") {
            continue;
        }
        for path in one.files.values() {
            let text = fs::read_to_string(path).expect("text");
            let names = |statement: &str| {
                let mut words = statement.split(|c: char| !c.is_alphanumeric() && c != '_');
                words.any(|word| DOWNLOADS.contains(&word))
            };
            let used = text.match_indices("llm_dit_hub::").any(|(at, name)| {
                let rest = &text[at + name.len()..];
                names(&rest[..rest.find(';').unwrap_or(rest.len())])
            });
            if used {
                users.push(path.strip_prefix(&root).expect("below").display().to_string());
            }
        }
    }
    assert_eq!(users, ["cli/src/pull.rs"]);
}
