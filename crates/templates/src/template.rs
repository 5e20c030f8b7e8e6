//! One template, and how it fills a chat.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use llm_dit_chat::ChatOptions;
use serde::Serialize;
use serde_json::Value;

use crate::{TemplateError, front_matter};

/// What names in front matter begin with. Callers may leave it out.
pub const PREFIX: &str = "z_image_";

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Template {
    /// As the file has it, prefix included.
    pub name: String,
    pub description: String,
    pub category: String,
    /// Opens the answer with a think block, even if it is empty.
    pub add_think_block: bool,
    pub thinking_content: Option<String>,
    pub assistant_content: Option<String>,
    /// The body.
    pub system_prompt: String,
    /// Keys that we do not know.
    pub metadata: BTreeMap<String, Value>,
    /// Where it was read from; relative to the repository for a built-in one.
    #[serde(skip)]
    pub path: PathBuf,
}

impl Template {
    /// Reads the text of a template's file. Without front matter, all of it is the body.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Invalid`] with the line, if the front matter is invalid.
    pub fn parse(path: &Path, text: &str) -> Result<Self, TemplateError> {
        let (keys, metadata, body) = front_matter::split(text)
            .and_then(|(yaml, body)| {
                Ok((front_matter::keys(yaml)?, front_matter::metadata(yaml)?, body))
            })
            .map_err(|(line, cause)| TemplateError::Invalid {
                path: path.to_owned(),
                line,
                cause,
            })?;
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = |text: Option<String>| text.map(|t| t.trim().to_owned());
        Ok(Self {
            name: text(keys.name).filter(|name| !name.is_empty()).unwrap_or_else(stem),
            description: text(keys.description).unwrap_or_default(),
            category: text(keys.category).unwrap_or_else(|| "general".to_owned()),
            add_think_block: keys.add_think_block.unwrap_or(true),
            thinking_content: text(keys.thinking_content),
            assistant_content: text(keys.assistant_content),
            system_prompt: body.trim().to_owned(),
            metadata,
            path: path.to_owned(),
        })
    }

    /// The name without the prefix, as people write it.
    pub fn short_name(&self) -> &str {
        short(&self.name)
    }

    /// Fills what the caller left open. What was said stays, be it an empty text; an explicit
    /// `enable_thinking` also stands against a think block of the template's.
    pub fn fill(&self, said: ChatOptions) -> ChatOptions {
        ChatOptions {
            system: said.system.or_else(|| Some(self.system_prompt.clone())),
            thinking: said.thinking.or_else(|| self.thinking_content.clone()),
            assistant: said.assistant.or_else(|| self.assistant_content.clone()),
            force_think_block: said.force_think_block || self.add_think_block,
            ..said
        }
    }
}

/// A name without the prefix.
pub(crate) fn short(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
---
name: z_image_test
description: \"a: b\"
thinking_content: |
  First.
  Second.
mood: [calm, 2]
---

Draw it.

---
Then stop.
";

    fn template(text: &str) -> Result<Template, TemplateError> {
        Template::parse(Path::new("folder/test.md"), text)
    }

    fn owned(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_file_is_front_matter_and_a_body() {
        for text in [TEXT.to_owned(), TEXT.replace('\n', "\r\n")] {
            let found = template(&text).expect("valid");
            assert_eq!((found.name.as_str(), found.short_name()), ("z_image_test", "test"));
            assert_eq!(found.description, "a: b");
            assert_eq!(found.category, "general");
            assert!(found.add_think_block, "the default");
            assert_eq!(found.thinking_content, owned("First.\nSecond."));
            assert_eq!(found.assistant_content, None);
            assert_eq!(found.system_prompt.replace('\r', ""), "Draw it.\n\n---\nThen stop.");
            assert_eq!(found.metadata.len(), 1);
            assert_eq!(found.metadata["mood"], serde_json::json!(["calm", 2]));
        }
    }

    #[test]
    fn without_front_matter_all_of_it_is_the_body() {
        for text in
            ["Draw it.", "  Draw it.\n", "---\n---\nDraw it.", "---\n# nothing\n---\nDraw it."]
        {
            let found = template(text).expect("valid");
            assert_eq!((found.name.as_str(), found.system_prompt.as_str()), ("test", "Draw it."));
            assert!(found.add_think_block && found.metadata.is_empty());
        }
        assert_eq!(template("").expect("valid").system_prompt, "");
    }

    #[test]
    fn a_broken_file_is_named_with_its_line() {
        for (text, place) in [
            ("---\nname: x\ndescription: [1\n---\nbody", "folder/test.md, line "),
            ("---\nname: x\nadd_think_block: perhaps\n---\n", "line 3"),
            ("---\nname: x\nname: y\n---\n", "line 3"),
            ("---\nname: x\n\tcategory: y\n---\n", "line 2"),
            ("---\nname: x\nbody without an end", "line 1: the front matter has no end"),
            ("---\n- a\n- b\n---\n", "line 2"),
            ("---\ncategory: {a: b}\n---\n", "line 2"),
        ] {
            let error = template(text).expect_err(text).to_string();
            assert!(error.contains(place) && error.contains("folder/test.md"), "{place}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn what_was_said_stays_and_the_rest_is_filled() {
        let template = template(TEXT).expect("valid");
        let filled = template.fill(ChatOptions::default());
        assert_eq!(filled.system, owned(&template.system_prompt));
        assert_eq!(filled.thinking, template.thinking_content);
        assert_eq!(filled.assistant, None);
        assert!(filled.force_think_block && filled.enable_thinking.is_none());

        let said = ChatOptions {
            system: owned(""),
            thinking: owned("T"),
            assistant: owned("A"),
            enable_thinking: Some(false),
            ..Default::default()
        };
        let filled = template.fill(said.clone());
        assert_eq!(filled, ChatOptions { force_think_block: true, ..said });
        let chat = filled.chat("P");
        assert_eq!(chat.system, "", "an empty text blanks the template's");
        assert!(!chat.has_think_block(), "an explicit word stands against the template");
    }

    #[test]
    fn a_template_that_asks_for_no_block_leaves_it_to_the_content() {
        let quiet = template("---\nadd_think_block: false\n---\nS").expect("valid");
        let chat = |said| quiet.fill(said).chat("P");
        assert!(!chat(ChatOptions::default()).has_think_block());
        assert!(chat(ChatOptions { thinking: owned("T"), ..Default::default() }).has_think_block());
        let forced = ChatOptions { force_think_block: true, ..Default::default() };
        assert!(chat(forced).has_think_block());
    }
}
