//! How many sockets this process may hold: the soft limit of open files is lifted to what is needed, where the hard
//! limit allows it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are open beside sockets: standard streams, the runtime's own, `/proc`, one spare each.
const BESIDE: u64 = 64;

/// The hard limit is too low.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{needed} files would be open at once and the limit is {limit}: ask for fewer viewers or connections, or raise it (`ulimit -Hn`)"
)]
pub struct TooFew {
    /// What the run may need.
    pub needed: u64,
    /// What the system allows.
    pub limit: u64,
}

/// Sees to it that so many sockets may be open at once.
///
/// # Errors
/// Where the system does not allow so many.
pub fn allow(sockets: u64) -> Result<(), TooFew> {
    let needed = sockets.saturating_add(BESIDE);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|limit| limit >= needed) {
        return Ok(());
    }
    let limit = maximum.unwrap_or(u64::MAX);
    let lifted = Rlimit {
        current: Some(needed),
        maximum,
    };
    if needed > limit || setrlimit(Resource::Nofile, lifted).is_err() {
        return Err(TooFew { needed, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifts_the_limit_as_far_as_it_may() {
        assert_eq!(allow(1), Ok(()));
        let before = getrlimit(Resource::Nofile);
        if let (Some(current), Some(maximum)) = (before.current, before.maximum)
            && maximum > current
        {
            assert_eq!(allow(maximum - BESIDE), Ok(()));
            assert_eq!(getrlimit(Resource::Nofile).current, Some(maximum));
        }
        if let Some(limit) = before.maximum {
            let refused = allow(limit).unwrap_err();
            assert_eq!(
                refused,
                TooFew {
                    needed: limit + BESIDE,
                    limit
                }
            );
        }
    }
}
