//! The terminating engine between two peers that say anything: what arrives is the beginning of what was
//! sent, for the client perhaps with an answer of weir's own behind it, and every exchange is reported.

#![no_main]

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use weir::forward::http::{
    Exchange, ExchangeSink, HeadLimits, HttpContext, HttpLimits, HttpVersion, Untracked, serve,
};

const OWN: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\nx-weir-error: ";

#[derive(Default)]
struct Open(AtomicIsize);

impl ExchangeSink for Open {
    fn request_started(&self) {
        self.0.fetch_add(1, Relaxed);
    }
    fn exchange(&self, _: Exchange) {
        self.0.fetch_sub(1, Relaxed);
    }
    fn downgraded(&self, _: Untracked) {}
}

/// Says something in pieces, ends its half, and returns what it got.
async fn peer(stream: DuplexStream, says: &[u8], step: usize) -> Vec<u8> {
    let (mut reader, mut writer) = split(stream);
    let talk = async move {
        for piece in says.chunks(step) {
            // weir may have ended the connection, as the other side did.
            if writer.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = writer.shutdown().await;
    };
    let mut got = Vec::new();
    let (_, _) = tokio::join!(talk, reader.read_to_end(&mut got));
    got
}

async fn connection(client: &[u8], upstream: &[u8], step: usize) {
    let open = Arc::new(Open::default());
    let soon = Duration::from_millis(1);
    let limits = HttpLimits {
        head: HeadLimits { bytes: 512, fields: 16 },
        linger: soon,
        half_closed_idle: soon,
        ..HttpLimits::default()
    };
    let context = HttpContext { limits, ..HttpContext::new(Arc::clone(&open) as Arc<_>) };
    let ((near, weir_near), (far, weir_far)) = (duplex(4096), duplex(4096));
    let (_, at_client, at_upstream) = tokio::join!(
        serve(HttpVersion::Http1, weir_near, weir_far, context),
        peer(near, client, step),
        peer(far, upstream, step),
    );
    assert!(client.starts_with(&at_upstream), "upstream got {}", at_upstream.escape_ascii());
    let said = at_client.iter().zip(upstream).take_while(|(got, said)| got == said).count();
    let own = &at_client[said..];
    // weir's words begin like those of an upstream, perhaps.
    let is_own = || (0..=said).any(|at| at_client[at..].starts_with(OWN));
    assert!(own.is_empty() || is_own(), "client got {}", at_client.escape_ascii());
    assert_eq!(open.0.load(Relaxed), 0, "an exchange was forgotten");
}

fuzz_target!(|data: &[u8]| {
    let [step, share, bytes @ ..] = data else { return };
    let (client, upstream) = bytes.split_at(bytes.len() * usize::from(*share) / 256);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let connection = connection(client, upstream, usize::from(*step).max(1));
    runtime.expect("a runtime").block_on(connection);
});
