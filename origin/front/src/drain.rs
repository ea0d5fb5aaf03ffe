//! The end of a process, in order: first it stops being ready, then it stops accepting, then it waits for what is
//! in flight.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How far the end has come. Phases only ever advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Business as usual.
    Serving,
    /// Not ready any more, yet still accepting: balancers need time to notice.
    Leaving,
    /// Accepts nothing; connections are told to finish (`Connection: close`, GOAWAY).
    Closing,
    /// What is still open is cut.
    Ended,
}

/// A handle on the end of the process, shared by every listener and by the readiness check.
#[derive(Clone, Debug)]
pub struct Drain {
    phase: Arc<watch::Sender<Phase>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// A process that serves.
    pub fn new() -> Self {
        Self {
            phase: Arc::new(watch::Sender::new(Phase::Serving)),
        }
    }

    /// Whether the process should be sent new work.
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Serving
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Moves on to a phase; never back.
    pub fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            if later {
                *phase = to;
            }
            later
        });
    }

    /// Goes through all phases: `delay` while leaving, then at most `timeout` while closing. Listeners end by
    /// themselves as soon as nothing is in flight; stop waiting for this then.
    pub async fn run(&self, delay: Duration, timeout: Duration) {
        self.advance(Phase::Leaving);
        tokio::time::sleep(delay).await;
        self.advance(Phase::Closing);
        tokio::time::sleep(timeout).await;
        self.advance(Phase::Ended);
    }

    /// Resolves once the phase has been reached.
    pub async fn reached(&self, phase: Phase) {
        let mut changes = self.phase.subscribe();
        // The sender lives in `self`, so the channel cannot close before this returns.
        let _ = changes.wait_for(|now| *now >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_never_go_back() {
        let drain = Drain::new();
        assert!(drain.is_ready());
        drain.advance(Phase::Closing);
        drain.advance(Phase::Leaving);
        assert_eq!(drain.phase(), Phase::Closing);
        assert!(!drain.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn run_passes_every_phase() {
        let drain = Drain::new();
        let running = drain.clone();
        let run = tokio::spawn(async move {
            running
                .run(Duration::from_secs(5), Duration::from_secs(30))
                .await;
        });
        for phase in [Phase::Leaving, Phase::Closing, Phase::Ended] {
            drain.reached(phase).await;
            assert_eq!(drain.phase(), phase);
        }
        run.await.unwrap();
    }
}
