//! Metrics by destination, for those who ask for them: of each workload and direction the destinations with
//! the most requests have series of their own, and all others share one. What a destination is called comes
//! from peers; how many series there are does not depend on them.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, RwLock},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::Counter, histogram::Histogram},
};

use super::{
    classify::Class,
    event::{Connection, Event},
    labels::Of,
    lock,
    name::host_name,
};
use crate::{
    config::DestinationLabel,
    decision::{Direction, direction_name},
    forward::http::Exchange,
    sync::{read, write},
};

/// The label of those without series of their own.
const OTHER: &str = "other";

/// Of each destination that is shown, so many others are counted from one scrape to the next, to be shown
/// then if they have more requests.
const WAITING: usize = 4;

/// In seconds. Few, because each is a series for each destination.
const BUCKETS: [f64; 11] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// Of each workload and direction.
type Tables = HashMap<(Arc<str>, Direction), Arc<Table>>;

/// Tells the service of an address.
type ServiceOf = Box<dyn Fn(SocketAddr) -> Option<Arc<str>> + Send + Sync>;

/// The tables of all workloads.
pub(super) struct Destinations {
    /// Destinations of a workload and direction that have series of their own.
    most: usize,
    label: DestinationLabel,
    service_of: RwLock<Option<ServiceOf>>,
    tables: RwLock<Tables>,
}

/// The destinations of a workload and direction.
#[derive(Debug)]
struct Table {
    of: Of,
    direction: Direction,
    entries: Mutex<Entries>,
}

#[derive(Debug)]
struct Entries {
    shown: HashMap<Arc<str>, Shown>,
    /// How often the others were asked for since the last scrape.
    waiting: HashMap<Arc<str>, u64>,
    other: Arc<Counters>,
}

/// A destination with series of its own.
#[derive(Debug, Default)]
struct Shown {
    counters: Arc<Counters>,
    /// How often it was asked for since the last scrape, and half of that before: who is busy now and then
    /// keeps its place.
    asked: u64,
}

#[derive(Debug)]
struct Counters {
    successes: Counter,
    failures: Counter,
    connections: Counter,
    failed: Counter,
    sent: Counter,
    received: Counter,
    latency: Histogram,
}

/// What a connection is counted in.
#[derive(Debug)]
pub(super) struct OfConnection {
    table: Arc<Table>,
    /// Once it is known what its destination is called.
    own: OnceLock<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    direction: &'static str,
    #[prometheus(flatten)]
    of: Of,
    destination: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    #[prometheus(flatten)]
    of: Labels,
    classification: &'static str,
}

// === impl Destinations ===

impl Destinations {
    /// `None` where none are asked for.
    pub(super) fn new(most: usize, label: DestinationLabel) -> Option<Arc<Self>> {
        let (service_of, tables) = (RwLock::default(), RwLock::default());
        (most > 0).then(|| Arc::new(Self { most, label, service_of, tables }))
    }

    pub(super) fn set_service_of(&self, service_of: ServiceOf) {
        *write(&self.service_of) = Some(service_of);
    }

    /// A connection of a workload begins.
    pub(super) fn open(&self, of: &Of, direction: Direction) -> OfConnection {
        let key = (Arc::clone(&of.workload), direction);
        let known = read(&self.tables).get(&key).cloned();
        let table = known.unwrap_or_else(|| {
            let new = || Arc::new(Table::new(of.clone(), direction));
            Arc::clone(write(&self.tables).entry(key).or_insert_with(new))
        });
        OfConnection { table, own: OnceLock::new() }
    }

    /// Takes a workload's series away.
    pub(super) fn forget(&self, workload: &str) {
        write(&self.tables).retain(|(name, _), _| **name != *workload);
    }

    pub(super) fn event(&self, connection: &Connection, state: &OfConnection, event: Event<'_>) {
        let own = || self.own(connection, state);
        match event {
            Event::Connected | Event::Detected(_) => {
                let is_known = connection.found.get().is_some() && connection.is_connected();
                if is_known && !connection.awaits_name() {
                    own();
                }
            }
            Event::Moved { sent, received } => {
                let counters = state.table.counters(own(), 0, self.most);
                counters.sent.inc_by(sent);
                counters.received.inc_by(received);
            }
            Event::ExchangeEnded { exchange, class: Some(class) } => {
                let name = self.of_exchange(connection, state, exchange);
                state.table.counters(&name, 1, self.most).exchange(exchange, class);
            }
            Event::Closed(_) => {
                let own = own();
                if !connection.is_connected() {
                    state.table.counters(own, 0, self.most).failed.inc();
                }
            }
            _ => {}
        }
    }

    /// What the destination of a connection is called, which is counted with the first call.
    fn own<'a>(&self, connection: &Connection, state: &'a OfConnection) -> &'a Arc<str> {
        state.own.get_or_init(|| {
            let name = self.name(connection, connection.name());
            state.table.counters(&name, 1, self.most).connections.inc();
            name
        })
    }

    /// The same of a request, which may be for another host.
    fn of_exchange(
        &self,
        connection: &Connection,
        state: &OfConnection,
        exchange: &Exchange,
    ) -> Arc<str> {
        let host = exchange.authority.as_deref().and_then(host_name);
        let own = self.own(connection, state);
        match (self.label, host) {
            (DestinationLabel::Name, Some(host)) if !own.eq_ignore_ascii_case(host) => {
                self.name(connection, Some(host))
            }
            _ => Arc::clone(own),
        }
    }

    fn name(&self, connection: &Connection, host: Option<&str>) -> Arc<str> {
        let destination = connection.destination();
        let named = match self.label {
            DestinationLabel::Name => host.map(|host| host.to_ascii_lowercase().into()),
            DestinationLabel::Service => {
                read(&self.service_of).as_ref().and_then(|service_of| service_of(destination))
            }
        };
        named.unwrap_or_else(|| destination.to_string().into())
    }
}

impl fmt::Debug for Destinations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destinations").field("most", &self.most).finish_non_exhaustive()
    }
}

impl Collector for Destinations {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let tables: Vec<_> = read(&self.tables).values().cloned().collect();
        let rows: Vec<_> = tables.iter().flat_map(|table| table.ranked()).collect();
        let help = "HTTP responses and requests without one, by destination.";
        let name = "weir_destination_requests";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (of, counters) in &rows {
            for (class, counter) in
                [(Class::Success, &counters.successes), (Class::Failure, &counters.failures)]
            {
                let labels = RequestLabels { of: of.clone(), classification: class.name() };
                counter.encode(metric.encode_family(&labels)?)?;
            }
        }
        let help = "Seconds from a request's head to that of its response, by destination.";
        let name = "weir_destination_latency_seconds";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (of, counters) in &rows {
            counters.latency.encode(metric.encode_family(of)?)?;
        }
        type Pick = fn(&Counters) -> &Counter;
        let counts: [(&str, &str, Pick); 4] = [
            ("connections", "Connections, by destination.", |it| &it.connections),
            (
                "failed_connections",
                "Connections without an upstream connection, by destination.",
                |it| &it.failed,
            ),
            ("sent_bytes", "Bytes from clients, by destination.", |it| &it.sent),
            ("received_bytes", "Bytes to clients, by destination.", |it| &it.received),
        ];
        for (name, help, pick) in counts {
            let name = format!("weir_destination_{name}");
            let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (of, counters) in &rows {
                pick(counters).encode(metric.encode_family(of)?)?;
            }
        }
        Ok(())
    }
}

// === impl Table ===

impl Table {
    fn new(of: Of, direction: Direction) -> Self {
        let other = Arc::default();
        let entries = Entries { shown: HashMap::new(), waiting: HashMap::new(), other };
        Self { of, direction, entries: Mutex::new(entries) }
    }

    /// The counters of a destination that was asked for so often, or those of all others.
    fn counters(&self, name: &Arc<str>, asked: u64, most: usize) -> Arc<Counters> {
        let Entries { shown, waiting, other } = &mut *lock(&self.entries);
        if let Some(shown) = shown.get_mut(name) {
            shown.asked += asked;
            return Arc::clone(&shown.counters);
        }
        if shown.len() < most {
            let new = Shown { asked, ..Shown::default() };
            return Arc::clone(&shown.entry(Arc::clone(name)).or_insert(new).counters);
        }
        if let Some(count) = waiting.get_mut(name) {
            *count += asked;
        } else if waiting.len() < most * WAITING {
            waiting.insert(Arc::clone(name), asked);
        }
        Arc::clone(other)
    }

    /// What is shown from now on: those that were asked for most since the last time take the places of those
    /// that were asked for least. Their series begin with 0, and no series goes back.
    fn ranked(&self) -> Vec<(Labels, Arc<Counters>)> {
        let Entries { shown, waiting, other } = &mut *lock(&self.entries);
        let mut candidates: Vec<_> = waiting.drain().collect();
        candidates.sort_unstable_by(|(name, asked), (other, than)| {
            than.cmp(asked).then_with(|| name.cmp(other))
        });
        for (name, asked) in candidates {
            let least = shown.iter().min_by_key(|(name, it)| (it.asked, Arc::clone(name)));
            let Some(least) = least.filter(|(_, it)| it.asked < asked) else { break };
            let least = Arc::clone(least.0);
            shown.remove(&least);
            shown.insert(name, Shown { asked, ..Shown::default() });
        }
        shown.values_mut().for_each(|it| it.asked /= 2);
        let labels = |destination: &str| Labels {
            direction: direction_name(self.direction),
            of: self.of.clone(),
            destination: destination.to_owned(),
        };
        let rows = shown.iter().map(|(name, it)| (labels(name), Arc::clone(&it.counters)));
        rows.chain([(labels(OTHER), Arc::clone(other))]).collect()
    }
}

// === impl Counters ===

impl Counters {
    fn exchange(&self, exchange: &Exchange, class: Class) {
        match class {
            Class::Success => self.successes.inc(),
            Class::Failure => self.failures.inc(),
        };
        if let Some(time) = exchange.time_to_head {
            self.latency.observe(time.as_secs_f64());
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        let counter = Counter::default;
        Self {
            successes: counter(),
            failures: counter(),
            connections: counter(),
            failed: counter(),
            sent: counter(),
            received: counter(),
            latency: Histogram::new(BUCKETS),
        }
    }
}

#[cfg(test)]
mod tests;
