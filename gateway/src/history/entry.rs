//! The history's metadata of a picture.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records::{
    picture::{About, Made},
    request::GenerateBody,
};

/// Metadata of a picture, beside its id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// When it was made, after RFC 3339.
    pub timestamp: String,
    pub media_type: String,
    /// Size of the file.
    pub bytes: u64,
    pub generation_time: f64,
    pub formatted_prompt: String,
    pub parameters: GenerateBody,
    /// Why the file does not hold its parameters, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters_omitted: Option<String>,
}

/// A picture's file.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    pub file: Bytes,
    pub media_type: String,
    /// Likewise.
    pub parameters_omitted: Option<String>,
}

/// Entries with their ids, newest first.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub entries: Vec<(u64, Entry)>,
    /// Number of all entries.
    pub total: u64,
}

impl Entry {
    /// What is to be known of a picture that was made now.
    pub fn of(made: &Made) -> Self {
        Self::from_about(&made.about, made.file.len() as u64, Timestamp::now().to_string())
    }

    /// Likewise, of a picture of so many bytes that was made then.
    pub fn from_about(about: &About, bytes: u64, timestamp: String) -> Self {
        Self {
            timestamp,
            media_type: about.media_type.clone(),
            bytes,
            generation_time: about.seconds,
            formatted_prompt: about.formatted_prompt.clone(),
            parameters: about.parameters.clone(),
            parameters_omitted: about.parameters_omitted.clone(),
        }
    }
}
