//! A directory of objects, as it changes.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use super::*;

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect(what);
}

#[tokio::test]
async fn objects_come_change_and_go() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| place.path().join(name);
    let services = Arc::new(Services::default());
    let following = tokio::spawn(follow(place.path().to_owned(), Arc::clone(&services)));
    let frontend: SocketAddr = "10.96.0.1:80".parse().unwrap();
    let count = || services.find(frontend).map_or(0, |it| services.endpoints(&it).pool().len());
    fs::write(file("service.yaml"), service("")).unwrap();
    fs::write(file("a.yaml"), slice("a", &[("10.1.0.1", "")])).unwrap();
    until("one endpoint", || count() == 1).await;
    fs::write(file("b.yaml"), slice("b", &[("10.1.0.2", ""), ("10.1.0.3", "")])).unwrap();
    until("three endpoints", || count() == 3).await;
    let json = r#"{"kind": "EndpointSlice", "metadata": {"name": "c", "labels":
        {"kubernetes.io/service-name": "shop"}}, "addressType": "IPv4", "ports": [{"port": 1}],
        "endpoints": [{"addresses": ["10.1.0.4"]}]}"#;
    fs::write(file("c.json"), json).unwrap();
    until("four endpoints", || count() == 4).await;
    fs::remove_file(file("c.json")).unwrap();
    until("three endpoints again", || count() == 3).await;
    fs::write(file("b.yaml"), "kind: EndpointSlice\nmetadata: [\n").unwrap();
    let problem = || services.feed(Origin::Directory).and_then(|feed| feed.problem);
    until("a problem", || problem().is_some()).await;
    let text = problem().unwrap();
    assert!(text.contains("b.yaml: ") && text.contains("line"), "{text}");
    assert!(text.ends_with("; its previous content remains in effect"), "{text}");
    assert_eq!(count(), 3);
    fs::remove_file(file("b.yaml")).unwrap();
    until("one endpoint again", || count() == 1 && problem().is_none()).await;
    let other = service("").replace("name: shop", "name: other");
    fs::write(file("z.yaml"), other).unwrap();
    until("a claimed address", || problem().is_some()).await;
    let text = problem().unwrap();
    assert!(text.contains("service default/other: 10.96.0.1:80 belongs to service"), "{text}");
    fs::remove_file(file("service.yaml")).unwrap();
    until("the address is free", || problem().is_none()).await;
    assert_eq!(&**services.find(frontend).unwrap().service(), "default/other");
    following.abort();
}

/// Guards against a directory that is said to be wrong for what a cluster says.
#[tokio::test]
async fn what_is_refused_of_others_is_no_problem_of_the_directory() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("service.yaml"), service("")).unwrap();
    let services = Arc::new(Services::default());
    let following = tokio::spawn(follow(place.path().to_owned(), Arc::clone(&services)));
    let feed = || services.feed(Origin::Directory);
    until("the directory", || services.find("10.96.0.1:80".parse().unwrap()).is_some()).await;
    let mut claims = parse(&service("")).unwrap();
    let refused = services.apply(Origin::Cluster, claims.drain(..)).unwrap_err();
    assert_eq!(services.problems(Origin::Cluster), refused);
    fs::write(place.path().join("wrong.yaml"), "kind: Pod\n").unwrap();
    until("its own problem", || feed().is_some_and(|feed| feed.problem.is_some())).await;
    let problem = feed().unwrap().problem.unwrap();
    assert!(problem.contains("wrong.yaml") && !problem.contains("belongs to"), "{problem}");
    following.abort();
}
