//! The `lora` table, which can be written in two ways.

use std::path::Path;

use toml::{Spanned, de::DeValue};

use super::{FileValue, Reader, scalar};
use crate::{
    error::{SettingsError, hint},
    keys::{Kind, LORA_ENTRY},
};

/// `lora.entries`, `lora.paths` and `lora.scales`, until all have been seen.
#[derive(Default)]
pub(super) struct Loras {
    /// Path, scale with blocks and pass, trigger words.
    entries: Vec<(String, String, String)>,
    pub(super) paths: Vec<String>,
    pub(super) scales: Vec<String>,
    /// Byte at which the last of the three keys stands.
    pub(super) at: usize,
}

impl Reader<'_> {
    pub(super) fn lora_entry(&mut self, entry: &Spanned<DeValue<'_>>) -> Result<(), SettingsError> {
        let at = entry.span().start;
        let DeValue::Table(table) = entry.get_ref() else {
            return Err(self.problem(at, "lora.entries must contain tables".into()));
        };
        if let Some(name) = table.keys().find(|k| !LORA_ENTRY.contains(&k.get_ref().as_ref())) {
            let hint = hint(name.get_ref(), LORA_ENTRY.iter().copied());
            let problem = format!("unknown key '{}' in lora.entries{hint}", name.get_ref());
            return Err(self.problem(name.span().start, problem));
        }
        let field = |name: &str, kind: Kind| match table.get(name) {
            None => Ok(None),
            Some(value) => scalar(kind, value.get_ref()).map(Some).ok_or_else(|| {
                let problem = format!("{name} in lora.entries must be {}", kind.name());
                self.problem(value.span().start, problem)
            }),
        };
        let path = field("path", Kind::Text)?;
        let path = path.ok_or_else(|| self.problem(at, "a LoRA without a path".into()))?;
        let mut scale = field("scale", Kind::Number)?.unwrap_or_else(|| "1.0".into());
        let pass = field("pass", Kind::Text)?.map(|pass| format!("pass={pass}"));
        let behind: Vec<String> = field("blocks", Kind::Text)?.into_iter().chain(pass).collect();
        if !behind.is_empty() {
            scale = format!("{scale}@{}", behind.join(","));
        }
        let trigger = field("trigger_words", Kind::Text)?.unwrap_or_default();
        let enabled = field("enabled", Kind::Switch)?.is_none_or(|on| on == "true");
        if enabled {
            self.loras.entries.push((path, scale, trigger));
        }
        Ok(())
    }

    /// All LoRAs of the profile as values of `--lora` and `--lora-trigger`.
    pub(super) fn end_loras(&mut self) -> Result<(), SettingsError> {
        let Loras { mut entries, paths, scales, at } = std::mem::take(&mut self.loras);
        if scales.len() > paths.len() {
            let problem = format!("lora has {} scales for {} paths", scales.len(), paths.len());
            return Err(self.problem(at, problem));
        }
        let scales = scales.into_iter().chain(std::iter::repeat("1.0".to_owned()));
        entries.extend(paths.into_iter().zip(scales).map(|(p, s)| (p, s, String::new())));
        if entries.is_empty() {
            return Ok(());
        }
        let (key, line) = ("lora.entries", self.line(at));
        let values = entries.iter().map(|(p, s, _)| format!("{}:{s}", self.lora_path(p))).collect();
        self.found.values.push(FileValue { flag: "lora", key, line, values });
        if entries.iter().any(|(.., trigger)| !trigger.is_empty()) {
            let values = entries.into_iter().map(|(.., trigger)| trigger).collect();
            self.found.values.push(FileValue { flag: "lora_trigger", key, line, values });
        }
        Ok(())
    }

    /// A LoRA beside the file, else as it stands, to be looked for in `loras_dir`.
    fn lora_path(&self, path: &str) -> String {
        let beside = self.resolve(path);
        if Path::new(&beside).exists() { beside } else { path.to_owned() }
    }
}
