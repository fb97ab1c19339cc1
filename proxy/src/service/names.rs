//! Each name of a zone, node or port once.

use std::{collections::HashMap, sync::Arc};

/// A name; zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NameId(u32);

/// All names. None is ever removed: a cluster has few zones, and nodes come and go slowly.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_name: HashMap<Arc<str>, NameId>,
    all: Vec<Arc<str>>,
}

// === impl Names ===

impl Names {
    pub(super) fn id(&mut self, name: &str) -> NameId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let name: Arc<str> = name.into();
        self.all.push(Arc::clone(&name));
        let id = NameId(u32::try_from(self.all.len()).unwrap_or(0));
        self.by_name.insert(name, id);
        id
    }

    pub(super) fn optional(&mut self, name: Option<&Arc<str>>) -> NameId {
        name.map_or(NameId::default(), |name| self.id(name))
    }

    /// The id of a name that is known.
    pub(super) fn find(&self, name: Option<&str>) -> NameId {
        name.and_then(|name| self.by_name.get(name)).copied().unwrap_or_default()
    }

    pub(super) fn get(&self, id: NameId) -> Option<&Arc<str>> {
        self.all.get(usize::try_from(id.0).ok()?.checked_sub(1)?)
    }
}

// === impl NameId ===

impl NameId {
    pub(super) const fn is_none(self) -> bool {
        self.0 == 0
    }
}
