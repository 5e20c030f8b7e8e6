//! Another program's rows beside ours.

use std::path::Path;

use serde::Deserialize;

use super::row::Row;
use crate::{error::CliError, files};

/// One line of the other program's: a row's name and its milliseconds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Other {
    pub name: String,
    pub ms: Option<f64>,
    /// How it was run, where there are several ways: "eager", "compiled".
    #[serde(default)]
    pub variant: String,
}

/// Ours and theirs under one name.
#[derive(Clone, Debug, PartialEq)]
struct Pair<'a> {
    name: &'a str,
    variant: &'a str,
    ours: f64,
    theirs: f64,
}

/// Reads JSON lines. Rows without a time are skipped, such as those for which the other program ran
/// out of memory.
///
/// # Errors
///
/// [`CliError`] if the file cannot be read or a line is not a row.
pub fn read(path: &Path) -> Result<Vec<Other>, CliError> {
    let text = files::read_text(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| {
                CliError::Usage(format!(
                    "{}:{}: this is no row, such as {{\"name\": \"forward 1024x1024 b1\", \"ms\": 155}}: {error}",
                    path.display(),
                    index + 1
                ))
            })
        })
        .collect()
}

/// A table of what has a name in common.
pub fn lines(ours: &[Row], others: &[Other]) -> Vec<String> {
    let pairs = pair(ours, others);
    if pairs.is_empty() {
        return vec!["\nno row of the other program matches the name of a row above".to_owned()];
    }
    let mut lines =
        vec![format!("\n{:<24}{:>9}{:>11}{:>8}", "row", "ours ms", "other ms", "ratio")];
    lines.extend(pairs.into_iter().map(|Pair { name, variant, ours, theirs }| {
        let line = format!("{name:<24}{ours:>9.2}{theirs:>11.2}{:>8.3}  {variant}", ours / theirs);
        line.trim_end().to_owned()
    }));
    lines
}

fn pair<'a>(ours: &'a [Row], others: &'a [Other]) -> Vec<Pair<'a>> {
    let mut pairs = Vec::new();
    for row in ours {
        for other in others.iter().filter(|other| other.name == row.name) {
            if let (Some(ours), Some(theirs)) = (row.ms, other.ms) {
                pairs.push(Pair { name: &row.name, variant: &other.variant, ours, theirs });
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_name_are_paired() {
        let row = |name: &str, ms| Row { name: name.to_owned(), ms, ..Row::default() };
        let ours = [row("a", Some(2.0)), row("b", None), row("c", Some(1.0))];
        let other = |name: &str, ms, variant: &str| Other {
            name: name.to_owned(),
            ms,
            variant: variant.to_owned(),
        };
        let others = [
            other("a", Some(4.0), "eager"),
            other("a", Some(1.0), "compiled"),
            other("b", Some(1.0), ""),
            other("c", None, ""),
        ];
        let pairs = pair(&ours, &others);
        let seen: Vec<_> = pairs.iter().map(|p| (p.name, p.variant, p.ours / p.theirs)).collect();
        assert_eq!(seen, [("a", "eager", 0.5), ("a", "compiled", 2.0)]);
    }
}
