//! Checks an object against its table.

use llm_dit_params::nearest;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    shared,
    types::{Kind, Library, Rule, Schema},
    words::{excerpt, list},
};

impl Schema {
    /// The object as `T`, which reads what this schema says is read.
    ///
    /// # Errors
    ///
    /// The first key that is unknown, missing, or has a value that is not supported.
    pub fn read<T: DeserializeOwned>(&self, object: &Map<String, Value>) -> Result<T, String> {
        self.check(object)?;
        // A key with null is one that says nothing.
        let told = object.iter().filter(|(_, value)| !value.is_null());
        let told = told.map(|(key, value)| (key.clone(), value.clone())).collect();
        serde_json::from_value(Value::Object(told)).map_err(|e| e.to_string())
    }

    /// Checks every key.
    ///
    /// # Errors
    ///
    /// As [`Schema::read`].
    pub fn check(&self, object: &Map<String, Value>) -> Result<(), String> {
        for (key, value) in object {
            match self.rule(key) {
                Some(rule) => rule.check(value).map_err(|why| format!("'{key}' {why}"))?,
                None if self.passes_over(key) => {}
                None => return Err(self.unknown(key)),
            }
        }
        for (key, rule) in self.keys {
            match rule {
                Rule::Needed(kind) if !object.contains_key(*key) => {
                    return Err(format!("'{key}' is missing; it is {kind}"));
                }
                Rule::Must(values) if !object.contains_key(*key) => {
                    return Err(format!("'{key}' is missing; it must be {}", list(values)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Keys that begin with an underscore are a library's notes to itself.
    fn passes_over(&self, key: &str) -> bool {
        match self.library {
            Library::Diffusers | Library::Transformers => key.starts_with('_'),
            Library::Peft => true,
            Library::None => false,
        }
    }

    fn rule(&self, key: &str) -> Option<&Rule> {
        let shared = shared::keys(self.library).iter().flat_map(|keys| *keys);
        self.keys.iter().chain(shared).find(|(name, _)| *name == key).map(|(_, rule)| rule)
    }

    fn unknown(&self, key: &str) -> String {
        let names = self.keys.iter().map(|(name, _)| *name);
        let like = nearest(key, names.clone());
        let hint = like.map(|name| format!("did you mean '{name}'? ")).unwrap_or_default();
        let known: Vec<&str> = names.collect();
        let key = excerpt(key);
        format!("'{key}' is not a known key; {hint}known are {}", known.join(", "))
    }
}

impl Rule {
    fn check(&self, value: &Value) -> Result<(), String> {
        match self {
            Self::Ignored => Ok(()),
            Self::Read(_) | Self::Never(_) if value.is_null() => Ok(()),
            Self::Needed(kind) | Self::Read(kind) => kind.check(value),
            Self::Only(values) | Self::Must(values) if is_one_of(value, values) => Ok(()),
            Self::Only(values) | Self::Must(values) => {
                let value = excerpt(&value.to_string());
                Err(format!("is {value}, which is not supported; it must be {}", list(values)))
            }
            Self::Each(_) if value.is_null() => Ok(()),
            Self::Each(values) => match value {
                Value::Array(all) if all.iter().all(|one| is_one_of(one, values)) => Ok(()),
                _ => {
                    let value = excerpt(&value.to_string());
                    let values = list(values);
                    Err(format!("is {value}, which is not supported; each must be {values}"))
                }
            },
            Self::Never(why) => Err(format!("is not supported: {why}")),
        }
    }
}

/// Compares as Python does: 2 is 2.0.
fn is_one_of(value: &Value, accepted: &[&str]) -> bool {
    accepted.iter().any(|text| match serde_json::from_str::<Value>(text) {
        Ok(accepted) if accepted.is_number() && value.is_number() => {
            accepted.as_f64() == value.as_f64()
        }
        Ok(accepted) => accepted == *value,
        Err(_) => false,
    })
}

impl Kind {
    /// Whether the value is one.
    ///
    /// # Errors
    ///
    /// What it must be, to follow the key in a sentence.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        let good = match (self, value) {
            (Self::Table(schema), Value::Object(object)) => {
                return schema.check(object).map_err(|why| format!("has a bad entry: {why}"));
            }
            (Self::Class(known), value) => return check_class(known, value),
            (Self::Whole, value) => is_whole(value),
            (Self::Number, value) => value.is_number(),
            (Self::Switch, value) => value.is_boolean(),
            (Self::Text, value) => value.is_string(),
            (Self::Wholes, Value::Array(all)) => all.iter().all(is_whole),
            (Self::TextList, Value::Array(all)) => all.iter().all(Value::is_string),
            (Self::Texts, Value::Object(all)) => all.values().all(Value::is_string),
            (Self::NumbersByName, Value::Object(all)) => all.values().all(Value::is_number),
            (Self::Side, Value::Array(all)) => !all.is_empty() && all.iter().all(is_whole),
            (Self::Side, value) => is_whole(value),
            (Self::Numbers(n), value) => is_row(value, *n),
            (Self::Rows(n), Value::Array(all)) => all.iter().all(|row| is_row(row, *n)),
            (
                Self::Table(_)
                | Self::Wholes
                | Self::TextList
                | Self::Texts
                | Self::NumbersByName
                | Self::Rows(_),
                _,
            ) => false,
        };
        let value = || excerpt(&value.to_string());
        if good { Ok(()) } else { Err(format!("is {}; it must be {self}", value())) }
    }
}

/// Sizes are numbers of 32 bits everywhere; a larger one is a mistake that memory would be taken for.
fn is_whole(value: &Value) -> bool {
    value.as_u64().is_some_and(|n| n <= u64::from(u32::MAX))
}

fn is_row(value: &Value, numbers: usize) -> bool {
    value.as_array().is_some_and(|all| all.len() == numbers && all.iter().all(Value::is_number))
}

fn check_class(known: &[&str], value: &Value) -> Result<(), String> {
    let names = value.as_array().map(|all| all.iter().map(Value::as_str).collect::<Vec<_>>());
    match names.as_deref() {
        // The part is left out; whether it is needed, its loading tells.
        Some([None, None]) => Ok(()),
        Some([Some(_), Some(class)]) if known.contains(class) => Ok(()),
        Some([Some(_), Some(class)]) => {
            let (class, known) = (excerpt(class), known.join(" or "));
            Err(format!("is {class}, which is not supported; it must be {known}"))
        }
        _ => {
            let value = excerpt(&value.to_string());
            Err(format!("is {value}; it must be a list of a library and a class"))
        }
    }
}
