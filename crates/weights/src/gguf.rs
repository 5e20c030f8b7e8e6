//! GGUF files: the header, whose every number is checked before it is used.
//!
//! The layout is ggml's (`docs/gguf.md` there): a magic number, the version, key-value pairs, the
//! tensors' names, shapes, types and places, and then their data.

mod reader;
pub(crate) mod tokenizer;
mod types;

use std::collections::BTreeSet;

use reader::Reader;
pub use tokenizer::GgufTokenizer;

use crate::{
    metadata::{Metadata, Value},
    source::{Encoding, TensorSpan},
};

/// First bytes of such a file.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";

/// Most key-value pairs and tensors. Models have less than a tenth.
const MOST_ENTRIES: u64 = 1 << 16;
/// Axes of a tensor, as in ggml.
const MOST_AXES: u32 = 4;
/// Of the data, where the file says nothing else.
const ALIGNMENT: u64 = 32;
/// Largest that is taken for one.
const MOST_ALIGNMENT: u64 = 1 << 20;

/// Before the name of a tensor whose shape ComfyUI-GGUF changed: its own shape.
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// What a header says: the pairs, and the tensors that have values.
pub(crate) struct Header {
    pub metadata: Metadata,
    pub tensors: Vec<TensorSpan>,
}

/// Reads the header of a whole file; it is the part's file number `file`.
///
/// # Errors
///
/// What is wrong with it, and what can be done.
pub(crate) fn read(bytes: &[u8], file: usize) -> Result<Header, String> {
    let mut reader = Reader::new(bytes);
    let (tensors, pairs) = counts(&mut reader)?;
    let mut metadata = Metadata::default();
    for _ in 0..pairs {
        let key = reader.text("a key")?.to_owned();
        let value = reader.value(&key)?;
        if metadata.0.insert(key.clone(), value).is_some() {
            return Err(format!("it has the key '{}' twice", shown(&key)));
        }
    }
    let shards = metadata.get("split.count").and_then(Value::whole).unwrap_or(1);
    if shards > 1 {
        return Err(format!(
            "it is one of {shards} shards; join them with llama-gguf-split --merge, or download the file in one piece"
        ));
    }
    let alignment = alignment(&metadata)?;
    let mut entries = Vec::new();
    let mut names = BTreeSet::new();
    for _ in 0..tensors {
        let entry = Entry::read(&mut reader)?;
        if !names.insert(entry.name.clone()) {
            return Err(format!("it has the tensor '{}' twice", shown(&entry.name)));
        }
        entries.push(entry);
    }
    let start = (reader.at() as u64).next_multiple_of(alignment);
    let mut spans = Vec::new();
    for entry in entries {
        spans.extend(entry.span(start, alignment, bytes.len() as u64, &metadata, file)?);
    }
    // Messages about the first of something need an order that does not depend on the writer.
    spans.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Header { metadata, tensors: spans })
}

/// Magic number and version, and how many tensors and pairs follow.
fn counts(reader: &mut Reader<'_>) -> Result<(u64, u64), String> {
    if reader.bytes(MAGIC.len())? != MAGIC {
        return Err("it is not a GGUF file".into());
    }
    match reader.u32()? {
        2 | 3 => {}
        1 => {
            return Err("it is a GGUF file of version 1; convert the model again with a program of today, which writes version 3".into());
        }
        other if matches!(other.swap_bytes(), 1..=3) => {
            return Err("it is a GGUF file for big-endian machines; download the usual one".into());
        }
        other => {
            return Err(format!("it is a GGUF file of version {other}; versions 2 and 3 are read"));
        }
    }
    let (tensors, pairs) = (reader.u64()?, reader.u64()?);
    for (count, of) in [(tensors, "tensors"), (pairs, "key-value pairs")] {
        if count > MOST_ENTRIES {
            return Err(format!(
                "it says that it has {count} {of}, and {MOST_ENTRIES} at most are read; download it again if it is damaged"
            ));
        }
    }
    Ok((tensors, pairs))
}

fn alignment(metadata: &Metadata) -> Result<u64, String> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(ALIGNMENT) };
    let found = value.whole();
    found.filter(|n| n.is_power_of_two() && *n <= MOST_ALIGNMENT).ok_or_else(|| {
        format!(
            "its general.alignment is {value}; it must be a power of two of at most {MOST_ALIGNMENT}"
        )
    })
}

/// A tensor as the header has it.
struct Entry {
    name: String,
    /// The axis whose values are adjacent last, as everywhere else.
    shape: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl Entry {
    fn read(reader: &mut Reader<'_>) -> Result<Self, String> {
        let name = reader.text("a tensor's name")?.to_owned();
        let axes = reader.u32()?;
        if axes > MOST_AXES {
            return Err(format!(
                "tensor '{}' has {axes} axes, and {MOST_AXES} at most are read",
                shown(&name)
            ));
        }
        let mut shape = (0..axes).map(|_| reader.u64()).collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        Ok(Self { name, shape, kind: reader.u32()?, offset: reader.u64()? })
    }

    /// Where the tensor lies; `None` if it has no values.
    fn span(
        self,
        start: u64,
        alignment: u64,
        length: u64,
        metadata: &Metadata,
        file: usize,
    ) -> Result<Option<TensorSpan>, String> {
        let name = shown(&self.name);
        let (kind, format) = types::find(self.kind);
        let Some(format) = format else {
            return Err(format!(
                "tensor '{name}' is of the type {kind}, which is not read; use a file in Q2_K to Q8_0, IQ4_NL, IQ4_XS, F16, BF16 or F32"
            ));
        };
        if self.shape.contains(&0) {
            return Ok(None);
        }
        let too_large = || format!("tensor '{name}' of shape {:?} is too large", self.shape);
        let shape = self.shape.iter().map(|&n| usize::try_from(n)).collect::<Result<Vec<_>, _>>();
        let shape = shape.map_err(|_| too_large())?;
        let columns = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().rev().skip(1).try_fold(1usize, |all, &n| all.checked_mul(n));
        let values = rows.and_then(|rows| rows.checked_mul(columns)).ok_or_else(too_large)?;
        let Some(row) = format.row_bytes(columns) else {
            return Err(format!(
                "tensor '{name}' of type {kind} has rows of {columns} values, which are no whole number of blocks of {}",
                format.multiple()
            ));
        };
        let size = rows.and_then(|rows| row.checked_mul(rows)).ok_or_else(too_large)? as u64;
        if !self.offset.is_multiple_of(alignment) {
            return Err(format!(
                "tensor '{name}' is at {}, which is no multiple of the alignment {alignment}",
                self.offset
            ));
        }
        let from = start.checked_add(self.offset);
        let to = from.and_then(|from| from.checked_add(size)).filter(|to| *to <= length);
        let (Some(from), Some(to)) = (from, to) else {
            return Err(format!(
                "tensor '{name}' does not lie within its {length} bytes, so part of the file is missing; download it again"
            ));
        };
        let whole = match original_shape(&self.name, metadata)? {
            Some(original) if original.iter().product::<usize>() == values => original,
            Some(original) => {
                return Err(format!(
                    "'{ORIGINAL_SHAPE}{name}' is {original:?}, which is not as many values as {shape:?}"
                ));
            }
            None => shape,
        };
        let encoding = match types::plain(format) {
            Some(dtype) => Encoding::Plain(dtype),
            None => Encoding::Packed { format, columns, scales: None },
        };
        // Both are within the file, which is in memory.
        let bytes = from as usize..to as usize;
        Ok(Some(TensorSpan { name: self.name.into(), file, encoding, whole, bytes, rows: None }))
    }
}

/// The shape that ComfyUI-GGUF wrote down before it changed it.
fn original_shape(name: &str, metadata: &Metadata) -> Result<Option<Vec<usize>>, String> {
    let key = format!("{ORIGINAL_SHAPE}{name}");
    let Some(value) = metadata.get(&key) else { return Ok(None) };
    let axes = value.wholes().filter(|axes| {
        axes.len() <= 8 && axes.iter().try_fold(1usize, |all, &n| all.checked_mul(n)).is_some()
    });
    axes.map(Some).ok_or_else(|| format!("'{}' is no shape", shown(&key)))
}

/// A name of a file, short enough for a message.
fn shown(name: &str) -> String {
    llm_dit_params::excerpt(name)
}

#[cfg(test)]
mod tests;
