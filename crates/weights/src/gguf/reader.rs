//! Numbers, text and values of a header, one after the other.

use crate::metadata::Value;

/// Longest text of a key, a tensor's name or a value that is kept. Chat templates and vocabularies are
/// longer, and not kept.
const MOST_TEXT: usize = 1 << 16;
/// Largest array of numbers that is kept.
const MOST_NUMBERS: u64 = 1 << 10;
/// Arrays within arrays.
const DEPTH: usize = 4;

/// What is left of a header.
pub(super) struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

/// Bytes of a number of each type; text and arrays have none.
fn width(kind: u32) -> Option<usize> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

const TEXT: u32 = 8;
const ARRAY: u32 = 9;

impl<'a> Reader<'a> {
    pub fn new(all: &'a [u8]) -> Self {
        Self { all, at: 0 }
    }

    /// Bytes that were read.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], String> {
        let rest = self.all.get(self.at..).unwrap_or_default();
        let Some(bytes) = rest.get(..count) else {
            return Err(
                "its header is longer than the file, so part of it is missing; download it again"
                    .into(),
            );
        };
        self.at += count;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.bytes(N)?;
        // As many as were asked for.
        Ok(bytes.first_chunk().copied().unwrap_or([0; N]))
    }

    pub fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Bytes behind their count.
    fn counted(&mut self) -> Result<&'a [u8], String> {
        let count = self.u64()?;
        self.bytes(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// A short text; `what` is what it is.
    pub fn text(&mut self, what: &str) -> Result<&'a str, String> {
        let bytes = self.counted()?;
        if bytes.len() > MOST_TEXT {
            return Err(format!("{what} in its header has {} bytes", bytes.len()));
        }
        std::str::from_utf8(bytes).map_err(|_| format!("{what} in its header is not UTF-8"))
    }

    /// A type and a value of it; `key` is what has it.
    pub fn value(&mut self, key: &str) -> Result<Value, String> {
        let kind = self.u32()?;
        self.value_of(kind, key, 0)
    }

    fn value_of(&mut self, kind: u32, key: &str, depth: usize) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Whole(self.array::<1>()?[0].into()),
            1 => Value::Whole(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Whole(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Whole(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Whole(self.u32()?.into()),
            5 => Value::Whole(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            TEXT => match std::str::from_utf8(self.counted()?) {
                Ok(text) if text.len() <= MOST_TEXT => Value::Text(text.to_owned()),
                // What is looked at is short.
                _ => Value::Other,
            },
            ARRAY => self.array_of(key, depth)?,
            10 => Value::Whole(self.u64()?.into()),
            11 => Value::Whole(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(format!("'{}' is of the unknown type {kind}", super::shown(key))),
        })
    }

    fn array_of(&mut self, key: &str, depth: usize) -> Result<Value, String> {
        if depth == DEPTH {
            return Err(format!("'{}' has arrays within arrays", super::shown(key)));
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        if let Some(width) = width(kind) {
            if count <= MOST_NUMBERS {
                let numbers = (0..count)
                    .map(|_| self.value_of(kind, key, depth + 1))
                    .collect::<Result<Vec<_>, _>>()?;
                let wholes = numbers.iter().map(|number| match number {
                    Value::Whole(number) => Some(*number),
                    _ => None,
                });
                return Ok(wholes.collect::<Option<_>>().map_or(Value::Other, Value::Wholes));
            }
            let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(width));
            self.bytes(bytes.unwrap_or(usize::MAX))?;
            return Ok(Value::Other);
        }
        // Every element takes at least the bytes of its count, so this ends with the file.
        for _ in 0..count {
            match kind {
                TEXT => drop(self.counted()?),
                ARRAY => drop(self.array_of(key, depth + 1)?),
                _ => {
                    return Err(format!("'{}' is of the unknown type {kind}", super::shown(key)));
                }
            }
        }
        Ok(Value::Other)
    }

    /// An array of text as it is, of a key that is looked for; other values are passed over.
    pub fn texts(&mut self) -> Result<Option<Vec<&'a [u8]>>, String> {
        if self.u32()? != ARRAY {
            return Ok(None);
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        if kind != TEXT {
            return Ok(None);
        }
        // No room in advance for what the file only claims.
        (0..count).map(|_| self.counted()).collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// Likewise of whole numbers of 32 bits.
    pub fn numbers(&mut self) -> Result<Option<Vec<i32>>, String> {
        if self.u32()? != ARRAY {
            return Ok(None);
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        if !matches!(kind, 4 | 5) {
            return Ok(None);
        }
        let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(4));
        let bytes = self.bytes(bytes.unwrap_or(usize::MAX))?;
        Ok(Some(bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()))
    }

    /// Looks at a value without going past it.
    pub fn peek<T>(&self, look: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        look(&mut Self { all: self.all, at: self.at })
    }
}
