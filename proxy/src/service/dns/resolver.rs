//! The resolver, and what its records say.

use std::{collections::BTreeMap, time::Duration};

use hickory_resolver::{
    TokioResolver,
    proto::rr::{RData, Record},
};
use tokio::sync::mpsc::UnboundedSender;

use super::super::configured::{Answer, Found, Query};

/// No answer holds for less.
const SHORTEST: Duration = Duration::from_secs(1);
/// No answer holds for longer.
const LONGEST: Duration = Duration::from_secs(300);
/// After a failure; each further one in a row waits twice as long.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// More targets of SRV records are not looked up.
const MOST_TARGETS: usize = 256;

/// The resolver that the system is configured for.
pub(super) fn system() -> Result<TokioResolver, String> {
    let told =
        |error: hickory_resolver::net::NetError| format!("cannot use /etc/resolv.conf: {error}");
    let mut builder = TokioResolver::builder_tokio().map_err(told)?;
    // What is asked again is asked because its time is over.
    builder.options_mut().cache_size = 0;
    builder.build().map_err(told)
}

/// Asks until the receiver is dropped.
pub(super) async fn follow(
    resolver: &TokioResolver,
    query: Query,
    tell: UnboundedSender<(Query, Answer)>,
) {
    let mut retry = RETRY;
    loop {
        let answer = match &query {
            Query::Host(name) => host(resolver, name).await,
            Query::Srv(name) => srv(resolver, name).await,
        };
        let wait = match &answer {
            Ok((_, holds)) => {
                retry = RETRY;
                *holds
            }
            Err(_) => {
                let wait = retry;
                retry = (retry * 2).min(LONGEST_RETRY);
                wait
            }
        };
        if tell.send((query.clone(), answer)).is_err() {
            return;
        }
        tokio::time::sleep(wait).await;
    }
}

async fn host(resolver: &TokioResolver, name: &str) -> Answer {
    let answer = resolver.lookup_ip(name).await.map_err(|error| error.to_string())?;
    Ok(addresses(answer.as_lookup().answers()))
}

async fn srv(resolver: &TokioResolver, name: &str) -> Answer {
    let answer = resolver.srv_lookup(name).await.map_err(|error| error.to_string())?;
    let (targets, mut holds) = services(answer.answers());
    let mut found = Vec::new();
    for (target, of_target) in targets {
        // One name that is not known leaves the others.
        let Ok((addresses, time)) = host(resolver, &target).await else { continue };
        holds = holds.min(time);
        for address in addresses {
            found.extend(of_target.iter().map(|it| Found { ip: address.ip, ..*it }));
        }
    }
    if found.is_empty() {
        Err("no target of its SRV records has an address".into())
    } else {
        Ok((found, holds))
    }
}

/// The addresses in an answer, and how long it holds.
#[must_use]
pub fn addresses(records: &[Record]) -> (Vec<Found>, Duration) {
    let mut found: Vec<Found> = Vec::new();
    for ip in records.iter().filter_map(|record| record.data.ip_addr()) {
        // No server is at such an address, and garbage has them.
        if !ip.is_unspecified() && !ip.is_multicast() && found.iter().all(|it| it.ip != ip) {
            found.push(Found { ip, port: 0, weight: 1, tier: 0 });
        }
    }
    (found, holds(records))
}

/// The targets in an answer to a question for SRV records, with what each says of its endpoints, whose
/// addresses are still to be filled in; and how long the answer holds.
#[must_use]
pub fn services(records: &[Record]) -> (BTreeMap<String, Vec<Found>>, Duration) {
    let all = || {
        records.iter().filter_map(|record| match &record.data {
            // The root stands for "no such service" (RFC 2782).
            RData::SRV(srv) if srv.port != 0 && !srv.target.is_root() => Some(srv),
            _ => None,
        })
    };
    let mut priorities: Vec<_> = all().map(|srv| srv.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let mut targets: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for srv in all() {
        let tier = priorities.iter().position(|priority| *priority == srv.priority);
        let tier = tier.and_then(|tier| u8::try_from(tier).ok()).unwrap_or(u8::MAX).min(8);
        let target = srv.target.to_ascii();
        if targets.len() < MOST_TARGETS || targets.contains_key(&target) {
            let unspecified = std::net::Ipv4Addr::UNSPECIFIED.into();
            let weight = srv.weight.max(1);
            let found = Found { ip: unspecified, port: srv.port, weight, tier };
            targets.entry(target).or_default().push(found);
        }
    }
    (targets, holds(records))
}

// === helpers ===

fn holds(records: &[Record]) -> Duration {
    let shortest = records.iter().map(|record| record.ttl).min().unwrap_or(0);
    Duration::from_secs(shortest.into()).clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests;
