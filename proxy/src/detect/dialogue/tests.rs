//! Dialogues: what decides, on what evidence, and what is learned of it.

use proptest::prelude::*;

use super::*;
use crate::detect::corpus::PLAIN;

const SETTINGS: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];

fn dialogue() -> Dialogue {
    Dialogue::new(crate::detect::DEFAULT_PEEK_LIMIT)
}

/// Says `bytes` in pieces that end at `cuts`; the conclusion, and what had been said by then.
fn in_pieces(bytes: &[u8], cuts: &[usize]) -> (Option<Conclusion>, Vec<u8>) {
    let mut dialogue = dialogue();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut from = 0;
    for cut in cuts {
        if from == cut {
            continue;
        }
        let conclusion = dialogue.client_said(&bytes[from..cut]);
        if conclusion.is_some() {
            return (conclusion, [dialogue.client(), &bytes[from..cut]].concat());
        }
        from = cut;
    }
    (None, dialogue.client().to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Cut anywhere, the verdict is the same, and each byte is there exactly once.
    #[test]
    fn segmentation_changes_nothing(
        entry in 0..PLAIN.len(),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let (name, bytes, _) = PLAIN[entry];
        let (whole, _) = in_pieces(bytes, &[]);
        let (conclusion, said) = in_pieces(bytes, &cuts);
        prop_assert_eq!(&conclusion, &whole, "{}", name);
        prop_assert!(bytes.starts_with(&said), "{}", name);
        if conclusion.is_none() {
            prop_assert_eq!(&said[..], bytes, "{}", name);
        }
    }
}

#[test]
fn a_server_that_speaks_decides_and_on_what_evidence_is_told() {
    for (said, why, incomplete) in
        [(&b""[..], Why::ServerFirst, false), (b"ruok", Why::ServerBeforeTheRest, true)]
    {
        let mut dialogue = dialogue();
        assert_eq!(dialogue.client_said(said), None);
        let conclusion = dialogue.server_said(b"imok").unwrap();
        assert_eq!(conclusion, why.into());
        assert_eq!(conclusion.detection.is_incomplete(), incomplete);
        assert_eq!((dialogue.client(), dialogue.server()), (said, &b"imok"[..]));
    }
}

#[test]
fn settings_of_a_server_wait_for_the_clients_preface() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (said, detection) in [
        (&preface[..], Detection::Http2),
        (b"GET / HTTP/1.1\r\n\r\n", Detection::Tcp(Why::ServerFirst)),
        (b"hello", Detection::Tcp(Why::ServerFirst)),
    ] {
        let mut dialogue = dialogue();
        assert_eq!(dialogue.server_said(SETTINGS), None);
        let conclusion = dialogue.client_said(said).unwrap();
        assert_eq!(conclusion.detection, detection, "{said:?}");
        assert_eq!(dialogue.server(), SETTINGS);
    }
}

#[test]
fn silence_and_ends_are_no_evidence() {
    for ended in [Dialogue::client_ended, Dialogue::server_ended] {
        let mut dialogue = dialogue();
        assert!(!ended(&dialogue).detection.is_incomplete());
        assert_eq!(dialogue.client_said(b"GE"), None);
        let conclusion = ended(&dialogue);
        assert!(conclusion.detection.is_incomplete());
        assert_eq!(conclusion.lesson(), None);
    }
}

#[test]
fn only_what_a_server_says_teaches_that_it_is_raw_tcp() {
    for asked in [false, true] {
        let raw = if asked { Lesson::RawAnswer } else { Lesson::RawUnasked };
        for (said, lesson) in [
            (&b"220 mail ESMTP\r\n"[..], Some(raw)),
            (b"imok", Some(raw)),
            (b"HTTP/1.1 408 Request Timeout\r\n", None),
            (b"HTTP/1.0 400 Bad Request\r\n", None),
            (b"HT", None),
            (b"HTML", Some(raw)),
            (SETTINGS, None),
            (b"\x15\x03\x03\x00\x02\x02\x0a", None),
            (b"\x16", None),
            (b"\x15\x01", Some(raw)),
        ] {
            assert_eq!(Dialogue::lesson(said, asked), lesson, "{said:?}");
        }
    }
}

#[test]
fn what_is_looked_for_is_known_by_the_client() {
    for (said, lesson) in [
        (&b"GET / HTTP/1.1\r\n"[..], Some(Lesson::Known)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Lesson::Known)),
        (b"\x00\x01\x02", None),
    ] {
        let conclusion = dialogue().client_said(said).unwrap();
        assert_eq!(conclusion.lesson(), lesson, "{said:?}");
    }
}
