//! Properties that hold for any bytes in any segmentation.

use proptest::collection::vec;
use proptest::prelude::*;

use super::sessions::{Step, cut, mutated, observe, session};
use super::*;

const PIECES: &[&[u8]] = &[
    GET.as_bytes(),
    OK.as_bytes(),
    b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"GET / HT",
    b"Content-Length: 1\r\n 1\r\n",
    b"\r",
    b"\n",
    b"\0\xff",
];

fn noise() -> impl Strategy<Value = Vec<Step>> {
    let words = prop_oneof![
        3 => prop::sample::select(PIECES).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..40),
    ];
    let side = prop::sample::select(&[Client, Upstream][..]);
    vec((side, words).prop_map(|(side, words)| Step(side, words)), 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn nothing_panics_and_everything_is_reported(steps in noise()) {
        let mut watch = Watch::new();
        for Step(side, words) in &steps {
            match &words[..] {
                [] => watch.observer.ended(*side),
                words => watch.observer.bytes(*side, words),
            }
            prop_assert!(watch.observer.connection.memory() < 64 << 10);
        }
        watch.observer.finish(ExchangeEnd::Complete);
        prop_assert!(watch.sink.is_settled());
        watch.downgrade();
    }

    #[test]
    fn any_segmentation_gives_the_same_records(
        steps in prop_oneof![session(), mutated()],
        cuts in vec(1_usize..50, 1..8),
    ) {
        let whole = observe(&steps);
        for cuts in [&[1][..], &cuts] {
            let smaller = observe(&cut(&steps, cuts));
            prop_assert_eq!(smaller.seen(), whole.seen());
            prop_assert_eq!(smaller.downgrade(), whole.downgrade());
        }
    }
}
