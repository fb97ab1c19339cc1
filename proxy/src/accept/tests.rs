//! The loop against a scripted listener, the clock moved by tokio: each test counts, none measures.
//! What the kernel does is tested in `proxy/tests/exhaustion.rs`.

mod fair;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;

/// Answers what the test has put here; `None` stands for a connection.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Option<i32>>>,
    waker: Mutex<Option<Waker>>,
    looks: AtomicU64,
    reset: AtomicU64,
}

#[derive(Default)]
struct Counts {
    withdrawn: AtomicU64,
    offered: AtomicU64,
    errors: AtomicU64,
    shed: AtomicU64,
    held: AtomicU64,
}

struct Stream(Arc<Script>);

impl Script {
    fn say(&self, answers: impl IntoIterator<Item = Option<i32>>) {
        self.answers.lock().unwrap().extend(answers);
        if let Some(waker) = self.waker.lock().unwrap().take() {
            waker.wake();
        }
    }
}

impl Accept for Arc<Script> {
    type Stream = Stream;
    type Address = ();

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, ())>> {
        self.looks.fetch_add(1, SeqCst);
        let mut answers = self.answers.lock().unwrap();
        match answers.front().copied() {
            None => {
                *self.waker.lock().unwrap() = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(None) => {
                answers.pop_front();
                Poll::Ready(Ok((Stream(Arc::clone(self)), ())))
            }
            // Stays until the test takes it away, as EMFILE does.
            Some(Some(errno)) if errno == libc::EMFILE => {
                Poll::Ready(Err(io::Error::from_raw_os_error(errno)))
            }
            Some(Some(errno)) => {
                answers.pop_front();
                Poll::Ready(Err(io::Error::from_raw_os_error(errno)))
            }
        }
    }

    fn is_waited_for(&self) -> bool {
        !self.answers.lock().unwrap().is_empty()
    }

    fn reset(stream: Stream) {
        stream.0.reset.fetch_add(1, SeqCst);
    }
}

impl Slots for Counts {
    fn withdraw(&self) {
        self.withdrawn.fetch_add(1, SeqCst);
    }

    fn offer(&self) {
        self.offered.fetch_add(1, SeqCst);
    }

    fn held(&self) -> u64 {
        self.held.load(SeqCst)
    }

    fn exhausted(&self, _: &io::Error) {
        self.errors.fetch_add(1, SeqCst);
    }

    fn shed(&self, count: u64) {
        self.shed.fetch_add(count, SeqCst);
    }
}

impl Counts {
    fn switched(&self) -> (u64, u64) {
        (self.withdrawn.load(SeqCst), self.offered.load(SeqCst))
    }
}

/// A loop on its own task. What it accepted comes out of the channel, which closes with the loop.
fn start(
    linger: Duration,
) -> (Arc<Script>, Arc<Counts>, Exhaustion, CancellationToken, mpsc::UnboundedReceiver<()>) {
    let (script, counts, exhaustion) =
        (Arc::<Script>::default(), Arc::default(), Exhaustion::new());
    let (stop, (sender, accepted)) = (CancellationToken::new(), mpsc::unbounded_channel());
    let task = (Arc::clone(&script), Arc::clone(&counts), stop.clone());
    let options = AcceptOptions { linger, room: 1, exhaustion: exhaustion.clone() };
    tokio::spawn(async move {
        let (script, counts, stop): (_, Arc<Counts>, _) = task;
        accept_loop(&script, counts.as_ref(), &stop, options, |_, ()| {
            let _ = sender.send(());
        })
        .await;
    });
    (script, counts, exhaustion, stop, accepted)
}

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

async fn over(exhaustion: &Exhaustion) {
    while exhaustion.is_running() {
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn errors_of_connections_are_passed_over() {
    let (script, counts, exhaustion, _stop, mut accepted) = start(Duration::ZERO);
    let before = Instant::now();
    script.say([Some(libc::ECONNABORTED), Some(libc::EPERM), Some(libc::EPROTO), None]);
    accepted.recv().await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO, "none of them may delay the next connection");
    assert_eq!((counts.errors.load(SeqCst), exhaustion.episodes()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_error_that_stays_does_not_spin() {
    for errno in [libc::EPERM, libc::EINVAL, libc::EBADF] {
        let (script, counts, exhaustion, _stop, mut accepted) = start(Duration::ZERO);
        script.say(std::iter::repeat_n(Some(errno), 200).chain([None]));
        let before = Instant::now();
        accepted.recv().await.unwrap();
        assert!(before.elapsed() >= Duration::from_millis(50), "{errno}: no pause in 200 errors");
        assert_eq!((counts.errors.load(SeqCst), exhaustion.episodes()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn exhaustion_backs_off_and_ends() {
    let (script, counts, exhaustion, _stop, mut accepted) = start(Duration::ZERO);
    let _registered = exhaustion.register(Arc::<Counts>::clone(&counts));
    script.say([Some(libc::EMFILE)]);
    sleep(Duration::from_secs(60)).await;
    let looks = script.looks.load(SeqCst);
    // 50 + 100 + 200 + 400 + 800 ms, then one a second; from the fifth second on each is followed
    // by one with the reserve, which this script refuses too.
    let errors = counts.errors.load(SeqCst);
    assert!((60..=66).contains(&errors), "{errors} accepts in a minute");
    assert!((110..=130).contains(&looks), "{looks} looks in a minute");
    assert_eq!(counts.switched(), (1, 0));
    script.answers.lock().unwrap().clear();
    script.say([None, None]);
    accepted.recv().await.unwrap();
    accepted.recv().await.unwrap();
    over(&exhaustion).await;
    assert_eq!(counts.switched(), (1, 1));
    assert_eq!(script.reset.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn withdrawn_and_offered_once_however_many_fail() {
    let exhaustion = Exhaustion::new();
    let all: Vec<Arc<Counts>> = (0..250).map(|_| Arc::default()).collect();
    let registered: Vec<_> =
        all.iter().map(|counts| exhaustion.register(Arc::<Counts>::clone(counts))).collect();
    for _ in 0..1000 {
        assert!(exhaustion.report(&error(libc::EMFILE)));
    }
    assert!(all.iter().all(|counts| counts.switched() == (1, 0)));
    let episode = exhaustion.episode().unwrap();
    assert_eq!(episode.errno, libc::EMFILE);
    // Failures go on for a while: it is one episode.
    for _ in 0..50 {
        sleep(Duration::from_millis(200)).await;
        exhaustion.report(&error(libc::ENFILE));
    }
    assert_eq!(exhaustion.episode(), Some(episode));
    over(&exhaustion).await;
    assert!(all.iter().all(|counts| counts.switched() == (1, 1)));
    assert_eq!(exhaustion.episodes(), 1);
    drop(registered);
    exhaustion.report(&error(libc::EMFILE));
    assert!(all.iter().all(|counts| counts.switched() == (1, 1)), "they are gone");
}

/// A workload with few descriptors is not cut off by one with many.
#[tokio::test(start_paused = true)]
async fn slots_are_withdrawn_by_what_they_hold() {
    let exhaustion = Exhaustion::new();
    let all: Vec<Arc<Counts>> = (0..4).map(|_| Arc::default()).collect();
    let registered: Vec<_> =
        all.iter().map(|counts| exhaustion.register(Arc::<Counts>::clone(counts))).collect();
    for (counts, held) in all.iter().zip([10, 700, 1000, 40]) {
        counts.held.store(held, SeqCst);
    }
    let withdrawn = || all.iter().map(|counts| counts.switched()).collect::<Vec<_>>();
    for _ in 0..100 {
        exhaustion.report(&error(libc::EMFILE));
    }
    assert_eq!(withdrawn(), [(0, 0), (1, 0), (1, 0), (0, 0)], "the largest, at once");
    let newcomer = Arc::<Counts>::default();
    let late = exhaustion.register(Arc::<Counts>::clone(&newcomer));
    assert_eq!(newcomer.switched(), (0, 0), "it has none");
    sleep(Duration::from_secs(30)).await;
    assert_eq!(withdrawn(), [(0, 0), (1, 1), (1, 1), (0, 0)], "it was enough");
    for (step, expected) in [(0, [0, 2, 2, 0]), (1, [0, 2, 2, 1]), (2, [1, 2, 2, 1])] {
        exhaustion.report(&error(libc::EMFILE));
        let times: Vec<_> = withdrawn().into_iter().map(|(times, _)| times).collect();
        assert_eq!(times, expected, "step {step}");
        sleep(Duration::from_millis(300)).await;
    }
    // Of the machine's descriptors no workload can be said to have too many.
    over(&exhaustion).await;
    exhaustion.report(&error(libc::ENFILE));
    assert!(all.iter().all(|counts| counts.switched().0 > counts.switched().1));
    drop((registered, late));
}

#[tokio::test(start_paused = true)]
async fn slots_that_come_in_an_episode_of_the_machine_are_withdrawn_with_the_others() {
    let exhaustion = Exhaustion::new();
    exhaustion.report(&error(libc::ENFILE));
    let counts = Arc::<Counts>::default();
    let _registered = exhaustion.register(Arc::<Counts>::clone(&counts));
    assert_eq!(counts.switched(), (1, 0));
    over(&exhaustion).await;
    assert_eq!(counts.switched(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn other_errors_begin_no_episode() {
    let exhaustion = Exhaustion::new();
    for errno in [libc::ECONNREFUSED, libc::EADDRNOTAVAIL, libc::ETIMEDOUT, libc::ECONNABORTED] {
        assert!(!exhaustion.report(&error(errno)));
    }
    assert!(!exhaustion.report(&io::ErrorKind::UnexpectedEof.into()));
    assert_eq!(exhaustion.episode(), None);
}

/// A process that lives at its limit.
#[tokio::test(start_paused = true)]
async fn episodes_in_a_row_last_longer_and_longer() {
    let exhaustion = Exhaustion::new();
    let mut lasted = Vec::new();
    for pause in [0, 1, 1, 1, 1, 1, 1, 1, 120] {
        sleep(Duration::from_secs(pause)).await;
        let before = Instant::now();
        exhaustion.report(&error(libc::EMFILE));
        over(&exhaustion).await;
        lasted.push(before.elapsed().as_secs());
    }
    assert!(lasted[..6].is_sorted_by(|a, b| a < b), "{lasted:?}");
    assert!((32..=34).contains(&lasted[7]), "{lasted:?}");
    assert!(lasted[8] <= lasted[0] + 1, "forgotten after a quiet while: {lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn an_episode_outlives_the_runtime_that_began_it() {
    let exhaustion = Exhaustion::new();
    let other = exhaustion.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { other.report(&error(libc::EMFILE)) });
    })
    .join()
    .unwrap();
    assert!(exhaustion.is_running());
    exhaustion.report(&error(libc::EMFILE));
    over(&exhaustion).await;
}

#[test]
fn without_a_runtime_no_episode_begins() {
    let exhaustion = Exhaustion::new();
    assert!(exhaustion.report(&error(libc::EMFILE)), "it is exhaustion all the same");
    assert_eq!(exhaustion.episode(), None);
}

#[tokio::test(start_paused = true)]
async fn after_the_stop_stragglers_are_accepted() {
    let (script, _, _, stop, mut accepted) = start(Duration::from_millis(100));
    stop.cancel();
    for _ in 0..20 {
        sleep(Duration::from_millis(90)).await;
        script.say([None]);
        accepted.recv().await.expect("each came within the time that the one before gave");
    }
    let before = Instant::now();
    assert_eq!(accepted.recv().await, None);
    let lingered = before.elapsed();
    assert!((100..=102).contains(&lingered.as_millis()), "{lingered:?}");
}

#[tokio::test(start_paused = true)]
async fn lingering_ends_even_if_connections_keep_coming() {
    let (script, _, _, stop, mut accepted) = start(Duration::from_millis(100));
    stop.cancel();
    let before = Instant::now();
    loop {
        script.say([None]);
        if accepted.recv().await.is_none() {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert!(before.elapsed() <= LONGEST_LINGER + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn without_lingering_the_stop_is_the_end() {
    let (script, _, _, stop, mut accepted) = start(Duration::ZERO);
    script.say([None]);
    accepted.recv().await.unwrap();
    stop.cancel();
    assert_eq!(accepted.recv().await, None);
    let (script, _, _, stop, mut accepted) = start(Duration::ZERO);
    script.say([Some(libc::EMFILE)]);
    sleep(Duration::from_millis(500)).await;
    let before = Instant::now();
    stop.cancel();
    assert_eq!(accepted.recv().await, None);
    assert_eq!(before.elapsed(), Duration::ZERO, "it must not sleep on");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever accept says, every connection comes out, and the loop ends when told.
    #[test]
    fn no_connection_is_lost(answers in proptest::collection::vec(
        prop_oneof![
            3 => Just(None),
            1 => Just(Some(libc::ECONNABORTED)),
            1 => Just(Some(libc::ENFILE)),
            1 => Just(Some(libc::EINVAL)),
        ],
        0..100,
    )) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (script, counts, _, stop, mut accepted) = start(Duration::from_millis(100));
            let connections = answers.iter().filter(|answer| answer.is_none()).count() as u64;
            script.say(answers);
            while script.is_waited_for() {
                sleep(Duration::from_millis(10)).await;
            }
            stop.cancel();
            let mut seen = 0;
            while accepted.recv().await.is_some() {
                seen += 1;
            }
            let shed = script.reset.load(SeqCst);
            assert_eq!((seen + shed, counts.shed.load(SeqCst)), (connections, shed));
        });
    }
}
