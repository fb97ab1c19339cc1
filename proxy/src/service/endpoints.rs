//! The endpoints of one port of a service, as connections see them.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use fastrand::Rng;

use super::{Place, Policy, names::Names, selection::Selected};
use crate::{
    balance::{Member, Moment, Pool, Stats},
    telemetry::Answer,
};

/// How much farther away an endpoint of another zone is.
const OTHER_ZONE: f32 = 1.5;
/// How long an endpoint is spared that is at its limit. Its own wish (`Retry-After`, RFC 9110 §10.2.3) is
/// not read: heads are not kept for it.
const PAUSE: Duration = Duration::from_secs(1);
/// How much farther away each further tier is: it is used when those before it fail.
const TIER: f32 = 1000.0;

/// All endpoints of a port, and the pool of those that are used.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// Those of the pool first, in its order.
    all: Box<[Endpoint]>,
    pool: Pool,
}

/// An endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Its availability zone.
    pub zone: Option<Arc<str>>,
    /// Its node.
    pub node: Option<Arc<str>>,
    /// 1 is usual.
    pub weight: u16,
    /// Whether it is used, or why it is not.
    pub used: Use,
    /// What is known of it.
    pub stats: Arc<Stats>,
}

/// Whether an endpoint is used, or why it is not. In this order in [`Endpoints`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// It is meant for clients that are here.
    Preferred,
    /// It is used.
    Used,
    /// It is about to end.
    Terminating,
    /// It is not ready.
    NotReady,
    /// It is on another node than the only one that the service allows.
    OtherNode,
}

// === impl Use ===

impl Use {
    /// Whether it is used.
    #[must_use]
    pub const fn is_used(self) -> bool {
        matches!(self, Self::Preferred | Self::Used)
    }

    /// As in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preferred => "preferred",
            Self::Used => "used",
            Self::Terminating => "terminating",
            Self::NotReady => "not_ready",
            Self::OtherNode => "other_node",
        }
    }
}

// === impl Endpoints ===

impl Endpoints {
    /// Those that were selected; what was known of an endpoint before is known of it still.
    pub(super) fn new(
        selected: &[Selected],
        before: Option<&Self>,
        policy: &Policy,
        (names, place): (&Names, &Place),
    ) -> Self {
        let known: HashMap<SocketAddr, &Endpoint> = before
            .map(|before| before.all.iter().map(|it| (it.address, it)).collect())
            .unwrap_or_default();
        let stats = |it: &Selected| {
            let known = known.get(&it.address);
            let stats = known.map_or_else(Arc::default, |known| Arc::clone(&known.stats));
            let was_used = known.is_some_and(|known| known.used.is_used());
            if before.is_some() && it.used.is_used() && !was_used {
                stats.start(Moment::now());
            }
            stats
        };
        let all: Box<[_]> = selected
            .iter()
            .map(|it| Endpoint {
                address: it.address,
                zone: names.get(it.zone).cloned(),
                node: names.get(it.node).cloned(),
                weight: it.weight,
                used: it.used,
                stats: stats(it),
            })
            .collect();
        let members: Box<[_]> = all
            .iter()
            .zip(selected)
            .filter(|(it, _)| it.used.is_used())
            .map(|(it, selected)| Member {
                stats: Arc::clone(&it.stats),
                distance: distance(it, place) * TIER.powi(i32::from(selected.tier)),
                weight: f32::from(it.weight),
            })
            .collect();
        let preferred = all.iter().filter(|it| it.used == Use::Preferred).count();
        let pool = Pool::new(members, preferred, policy.breaker);
        let pool = pool.with_slow_start(policy.slow_start);
        Self { all, pool }
    }

    /// A request is over that was sent to this member.
    pub(super) fn learn(&self, member: usize, time_to_head: Option<Duration>, answer: Answer) {
        let (pool, now) = (&self.pool, Moment::now());
        let stats = pool.stats(member);
        stats.requested();
        match (answer, time_to_head) {
            (Answer::Failed, time) => {
                pool.failed(member, time.unwrap_or_default(), now, &mut Rng::new());
            }
            (Answer::Limited, _) => stats.limited(PAUSE, now),
            (Answer::Served, Some(time)) => stats.answered(time, now),
            (Answer::Served, None) => {}
        }
    }

    /// All of them, the pool's first.
    #[must_use]
    pub const fn all(&self) -> &[Endpoint] {
        &self.all
    }

    /// The members of the pool, by their place in it.
    pub(super) fn members(&self) -> impl Iterator<Item = (usize, &Endpoint)> {
        self.all.iter().take(self.pool.len()).enumerate()
    }

    /// Those that are used.
    #[must_use]
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }
}

// === helpers ===

fn distance(endpoint: &Endpoint, place: &Place) -> f32 {
    match (&endpoint.zone, &place.zone) {
        (Some(there), Some(here)) if there != here => OTHER_ZONE,
        _ => 1.0,
    }
}
