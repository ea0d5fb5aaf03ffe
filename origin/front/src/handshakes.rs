//! Handshakes take turns: one, then whatever else is ready, then the next.
//!
//! A handshake costs as much processor time as several answers. Without turns, a thousand clients who connect in one moment
//! would all be greeted before anyone is answered who was there already; with them, an answer waits for one handshake.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The turns of one worker's listener. Clones share them.
#[derive(Clone)]
pub(crate) struct Handshakes(Arc<Semaphore>);

impl Handshakes {
    /// Nobody waits.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Does the costly part of a handshake when it is its turn, and says how long that took to come. Who waits is woken in
    /// order, behind all that is ready by then.
    pub(crate) async fn turn<T>(&self, costly: impl FnOnce() -> T) -> (Duration, T) {
        let since = Instant::now();
        // Never closed: an error, which cannot be, would cost the turn and not the handshake.
        let turn = self.0.acquire().await;
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
        let turn = self.0.acquire().await;
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
        let held = handshakes.0.acquire().await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(5), handshakes.turn(|| ()));
        assert!(waiting.await.is_err());
        drop(held);
        assert_eq!(handshakes.turn(|| 7).await.1, 7);
    }
}
