//! A value under its name: `{"name":value}`, or `"name"` for one that has no content.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, IntoDeserializer, MapAccess, Visitor},
};

/// A type that stands for a name.
pub(super) trait Named {
    /// The name.
    const NAME: &'static str;
}

/// A value under the name that `N` stands for.
#[derive(Debug)]
pub(super) struct Tagged<T, N>(T, PhantomData<fn() -> N>);

struct Reader<T, N>(PhantomData<fn() -> (T, N)>);

// === impl Tagged ===

impl<T, N> Tagged<T, N> {
    pub(super) const fn new(value: T) -> Self {
        Self(value, PhantomData)
    }

    pub(super) fn into_value(self) -> T {
        self.0
    }
}

impl<T: Serialize, N: Named> Serialize for Tagged<&T, N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A type without content has no bytes.
        if size_of::<T>() == 0 {
            serializer.serialize_unit_variant("", 0, N::NAME)
        } else {
            serializer.serialize_newtype_variant("", 0, N::NAME, self.0)
        }
    }
}

impl<'de, T: Deserialize<'de>, N: Named> Deserialize<'de> for Tagged<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader::<T, N>(PhantomData)).map(Self::new)
    }
}

impl<'de, T: Deserialize<'de>, N: Named> Visitor<'de> for Reader<T, N> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", N::NAME)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<T, E> {
        known::<N, E>(name)?;
        T::deserialize(().into_deserializer())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let name: Option<String> = map.next_key()?;
        known::<N, A::Error>(&name.unwrap_or_default())?;
        let value = map.next_value()?;
        match map.next_key::<String>()? {
            None => Ok(value),
            Some(more) => Err(A::Error::custom(format!("unexpected `{more}`"))),
        }
    }
}

fn known<N: Named, E: Error>(name: &str) -> Result<(), E> {
    if name == N::NAME {
        return Ok(());
    }
    let expected = N::NAME;
    Err(E::custom(format!(
        "`{name}` instead of `{expected}`; client and daemon have different versions"
    )))
}
