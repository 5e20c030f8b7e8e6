//! Reads one profile of a configuration file.

mod loras;

use std::path::{Path, PathBuf};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    error::{SettingsError, hint},
    file::loras::Loras,
    keys::{self, KEYS, Key, Kind, Use},
};

/// The profile that is read when none is named.
pub(crate) const DEFAULT_PROFILE: &str = "default";
/// The table that belongs to no profile.
const SERVER: &str = "server";

/// What a file says: values for flags, and remarks for the person.
#[derive(Debug, Default)]
pub(crate) struct FileValues {
    pub values: Vec<FileValue>,
    pub notes: Vec<String>,
}

/// Values for the flag with the id `flag`; several for a flag that may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileValue {
    pub flag: &'static str,
    pub key: &'static str,
    pub line: usize,
    pub values: Vec<String>,
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    found: FileValues,
    loras: Loras,
}

/// Reads `profile` of the file, or its `[default]`, and checks every key of every profile.
pub(crate) fn read(path: &Path, profile: Option<&str>) -> Result<FileValues, SettingsError> {
    let text = llm_dit_text::read(path)
        .map_err(|cause| SettingsError::Io { path: path.to_owned(), cause })?;
    let table = DeTable::parse(&text).map_err(|e| SettingsError::Toml {
        path: path.to_owned(),
        cause: e.to_string().trim_end().to_owned(),
    })?;
    let mut profiles = Vec::new();
    let mut chosen = None;
    for (name, value) in table.get_ref() {
        let reader = Reader::new(path, &text);
        let (name, line) = (name.get_ref().as_ref(), name.span().start);
        let DeValue::Table(table) = value.get_ref() else {
            let table = keys::table_of(name).map(|table| format!(".{table}")).unwrap_or_default();
            return Err(reader.problem(
                line,
                format!("'{name}' is outside a profile; move it to [{DEFAULT_PROFILE}{table}]"),
            ));
        };
        // A profile may be called so, but then it holds no keys of that table.
        if name != SERVER
            && keys::is_table(name)
            && table.keys().any(|key| Key::find(&format!("{name}.{}", key.get_ref())).is_some())
        {
            return Err(reader.problem(
                line,
                format!("[{name}] is a table of a profile; write [{DEFAULT_PROFILE}.{name}]"),
            ));
        }
        let read = reader.profile(if name == SERVER { Some(SERVER) } else { None }, table)?;
        if name != SERVER {
            profiles.push(name);
        }
        if name == SERVER || name == profile.unwrap_or(DEFAULT_PROFILE) {
            let all: &mut FileValues = chosen.get_or_insert_default();
            all.values.extend(read.values);
            all.notes.extend(read.notes);
        }
    }
    let wanted = profile.unwrap_or(DEFAULT_PROFILE);
    // A file with nothing but [server] is complete; any other needs the profile.
    if !profiles.contains(&wanted) && (profile.is_some() || !profiles.is_empty()) {
        return Err(SettingsError::Profile {
            path: path.to_owned(),
            profile: wanted.to_owned(),
            hint: hint(wanted, profiles.iter().copied()),
        });
    }
    Ok(chosen.unwrap_or_default())
}

impl<'a> Reader<'a> {
    fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text, found: FileValues::default(), loras: Loras::default() }
    }

    /// The keys of a profile and of its tables; of the one table `only`, if that is what this is.
    fn profile(
        mut self,
        only: Option<&str>,
        table: &DeTable<'_>,
    ) -> Result<FileValues, SettingsError> {
        for (name, value) in table {
            let (name, line) = (name.get_ref().as_ref(), name.span().start);
            match (only, value.get_ref()) {
                (Some(prefix), _) => self.key(&format!("{prefix}.{name}"), line, value)?,
                (None, DeValue::Table(inner)) if keys::is_table(name) && name != SERVER => {
                    for (key, value) in inner {
                        let at = key.span().start;
                        self.key(&format!("{name}.{}", key.get_ref()), at, value)?;
                    }
                }
                (None, DeValue::Table(_)) => {
                    let mut tables: Vec<&str> =
                        KEYS.iter().filter_map(|k| Some(k.path.split_once('.')?.0)).collect();
                    tables.dedup();
                    let tables = tables.iter().copied().filter(|t| *t != SERVER);
                    let elsewhere = if name == SERVER {
                        "; [server] is not part of a profile".to_owned()
                    } else {
                        hint(name, tables)
                    };
                    return Err(self.problem(line, format!("unknown table '{name}'{elsewhere}")));
                }
                (None, _) => self.key(name, line, value)?,
            }
        }
        self.end_loras()?;
        Ok(self.found)
    }

    fn key(
        &mut self,
        path: &str,
        at: usize,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), SettingsError> {
        let Some(key) = Key::find(path) else {
            // The keys of the same table come first: the same word in another table is rarely what
            // was meant.
            let table = path.rsplit_once('.').map(|(table, _)| format!("{table}."));
            let siblings = KEYS.iter().map(|k| k.path).filter(|k| match &table {
                Some(table) => k.starts_with(table.as_str()),
                None => !k.contains('.'),
            });
            let problem = format!("unknown key '{path}'{}", hint(path, siblings));
            return Err(self.problem(at, problem));
        };
        let wrong = |found: &str| {
            let (path, needed) = (key.path, key.kind.name());
            self.problem(value.span().start, format!("{path} must be {needed}, not {found}"))
        };
        if let DeValue::Integer(n) = value.get_ref()
            && let Some(decimal) = decimal(n.as_str(), n.radix())
        {
            let (path, written) = (key.path, &self.text[value.span()]);
            let problem = format!("{path} = {written}: write the number as {decimal}");
            return Err(self.problem(value.span().start, problem));
        }
        let values = match (key.kind, value.get_ref()) {
            (Kind::LoraEntries, DeValue::Array(entries)) => {
                self.loras.at = at;
                for entry in entries {
                    self.lora_entry(entry)?;
                }
                return Ok(());
            }
            (Kind::Texts | Kind::Numbers, DeValue::Array(items)) => items
                .iter()
                .map(|item| {
                    let one = if key.kind == Kind::Texts { Kind::Text } else { Kind::Number };
                    scalar(one, item.get_ref()).ok_or_else(|| wrong("what it holds"))
                })
                .collect::<Result<Vec<_>, _>>()?,
            (kind, value) => vec![scalar(kind, value).ok_or_else(|| wrong(value.type_str()))?],
        };
        match key.used {
            Use::Flag(flag) | Use::Alias(flag) => {
                let values = match key.kind {
                    Kind::Path => values.iter().map(|v| self.resolve(v)).collect(),
                    Kind::Model => values.iter().map(|v| self.resolve_model(v)).collect(),
                    _ => values,
                };
                self.add(FileValue { flag, key: key.path, line: self.line(at), values })?;
            }
            Use::Only(allowed, why) => {
                if let Some(value) = values.iter().find(|v| !allowed.contains(&v.as_str())) {
                    return Err(self.problem(at, format!("{} = {value}: {why}", key.path)));
                }
            }
            Use::Nothing(why) => {
                let path = self.path.display();
                self.found.notes.push(format!("{path}: {} has no effect: {why}", key.path));
            }
            Use::Lora => {
                self.loras.at = at;
                match key.kind {
                    Kind::Texts => self.loras.paths = values,
                    _ => self.loras.scales = values,
                }
            }
        }
        Ok(())
    }

    /// Two names for one flag must agree.
    fn add(&mut self, new: FileValue) -> Result<(), SettingsError> {
        let Some(old) = self.found.values.iter().find(|old| old.flag == new.flag) else {
            self.found.values.push(new);
            return Ok(());
        };
        if old.values == new.values {
            return Ok(());
        }
        let problem =
            format!("{} and {} set the same value and differ; remove one", old.key, new.key);
        Err(self.problem_in(new.line, problem))
    }

    fn resolve(&self, value: &str) -> String {
        let path = match (value.strip_prefix("~/"), dirs::home_dir()) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.path.parent().unwrap_or(Path::new("")).join(value),
        };
        path.to_string_lossy().into_owned()
    }

    fn resolve_model(&self, value: &str) -> String {
        let path = self.resolve(value);
        let named = value.contains('/') && !value.starts_with(['~', '.', '/']);
        let is_path = !named || Path::new(&path).exists();
        if is_path { path } else { value.to_owned() }
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|b| *b == b'\n').count()
    }

    fn problem(&self, at: usize, problem: String) -> SettingsError {
        self.problem_in(self.line(at), problem)
    }

    fn problem_in(&self, line: usize, problem: String) -> SettingsError {
        SettingsError::Key { path: self.path.to_owned(), line, problem }
    }
}

/// The value as a flag would be given it.
fn scalar(kind: Kind, value: &DeValue<'_>) -> Option<String> {
    match (kind, value) {
        (Kind::Text | Kind::Path | Kind::Model, DeValue::String(text)) => {
            Some(text.clone().into_owned())
        }
        (Kind::Switch, DeValue::Boolean(on)) => Some(on.to_string()),
        (Kind::Integer | Kind::Number, DeValue::Integer(n)) if n.radix() == 10 => {
            Some(n.as_str().to_owned())
        }
        (Kind::Number, DeValue::Float(x)) => Some(x.as_str().to_owned()),
        _ => None,
    }
}

/// The number of a hexadecimal, octal or binary integer in decimal digits, which flags take.
fn decimal(digits: &str, radix: u32) -> Option<u128> {
    (radix != 10).then(|| u128::from_str_radix(digits, radix).ok()).flatten()
}

/// Where a file is looked for when none is named.
pub(crate) fn standard_path() -> Option<PathBuf> {
    let path = dirs::config_dir()?.join("llm-dit").join("config.toml");
    path.is_file().then_some(path)
}
