//! Lists of several senders reach one receiver as they are, whatever the tables.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::super::hpack::{Decoder, Head};
use super::super::*;
use super::model::{Choice, Model, Text, Triple, integer};

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A sender changes the size of its table, if not to more than it may, and sends a list, to
    /// which this limit applies.
    List(usize, Vec<usize>, Vec<Choice>, usize),
    /// The receiver allows a table of another size.
    Allow(u32),
    /// Fields that are not held any more are given up.
    Trim,
}

const SENDERS: usize = 3;

fn text(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Text> {
    (bytes, any::<bool>()).prop_map(|(bytes, huffman)| Text { bytes, huffman })
}

/// Few, so that senders have fields in common.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::sample::select(vec![":path", "grpc-status", "x", "te", "", "content-length"])
            .prop_map(|name| name.as_bytes().to_vec()),
        (3900_usize..4200).prop_map(|length| vec![b'n'; length]),
        vec(any::<u8>(), 0..20),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::sample::select(vec!["", "/a?b", "0", "trailers", "12", "application/grpc"])
            .prop_map(|value| value.as_bytes().to_vec()),
        3 => vec(any::<u8>(), 0..100),
        1 => (1000_usize..4200).prop_map(|length| vec![b'v'; length]),
    ]
}

fn choice() -> impl Strategy<Value = Choice> {
    let form = prop::sample::select(vec![(0x40, 6), (0x40, 6), (0, 4), (0x10, 4)]);
    let name = prop_oneof![text(name()).prop_map(Ok), (0_usize..200).prop_map(Err)];
    prop_oneof![
        (0_usize..200).prop_map(Choice::Indexed),
        // Entries that are likely to be there.
        (61_usize..64).prop_map(Choice::Indexed),
        (form, name, text(value()))
            .prop_map(|((form, prefix), name, value)| Choice::Literal(form, prefix, name, value)),
    ]
}

fn size() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), 0_u32..200, 3000_u32..5000, Just(65_536)]
}

fn step() -> impl Strategy<Value = Step> {
    let updates = prop_oneof![4 => Just(vec![]), 1 => vec(0_usize..=8192, 1..3)];
    let limit = prop_oneof![4 => Just(usize::MAX), 1 => 0_usize..6000];
    prop_oneof![
        8 => (0..SENDERS, updates, vec(choice(), 0..12), limit)
            .prop_map(|(from, updates, fields, limit)| Step::List(from, updates, fields, limit)),
        2 => size().prop_map(Step::Allow),
        1 => Just(Step::Trim),
    ]
}

fn plain(list: &FieldList) -> Vec<Triple> {
    list.iter().map(|(name, value, never)| (name.into_owned(), value.into_owned(), never)).collect()
}

/// Senders, and the receiver of all they send.
struct Relay {
    shared: Shared,
    senders: Vec<(Model, ListDecoder, Decoder)>,
    encoder: ListEncoder,
    receiver: Model,
    allowed: u32,
    /// The smallest since the last block.
    smallest: u32,
    /// Used again for each.
    list: FieldList,
    out: Vec<u8>,
}

impl Relay {
    fn new() -> Self {
        let sender = |_| {
            let mut observer = Decoder::default();
            observer.allow(8192);
            (Model::default(), ListDecoder::new(8192), observer)
        };
        Self {
            shared: Shared::default(),
            senders: (0..SENDERS).map(sender).collect(),
            encoder: ListEncoder::default(),
            receiver: Model::default(),
            allowed: 4096,
            smallest: 4096,
            list: FieldList::default(),
            out: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Trim => self.shared.trim(),
            Step::Allow(size) => {
                self.encoder.allow(*size);
                self.allowed = *size;
                self.smallest = self.smallest.min(*size);
            }
            Step::List(from, updates, fields, limit) => {
                self.send(*from, updates, fields, *limit);
            }
        }
    }

    fn send(&mut self, from: usize, updates: &[usize], choices: &[Choice], limit: usize) {
        let (model, decoder, observer) = &mut self.senders[from];
        let mut block = Vec::new();
        for update in updates {
            integer(&mut block, 0x20, 5, *update);
            model.resize(*update);
        }
        let expected: Vec<_> =
            choices.iter().map(|choice| model.write(choice, &mut block)).collect();
        let size = expected.iter().map(|(name, value, _)| name.len() + value.len() + 32).sum();
        let read = decoder.decode(&block, limit, &mut self.shared, &mut self.list);
        assert_eq!(decoder.entries.size(), model.size());
        let mut head = Head::default();
        observer.decode(&block, true, &mut head).unwrap();
        if size > limit {
            assert_eq!((read, self.list.is_empty()), (Err(DecodeError::TooLarge), true));
            return;
        }
        assert_eq!(read, Ok(()));
        assert_eq!((self.list.size(), self.list.len()), (size, expected.len()));
        assert_eq!(self.list.head(), &head, "what the observer sees");
        assert_eq!(plain(&self.list), expected);
        self.receive(&expected);
    }

    fn receive(&mut self, expected: &[Triple]) {
        self.out.clear();
        self.encoder.encode(&self.list, &mut self.out);
        let before = self.receiver.max;
        let (updates, seen) = self.receiver.read(&self.out);
        assert_eq!(seen, expected);
        // RFC 7541 §4.2.
        let smallest = (self.smallest as usize).min(before);
        assert!(smallest == before || updates.first() == Some(&smallest), "{updates:?}");
        assert!(updates.len() <= 2 && updates.iter().all(|size| *size <= self.allowed as usize));
        assert_eq!(self.receiver.max, 4096.min(self.allowed as usize));
        self.smallest = self.allowed;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_lists_pass_as_they_are(steps in vec(step(), 1..30)) {
        let mut relay = Relay::new();
        for step in &steps {
            relay.step(step);
        }
    }

    /// What another one takes for a block, and what it does not, as far as they can be compared.
    #[test]
    fn any_bytes_are_read_as_the_observer_reads_them(blocks in vec(vec(any::<u8>(), 0..40), 1..8)) {
        let (mut shared, mut list) = (Shared::default(), FieldList::default());
        let (mut decoder, mut observer) = (ListDecoder::new(4096), Decoder::default());
        for block in blocks {
            let mut head = Head::default();
            let read = decoder.decode(&block, usize::MAX, &mut shared, &mut list);
            let observed = observer.decode(&block, true, &mut head);
            match read {
                Ok(()) => prop_assert_eq!((observed, list.head()), (Ok(()), &head)),
                Err(_) => break,
            }
        }
    }
}
