//! Many connections in virtual time: the shares that a service's endpoints get.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::*;

/// A server: how long it takes, or that it refuses, or at once asks for fewer requests.
#[derive(Clone, Copy)]
enum Server {
    Answers(Duration),
    Limits,
    Refuses,
}

/// What came of it.
struct Outcome {
    /// Connections that ended at each endpoint.
    served: Vec<usize>,
    /// Connections that no endpoint took.
    failed: usize,
}

/// Opens a connection each `interval`; each ends with its answer.
fn run(pool: &Pool, servers: &[Server], connections: usize, interval: Duration) -> Outcome {
    let mut rng = Rng::with_seed(42);
    let mut outcome = Outcome { served: vec![0; servers.len()], failed: 0 };
    let mut ends = BinaryHeap::new();
    let mut open = std::collections::HashMap::new();
    for number in 0..connections {
        let now = Moment::after(interval * number as u32);
        while let Some(Reverse((end, number))) = ends.peek().copied() {
            if end > now {
                break;
            }
            ends.pop();
            let (in_flight, took): (InFlight, Duration) = open.remove(&number).unwrap();
            in_flight.stats().answered(took, end);
        }
        let mut tried = Vec::new();
        loop {
            let Some(choice) = pool.choose(&tried, now, &mut rng) else {
                outcome.failed += 1;
                break;
            };
            match servers[choice.member] {
                Server::Refuses => {
                    pool.refused(choice.member, Duration::ZERO, now, &mut rng);
                    tried.push(choice.member);
                }
                Server::Limits => {
                    outcome.served[choice.member] += 1;
                    pool.stats(choice.member).limited(Duration::from_secs(1), now);
                    break;
                }
                Server::Answers(time) => {
                    let in_flight = pool.stats(choice.member).begin();
                    in_flight.stats().connected(Duration::from_micros(80), now);
                    outcome.served[choice.member] += 1;
                    ends.push(Reverse((now.plus(time), number)));
                    open.insert(number, (in_flight, time));
                    break;
                }
            }
        }
    }
    outcome
}

/// The largest share by the fair one.
fn skew(served: &[usize]) -> f64 {
    let mean = served.iter().sum::<usize>() as f64 / served.len() as f64;
    *served.iter().max().unwrap() as f64 / mean
}

#[test]
fn connections_that_stay_open_are_spread_evenly() {
    let forever = Server::Answers(Duration::from_secs(10_000));
    for count in [2, 10, 16] {
        let served = run(&pool(count), &vec![forever; count], count * 10, millis(1)).served;
        assert!(skew(&served) <= 1.1, "{served:?}");
    }
}

#[test]
fn short_connections_are_spread_evenly() {
    let servers = vec![Server::Answers(millis(4)); 10];
    let served = run(&pool(10), &servers, 10_000, millis(1)).served;
    assert!(skew(&served) <= 1.1, "{served:?}");
    let servers = vec![Server::Answers(millis(4)); 50];
    let served = run(&pool(50), &servers, 50_000, millis(1)).served;
    assert!(skew(&served) <= 1.25, "{served:?}");
}

#[test]
fn a_slow_endpoint_gets_a_third_of_its_share_at_most() {
    for (fast, interval) in [(1, 5), (5, 2), (8, 10)] {
        let mut servers = vec![Server::Answers(millis(fast)); 10];
        servers[3] = Server::Answers(millis(fast + 20));
        let served = run(&pool(10), &servers, 200, millis(interval)).served;
        assert!(served[3] * 3 <= 20, "{served:?}");
    }
}

#[test]
fn a_refusing_endpoint_fails_no_connection() {
    let mut servers = vec![Server::Answers(millis(2)); 5];
    servers[0] = Server::Refuses;
    let outcome = run(&pool(5), &servers, 10_000, millis(1));
    assert_eq!((outcome.failed, outcome.served[0]), (0, 0));
    servers[1] = Server::Refuses;
    servers[2] = Server::Refuses;
    servers[3] = Server::Refuses;
    let outcome = run(&pool(5), &servers, 10_000, millis(1));
    assert_eq!(outcome.failed, 0, "with more than half of them broken");
}

#[test]
fn an_endpoint_at_its_limit_is_asked_about_once_a_second() {
    let mut servers = vec![Server::Answers(millis(4)); 5];
    servers[2] = Server::Limits;
    let outcome = run(&pool(5), &servers, 10_000, millis(1));
    assert!((5..=20).contains(&outcome.served[2]), "in ten seconds: {:?}", outcome.served);
    assert_eq!(outcome.failed, 0);
    // Where all are, nothing is gained by sparing one.
    let outcome = run(&pool(5), &[Server::Limits; 5], 10_000, millis(1));
    assert_eq!(outcome.failed, 0);
    assert!(skew(&outcome.served) <= 1.1, "{:?}", outcome.served);
}

#[test]
fn a_new_endpoint_joins_in() {
    let servers = vec![Server::Answers(millis(4)); 5];
    let pool = pool(5);
    let mut rng = Rng::with_seed(3);
    let now = at(60_000);
    for member in 0..4 {
        pool.stats(member).answered(millis(4), now);
    }
    let first: Vec<_> = (0..3).map(|_| pool.choose(&[], now, &mut rng).unwrap().member).collect();
    assert!(!first.contains(&4), "not preferred to those that are known: {first:?}");
    let served = run(&pool, &servers, 1000, millis(1)).served;
    assert!(served[4] > 150, "{served:?}");
}
