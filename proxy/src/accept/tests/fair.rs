//! Several listeners on one thread, as workloads have them: none delays another, whatever comes to
//! it, and what a budget has no room for waits in its own queue.

use super::*;
use crate::budget::{Budgets, PER_CONNECTION, Share, Sizes, Taken};

/// A listener's queue; true stands for a connection that has been reset.
#[derive(Default)]
struct Queue {
    connections: Mutex<VecDeque<bool>>,
    waker: Mutex<Option<Waker>>,
    reset: AtomicU64,
}

struct Connection {
    dead: bool,
    queue: Arc<Queue>,
}

/// A workload as far as accepting goes.
struct Workload {
    share: Share,
    crowded: AtomicU64,
    flooded: AtomicU64,
    dead: AtomicU64,
    shed: AtomicU64,
}

/// What all loops have accepted, in that order.
type Log = Arc<Mutex<Vec<(&'static str, [Taken; 3])>>>;

struct Scene {
    queue: Arc<Queue>,
    workload: Arc<Workload>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Queue {
    fn add(&self, connections: impl IntoIterator<Item = bool>) {
        self.connections.lock().unwrap().extend(connections);
        if let Some(waker) = self.waker.lock().unwrap().take() {
            waker.wake();
        }
    }

    fn len(&self) -> usize {
        self.connections.lock().unwrap().len()
    }
}

impl Accept for Arc<Queue> {
    type Stream = Connection;
    type Address = ();

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Connection, ())>> {
        match self.connections.lock().unwrap().pop_front() {
            Some(dead) => Poll::Ready(Ok((Connection { dead, queue: Arc::clone(self) }, ()))),
            None => {
                *self.waker.lock().unwrap() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_waited_for(&self) -> bool {
        self.len() > 0
    }

    fn reset(stream: Connection) {
        stream.queue.reset.fetch_add(1, SeqCst);
    }

    fn is_dead(stream: &Connection) -> bool {
        stream.dead
    }
}

impl Slots for Workload {
    fn share(&self) -> Option<&Share> {
        Some(&self.share)
    }

    fn crowded(&self) {
        self.crowded.fetch_add(1, SeqCst);
    }

    fn flooded(&self) {
        self.flooded.fetch_add(1, SeqCst);
    }

    fn dead(&self) {
        self.dead.fetch_add(1, SeqCst);
    }

    fn exhausted(&self, _: &io::Error) {}

    fn shed(&self, count: u64) {
        self.shed.fetch_add(count, SeqCst);
    }
}

/// A workload's loop, on a task of its own.
fn start(name: &'static str, budgets: &Budgets, log: &Log, exhaustion: &Exhaustion) -> Scene {
    let queue = Arc::<Queue>::default();
    let workload = Arc::new(Workload {
        share: budgets.share(&name.into()),
        crowded: AtomicU64::new(0),
        flooded: AtomicU64::new(0),
        dead: AtomicU64::new(0),
        shed: AtomicU64::new(0),
    });
    let stop = CancellationToken::new();
    let linger = Duration::from_millis(100);
    let options = AcceptOptions { linger, room: 0, exhaustion: exhaustion.clone() };
    let of_task = (Arc::clone(&queue), Arc::clone(&workload), stop.clone(), Arc::clone(log));
    let task = tokio::spawn(async move {
        let (queue, workload, stop, log) = of_task;
        let share = workload.share.clone();
        accept_loop(&queue, workload.as_ref(), &stop, options, |_, ()| {
            let taken = [
                share.occupy(Resource::Connections, 1),
                share.occupy(Resource::Descriptors, PER_CONNECTION),
                share.occupy(Resource::Dialling, 1),
            ];
            log.lock().unwrap().push((name, taken));
        })
        .await;
    });
    Scene { queue, workload, stop, task }
}

fn budgets(dialling: u64) -> Budgets {
    let budgets = Budgets::new(&Sizes { dialling, ..Sizes::default() });
    budgets.set_descriptors(1_000_000);
    budgets
}

fn one(budgets: &Budgets) -> (Scene, Log) {
    let log = Log::default();
    (start("a", budgets, &log, &Exhaustion::new()), log)
}

/// Lets everything run that can.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

fn count(log: &Log) -> usize {
    log.lock().unwrap().len()
}

/// A workload that floods has its connections accepted in turn with all others.
#[tokio::test(start_paused = true)]
async fn a_flood_delays_others_by_a_batch_at_most() {
    for dead in [false, true] {
        let (budgets, log, exhaustion) = (budgets(1 << 20), Log::default(), Exhaustion::new());
        let flood = start("flood", &budgets, &log, &exhaustion);
        let quiet = ["b", "c", "d"].map(|name| start(name, &budgets, &log, &exhaustion));
        settle().await;
        flood.queue.add(std::iter::repeat_n(dead, 20_000));
        quiet.iter().for_each(|scene| scene.queue.add([false; 160]));
        let accepted = || 20_000 - flood.queue.len();
        let mut worst = 0;
        for waiting in [160, 120, 80, 40, 10, 0] {
            while quiet.iter().any(|scene| scene.queue.len() > waiting) {
                yield_now().await;
            }
            worst = worst.max(accepted());
        }
        // Ten batches each, and the one that was under way.
        assert!(worst <= 12 * BATCH as usize, "{worst} of the flood went first");
        settle().await;
        assert_eq!(flood.queue.len(), 0, "it has its turn");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_not_dialled_bound_what_is_accepted() {
    let budgets = budgets(8);
    let (scene, log) = one(&budgets);
    scene.queue.add([false; 1000]);
    settle().await;
    assert_eq!((count(&log), scene.queue.len()), (8, 992), "the rest is in its own queue");
    for dialled in [8, 16, 24] {
        // The dial is over, the connection is not.
        for (_, taken) in log.lock().unwrap().iter_mut() {
            let [_, _, dialling] = taken;
            *dialling = scene.workload.share.occupy(Resource::Rows, 0);
        }
        settle().await;
        assert_eq!(count(&log), dialled + 8);
    }
    assert_eq!(scene.workload.share.used(Resource::Connections), 32);
}

/// Where no upstream answers, dialling takes minutes.
#[tokio::test(start_paused = true)]
async fn dials_that_hang_slow_a_workload_down_and_do_not_stop_it() {
    let budgets = budgets(8);
    let (scene, log) = one(&budgets);
    scene.queue.add([false; 400]);
    let before = Instant::now();
    while scene.queue.len() > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    let most = (400 / BATCH + 2) * OVERFLOW.as_millis() as u32;
    assert!(before.elapsed() >= OVERFLOW * 20, "at once: {:?}", before.elapsed());
    assert!(before.elapsed().as_millis() <= u128::from(most), "{:?}", before.elapsed());
    assert_eq!(count(&log), 400);
}

#[tokio::test(start_paused = true)]
async fn the_dead_are_dropped_and_the_living_served() {
    let (scene, log) = one(&budgets(1 << 20));
    scene.queue.add((0..3000).map(|number| number % 3 != 0));
    settle().await;
    assert_eq!((count(&log), scene.workload.dead.load(SeqCst)), (1000, 2000));
    assert_eq!(scene.queue.reset.load(SeqCst), 2000);
    assert_eq!(scene.workload.flooded.load(SeqCst), 11, "each 256 of them are a flood");
    let (scene, _) = one(&budgets(1 << 20));
    scene.queue.add((0..3000).map(|number| number % 3 == 0));
    settle().await;
    assert_eq!(scene.workload.flooded.load(SeqCst), 0, "most of them live");
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_has_what_it_may_waits_for_room_in_its_own_queue() {
    let (budgets, log, exhaustion) = (budgets(1 << 20), Log::default(), Exhaustion::new());
    budgets.set_descriptors(80);
    let a = start("a", &budgets, &log, &exhaustion);
    let b = start("b", &budgets, &log, &exhaustion);
    a.queue.add([false; 100]);
    settle().await;
    assert_eq!(count(&log), 30, "three quarters of forty connections");
    assert!(a.workload.crowded.load(SeqCst) > 0);
    b.queue.add([false; 3]);
    settle().await;
    assert_eq!((b.queue.len(), b.workload.crowded.load(SeqCst)), (0, 0), "there is room for b");
    log.lock().unwrap().drain(..5);
    sleep(LONGEST_PAUSE).await;
    // 54 descriptors are three quarters of what b leaves.
    assert_eq!(count(&log), 27 + 3);
    assert_eq!((a.queue.reset.load(SeqCst), exhaustion.episodes()), (0, 0));
    // No client waits for ever.
    sleep(PATIENCE * 2).await;
    assert_eq!(a.queue.len(), 0);
    assert_eq!(a.queue.reset.load(SeqCst), a.workload.shed.load(SeqCst));
    assert_eq!(b.workload.shed.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn after_the_stop_nobody_waits_for_others_dials() {
    let (scene, log) = one(&budgets(8));
    scene.queue.add([false; 500]);
    settle().await;
    scene.stop.cancel();
    scene.task.await.unwrap();
    assert_eq!((count(&log), scene.queue.len()), (500, 0));
}
