//! One core for whichever server is asked, another for whoever asks.

use std::io;
use std::path::Path;
use std::process::Command;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The two cores of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cores {
    pub(super) server: usize,
    client: usize,
}

impl Cores {
    /// The first two that this process may use.
    ///
    /// # Errors
    /// Where there are no two.
    pub(super) fn pick() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
        match (cores.next(), cores.next()) {
            (Some(server), Some(client)) => Ok(Self { server, client }),
            _ => Err(io::Error::other("two cores are needed, one for each side")),
        }
    }

    /// Keeps this thread, and those it starts from now on, on the client's core.
    pub(super) fn stay_client(self) -> io::Result<()> {
        stay(self.client)
    }

    /// Keeps this thread on the server's core.
    pub(super) fn stay_server(self) -> io::Result<()> {
        stay(self.server)
    }

    /// A process that stays on the server's core, with all its threads, and does not outlive the thread that starts it.
    pub(super) fn server_command(self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "taskset", "-c"]);
        command.arg(self.server.to_string()).arg(program);
        command
    }
}

fn stay(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}
