//! Some members of an object, as if it had no others.
//!
//! A body of OpenAI's API is two objects in one. Each is read from the client's own text, so that what
//! is wrong is told with its place there.

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, IntoDeserializer as _, MapAccess, Visitor},
    forward_to_deserialize_any,
};

/// Reads an object with those members whose names `keep` takes.
pub(super) struct Members<D, F> {
    pub inner: D,
    pub keep: F,
}

impl<'de, D: Deserializer<'de>, F: Fn(&str) -> bool> Deserializer<'de> for Members<D, F> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_map(Sieve { visitor, keep: self.keep })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Sieve<V, F> {
    visitor: V,
    keep: F,
}

impl<'de, V: Visitor<'de>, F: Fn(&str) -> bool> Visitor<'de> for Sieve<V, F> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Kept { map, keep: self.keep })
    }
}

struct Kept<A, F> {
    map: A,
    keep: F,
}

impl<'de, A: MapAccess<'de>, F: Fn(&str) -> bool> MapAccess<'de> for Kept<A, F> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.map.next_key::<Cow<'_, str>>()? {
            if (self.keep)(&key) {
                return seed.deserialize(key.into_deserializer()).map(Some);
            }
            self.map.next_value::<IgnoredAny>()?;
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}
