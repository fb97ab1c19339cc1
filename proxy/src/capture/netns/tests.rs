//! Namespaces of their own, with real processes and sockets; these tests need root.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    sync::mpsc,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use rtnetlink::packet_route::link::LinkAttribute;

use super::{
    testing::{Sleeper, fresh, ip, pair},
    *,
};
use crate::host::cgroup::Transient;

fn thread_inode() -> u64 {
    fs::metadata(THREAD).unwrap().ino()
}

#[test]
fn the_process_s_own_namespace_is_own_however_it_was_opened() {
    let own = Netns::own().unwrap();
    assert!(own.is_own() && own.path().is_none());
    for path in [PROCESS.into(), format!("/proc/{}/ns/net", std::process::id())] {
        let opened = Netns::open(Path::new(&path)).unwrap();
        assert!(opened.is_own());
        assert_eq!((opened.cookie(), opened.inode()), (own.cookie(), own.inode()));
        assert_eq!(opened.path(), Some(Path::new(&path)));
    }
    assert!(Netns::find(own.inode()).unwrap().is_own());
}

#[tokio::test]
async fn sockets_are_made_in_the_namespace_and_the_callers_thread_stays() {
    let before = thread_inode();
    let netns = fresh();
    assert!(!netns.is_own());
    assert_ne!(netns.cookie(), Netns::own().unwrap().cookie());
    for v6 in [false, true] {
        // More than any pool would hold.
        let mut sockets = Vec::new();
        for _ in 0..50 {
            sockets.push(netns.tcp_socket(v6).await.unwrap());
        }
        for socket in sockets {
            assert_eq!(netns_cookie(&socket).unwrap(), netns.cookie());
            assert!(socket.nonblocking().unwrap());
            let flags = fcntl(&socket, FcntlArg::F_GETFD).unwrap();
            assert!(FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC));
            assert_eq!(socket.domain().unwrap() == Domain::IPV6, v6);
        }
    }
    assert_eq!(thread_inode(), before);
}

#[tokio::test]
async fn the_helper_goes_home_after_each_job() {
    let (own, other) = (Netns::own().unwrap(), fresh());
    assert_eq!(other.run(thread_inode).await.unwrap(), other.inode());
    assert_eq!(own.run(thread_inode).await.unwrap(), own.inode());
    assert_eq!(other.enter(thread_inode).unwrap(), other.inode());
    assert_eq!(own.enter(thread_inode).unwrap(), own.inode());
}

#[tokio::test]
async fn a_panic_is_an_error_of_its_job_alone() {
    let netns = fresh();
    let error = netns.run(|| panic!("as planned")).await.map(|()| 0).unwrap_err().to_string();
    assert!(error.contains("panicked: as planned"), "{error}");
    assert_eq!(netns.run(thread_inode).await.unwrap(), netns.inode());
    let own = Netns::own().unwrap();
    assert_eq!(own.enter(thread_inode).unwrap(), own.inode());
}

#[test]
fn work_that_asks_for_other_work_gets_an_error_instead_of_waiting_for_itself() {
    let netns = fresh();
    let inner = netns.clone();
    let result = netns.enter(move || inner.enter(|| 1)).unwrap();
    assert!(result.unwrap_err().to_string().contains("asks for work in another"));
}

#[tokio::test]
async fn work_can_register_with_the_callers_reactor() {
    let netns = fresh();
    ip(&netns, "link set lo mtu 7777");
    let (connection, handle, _) = netns.run(rtnetlink::new_connection).await.unwrap().unwrap();
    tokio::spawn(connection);
    let links: Vec<_> = handle.link().get().execute().try_collect().await.unwrap();
    let mtu = LinkAttribute::Mtu(7777);
    assert!(links.iter().any(|link| link.attributes.contains(&mtu)));
}

#[tokio::test]
async fn a_long_job_does_not_hold_up_sockets() {
    let netns = fresh();
    let (release, wait) = mpsc::channel::<()>();
    let job = {
        let netns = netns.clone();
        tokio::spawn(async move { netns.run(move || wait.recv().is_ok()).await })
    };
    netns.tcp_socket(false).await.unwrap();
    release.send(()).unwrap();
    assert!(job.await.unwrap().unwrap());
}

#[tokio::test]
async fn after_the_first_socket_others_are_ready() {
    let netns = fresh();
    netns.tcp_socket(true).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !netns.pool(true).is_full() {
        assert!(Instant::now() < deadline, "the pool is not filled");
        tokio::task::yield_now().await;
    }
    // With the helper busy, sockets can only come from the pool.
    let (release, wait) = mpsc::channel::<()>();
    netns.inner.door.send(&SOCKETS, move || wait.recv().is_ok(), drop).unwrap();
    for _ in 0..4 {
        let socket = netns.tcp_socket(true).await.unwrap();
        assert_eq!(netns_cookie(&socket).unwrap(), netns.cookie());
    }
    release.send(()).unwrap();
    assert!(!netns.pool(false).is_full(), "a family that is not used has no sockets");
}

#[test]
fn a_cgroup_has_the_namespace_of_its_processes() {
    let cgroup = Transient::create("weir-test-netns-of-cgroup").unwrap();
    assert!(Netns::of_cgroup(cgroup.path()).unwrap().is_none());

    let below = Transient::create("weir-test-netns-of-cgroup/below").unwrap();
    let netns = fresh();
    let first = Sleeper::start(&below, &netns);
    let found = Netns::of_cgroup(cgroup.path()).unwrap().unwrap();
    assert_eq!((found.inode(), found.cookie()), (netns.inode(), netns.cookie()));
    assert_eq!(Netns::find(netns.inode()).unwrap().cookie(), netns.cookie());

    let second = Sleeper::start(&cgroup, &Netns::own().unwrap());
    let error = Netns::of_cgroup(cgroup.path()).unwrap_err().to_string();
    for pid in [first.pid(), second.pid()] {
        assert!(error.contains(&pid.to_string()), "{error}");
    }
    drop((first, second, below));
    assert!(Netns::of_cgroup(Path::new("/proc/nowhere")).is_err());
}

#[test]
fn a_threaded_cgroup_has_one_too() {
    let cgroup = Transient::create("weir-test-netns-threaded").unwrap();
    let below = Transient::create("weir-test-netns-threaded/below").unwrap();
    let netns = fresh();
    let sleeper = Sleeper::start(&cgroup, &netns);
    fs::write(below.path().join("cgroup.type"), "threaded").unwrap();
    fs::write(below.path().join("cgroup.threads"), sleeper.pid().to_string()).unwrap();
    for cgroup in [&cgroup, &below] {
        let found = Netns::of_cgroup(cgroup.path()).unwrap().unwrap();
        assert_eq!(found.inode(), netns.inode());
    }
    drop(sleeper);
    drop(below);
}

#[test]
fn what_is_no_network_namespace_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let stale = directory.path().join("stale");
    fs::write(&stale, "").unwrap();
    for path in [&stale, Path::new("/proc/self/ns/uts")] {
        let error = Netns::open(path).unwrap_err().to_string();
        assert!(error.contains("not a network namespace"), "{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
    let missing = Netns::open(&directory.path().join("missing")).unwrap_err().to_string();
    assert!(missing.contains("No such file"), "{missing}");
    assert!(Netns::find(u64::MAX).is_none());
}

/// A namespace that anything still held would keep its side of the link.
#[tokio::test]
async fn a_dropped_namespace_ends() {
    let (first, second) = pair();
    drop(second.tcp_socket(false).await.unwrap());
    drop(second);
    let deadline = Instant::now() + Duration::from_secs(30);
    while ip(&first, "-br link").contains("eth0") {
        assert!(Instant::now() < deadline, "the namespace is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Prints what a socket costs: `cargo test -p weir --release -- --ignored --nocapture cost_of`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures and asserts nothing"]
async fn cost_of_a_socket() {
    const ROUNDS: u32 = 20_000;
    for (name, netns) in [("own namespace", Netns::own().unwrap()), ("another", fresh())] {
        let task = async move {
            let mut all = Vec::new();
            for pause in [Duration::ZERO, Duration::from_micros(200)] {
                let mut took = Vec::new();
                for _ in 0..ROUNDS {
                    let start = Instant::now();
                    let socket = netns.tcp_socket(false).await.unwrap();
                    took.push(start.elapsed());
                    drop(socket);
                    let wait = Instant::now();
                    while wait.elapsed() < pause {
                        tokio::task::yield_now().await;
                    }
                }
                took.sort_unstable();
                let mean = took.iter().sum::<Duration>() / ROUNDS;
                let at = |percent: usize| took[took.len() * percent / 100];
                all.push((pause, mean, at(50), at(99)));
            }
            all
        };
        for (pause, mean, median, p99) in tokio::spawn(task).await.unwrap() {
            println!("{name}, pause {pause:?}: mean {mean:?}, median {median:?}, p99 {p99:?}");
        }
    }
}
