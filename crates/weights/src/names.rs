//! What a tensor of a file is called by the model, which is the caller's knowledge.

/// Where a tensor of a file goes: to a tensor of the model, whole or by a share of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The model's name for it.
    pub name: String,
    /// The share that goes there; `None`: all of it.
    pub rows: Option<Rows>,
}

/// The `index`-th of `of` equal shares along the first axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    pub index: usize,
    pub of: usize,
}

impl Part {
    pub fn whole(name: impl Into<String>) -> Self {
        Self { name: name.into(), rows: None }
    }
}
