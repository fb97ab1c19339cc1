//! Which of several matches counts (HTTPRoute and GRPCRoute of the Gateway API, "rules").

use std::cmp::Reverse;

use super::{
    Match, PathMatch, Route,
    matches::{GrpcMatch, TextMatch},
};

/// What sorts matches: the least counts. An exact path is before an expression, and that before a
/// prefix, of which the longest is first; then the method, the number of fields, that of parameters; then
/// the age of the route, its name, and the place in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    class: u8,
    length: Reverse<usize>,
    /// Of a call whose service is not said.
    length_of_method: Reverse<usize>,
    has_no_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    /// One without a time is the youngest.
    created: (bool, Box<str>),
    name: std::sync::Arc<str>,
    place: (usize, usize),
}

// === impl Rank ===

impl Rank {
    /// Of the match of a route at this place.
    pub(super) fn new(route: &Route, it: &Match, place: (usize, usize)) -> Self {
        let text = |it: &Option<TextMatch>| match it {
            Some(TextMatch::Exact(text)) => text.len(),
            _ => 0,
        };
        let (class, length, length_of_method) = match &it.path {
            PathMatch::Exact(path) => (0, path.len(), 0),
            PathMatch::Pattern(_) => (1, 0, 0),
            PathMatch::Prefix(path) => (2, path.len(), 0),
            PathMatch::Grpc(call) => match (call.simple(), call) {
                (Some(PathMatch::Exact(path)), _) => (0, path.len(), 0),
                (Some(PathMatch::Prefix(path)), _) => (2, path.len(), 0),
                // The method of any service.
                (_, GrpcMatch { service: None, method: Some(TextMatch::Exact(_)) }) => {
                    (2, 1, text(&call.method))
                }
                _ => (1, text(&call.service), text(&call.method)),
            },
        };
        let created = route.created.clone();
        Self {
            class,
            length: Reverse(length),
            length_of_method: Reverse(length_of_method),
            has_no_method: it.method.is_none(),
            headers: Reverse(it.headers.len()),
            query: Reverse(it.query.len()),
            created: (created.is_none(), created.unwrap_or_default()),
            name: std::sync::Arc::clone(&route.id.name),
            place,
        }
    }
}
