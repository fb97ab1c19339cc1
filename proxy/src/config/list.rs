//! Lists of tables, each of which is compared with those before it: so an error has the place of the table
//! that is wrong.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer,
    },
};

/// A table of a list.
pub(super) trait Listed: for<'de> Deserialize<'de> {
    /// What one is called in an error.
    const NAME: &'static str;

    /// Whether it can stand behind these.
    ///
    /// # Errors
    /// Why not.
    fn check(&self, before: &[Self]) -> Result<(), String>;
}

/// Reads all of them.
///
/// # Errors
/// At the one that is wrong.
pub(super) fn all<'de, T: Listed, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(All(PhantomData))
}

struct All<T>(PhantomData<T>);

/// One more than these.
struct Another<'a, T>(&'a [T]);

// === impl All ===

impl<'de, T: Listed> Visitor<'de> for All<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", T::NAME)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = seq.next_element_seed(Another(&all))? {
            all.push(one);
        }
        Ok(all)
    }
}

// === impl Another ===

impl<'de, T: Listed> DeserializeSeed<'de> for Another<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: Listed> Visitor<'de> for Another<'_, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {}", T::NAME)
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
        let one = T::deserialize(MapAccessDeserializer::new(map))?;
        one.check(self.0).map_err(M::Error::custom)?;
        Ok(one)
    }
}
