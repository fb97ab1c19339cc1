//! A request is sent once more only where the upstream has taken none of it.

use std::collections::HashSet;

use socket2::SockRef;

use super::*;
use crate::forward::http_testing::{rest, until_reset};
use crate::forward::retries::{Repeat, Retry, RetryOutcome};

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";

/// Has something happen on the upstream's side between the choice and the sending, before the runtime
/// can have been told.
fn just_before_sending(rig: &Rig, hook: impl FnOnce() + Send + 'static) {
    *rig.requests.hook.lock().unwrap() = Some(Box::new(hook));
}

fn retried(outcome: RetryOutcome) -> Vec<Retry> {
    vec![Retry { why: Repeat::Unacknowledged, outcome }]
}

#[tokio::test]
async fn a_request_that_crosses_with_a_close_is_sent_once_more() {
    let (rig, listener, mut caller, upstream) = served().await;
    just_before_sending(&rig, move || drop(upstream));
    caller.send(POST).await;
    let (mut second, _) = within(listener.accept()).await.unwrap();
    assert_eq!(next_request(&mut second).await.unwrap().1, POST);
    second.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(caller.response().await, OK);
    assert_eq!(rig.sink.retries(), retried(RetryOutcome::Success));
    let exchanges = rig.sink.exchanges(2).await;
    assert_eq!((exchanges[1].attempts, exchanges[1].request_bytes), (2, 4));
    assert_eq!(caller.close().await, Some(End::Finished));
}

#[tokio::test]
async fn a_request_of_which_the_kernel_takes_nothing_is_sent_once_more() {
    let (rig, listener, mut caller, upstream) = served().await;
    just_before_sending(&rig, move || tcp::reset(upstream));
    caller.send(POST).await;
    let (mut second, _) = within(listener.accept()).await.unwrap();
    assert_eq!(next_request(&mut second).await.unwrap().1, POST);
    second.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(caller.response().await, OK);
    assert_eq!(rig.sink.retries(), retried(RetryOutcome::Success));
}

#[tokio::test]
async fn a_request_that_an_upstream_has_acknowledged_is_not_sent_again() {
    let (rig, _listener, mut caller, upstream) = served().await;
    let upstream = Arc::new(upstream);
    let half_closed = Arc::clone(&upstream);
    just_before_sending(&rig, move || {
        SockRef::from(&*half_closed).shutdown(std::net::Shutdown::Write).unwrap();
    });
    caller.send(POST).await;
    // As on its own connection.
    assert_eq!(rest(&mut caller.stream).await, b"");
    assert_eq!(rig.sink.retries(), retried(RetryOutcome::Unproven));
    let mut upstream = Arc::into_inner(upstream).unwrap();
    assert_eq!(next_request(&mut upstream).await.unwrap().1, POST);
    drop((upstream, caller.stream));
    assert_eq!(within(caller.weir).await.unwrap(), None);
}

#[tokio::test]
async fn a_request_that_was_read_and_not_answered_is_not_sent_again() {
    let (rig, _listener, mut caller, mut upstream) = served().await;
    caller.send(POST).await;
    next_request(&mut upstream).await.unwrap();
    drop(upstream);
    assert_eq!(rest(&mut caller.stream).await, b"");
    assert_eq!(rig.sink.retries(), retried(RetryOutcome::Unproven));
}

#[tokio::test]
async fn nothing_follows_from_a_reset() {
    let (rig, _listener, mut caller, upstream) = served().await;
    caller.send(POST).await;
    // What is unread in its queue makes the close a reset.
    within(upstream.peek(&mut [0])).await.unwrap();
    drop(upstream);
    assert_eq!(until_reset(&mut caller.stream).await, b"");
    assert_eq!(within(caller.weir).await.unwrap(), Some(End::UpstreamReset));
    assert_eq!(rig.sink.retries(), retried(RetryOutcome::Unproven));
    assert_eq!(rig.connect.dials.load(Relaxed), 1);
}

#[tokio::test]
async fn a_new_connection_has_no_second() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let rig = Rig::new(&[address]);
    let server = Server::start("a").await;
    let mut caller = rig.caller(server.address).await;
    caller.send(POST).await;
    let (mut upstream, _) = within(listener.accept()).await.unwrap();
    next_request(&mut upstream).await.unwrap();
    drop(upstream);
    assert_eq!(rest(&mut caller.stream).await, b"");
    assert_eq!(rig.sink.retries(), []);
}

#[tokio::test]
async fn a_request_is_sent_no_more_than_twice() {
    let (rig, listener, mut caller, upstream) = served().await;
    just_before_sending(&rig, move || drop(upstream));
    caller.send(POST).await;
    let (second, _) = within(listener.accept()).await.unwrap();
    within(second.peek(&mut [0])).await.unwrap();
    drop(second);
    assert_eq!(until_reset(&mut caller.stream).await, b"");
    assert_eq!(rig.sink.retries(), retried(RetryOutcome::Failure));
    assert_eq!(rig.connect.dials.load(Relaxed), 2);
}

/// A POST with so many bytes of content.
fn large(length: usize) -> String {
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    format!("{head}{}", "x".repeat(length))
}

#[tokio::test]
async fn a_body_is_sent_once_more_with_its_head() {
    let (rig, listener, caller, upstream) = served().await;
    let request = large(200 << 10);
    just_before_sending(&rig, move || drop(upstream));
    let (mut read, mut write) = caller.stream.into_split();
    let sent = request.clone();
    let sends = tokio::spawn(async move { write.write_all(sent.as_bytes()).await.map(|()| write) });
    let (mut second, _) = within(listener.accept()).await.unwrap();
    assert_eq!(within(next_request(&mut second)).await.unwrap().1, request);
    second.write_all(OK.as_bytes()).await.unwrap();
    within(read.read_exact(&mut vec![0; OK.len()])).await.unwrap();
    let _write = sends.await.unwrap().unwrap();
    assert_eq!(rig.sink.retries(), retried(RetryOutcome::Success));
    assert_eq!(rig.sink.exchanges(2).await[1].request_bytes, 200 << 10);
}

#[tokio::test]
async fn of_a_request_no_more_is_kept_than_a_bound() {
    let (rig, _listener, caller, mut upstream) = served().await;
    let (mut read, mut write) = caller.stream.into_split();
    let sends = tokio::spawn(async move {
        // The connection ends meanwhile.
        let _ = write.write_all(large(8 << 20).as_bytes()).await;
        write
    });
    within(upstream.read_exact(&mut vec![0; 100 << 10])).await.unwrap();
    drop(upstream);
    let mut answer = Vec::new();
    let _reset = within(read.read_to_end(&mut answer)).await;
    assert!(answer.is_empty());
    let _write = within(sends).await.unwrap();
    assert_eq!(rig.sink.retries(), retried(RetryOutcome::TooLarge));
    assert_eq!(rig.connect.dials.load(Relaxed), 1);
}

/// An endpoint that closes connections at random moments, and remembers which requests it has read.
async fn restless(listener: TcpListener, read: Arc<Mutex<Vec<String>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let read = Arc::clone(&read);
        tokio::spawn(async move {
            while let Some((_, text)) = next_request(&mut stream).await {
                let number = text.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned();
                read.lock().unwrap().push(number);
                if stream.write_all(OK.as_bytes()).await.is_err() {
                    return;
                }
                if fastrand::u8(..4) == 0 {
                    // When it has been idle for that long.
                    let mut next = [0];
                    tokio::select! {
                        _ = stream.peek(&mut next) => {}
                        () = a_while() => return,
                    }
                }
            }
        });
    }
}

/// Others run meanwhile, more of them or less.
async fn a_while() {
    for _ in 0..fastrand::u8(..40) {
        tokio::task::yield_now().await;
    }
}

/// Sends so many POSTs over connections that close at random. Every failure is one of those that cannot
/// be proved, and none is read twice.
async fn many(requests: usize) {
    const CLIENTS: usize = 8;
    let read = Arc::new(Mutex::new(Vec::new()));
    let mut endpoints = Vec::new();
    for _ in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        endpoints.push(listener.local_addr().unwrap());
        tokio::spawn(restless(listener, Arc::clone(&read)));
    }
    let rig = Arc::new(Rig::new(&endpoints));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (rig, first) = (Arc::clone(&rig), endpoints[0]);
        clients.spawn(async move {
            let (mut caller, mut answered) = (rig.caller(first).await, 0);
            for request in 0..requests / CLIENTS {
                a_while().await;
                let number = format!("{client:02}{request:08}");
                let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
                let mut response = vec![0; OK.len()];
                let sent = caller.stream.write_all(format!("{head}{number}").as_bytes()).await;
                let got = match sent {
                    Ok(()) => within(caller.stream.read_exact(&mut response)).await,
                    Err(error) => Err(error),
                };
                match got {
                    Ok(_) => answered += 1,
                    Err(_) => caller = rig.caller(first).await,
                }
            }
            answered
        });
    }
    let answered: usize = clients.join_all().await.into_iter().sum();
    let read = read.lock().unwrap();
    let different: HashSet<_> = read.iter().collect();
    assert_eq!(different.len(), read.len(), "a request was read twice");
    let sent = requests / CLIENTS * CLIENTS;
    let is = |outcome| rig.sink.retries().iter().filter(|it| it.outcome == outcome).count();
    assert_eq!(sent - answered, is(RetryOutcome::Unproven) + is(RetryOutcome::Failure));
    println!("{sent} sent, {answered} answered, {:?} sent twice", is(RetryOutcome::Success));
}

#[tokio::test]
async fn connections_that_close_at_random_lose_few_requests_and_double_none() {
    many(2_000).await;
}

#[tokio::test]
#[ignore = "takes minutes; the same as above"]
async fn of_a_hundred_thousand_requests_none_is_doubled() {
    many(100_000).await;
}
