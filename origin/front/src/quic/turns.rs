//! Whose turn it is: in which order the streams of a connection hand QUIC what they have.
//!
//! quinn takes from any stream until the connection's send window is full. It then wakes all that wait, the last to
//! come first, and whoever runs first takes all that has become free: the first and the last take it in turns and
//! those between them starve, urgent or not. So the streams stand in a line instead, the most urgent first and equals
//! in the order in which they came, and whoever is served goes through the line from its head.
//!
//! A stream whose client does not read it is passed over, not waited for: quinn does not say whether it is the
//! stream or the connection that takes nothing more, so all that follow are tried.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::priority::Precedence;

/// The sending half of a stream.
pub(super) trait Outlet {
    /// Why it takes nothing any more.
    type Fault: Clone;

    /// Takes all of these pieces, which are removed as they are taken; wakes when it could take more.
    fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        pieces: &mut Vec<Bytes>,
    ) -> Poll<Result<(), Self::Fault>>;

    /// Puts what was taken before what has been taken from streams of a higher rank and is still unsent.
    fn rank(&mut self, rank: u8);
}

/// The line of one connection. Clones are the same line.
pub(super) struct Turns<O: Outlet>(Arc<Mutex<Line<O>>>);

/// A stream's place in the line, which it leaves when this is dropped.
pub(super) struct Turn<O: Outlet> {
    turns: Turns<O>,
    number: u64,
}

struct Line<O: Outlet> {
    streams: HashMap<u64, Stream<O>>,
    /// Those that have something to hand over.
    waiting: BTreeMap<Place, u64>,
    next_ticket: u64,
    next_number: u64,
    /// Woken when somebody is to be served.
    server: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// None before all: streams of the protocol itself.
    rank: Option<u8>,
    ticket: u64,
}

struct Stream<O: Outlet> {
    outlet: O,
    pieces: Vec<Bytes>,
    place: Place,
    shares: bool,
    /// Woken when all has been handed over.
    waiter: Option<Waker>,
    fault: Option<O::Fault>,
}

impl<O: Outlet> Turns<O> {
    /// A line in which nobody stands.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Line {
            streams: HashMap::new(),
            waiting: BTreeMap::new(),
            next_ticket: 0,
            next_number: 0,
            server: None,
        })))
    }

    /// Gives a stream its place: behind its equals, and before all others until it is [ranked](Turn::rank).
    pub(super) fn enter(&self, outlet: O) -> Turn<O> {
        let mut line = self.lock();
        let number = line.next_number;
        line.next_number += 1;
        let place = Place {
            rank: None,
            ticket: line.ticket(),
        };
        let stream = Stream {
            outlet,
            pieces: Vec::new(),
            place,
            shares: false,
            waiter: None,
            fault: None,
        };
        line.streams.insert(number, stream);
        Turn {
            turns: self.clone(),
            number,
        }
    }

    /// Serves the line once from its head, and wakes when it is to be served again.
    pub(super) fn serve(&self, context: &mut Context<'_>) {
        let mut line = self.lock();
        match &mut line.server {
            Some(server) => server.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        let mut after = Bound::Unbounded;
        while let Some((&place, &number)) = line.waiting.range((after, Bound::Unbounded)).next() {
            // Whoever was served in full and comes again waits for the next time.
            after = Bound::Excluded(place);
            if line.poll_hand_over(number, context).is_ready()
                && let Some(stream) = line.streams.get_mut(&number)
                && let Some(waiter) = stream.waiter.take()
            {
                waiter.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line<O>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O: Outlet> Clone for Turns<O> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<O: Outlet> Turn<O> {
    /// Moves the stream to where its response belongs.
    pub(super) fn rank(&self, precedence: Precedence) {
        let mut line = self.turns.lock();
        line.change(self.number, |stream| {
            stream.place.rank = Some(precedence.rank);
            stream.shares = precedence.shares;
            stream.outlet.rank(precedence.rank);
        });
    }

    /// Adds what is to be handed over.
    pub(super) fn push(&self, piece: Bytes) {
        let mut line = self.turns.lock();
        if let Some(stream) = line.streams.get_mut(&self.number) {
            stream.pieces.push(piece);
        }
    }

    /// Waits until all that was added has been handed over. One task waits at a time.
    pub(super) fn poll_flushed(&self, context: &mut Context<'_>) -> Poll<Result<(), O::Fault>> {
        let mut line = self.turns.lock();
        let Some(stream) = line.streams.get_mut(&self.number) else {
            return Poll::Ready(Ok(()));
        };
        if let Some(fault) = &stream.fault {
            return Poll::Ready(Err(fault.clone()));
        }
        if stream.pieces.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let place = stream.place;
        line.waiting.insert(place, self.number);
        let is_first = line
            .waiting
            .first_key_value()
            .is_some_and(|(first, _)| *first == place);
        if is_first {
            // Nobody is passed by, so the server need not be troubled.
            if let Poll::Ready(outcome) = line.poll_hand_over(self.number, context) {
                return Poll::Ready(outcome);
            }
        } else if let Some(server) = &line.server {
            server.wake_by_ref();
        }
        if let Some(stream) = line.streams.get_mut(&self.number) {
            stream.waiter = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Does something else with the stream. What has not been handed over stays behind.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut O) -> T) -> Option<T> {
        let mut line = self.turns.lock();
        let stream = line.streams.get_mut(&self.number)?;
        Some(act(&mut stream.outlet))
    }
}

impl<O: Outlet> Drop for Turn<O> {
    fn drop(&mut self) {
        let mut line = self.turns.lock();
        let Some(stream) = line.streams.remove(&self.number) else {
            return;
        };
        line.waiting.remove(&stream.place);
        drop(line);
    }
}

impl<O: Outlet> Line<O> {
    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    /// Changes a stream, and with it perhaps its place.
    fn change(&mut self, number: u64, change: impl FnOnce(&mut Stream<O>)) {
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        let waited = self.waiting.remove(&stream.place).is_some();
        change(stream);
        if waited {
            self.waiting.insert(stream.place, number);
        }
    }

    /// Hands over what it can; a stream that has nothing left no longer waits.
    fn poll_hand_over(
        &mut self,
        number: u64,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), O::Fault>> {
        let Some(stream) = self.streams.get_mut(&number) else {
            return Poll::Ready(Ok(()));
        };
        let outcome = std::task::ready!(stream.outlet.poll_take(context, &mut stream.pieces));
        stream.fault = outcome.clone().err();
        stream.pieces.clear();
        self.waiting.remove(&stream.place);
        if stream.shares {
            let ticket = self.ticket();
            self.change(number, |stream| stream.place.ticket = ticket);
        }
        Poll::Ready(outcome)
    }
}

#[cfg(test)]
mod tests {
    //! Of the order alone, against outlets that take what they are told to. What quinn makes of it is tried in
    //! `tests/priority.rs`.

    use super::*;
    use std::task::Wake;

    /// What a connection takes: all that fits, in order.
    #[derive(Clone, Default)]
    struct Pipe(Arc<Mutex<Taken>>);

    #[derive(Default)]
    struct Taken {
        room: usize,
        pieces: Vec<Bytes>,
    }

    impl Pipe {
        fn widen(&self, room: usize) {
            self.0.lock().unwrap().room += room;
        }

        fn taken(&self) -> Vec<Bytes> {
            std::mem::take(&mut self.0.lock().unwrap().pieces)
        }
    }

    struct Tap {
        pipe: Pipe,
        /// What the stream's own client lets through.
        room: usize,
        is_broken: bool,
    }

    impl Outlet for Tap {
        type Fault = &'static str;

        fn poll_take(
            &mut self,
            _: &mut Context<'_>,
            pieces: &mut Vec<Bytes>,
        ) -> Poll<Result<(), &'static str>> {
            if self.is_broken {
                return Poll::Ready(Err("broken"));
            }
            let mut taken = self.pipe.0.lock().unwrap();
            while !pieces.is_empty() {
                if taken.room == 0 || self.room == 0 {
                    return Poll::Pending;
                }
                taken.room -= 1;
                self.room -= 1;
                taken.pieces.push(pieces.remove(0));
            }
            Poll::Ready(Ok(()))
        }

        fn rank(&mut self, _: u8) {}
    }

    struct Count(std::sync::atomic::AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    impl Count {
        fn new() -> (Arc<Self>, Waker) {
            let count = Arc::new(Self(std::sync::atomic::AtomicUsize::new(0)));
            (Arc::clone(&count), Waker::from(count))
        }

        fn woken(&self) -> usize {
            self.0.load(std::sync::atomic::Ordering::Relaxed)
        }
    }

    fn enter(turns: &Turns<Tap>, pipe: &Pipe, rank: u8, shares: bool) -> Turn<Tap> {
        let turn = turns.enter(Tap {
            pipe: pipe.clone(),
            room: usize::MAX,
            is_broken: false,
        });
        turn.rank(Precedence { rank, shares });
        turn
    }

    fn ask(turn: &Turn<Tap>, piece: &'static str) -> Poll<Result<(), &'static str>> {
        turn.push(Bytes::from_static(piece.as_bytes()));
        turn.poll_flushed(&mut Context::from_waker(Waker::noop()))
    }

    fn serve(turns: &Turns<Tap>) {
        turns.serve(&mut Context::from_waker(Waker::noop()));
    }

    #[test]
    fn the_urgent_go_first_and_equals_in_the_order_in_which_they_came() {
        let (turns, pipe) = (Turns::new(), Pipe::default());
        let streams = [(3, "late"), (3, "later"), (1, "urgent"), (2, "middling")];
        let streams = streams.map(|(rank, piece)| (enter(&turns, &pipe, rank, false), piece));
        for (turn, piece) in &streams {
            assert!(ask(turn, piece).is_pending());
        }
        for expected in ["urgent", "middling", "late", "later"] {
            pipe.widen(1);
            serve(&turns);
            assert_eq!(pipe.taken(), [expected]);
        }
    }

    #[test]
    fn one_after_the_other_unless_they_share() {
        for (shares, expected) in [
            (false, ["a", "a", "a", "b", "b", "b"]),
            (true, ["a", "b", "a", "b", "a", "b"]),
        ] {
            let (turns, pipe) = (Turns::new(), Pipe::default());
            let streams = ["a", "b"].map(|name| (enter(&turns, &pipe, 3, shares), name));
            let mut left = [3, 3];
            let mut taken = Vec::new();
            for (turn, name) in &streams {
                assert!(ask(turn, name).is_pending());
            }
            while taken.len() < 6 {
                pipe.widen(1);
                serve(&turns);
                taken.extend(pipe.taken());
                for ((turn, name), left) in streams.iter().zip(&mut left) {
                    let mut context = Context::from_waker(Waker::noop());
                    if *left > 0 && turn.poll_flushed(&mut context).is_ready() {
                        *left -= 1;
                        if *left > 0 {
                            assert!(ask(turn, name).is_pending());
                        }
                    }
                }
            }
            assert_eq!(taken, expected, "sharing: {shares}");
        }
    }

    #[test]
    fn whoever_is_not_read_keeps_nobody_waiting() {
        let (turns, pipe) = (Turns::new(), Pipe::default());
        let (stuck, other) = (
            enter(&turns, &pipe, 1, false),
            enter(&turns, &pipe, 3, false),
        );
        stuck.with(|tap| tap.room = 0);
        pipe.widen(9);
        assert!(ask(&stuck, "stuck").is_pending());
        assert!(ask(&other, "other").is_pending());
        serve(&turns);
        assert_eq!(pipe.taken(), ["other"]);
        stuck.with(|tap| tap.room = 1);
        serve(&turns);
        assert_eq!(pipe.taken(), ["stuck"]);
    }

    #[test]
    fn nobody_passes_those_that_wait_but_the_first_is_not_kept() {
        let (turns, pipe) = (Turns::new(), Pipe::default());
        let (first, second) = (
            enter(&turns, &pipe, 3, false),
            enter(&turns, &pipe, 3, false),
        );
        let (server, waker) = Count::new();
        turns.serve(&mut Context::from_waker(&waker));
        assert!(ask(&first, "first").is_pending());
        assert_eq!(server.woken(), 0);
        pipe.widen(2);
        assert!(
            ask(&second, "second").is_pending(),
            "although there is room"
        );
        assert_eq!(server.woken(), 1);
        let (waiter, waker) = Count::new();
        assert!(
            second
                .poll_flushed(&mut Context::from_waker(&waker))
                .is_pending()
        );
        serve(&turns);
        assert_eq!(pipe.taken(), ["first", "second"]);
        assert_eq!(waiter.woken(), 1);
        pipe.widen(1);
        assert_eq!(ask(&second, "alone"), Poll::Ready(Ok(())));
    }

    #[test]
    fn those_that_leave_or_break_are_in_nobodys_way() {
        let (turns, pipe) = (Turns::new(), Pipe::default());
        let streams = [1, 2, 3].map(|rank| enter(&turns, &pipe, rank, false));
        for turn in &streams {
            assert!(ask(turn, "piece").is_pending());
        }
        let [left, broken, last] = streams;
        drop(left);
        broken.with(|tap| tap.is_broken = true);
        pipe.widen(1);
        serve(&turns);
        assert_eq!(pipe.taken(), ["piece"]);
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(
            broken.poll_flushed(&mut context),
            Poll::Ready(Err("broken"))
        );
        assert_eq!(last.poll_flushed(&mut context), Poll::Ready(Ok(())));
        drop((broken, last));
        let line = turns.lock();
        assert!(line.streams.is_empty() && line.waiting.is_empty());
    }
}
