//! What a model says of itself to people.

use serde::Deserialize;

const MAX_DESCRIPTION: usize = 1000;
const MAX_EXAMPLES: usize = 16;
const MAX_EXAMPLE: usize = 200;

/// Texts for people who do not know the model. Empty if it brings none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// What it is, and what it can and cannot draw.
    #[serde(default)]
    pub description: String,
    /// Prompts that suit it.
    #[serde(default)]
    pub examples: Vec<String>,
}

impl About {
    /// # Errors
    /// Which text is too long for a page to show, or empty.
    pub fn check(&self) -> Result<(), String> {
        let length = self.description.chars().count();
        if length > MAX_DESCRIPTION {
            return Err(format!(
                "description has {length} characters; the maximum is {MAX_DESCRIPTION}"
            ));
        }
        let count = self.examples.len();
        if count > MAX_EXAMPLES {
            return Err(format!("examples has {count} prompts; the maximum is {MAX_EXAMPLES}"));
        }
        for (at, example) in self.examples.iter().enumerate() {
            let length = example.chars().count();
            if example.trim().is_empty() || length > MAX_EXAMPLE {
                return Err(format!(
                    "examples[{at}] has {length} characters; use 1 to {MAX_EXAMPLE}"
                ));
            }
        }
        Ok(())
    }
}
