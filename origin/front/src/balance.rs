//! Connections spread evenly over the workers.
//!
//! The kernel spreads new connections by a hash of their addresses. That is even for thousands of viewers, and luck
//! for the few fat connections that a CDN keeps: four may all meet on one core. So the worker that accepts a
//! connection hands it to the one that has the fewest.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::admission::Permit;

/// How many connections of a listener each worker has.
#[derive(Debug)]
struct Counts(Mutex<Vec<usize>>);

impl Counts {
    fn change<T>(&self, change: impl FnOnce(&mut Vec<usize>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A connection's place at a worker, free again when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    counts: Arc<Counts>,
    worker: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.counts.change(|counts| counts[self.worker] -= 1);
    }
}

/// An accepted connection on its way to the worker that serves it.
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) permit: Permit,
    pub(crate) seat: Seat,
}

/// One worker's share in the balance.
pub(crate) struct Balance {
    worker: usize,
    counts: Arc<Counts>,
    others: Vec<mpsc::UnboundedSender<Accepted>>,
    handed: mpsc::UnboundedReceiver<Accepted>,
}

impl Balance {
    /// A balance among `workers`, a share for each.
    pub(crate) fn among(workers: usize) -> Vec<Self> {
        let counts = Arc::new(Counts(Mutex::new(vec![0; workers])));
        let (others, handed): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        handed
            .into_iter()
            .enumerate()
            .map(|(worker, handed)| Self {
                worker,
                counts: Arc::clone(&counts),
                others: others.clone(),
                handed,
            })
            .collect()
    }

    /// A seat at the worker that has the fewest connections; among equals, here.
    pub(crate) fn seat(&self) -> Seat {
        let worker = self.counts.change(|counts| {
            let fewest = counts.iter().min().copied().unwrap_or_default();
            let worker = if counts[self.worker] == fewest {
                self.worker
            } else {
                counts
                    .iter()
                    .position(|count| *count == fewest)
                    .unwrap_or(self.worker)
            };
            counts[worker] += 1;
            worker
        });
        Seat {
            counts: Arc::clone(&self.counts),
            worker,
        }
    }

    /// Hands a connection to the worker of its seat, or back where that is here or takes nothing more.
    pub(crate) fn hand_over(&self, accepted: Accepted) -> Option<Accepted> {
        if accepted.seat.worker == self.worker {
            return Some(accepted);
        }
        self.others[accepted.seat.worker]
            .send(accepted)
            .err()
            .map(|refused| refused.0)
    }

    /// The next connection that another worker hands over. Loses nothing if dropped.
    pub(crate) async fn handed_over(&mut self) -> Option<Accepted> {
        self.handed.recv().await
    }

    /// Takes nothing more, and gives what had been handed over by then.
    pub(crate) fn close(&mut self) -> impl Iterator<Item = Accepted> + '_ {
        self.handed.close();
        std::iter::from_fn(|| self.handed.try_recv().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_even_whoever_accepts() {
        let shares = Balance::among(3);
        let seats: Vec<_> = (0..7).map(|_| shares[0].seat()).collect();
        let mut counts = shares[1].counts.change(|counts| counts.clone());
        counts.sort_unstable();
        assert_eq!(counts, [2, 2, 3]);
        drop(seats);
        assert_eq!(shares[2].counts.change(|counts| counts.clone()), [0, 0, 0]);
    }

    #[test]
    fn the_next_connection_fills_the_gap() {
        let shares = Balance::among(2);
        let mut seats: Vec<_> = (0..4).map(|_| shares[0].seat()).collect();
        seats.retain(|seat| seat.worker == 0);
        seats.extend((0..2).map(|_| shares[0].seat()));
        assert_eq!(shares[0].counts.change(|counts| counts.clone()), [2, 2]);
    }
}
