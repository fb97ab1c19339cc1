//! What is learned, for how long, and that nothing is learned that should not be.

use proptest::prelude::*;

use super::*;

const OUT: Direction = Direction::Outbound;

/// What is remembered of one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// IPv4 as such, never mapped into IPv6.
    destination: SocketAddr,
    direction: Direction,
    connections: u64,
    /// `None` while it is being learned, or looked at again.
    remaining: Option<Duration>,
    streak: u32,
    needed: u32,
}

impl Learning {
    /// Everything remembered; what was used last comes first.
    fn entries(&self, now: Instant) -> Vec<Entry> {
        let table = self.lock();
        let entries = table.order.values().rev().filter_map(|key| {
            let entry = table.known.get(key)?;
            (!entry.is_stale(now)).then(|| Entry {
                destination: key.1,
                direction: key.0,
                connections: entry.connections,
                remaining: entry
                    .until
                    .map(|until| until.saturating_duration_since(now))
                    .filter(|remaining| !remaining.is_zero()),
                streak: entry.streak,
                needed: entry.needed,
            })
        });
        entries.collect()
    }
}

fn address(number: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 3306))
}

fn teach(learning: &Learning, to: SocketAddr, times: u32, now: Instant) -> Change {
    (0..times).map(|_| learning.observe(OUT, to, true, now)).last().unwrap()
}

#[test]
fn three_raw_connections_in_a_row_are_learned_for_ten_minutes() {
    let (learning, to, now) = (Learning::new(Learn::Opaque), address(1), Instant::now());
    for _ in 0..2 {
        assert_eq!(learning.observe(OUT, to, true, now), Change::None);
        assert!(!learning.known(OUT, to, now));
    }
    let until = now + LEARNED_FOR;
    assert_eq!(learning.observe(OUT, to, true, now), Change::Learned { until });
    assert!(learning.known(OUT, to, now));
    assert!(learning.known(OUT, to, until - Duration::from_nanos(1)));
    assert!(!learning.known(OUT, to, until));
    assert!(!learning.known(Direction::Inbound, to, now), "the other direction is another thing");
    assert!(!learning.known(OUT, address(2), now));
}

#[test]
fn http_in_between_starts_the_count_anew() {
    let (learning, to, now) = (Learning::new(Learn::Opaque), address(1), Instant::now());
    for raw in [true, true, false, true, true, false, true, true] {
        assert_eq!(learning.observe(OUT, to, raw, now), Change::None);
    }
    assert!(matches!(teach(&learning, to, 1, now), Change::Learned { .. }));
}

#[test]
fn one_connection_confirms_after_the_time_is_over() {
    let (learning, to, mut now) = (Learning::new(Learn::Bypass), address(1), Instant::now());
    teach(&learning, to, STREAK, now);
    for _ in 0..100 {
        now += LEARNED_FOR;
        assert!(!learning.known(OUT, to, now), "it has to be looked at again");
        let until = now + LEARNED_FOR;
        assert_eq!(learning.observe(OUT, to, true, now), Change::Learned { until });
        assert!(learning.known(OUT, to, now));
        // Connections that were looked at before are late: they change nothing.
        assert_eq!(learning.observe(OUT, to, true, now), Change::None);
    }
}

#[test]
fn http_is_proof_and_makes_learning_harder_each_time() {
    let (learning, to, mut now) = (Learning::new(Learn::Opaque), address(1), Instant::now());
    for needed in [3, 6, 12, 24, 48, 96, 96, 96] {
        assert_eq!(teach(&learning, to, needed - 1, now), Change::None);
        assert!(!learning.known(OUT, to, now));
        let until = now + LEARNED_FOR;
        assert_eq!(learning.observe(OUT, to, true, now), Change::Learned { until });
        assert_eq!(learning.observe(OUT, to, false, now), Change::Forgotten, "at once");
        assert!(!learning.known(OUT, to, now));
        now += Duration::from_secs(1);
    }
    // An hour after the last connection nothing is held against it any more.
    now += REMEMBERED;
    assert!(matches!(teach(&learning, to, STREAK, now), Change::Learned { .. }));
}

#[test]
fn what_expired_and_turns_out_to_be_http_is_forgotten() {
    let (learning, to, now) = (Learning::new(Learn::Opaque), address(1), Instant::now());
    teach(&learning, to, STREAK, now);
    let later = now + LEARNED_FOR;
    assert_eq!(learning.observe(OUT, to, false, later), Change::Forgotten);
    assert_eq!(teach(&learning, to, STREAK, later), Change::None);
}

#[test]
fn what_nobody_used_for_long_has_to_be_learned_anew() {
    let (learning, to, now) = (Learning::new(Learn::Opaque), address(1), Instant::now());
    teach(&learning, to, STREAK, now);
    let later = now + LEARNED_FOR + REMEMBERED + Duration::from_secs(1);
    assert_eq!(learning.entries(later), []);
    assert_eq!(learning.observe(OUT, to, true, later), Change::None);
    assert!(!learning.known(OUT, to, later));
}

#[test]
fn off_learns_nothing() {
    let (learning, to, now) = (Learning::new(Learn::Off), address(1), Instant::now());
    assert_eq!(teach(&learning, to, 100, now), Change::None);
    assert!(!learning.known(OUT, to, now));
    assert_eq!(learning.entries(now), []);
}

#[test]
fn destinations_that_were_always_http_take_no_room() {
    let (learning, now) = (Learning::new(Learn::Opaque), Instant::now());
    for number in 0..1000 {
        assert_eq!(learning.observe(OUT, address(number), false, now), Change::None);
    }
    assert_eq!(learning.entries(now), []);
}

#[test]
fn a_mapped_address_is_the_same_destination() {
    let (learning, now) = (Learning::new(Learn::Opaque), Instant::now());
    let mapped = "[::ffff:10.0.0.1]:3306".parse().unwrap();
    teach(&learning, mapped, STREAK, now);
    assert!(learning.known(OUT, address(1), now));
    assert_eq!(learning.entries(now)[0].destination, address(1));
}

#[test]
fn entries_tell_what_is_known_and_for_how_long() {
    let (learning, now) = (Learning::new(Learn::Opaque), Instant::now());
    teach(&learning, address(1), STREAK, now);
    teach(&learning, address(2), 1, now);
    assert!(learning.known(OUT, address(1), now));
    let minute = Duration::from_secs(60);
    let expected = |number, connections, remaining, streak| Entry {
        destination: address(number),
        direction: OUT,
        connections,
        remaining,
        streak,
        needed: STREAK,
    };
    let first = expected(1, 4, Some(LEARNED_FOR - minute), 3);
    assert_eq!(learning.entries(now + minute), [first, expected(2, 1, None, 1)]);
    assert_eq!(learning.entries(now + LEARNED_FOR)[0].remaining, None);
}

#[test]
fn the_one_used_longest_ago_makes_room() {
    let (learning, now) = (Learning::with_capacity(Learn::Opaque, 3), Instant::now());
    for number in 1..=3 {
        teach(&learning, address(number), STREAK, now);
    }
    assert!(learning.known(OUT, address(1), now), "used again");
    teach(&learning, address(4), STREAK, now);
    let left = [1, 2, 3, 4].map(|number| learning.known(OUT, address(number), now));
    assert_eq!(left, [true, false, true, true]);
}

#[test]
fn threads_may_share_it() {
    let (learning, now) = (Learning::with_capacity(Learn::Opaque, 50), Instant::now());
    std::thread::scope(|scope| {
        for thread in 0..4_u16 {
            let learning = &learning;
            scope.spawn(move || {
                for number in 0..2000_u16 {
                    let to = address((number * 7 + thread) % 100);
                    if !learning.known(OUT, to, now) {
                        learning.observe(OUT, to, number % 11 != 0, now);
                    }
                }
            });
        }
    });
    assert_eq!(learning.entries(now).len(), 50);
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Raw(u16),
    Other(u16),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..6_u16).prop_map(Act::Raw),
        2 => (0..6_u16).prop_map(Act::Other),
        1 => prop_oneof![1..60_u64, 500..700_u64, 3000..9000_u64].prop_map(Act::Wait),
    ]
}

/// What is certain of one destination, kept by the simplest means.
#[derive(Clone, Copy, Default)]
struct Certain {
    raw_in_a_row: u32,
    until: Option<Instant>,
    forgotten: u32,
}

proptest! {
    #[test]
    fn whatever_happens(acts in proptest::collection::vec(act(), 0..400), capacity in 1..8_usize) {
        let learning = Learning::with_capacity(Learn::Opaque, capacity);
        let mut now = Instant::now();
        let mut certain = [Certain::default(); 6];
        for act in acts {
            match act {
                Act::Wait(seconds) => now += Duration::from_secs(seconds),
                Act::Raw(number) => {
                    let known = &mut certain[usize::from(number)];
                    if learning.known(OUT, address(number), now) {
                        // Never without three in a row, and never for longer than was said.
                        prop_assert!(known.raw_in_a_row >= STREAK);
                        prop_assert!(known.until.is_some_and(|until| now < until));
                        continue;
                    }
                    known.raw_in_a_row += 1;
                    match learning.observe(OUT, address(number), true, now) {
                        Change::Learned { until } => {
                            prop_assert_eq!(until, now + LEARNED_FOR);
                            known.until = Some(until);
                        }
                        Change::None => {}
                        Change::Forgotten => prop_assert!(false, "forgotten because of raw TCP"),
                    }
                }
                Act::Other(number) => {
                    let known = &mut certain[usize::from(number)];
                    match learning.observe(OUT, address(number), false, now) {
                        Change::Forgotten => {
                            prop_assert!(known.until.take().is_some());
                            known.forgotten += 1;
                        }
                        Change::None => {}
                        Change::Learned { .. } => prop_assert!(false, "learned from HTTP"),
                    }
                    prop_assert!(!learning.known(OUT, address(number), now));
                    known.raw_in_a_row = 0;
                }
            }
            let entries = learning.entries(now);
            prop_assert!(entries.len() <= capacity);
            for entry in entries {
                prop_assert!(entry.remaining.is_none_or(|left| left <= LEARNED_FOR));
                prop_assert!((STREAK..=LONGEST_STREAK).contains(&entry.needed));
            }
            let table = learning.lock();
            prop_assert_eq!(table.known.len(), table.order.len());
            prop_assert!(table.known.iter().all(|(key, entry)| table.order[&entry.used] == *key));
        }
    }

    /// A destination that is HTTP every now and then is looked at most of the time.
    #[test]
    fn flapping_is_not_learned_quickly(raws in 3..20_u32) {
        let (learning, now) = (Learning::new(Learn::Opaque), Instant::now());
        let mut learned = 0;
        for _ in 0..1000 {
            for _ in 0..raws {
                let change = learning.observe(OUT, address(1), true, now);
                learned += u32::from(matches!(change, Change::Learned { .. }));
            }
            learning.observe(OUT, address(1), false, now);
        }
        // 3, 6, 12, …: as often as the streak reaches that.
        prop_assert!(learned <= 1 + (raws / STREAK).ilog2());
    }
}
