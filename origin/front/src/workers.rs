//! Worker threads: each has a current-thread runtime and its own sockets of every listener, so that a connection
//! lives and dies on one core.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::admission::Limits;
use crate::drain::Drain;
use crate::error::Error;
use crate::listener::Bound;
use crate::service::Service;

/// The running workers of one role.
pub struct Workers {
    ended: mpsc::Receiver<()>,
}

impl Workers {
    /// Starts `count` threads, called `{role}-{n}`, which serve every listener until the drain has run its course.
    /// `service` makes each worker's own service, so that it can hold what is the worker's own.
    ///
    /// # Errors
    /// If a thread or a runtime cannot be had. Workers started before then end with the drain.
    pub fn start<S: Service>(
        role: &str,
        count: NonZeroUsize,
        mut listeners: Vec<Bound>,
        mut service: impl FnMut() -> S,
        limits: &Arc<Limits>,
        drain: &Drain,
    ) -> Result<Self, Error> {
        let (alive, ended) = mpsc::channel(1);
        for number in 0..count.get() {
            let own: Vec<_> = listeners
                .iter_mut()
                .filter_map(|bound| bound.take_worker(number))
                .collect();
            let starting = |fault| Error::io(format!("starting worker {role}-{number}"), fault);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(1)
                .build()
                .map_err(starting)?;
            let (service, limits, drain, alive) =
                (service(), Arc::clone(limits), drain.clone(), alive.clone());
            let name = format!("{role}-{number}");
            let work = async move {
                let mut serving = JoinSet::new();
                for listener in own {
                    serving.spawn(listener.serve(
                        service.clone(),
                        Arc::clone(&limits),
                        drain.clone(),
                    ));
                }
                while let Some(outcome) = serving.join_next().await {
                    match outcome {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::error!(%error, "a listener ended"),
                        Err(error) => tracing::error!(%error, "a listener panicked"),
                    }
                }
            };
            thread::Builder::new()
                .name(name)
                .spawn(move || {
                    let _alive = alive;
                    runtime.block_on(work);
                })
                .map_err(starting)?;
        }
        Ok(Self { ended })
    }

    /// Resolves when every worker has ended.
    pub async fn ended(mut self) {
        // Nothing is ever sent: the channel closes with the last worker.
        let _ = self.ended.recv().await;
    }
}
