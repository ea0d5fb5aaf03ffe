//! Handshakes take turns: one, then whatever else is ready, then the next.
//!
//! A handshake costs as much processor time as several answers. Without turns, a thousand clients who connect in one moment
//! would all be greeted before anyone is answered who was there already; with them, an answer waits for one handshake.
//!
//! Who came first goes first, as long as nobody waits long. Once somebody does, more come than can be greeted, and some
//! will not be whatever is done: then who came last goes first. In the order of their coming all would wait until their
//! players gave up, and the processor would be busy with greeting nobody who is still there.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// As long as nobody has waited for so long, they have their turns in the order in which they came: well below the half
/// second that a licence server lets players wait for an answer by default.
const IN_ORDER: Duration = Duration::from_millis(200);

/// The turns of one worker's listener. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Handshakes(Arc<Mutex<Row>>);

#[derive(Default)]
struct Row {
    /// Somebody has the turn. Nobody waits otherwise.
    taken: bool,
    /// Who came last is at the back.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    since: Instant,
    turn: oneshot::Sender<Turn>,
}

/// The turn; dropped, it is the next one's.
struct Turn(Option<Arc<Mutex<Row>>>);

impl Handshakes {
    /// Nobody waits.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Does the costly part of a handshake when it is its turn, and says how long that took to come.
    pub(crate) async fn turn<T>(&self, costly: impl FnOnce() -> T) -> (Duration, T) {
        let since = Instant::now();
        let turn = self.next().await;
        let waited = since.elapsed();
        let done = costly();
        // Whatever is ready by now goes before the next.
        tokio::task::yield_now().await;
        drop(turn);
        (waited, done)
    }

    /// The same where the costly part is the first step of a future.
    pub(crate) async fn turn_of<F: Future>(
        &self,
        mut handshake: Pin<&mut F>,
    ) -> (Duration, F::Output) {
        let since = Instant::now();
        let turn = self.next().await;
        let waited = since.elapsed();
        let first = std::future::poll_fn(|context| Poll::Ready(handshake.as_mut().poll(context)));
        let first = first.await;
        // Whatever is ready by now goes before the next; what is left of this one waits for the client.
        tokio::task::yield_now().await;
        drop(turn);
        match first {
            Poll::Ready(done) => (waited, done),
            Poll::Pending => (waited, handshake.await),
        }
    }

    async fn next(&self) -> Turn {
        let turn = {
            let mut row = lock(&self.0);
            if !row.taken {
                row.taken = true;
                return Turn(Some(Arc::clone(&self.0)));
            }
            row.forget_the_gone();
            let (turn, coming) = oneshot::channel();
            let since = Instant::now();
            row.waiting.push_back(Waiting { since, turn });
            coming
        };
        // Never dropped by the row: an error, which cannot be, would cost the turn and not the handshake.
        turn.await.unwrap_or(Turn(None))
    }
}

impl Row {
    /// All wait equally long before they go, so that those at the front go first.
    fn forget_the_gone(&mut self) {
        while (self.waiting.front()).is_some_and(|first| first.turn.is_closed()) {
            self.waiting.pop_front();
        }
    }

    fn pop(&mut self) -> Option<oneshot::Sender<Turn>> {
        self.forget_the_gone();
        let longest = self.waiting.front()?.since.elapsed();
        let next = match longest < IN_ORDER {
            true => self.waiting.pop_front(),
            false => self.waiting.pop_back(),
        };
        next.map(|next| next.turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else {
            return;
        };
        let mut row = lock(&shared);
        while let Some(next) = row.pop() {
            match next.send(Turn(Some(Arc::clone(&shared)))) {
                Ok(()) => return,
                // It waits no more. The lock is held: the turn must not give itself back.
                Err(mut turn) => turn.0 = None,
            }
        }
        row.taken = false;
    }
}

fn lock(row: &Mutex<Row>) -> MutexGuard<'_, Row> {
    // Nothing is left half done under it.
    row.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::pin;
    use std::rc::Rc;

    use super::*;

    #[tokio::test]
    async fn what_is_ready_goes_between_two_handshakes() {
        let handshakes = Handshakes::new();
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks = tokio::task::LocalSet::new();
        for number in 0..3 {
            let (handshakes, order) = (handshakes.clone(), Rc::clone(&order));
            tasks.spawn_local(async move {
                let shaken = async {
                    order.borrow_mut().push(format!("handshake {number}"));
                    // The client has to say something.
                    tokio::task::yield_now().await;
                    number
                };
                assert_eq!(handshakes.turn_of(pin!(shaken)).await.1, number);
            });
        }
        let answers = Rc::clone(&order);
        tasks.spawn_local(async move {
            for _ in 0..3 {
                answers.borrow_mut().push("answer".to_owned());
                tokio::task::yield_now().await;
            }
        });
        tasks.await;
        let order = order.borrow();
        let at = |what: &str| order.iter().position(|done| done == what).unwrap();
        assert!(at("answer") < at("handshake 1"), "{order:?}");
        assert!(order[at("handshake 1")..at("handshake 2")].contains(&"answer".to_owned()));
    }

    #[tokio::test]
    async fn who_goes_away_gives_his_turn_back() {
        let handshakes = Handshakes::new();
        let held = handshakes.next().await;
        let waiting = tokio::time::timeout(Duration::from_millis(5), handshakes.turn(|| ()));
        assert!(waiting.await.is_err());
        drop(held);
        assert_eq!(handshakes.turn(|| 7).await.1, 7);
    }

    /// Who is greeted in which order, of those who come 50 ms apart while somebody else is at it for so long.
    async fn order(busy: Duration) -> Vec<u32> {
        let handshakes = Handshakes::new();
        let held = handshakes.next().await;
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks = tokio::task::LocalSet::new();
        let began = Instant::now();
        for number in 0..4 {
            let (handshakes, order) = (handshakes.clone(), Rc::clone(&order));
            tasks.spawn_local(async move {
                tokio::time::sleep_until(began + number * Duration::from_millis(50)).await;
                handshakes.turn(|| order.borrow_mut().push(number)).await;
            });
        }
        tasks.spawn_local(async move {
            tokio::time::sleep_until(began + busy).await;
            drop(held);
        });
        tasks.await;
        Rc::into_inner(order).unwrap().into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn who_came_first_goes_first_until_somebody_waits_long() {
        assert_eq!(
            order(IN_ORDER - Duration::from_millis(1)).await,
            [0, 1, 2, 3]
        );
        assert_eq!(order(IN_ORDER).await, [3, 2, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_row_holds_nobody_who_has_gone() {
        let handshakes = Handshakes::new();
        let held = handshakes.next().await;
        for _ in 0..100 {
            let patience = Duration::from_millis(20);
            let gone = tokio::time::timeout(patience, handshakes.turn(|| ()));
            assert!(gone.await.is_err());
            assert_eq!(lock(&handshakes.0).waiting.len(), 1);
        }
        drop(held);
        assert!(!lock(&handshakes.0).taken);
    }
}
