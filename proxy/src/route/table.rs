//! All rules for the requests to one destination, made for fast matching: by the path first, which most
//! of them name.

use std::{collections::HashMap, sync::Arc};

use weir_http::RequestView;

use super::{Match, PathMatch, Route, RouteKind, matches::elements, precedence::Rank};

/// The rules of some routes.
#[derive(Debug, Default)]
pub struct Table {
    /// What counts first is first.
    entries: Vec<Entry>,
    exact: HashMap<Box<[u8]>, Vec<usize>>,
    /// By the prefix without the slash at its end.
    prefixes: HashMap<Box<[u8]>, Vec<usize>>,
    /// The lengths of the prefixes, each once.
    lengths: Vec<usize>,
    others: Vec<usize>,
    has_http: bool,
}

#[derive(Debug)]
struct Entry {
    of: Match,
    kind: RouteKind,
    /// Which of the routes, and which of its rules.
    rule: (usize, usize),
}

/// The rule that counts for a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found<'a> {
    /// Which of the routes.
    pub route: usize,
    /// Which of its rules.
    pub rule: usize,
    /// What has matched.
    pub by: &'a Match,
}

// === impl Table ===

impl Table {
    /// Of all these routes.
    #[must_use]
    pub fn new(routes: &[Arc<Route>]) -> Self {
        let mut ranked = Vec::new();
        for (route_at, route) in routes.iter().enumerate() {
            for (rule_at, rule) in route.rules.iter().enumerate() {
                for (place, of) in rule.alternatives().iter().enumerate() {
                    let entry =
                        Entry { of: of.clone(), kind: route.id.kind, rule: (route_at, rule_at) };
                    ranked.push((Rank::new(route, of, (rule_at, place)), entry));
                }
            }
        }
        ranked.sort_by(|one, other| one.0.cmp(&other.0));
        let mut table = Self::default();
        for (place, (_, entry)) in ranked.into_iter().enumerate() {
            table.has_http |= entry.kind == RouteKind::Http;
            let simple = match &entry.of.path {
                PathMatch::Grpc(call) => call.simple(),
                path => Some(path.clone()),
            };
            let bucket = match simple {
                Some(PathMatch::Exact(path)) => {
                    table.exact.entry(path.as_bytes().into()).or_default()
                }
                Some(PathMatch::Prefix(path)) => {
                    let prefix = elements(&path).as_bytes();
                    if !table.lengths.contains(&prefix.len()) {
                        table.lengths.push(prefix.len());
                    }
                    table.prefixes.entry(prefix.into()).or_default()
                }
                _ => &mut table.others,
            };
            bucket.push(place);
            table.entries.push(entry);
        }
        table
    }

    /// The rule that counts for a request; `None` if none matches.
    #[must_use]
    pub fn find(&self, request: &RequestView<'_>) -> Option<Found<'_>> {
        let (path, is_grpc) = (request.path(), request.is_grpc());
        let mut best = usize::MAX;
        let mut look = |bucket: &[usize], checks_path: bool| {
            let met = |place: &&usize| {
                let entry = &self.entries[**place];
                (entry.kind == RouteKind::Http || is_grpc)
                    && (!checks_path || entry.of.path.is_met(path))
                    && entry.of.is_met(request)
            };
            let found = bucket.iter().take_while(|place| **place < best).find(met);
            best = found.copied().unwrap_or(best);
        };
        if let Some(bucket) = self.exact.get(path) {
            look(bucket, false);
        }
        for length in &self.lengths {
            if path.get(*length).is_none_or(|next| *next == b'/')
                && let Some(prefix) = path.get(..*length)
                && let Some(bucket) = self.prefixes.get(prefix)
            {
                look(bucket, false);
            }
        }
        look(&self.others, true);
        let entry = self.entries.get(best)?;
        Some(Found { route: entry.rule.0, rule: entry.rule.1, by: &entry.of })
    }

    /// Whether the rules say something of a request: those of calls alone say nothing of others.
    #[must_use]
    pub fn concerns(&self, request: &RequestView<'_>) -> bool {
        self.has_http || request.is_grpc()
    }
}
