//! A peer's end of a connection: what it has to send, what it may, and what it has allowed.

use std::collections::{HashMap, VecDeque};

use fastrand::Rng;

use super::super::wire::{Seen, settings, window_update};
use super::super::world::World;
use crate::h2::relay::PeerId;

const INITIAL: i64 = 65_535;

pub(super) struct Link {
    pub(super) which: PeerId,
    /// On its way to the relay.
    queue: VecDeque<u8>,
    /// What the relay takes: on the connection, on a new stream, and on each stream.
    send: i64,
    initial_send: i64,
    sends: HashMap<u32, i64>,
    /// What the relay was allowed: the same.
    receive: i64,
    initial_receive: i64,
    receives: HashMap<u32, i64>,
    /// Initial windows that the relay has not acknowledged.
    said: VecDeque<i64>,
}

// === impl Link ===

impl Link {
    pub(super) fn new(which: PeerId) -> Self {
        Self {
            which,
            queue: VecDeque::new(),
            send: INITIAL,
            initial_send: INITIAL,
            sends: HashMap::new(),
            receive: INITIAL,
            initial_receive: INITIAL,
            receives: HashMap::new(),
            said: VecDeque::new(),
        }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.queue.extend(bytes);
    }

    pub(super) fn open(&mut self, stream: u32) {
        self.sends.insert(stream, self.initial_send);
        self.receives.insert(stream, self.initial_receive);
    }

    pub(super) fn forget(&mut self, stream: u32) {
        self.sends.remove(&stream);
        self.receives.remove(&stream);
    }

    /// How much may be sent on a stream.
    pub(super) fn allowed(&self, stream: u32) -> usize {
        let window = self.sends.get(&stream).copied().unwrap_or_default().min(self.send);
        usize::try_from(window).unwrap_or_default()
    }

    /// So much of the windows is used.
    pub(super) fn sent(&mut self, stream: u32, flow: usize) {
        self.send -= flow as i64;
        *self.sends.get_mut(&stream).expect("a stream") -= flow as i64;
    }

    /// Says another initial window, and with it perhaps other things.
    pub(super) fn say(&mut self, window: u32, more: &[(u16, u32)]) {
        self.said.push_back(i64::from(window));
        let all = [&[(4, window)], more].concat();
        self.put(&settings(&all));
    }

    /// Lets the relay send more.
    pub(super) fn allow(&mut self, stream: u32, by: u32) {
        match stream {
            0 => self.receive += i64::from(by),
            _ => match self.receives.get_mut(&stream) {
                Some(window) => *window += i64::from(by),
                None => return,
            },
        }
        self.put(&window_update(stream, by));
    }

    /// Windows are such that everything can be sent.
    pub(super) fn allow_all(&mut self) -> bool {
        let least = 16 << 10;
        let short = |window: &i64| *window < least;
        let mut streams: Vec<u32> =
            self.receives.iter().filter(|it| short(it.1)).map(|it| *it.0).collect();
        streams.extend(short(&self.receive).then_some(0));
        for stream in &streams {
            let window = if *stream == 0 { self.receive } else { self.receives[stream] };
            self.allow(*stream, (2 * least - window) as u32);
        }
        !streams.is_empty()
    }

    /// Brings what is on its way to the relay, or a part of it; whether there was anything.
    pub(super) fn flush(&mut self, world: &mut World, most: usize) -> bool {
        let count = self.queue.len().min(most);
        let bytes: Vec<u8> = self.queue.drain(..count).collect();
        if count > 0 {
            world.send(self.which, &bytes);
        }
        count > 0
    }

    /// The same in pieces.
    pub(super) fn flush_pieces(&mut self, world: &mut World, rng: &mut Rng, is_slow: bool) {
        for _ in 0..rng.usize(1..10) {
            let most = if is_slow { 1 } else { [1, 9, 100, 5000, 65_536][rng.usize(..5)] };
            if !self.flush(world, most) {
                return;
            }
        }
    }

    /// Follows windows as the relay changes them, and uses them.
    pub(super) fn follow(&mut self, seen: &Seen) {
        match seen {
            Seen::Settings(said) => {
                for (_, window) in said.iter().filter(|(id, _)| *id == 4) {
                    let by = i64::from(*window) - self.initial_send;
                    self.initial_send = i64::from(*window);
                    self.sends.values_mut().for_each(|it| *it += by);
                }
            }
            Seen::SettingsAck => {
                let window = self.said.pop_front().expect("settings that were said");
                let by = window - self.initial_receive;
                self.initial_receive = window;
                self.receives.values_mut().for_each(|it| *it += by);
            }
            Seen::WindowUpdate { stream: 0, by } => self.send += i64::from(*by),
            Seen::WindowUpdate { stream, by } => {
                if let Some(window) = self.sends.get_mut(stream) {
                    *window += i64::from(*by);
                }
            }
            Seen::Data { stream, bytes, .. } => {
                let count = bytes.len() as i64;
                self.receive -= count;
                assert!(self.receive >= 0, "the window of {:?}", self.which);
                if let Some(window) = self.receives.get_mut(stream) {
                    *window -= count;
                    assert!(count == 0 || *window >= 0, "{stream} of {:?}: {window}", self.which);
                }
            }
            _ => {}
        }
    }

    /// Grants something, or changes the initial window.
    pub(super) fn vary(&mut self, rng: &mut Rng) {
        let by = [1, 10, 1000, 40_000][rng.usize(..4)];
        let streams: Vec<u32> = self.receives.keys().copied().collect();
        match rng.u8(..4) {
            0 => self.allow(0, by),
            1 => self.say([0, 1, 100, 16_384, 65_535, 1 << 20][rng.usize(..6)], &[]),
            _ => {
                if let Some(stream) = rng.choice(streams) {
                    self.allow(stream, by);
                }
            }
        }
    }
}
