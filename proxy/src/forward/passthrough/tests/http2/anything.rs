//! Properties that hold for any bytes in any segmentation.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Valid, nearly valid and meaningless frames: sequences of them reach every state.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let blocks: &[&[u8]] = &[GET, POST, OK, b"\x40\x01a\x01b\xbe", b"\x20", b"\xff", b"\x5f"];
    let head = (prop::sample::select(vec![HEADERS, CONTINUATION, PUSH_PROMISE]), any::<u8>());
    let headers = (head, 0_u32..9, prop::sample::select(blocks))
        .prop_map(|((kind, flags), stream, block)| frame(kind, flags, stream, block));
    let other = (0_u8..11, any::<u8>(), 0_u32..9, vec(any::<u8>(), 0..20))
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload));
    let good = prop::sample::select(vec![
        frame(HEADERS, BOTH, 1, GET),
        frame(HEADERS, END_HEADERS, 3, POST),
        frame(HEADERS, END_HEADERS, 1, OK),
        frame(DATA, END_STREAM, 1, b"abc"),
        frame(DATA, PADDED, 3, b"\x01abc\0"),
        frame(RST_STREAM, 0, 3, &[0; 4]),
        frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]),
        frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0x20, 0]),
    ]);
    prop_oneof![2 => headers, 1 => other, 4 => good, 1 => vec(any::<u8>(), 0..12)]
}

fn steps() -> impl Strategy<Value = Script> {
    let side = prop::sample::select(vec![Side::Client, Side::Upstream]);
    (any::<bool>(), vec((side, piece()), 0..40)).prop_map(|(greeted, steps)| match greeted {
        true => script(steps),
        false => steps,
    })
}

fn run(steps: &Script, step: usize) -> (Vec<String>, Vec<Untracked>) {
    let mut watched = Watched::new();
    watched.show(steps, step);
    watched.observer.finish(ExchangeEnd::Cancelled);
    assert!(watched.sink.is_settled());
    assert_eq!(
        watched.sink.downgrades().len(),
        usize::from(watched.observer.untracked().is_some())
    );
    (watched.lines(), watched.sink.downgrades())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_bytes_say_the_same_in_any_pieces(steps in steps(), step in 1_usize..30) {
        prop_assert_eq!(run(&steps, step), run(&steps, usize::MAX));
    }
}
