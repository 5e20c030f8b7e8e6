//! What a table of keys is made of.

/// The keys of one sort of file.
#[derive(Debug)]
pub struct Schema {
    pub keys: &'static [(&'static str, Rule)],
    /// Keys that come from a library and mean the same in all its files.
    pub library: Library,
}

/// Who wrote the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    Diffusers,
    Transformers,
    /// Its settings are those of many methods, most of which are about training: what the table does
    /// not have is passed over.
    Peft,
    /// A table inside such a file: nothing but its own keys.
    None,
}

/// What is done with a key.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// The part reads it, and cannot do without.
    Needed(Kind),
    /// The part reads it. Without it, or with null, the library's own default counts.
    Read(Kind),
    /// It changes no picture, whatever it says.
    Ignored,
    /// Only these values, as JSON, are what the part does; the library's default is among them.
    Only(&'static [&'static str]),
    /// As [`Rule::Only`], but the library's default is another value, so the key must be there.
    Must(&'static [&'static str]),
    /// A list of which every element is one of these values.
    Each(&'static [&'static str]),
    /// Only null; and why.
    Never(&'static str),
}

/// The sort of a value.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// 0, 1, 2 and so on.
    Whole,
    /// Finite, as a file can only say it.
    Number,
    Switch,
    Text,
    /// A list of [`Kind::Whole`].
    Wholes,
    /// A list of [`Kind::Text`].
    TextList,
    /// An object whose values are texts.
    Texts,
    /// An object whose values are numbers.
    NumbersByName,
    /// One [`Kind::Whole`], or a list that begins with it.
    Side,
    /// A list of so many numbers.
    Numbers(usize),
    /// A list of such lists.
    Rows(usize),
    /// An object with keys of its own.
    Table(&'static Schema),
    /// A library and a class of it, as `model_index.json` has them.
    Class(&'static [&'static str]),
}
