//! How evenly a service's connections and requests are spread over its endpoints, and what balancing
//! each request by itself would give.

use std::time::Duration;

use serde::Serialize;

use super::{EndpointReport, ServiceReport, ServicesReport};
use crate::balance::Mode;

/// One service over some time, with counts, or with rates per second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread<N = u64> {
    /// Its name, with the port if that has one, as in metrics.
    pub service: String,
    /// The mode in effect by default.
    pub mode: Mode,
    /// Endpoints that are used.
    pub endpoints: usize,
    /// Choices of an endpoint: for each connection, or each request where they are balanced.
    pub chosen: N,
    /// Requests that were seen to end.
    pub requests: N,
    /// Of choices: the most that an endpoint got by the mean; absent without any.
    pub skew: Option<f64>,
    /// The same of requests: what the endpoints really have to do.
    pub request_skew: Option<f64>,
    /// What it would be if each request had been balanced by itself.
    pub balanced_request_skew: Option<f64>,
}

// === impl Spread ===

impl Spread {
    /// Of the services in use, since their first connection.
    #[must_use]
    pub fn total(report: &ServicesReport) -> Vec<Self> {
        Self::between(&ServicesReport::default(), report)
    }

    /// What has happened from one report to the next, the busiest first; services at which nothing has
    /// happened are left out.
    #[must_use]
    pub fn between(before: &ServicesReport, after: &ServicesReport) -> Vec<Self> {
        let of = |now: &ServiceReport| {
            let then = before.services.iter().find(|then| then.is_same(now));
            Self::of(then, now)
        };
        let mut all: Vec<_> = after.services.iter().map(of).filter(|it| !it.is_idle()).collect();
        all.sort_by_key(|it| std::cmp::Reverse((it.requests, it.chosen)));
        all
    }

    fn of(before: Option<&ServiceReport>, after: &ServiceReport) -> Self {
        let used = || after.endpoints.iter().filter(|it| it.is_used());
        let then = |address| {
            let endpoints = &before?.endpoints;
            endpoints.iter().find(|it: &&EndpointReport| it.address == address)
        };
        let grown = |of: fn(&EndpointReport) -> u64| {
            used().map(move |now| {
                // One whose counters have gone back was away meanwhile, or weir was.
                let before = then(now.address).map_or(0, of);
                of(now).checked_sub(before).unwrap_or_else(|| of(now))
            })
        };
        let chosen = || grown(|it| it.chosen);
        let requests = || grown(|it| it.requests);
        Self {
            service: after.label(),
            mode: after.mode,
            endpoints: used().count(),
            chosen: chosen().sum(),
            requests: requests().sum(),
            skew: skew(chosen()),
            request_skew: skew(requests()),
            balanced_request_skew: balanced_skew(requests()),
        }
    }

    const fn is_idle(&self) -> bool {
        self.chosen == 0 && self.requests == 0
    }

    /// The same per second.
    #[must_use]
    pub fn per_second(self, interval: Duration) -> Spread<f64> {
        let rate = |count: u64| count as f64 / interval.as_secs_f64();
        Spread {
            service: self.service,
            mode: self.mode,
            endpoints: self.endpoints,
            chosen: rate(self.chosen),
            requests: rate(self.requests),
            skew: self.skew,
            request_skew: self.request_skew,
            balanced_request_skew: self.balanced_request_skew,
        }
    }
}

// === helpers ===

/// The largest count by the mean; `None` where there is nothing.
pub(super) fn skew(counts: impl Iterator<Item = u64>) -> Option<f64> {
    let (mut total, mut most, mut number) = (0, 0, 0_u64);
    for count in counts {
        (total, most, number) = (total + count, most.max(count), number + 1);
    }
    (total > 0).then(|| most as f64 * number as f64 / total as f64)
}

/// The same if they had been dealt out in turn: they differ by one at most.
pub(super) fn balanced_skew(counts: impl Iterator<Item = u64>) -> Option<f64> {
    let (total, number) = counts.fold((0, 0_u64), |(sum, number), it| (sum + it, number + 1));
    (total > 0).then(|| total.div_ceil(number) as f64 * number as f64 / total as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        balance::Moment,
        service::{
            Origin, Services,
            tests::{service, slice},
        },
    };

    fn services() -> Services {
        let services = Services::default();
        let deltas = [
            service("shop/cart", &["10.96.0.1:80"]),
            slice("a", "shop/cart", 80, &["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"]),
            service("shop/idle", &["10.96.0.2:80"]),
            slice("b", "shop/idle", 80, &["10.1.0.1"]),
        ];
        services.apply(Origin::Config, deltas).unwrap();
        services
    }

    /// A connection to an endpoint with so many requests.
    fn connection(services: &Services, endpoint: usize, requests: u64) {
        let target = services.find("10.96.0.1:80".parse().unwrap()).unwrap();
        let endpoints = services.endpoints(&target);
        let stats = &endpoints.all()[endpoint].stats;
        drop(stats.begin());
        for _ in 0..requests {
            stats.requested();
            stats.answered(Duration::from_millis(1), Moment::now());
        }
    }

    #[test]
    fn requests_are_spread_worse_than_their_connections_and_would_be_even() {
        let services = services();
        (0..4).for_each(|endpoint| connection(&services, endpoint, 0));
        connection(&services, 1, 8);
        connection(&services, 2, 2);
        let all = Spread::total(&services.report(None));
        let [cart] = &all[..] else { panic!("{all:?}") };
        assert_eq!((&*cart.service, cart.endpoints), ("shop/cart", 4));
        assert_eq!((cart.chosen, cart.requests), (6, 10));
        assert_eq!(cart.skew, Some(2.0 * 4.0 / 6.0));
        assert_eq!(cart.request_skew, Some(8.0 * 4.0 / 10.0));
        assert_eq!(cart.balanced_request_skew, Some(3.0 * 4.0 / 10.0));
        let report = &services.report(Some("cart")).services[0];
        assert_eq!(report.skew, cart.skew);
        assert_eq!(report.balanced_request_skew, cart.balanced_request_skew);
    }

    #[test]
    fn an_interval_has_its_own_skew() {
        let services = services();
        connection(&services, 0, 1000);
        let before = services.report(None);
        assert_eq!(Spread::between(&before, &before), []);
        (0..4).for_each(|endpoint| connection(&services, endpoint, 5));
        let after = services.report(None);
        let all = Spread::between(&before, &after);
        let [cart] = &all[..] else { panic!("{all:?}") };
        assert_eq!((cart.chosen, cart.requests, cart.request_skew), (4, 20, Some(1.0)));
        let rate = cart.clone().per_second(Duration::from_secs(2));
        assert_eq!((rate.chosen, rate.requests, rate.request_skew), (2.0, 10.0, Some(1.0)));
        // Another weir has begun to count anew.
        let all = Spread::between(&after, &before);
        assert_eq!(all[0].requests, 1000);
    }
}
