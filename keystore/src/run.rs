//! The daemon: harden, open, serve.

use std::future::Future;
use std::sync::Arc;

use conf::KeystoreSettings;
use tokio::sync::watch;

use crate::capability::Callers;
use crate::clock::SystemClock;
use crate::error::Error;
use crate::hardening::harden_process;
use crate::local::Local;
use crate::nodes::NodeListener;
use crate::server::{Bound, serve_control, serve_keys};

/// Runs a keystore as a process of its own until `shutdown`: both sockets, and the network only where other machines may come.
///
/// # Errors
/// Those of [`Local::open`] and of binding the sockets.
pub async fn run(
    settings: KeystoreSettings,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    harden_process();
    let local = Local::open(&settings, Arc::new(SystemClock)).await?;
    let sockets = Sockets::bind(&settings, &local).await?;
    sockets.serve(local, shutdown).await;
    Ok(())
}

/// The sockets of a keystore, and its listener for other machines: bound first, so that a fault shows before anything is served.
pub struct Sockets {
    keys: Bound,
    control: Bound,
    nodes: Option<NodeListener>,
    callers: Arc<Callers>,
    drain: conf::Drain,
}

impl Sockets {
    /// Binds them. The state folder must be locked already ([`Local::open`] does it): sockets that lie there are
    /// taken for left-overs.
    ///
    /// # Errors
    /// Those of the file system and of [`NodeListener::bind`].
    pub async fn bind(settings: &KeystoreSettings, local: &Local) -> Result<Self, Error> {
        let nodes = match &settings.listener {
            Some(listener) => Some(NodeListener::bind(listener, local.clone()).await?),
            None => None,
        };
        Ok(Self {
            nodes,
            keys: Bound::open(&settings.socket)?,
            control: Bound::open(&settings.control_socket)?,
            callers: Arc::new(Callers::load(settings)),
            drain: settings.drain,
        })
    }

    /// Serves them until `shutdown`, then lets calls under way finish within the drain's timeout. In a process that
    /// holds other roles too, this is what gives the verbs something to talk to.
    pub async fn serve(self, local: Local, shutdown: impl Future<Output = ()>) {
        let (closing, close) = watch::channel(false);
        let closed = |mut close: watch::Receiver<bool>| async move {
            // An error says that the sender is gone, which is a close too.
            let _ = close.wait_for(|&closing| closing).await;
        };
        let grace = self.drain.timeout;
        let close_nodes = close.clone();
        tokio::join!(
            async {
                shutdown.await;
                closing.send_replace(true);
            },
            serve_keys(
                self.keys,
                local.clone(),
                self.callers.clone(),
                closed(close.clone()),
                grace
            ),
            serve_control(
                self.control,
                local.clone(),
                self.callers,
                closed(close),
                grace
            ),
            async {
                if let Some(nodes) = self.nodes {
                    nodes.serve(closed(close_nodes), grace).await;
                }
            },
        );
    }
}
