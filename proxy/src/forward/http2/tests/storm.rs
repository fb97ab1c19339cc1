//! Many streams at once, on several threads, some of them given up half-way.

use h2::Reason;
use h2::server::SendResponse;

use super::*;

const STREAMS: usize = 400;

/// Sends the body back, with trailers, and resets every eleventh stream.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Option<()> {
    let number: usize = request.uri().path().trim_start_matches('/').parse().ok()?;
    let mut down = respond.send_response(Response::new(()), false).ok()?;
    let mut body = request.into_body();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.ok()?;
        body.flow_control().release_capacity(chunk.len()).ok()?;
        if number % 11 == 3 {
            down.send_reset(Reason::INTERNAL_ERROR);
            return None;
        }
        send_if_open(&mut down, chunk).await?;
    }
    down.send_trailers(trailers("0")).ok()
}

async fn send_if_open(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Option<()> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        if stream.capacity() == 0 {
            std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        }
        stream.send_data(data.split_to(stream.capacity().min(data.len())), false).ok()?;
    }
    Some(())
}

/// The bytes that came back, or `None` if the stream did not end well.
async fn request(mut client: h2::client::SendRequest<Bytes>, number: usize) -> Option<usize> {
    client = client.ready().await.unwrap();
    let size = number * 173 % 90_000 + 1;
    let uri = format!("http://a/{number}");
    let request = Request::builder().method("POST").uri(uri).body(()).unwrap();
    let (response, mut up) = client.send_request(request, false).unwrap();
    if number % 7 == 5 {
        send_if_open(&mut up, vec![1; size / 2].into()).await;
        up.send_reset(Reason::CANCEL);
        return None;
    }
    let upload = tokio::spawn(async move {
        send_if_open(&mut up, vec![1; size].into()).await?;
        up.send_data(Bytes::new(), true).ok()
    });
    let mut body = response.await.ok()?.into_body();
    let mut seen = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk.ok()?;
        seen += chunk.len();
        body.flow_control().release_capacity(chunk.len()).ok()?;
    }
    assert_eq!(body.trailers().await.ok()??, trailers("0"));
    upload.await.unwrap()?;
    assert_eq!(seen, size);
    Some(seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_of_streams_leaves_none_behind() {
    let mut peers = Peers::with(HttpLimits::default(), |server| {
        server.max_concurrent_streams(50);
    })
    .await;
    let requests: Vec<_> =
        (0..STREAMS).map(|number| tokio::spawn(request(peers.client.clone(), number))).collect();
    // Streams that were reset before they were opened never arrive, so no number is waited for.
    let sink = peers.sink.clone();
    let upstream = tokio::spawn(async move {
        let client = peers.client.clone();
        let mut echoes = tokio::task::JoinSet::new();
        while let Some((request, respond)) = peers.next().await {
            echoes.spawn(echo(request, respond));
        }
        drop((client, echoes));
    });
    let mut ended_well = 0;
    for (number, request) in requests.into_iter().enumerate() {
        let seen = within(request).await.unwrap();
        let given_up = number % 7 == 5 || number % 11 == 3;
        assert!(given_up || seen.is_some(), "stream {number}");
        ended_well += usize::from(seen.is_some());
    }
    assert!(ended_well > STREAMS / 2);
    sink.settled().await;
    upstream.abort();
}
