//! Threads on which databases are asked, so that a licence waits for them only where it must.

use std::future::Future;
use std::thread::{Builder, JoinHandle};

use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

use crate::Error;

/// A runtime on a thread of its own, which ends when this is dropped, and with it whatever runs there.
#[derive(Debug)]
pub(crate) struct Thread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    pub(crate) fn start(name: &str) -> Result<Self, Error> {
        let cannot = |error| Error::internal("start a thread of the licence server", error);
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(cannot)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Either it is told to stop, or there is nobody any more who could tell it.
                let _ = runtime.block_on(stopped);
            })
            .map_err(cannot)?;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Starts it there and does not wait.
    pub(crate) fn start_task(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    /// A handle by which code that does not hold the thread itself starts tasks there.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Does it there. Given up by the caller, it goes on there to its end.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        (self.handle.spawn(work).await)
            .unwrap_or_else(|error| Err(Error::internal("work on the store", error)))
    }

    /// As [`Thread::run`], for those who start the server and may wait.
    pub(crate) fn wait_for<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, result) = std::sync::mpsc::sync_channel(1);
        self.handle.spawn(async move {
            let _ = done.send(work.await);
        });
        (result.recv()).unwrap_or_else(|error| Err(Error::internal("open the store", error)))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
