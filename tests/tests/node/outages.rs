//! What an API server does to its clients: it forgets, breaks off, refuses, is slow, and is away for a
//! while. Captures stay, and what changed meanwhile is done afterwards.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::kube::api::TOKEN;
use weir_tests::kube::cluster::{Cluster, SHOP, SOON, captured};
use weir_tests::kube::object::{Owner, annotate, key, namespace};
use weir_tests::kube::pod::{Layout, Pod};
use weir_tests::kube::server::{Call, Trouble};
use weir_tests::kube::store::Kind;
use weir_tests::process::wait_until;
use weir_tests::wire::Wire;

use crate::{INJECT, PORT, SKIP_INBOUND, SKIP_OUTBOUND, opted};

fn three(cluster: &Cluster) -> Result<[Pod; 3]> {
    let start = |name, layout| cluster.start(&opted(name, Owner::Deployment), layout);
    Ok([
        start("stays", Layout::SystemdContainerd)?,
        start("changes", Layout::CgroupfsContainerd)?,
        start("goes", Layout::SystemdCrio)?,
    ])
}

/// The server is gone without a word, and its history too when it is back.
#[test]
fn what_changes_while_the_server_is_away_is_done_when_it_is_back() -> Result<()> {
    let cluster = Cluster::new()?;
    let [stays, changes, goes] = three(&cluster)?;
    let [staying, changing, going] =
        [&stays, &changes, &goes].map(|pod| cluster.ways(pod, PORT).expect("a free port"));
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&stays, &changes, &goes])?;
    cluster.api.wait_watched()?;

    cluster.api.go_away();
    let wires = staying.open()?;
    cluster.api.annotate(&key(changes.object()), SKIP_INBOUND, Some("9000"));
    cluster.api.remove(&key(goes.object()));
    goes.kill()?;
    let comes = cluster.start(&opted("comes", Owner::Job), Layout::Nested)?;
    cluster.api.compact();
    for ways in [&staying, &changing] {
        ways.assert_captured([true; 2]);
    }
    ensure!(captured(&weir)?.contains(&stays.workload()), "weir has let it go");
    wires.iter().try_for_each(|wire| wire.up("still").and_then(|()| wire.down("there")))?;
    drop(going);

    cluster.api_comes_back()?;
    cluster.settle(&weir, &[&stays, &changes, &comes])?;
    changing.become_captured([false, true])?;
    staying.assert_captured([true; 2]);
    cluster.ways(&comes, PORT)?.assert_captured([true; 2]);
    wires.into_iter().try_for_each(Wire::finish)?;
    cluster.api.nothing_forbidden()
}

/// A change whose line is cut in the middle is a change that has not come.
#[test]
fn a_watch_that_is_cut_in_the_middle_of_a_line_goes_on_where_it_was() -> Result<()> {
    let cluster = Cluster::new()?;
    let [stays, changes, goes] = three(&cluster)?;
    let changing = cluster.ways(&changes, PORT)?;
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&stays, &changes, &goes])?;
    for (round, list) in ["9000", "9001", "9000"].into_iter().enumerate() {
        cluster.api.wait_watched()?;
        cluster.api.tear_watches();
        cluster.api.annotate(&key(changes.object()), SKIP_OUTBOUND, Some(list));
        wait_until("a line to be cut", SOON, || Ok(cluster.api.torn() > round))?;
        changing.become_captured([true, list != "9000"])?;
    }
    cluster.api.wait_watched()?;
    cluster.api.cut_watches();
    cluster.api.tear_watches();
    cluster.api.remove(&key(goes.object()));
    cluster.settle(&weir, &[&stays, &changes])?;
    // Going on means that nothing was listed again.
    let lists = cluster.api.count(Call::List(Kind::Pod));
    ensure!(lists <= 2, "{lists} lists of pods");
    cluster.api.nothing_forbidden()
}

/// Watches end all the time, by themselves; bookmarks keep them young.
#[test]
fn short_watches_and_bookmarks_lose_nothing() -> Result<()> {
    let cluster = Cluster::new()?;
    let [stays, changes, goes] = three(&cluster)?;
    let changing = cluster.ways(&changes, PORT)?;
    cluster.api.watch_limit(Duration::from_millis(300));
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&stays, &changes, &goes])?;
    for list in ["9000", "9001", "9000", "9001"] {
        let watches = cluster.api.count(Call::Watch(Kind::Pod));
        cluster.api.annotate(&key(changes.object()), SKIP_INBOUND, Some(list));
        changing.become_captured([list != "9000", true])?;
        // What has been seen by a bookmark may be forgotten.
        cluster.api.bookmark();
        wait_until("another watch", SOON, || {
            Ok(cluster.api.count(Call::Watch(Kind::Pod)) > watches)
        })?;
        cluster.api.compact();
    }
    cluster.settle(&weir, &[&stays, &changes, &goes])?;
    cluster.api.nothing_forbidden()
}

/// 410 as an event of the watch, then as the status of the next.
#[test]
fn a_version_that_is_forgotten_is_listed_again() -> Result<()> {
    let cluster = Cluster::new()?;
    let [stays, changes, goes] = three(&cluster)?;
    let changing = cluster.ways(&changes, PORT)?;
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&stays, &changes, &goes])?;
    cluster.api.wait_watched()?;
    let lists = cluster.api.count(Call::List(Kind::Pod));
    cluster.api.expire_watches();
    wait_until("another list", SOON, || Ok(cluster.api.count(Call::List(Kind::Pod)) > lists))?;
    cluster.api.wait_watched()?;
    cluster.api.annotate(&key(changes.object()), SKIP_INBOUND, Some("9000"));
    changing.become_captured([false, true])?;

    for (status, list) in [(false, "9001"), (true, "9000")] {
        cluster.api.wait_watched()?;
        cluster.api.gone_as_status(status);
        let lists = cluster.api.count(Call::List(Kind::Pod));
        // The client must be gone when it happens, and come back with a version that is too old.
        cluster.api.go_away();
        cluster.api.annotate(&key(changes.object()), SKIP_INBOUND, Some(list));
        if status {
            cluster.api.remove(&key(goes.object()));
        }
        cluster.api.compact();
        cluster.api_comes_back()?;
        changing
            .become_captured([list != "9000", true])
            .with_context(|| format!("410 as a status: {status}; {}", weir.process.log()))?;
        ensure!(cluster.api.count(Call::List(Kind::Pod)) > lists, "no list");
    }
    cluster.settle(&weir, &[&stays, &changes])?;
    cluster.api.nothing_forbidden()
}

/// Everything goes wrong once before it goes well.
#[test]
fn errors_of_the_server_are_waited_out() -> Result<()> {
    let cluster = Cluster::new()?;
    let [stays, changes, goes] = three(&cluster)?;
    let (pods, namespaces) = (Call::List(Kind::Pod), Call::List(Kind::Namespace));
    for (call, trouble) in [
        (pods, Trouble::Refused(500, None)),
        (pods, Trouble::Torn),
        (pods, Trouble::Slow(Duration::from_millis(500))),
        (Call::NextPage(Kind::Pod), Trouble::Refused(410, None)),
        (Call::Watch(Kind::Pod), Trouble::Refused(429, Some(1))),
        (namespaces, Trouble::Refused(503, Some(1))),
        (namespaces, Trouble::Cut),
        (Call::Watch(Kind::Namespace), Trouble::Refused(500, None)),
    ] {
        cluster.api.spoil(call, trouble);
    }
    cluster.api.page(2);
    let weir = cluster.weir()?.start()?;
    cluster
        .settle(&weir, &[&stays, &changes, &goes])
        .with_context(|| format!("{:#?}", cluster.api.asked()))?;
    wait_until("all to have gone wrong", SOON, || Ok(cluster.api.spoiled() == 0))?;
    let changing = cluster.ways(&changes, PORT)?;
    cluster.api.wait_watched()?;
    cluster.api.annotate(&key(changes.object()), SKIP_INBOUND, Some("9000"));
    changing.become_captured([false, true])?;
    // No hammering: each try was answered with a rest.
    let asked = cluster.api.asked().len();
    ensure!(asked < 60, "{asked} requests");
    cluster.api.nothing_forbidden()
}

/// Pages of two, while pods come and go between them.
#[test]
fn lists_come_in_pages() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.api.page(2);
    let mut pods = Vec::new();
    for number in 0..7 {
        let object = opted(&format!("pod-{number}"), Owner::Job);
        cluster.api.put(&object);
        pods.push(cluster.idle(&object, Layout::ALL[number % 5])?);
    }
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &pods.iter().collect::<Vec<_>>())?;
    ensure!(cluster.api.count(Call::NextPage(Kind::Pod)) >= 3, "{:#?}", cluster.api.asked());
    // The rest of the list is too slow for what happens meanwhile.
    cluster.api.wait_watched()?;
    cluster.api.go_away();
    cluster.api.compact();
    cluster.api.spoil(Call::NextPage(Kind::Pod), Trouble::Slow(Duration::from_secs(1)));
    cluster.api.remove(&key(pods[6].object()));
    cluster.api.compact();
    let pages = cluster.api.count(Call::NextPage(Kind::Pod));
    cluster.api_comes_back()?;
    wait_until("the second page", SOON, || {
        Ok(cluster.api.count(Call::NextPage(Kind::Pod)) > pages)
    })?;
    cluster.api.remove(&key(pods[5].object()));
    cluster.api.annotate(&key(pods[0].object()), INJECT, Some("disabled"));
    cluster.settle(&weir, &pods[1..5].iter().collect::<Vec<_>>())?;
    cluster.api.nothing_forbidden()
}

/// One line, however often it is tried, with whom weir has asked; another when it works again.
#[test]
fn a_server_that_fails_is_named_once() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = cluster.start(&opted("cart", Owner::Deployment), Layout::SystemdContainerd)?;
    for _ in 0..3 {
        cluster.api.spoil(Call::List(Kind::Pod), Trouble::Refused(500, None));
    }
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&pod])?;
    let (log, server) = (weir.process.log(), format!("http://127.0.0.1:{}", cluster.api.port()));
    let lines = |part: &str| log.lines().filter(|line| line.contains(part)).count();
    ensure!(lines("cannot watch") == 1, "{log}");
    let told = log.lines().find(|line| line.contains("cannot watch")).unwrap_or_default();
    ensure!(told.contains(&server), "no {server} in {told}");
    ensure!(lines("watching the API server again") == 1, "{log}");
    // kube's own words, at each attempt and without an address.
    ensure!(lines("kube_") == 0, "{log}");
    // The server goes, and what was said of it does not count any more.
    cluster.api.go_away();
    let problem = || -> Result<String> {
        let status = weir.json(&["status"])?;
        Ok(status["status"]["source_problem"].as_str().unwrap_or_default().to_owned())
    };
    wait_until("the problem", SOON, || Ok(problem()?.contains(&server)))?;
    wait_until("a word of it", SOON, || Ok(weir.process.log().matches("cannot watch").count() > 1))
}

/// A token that does not count yet is a server that says no for a while.
#[test]
fn a_token_that_is_not_taken_is_tried_again() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = cluster.start(&opted("cart", Owner::Deployment), Layout::SystemdContainerd)?;
    cluster.api.change_token("another");
    let mut weir = cluster.weir()?.start()?;
    wait_until("a refusal", SOON, || Ok(cluster.api.asked().iter().any(|it| it.status == 401)))?;
    let (ready, body) = cluster.ready()?;
    ensure!(!ready, "ready without a list: {body}");
    ensure!(weir.process.running()?, "it has ended:\n{}", weir.process.log());
    wait_until("a word of it", SOON, || Ok(weir.process.log().contains("Unauthorized")))
        .with_context(|| weir.process.log())?;
    cluster.api.change_token(TOKEN);
    cluster.settle(&weir, &[&pod])
}

/// A pod that is seen but whose namespace is not yet: its default may come any moment.
#[test]
fn nothing_is_decided_before_the_namespaces_are_known() -> Result<()> {
    let cluster = Cluster::new()?;
    let mut object = opted("cart", Owner::Deployment);
    annotate(&mut object, INJECT, None);
    let pod = cluster.start(&object, Layout::SystemdContainerd)?;
    let shop = key(&namespace(SHOP));
    cluster.api.annotate(&shop, INJECT, Some("enabled"));
    let slow = Trouble::Slow(Duration::from_secs(2));
    cluster.api.spoil(Call::List(Kind::Namespace), slow);
    let weir = cluster.weir()?.start()?;
    wait_until("the pods to be watched", SOON, || {
        Ok(cluster.api.count(Call::Watch(Kind::Pod)) > 0)
    })?;
    // Ready would mean that all is known.
    let (ready, body) = cluster.ready()?;
    ensure!(!ready || captured(&weir)?.contains(&pod.workload()), "{body}");
    cluster.settle(&weir, &[&pod])
}
