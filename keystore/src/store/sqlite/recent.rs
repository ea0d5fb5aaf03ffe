//! Keys as they were read last, for as long as nothing is written: licences ask for the same few again and again, and each
//! look at the database costs two changes of thread.
//!
//! A hit is what the database would say: whatever is written, by the one connection that can, empties this before it
//! begins, and what was read before it ended is not kept.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use keystore_types::KeyId;
use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;

use crate::store::KeyRow;

/// The most keys that are kept: some 4 MB. When there are more, all go.
const MAX_KEPT: usize = 10_000;

/// What was read last.
#[derive(Default)]
pub(super) struct Recent(Mutex<State>);

#[derive(Default)]
struct State {
    /// A write may be under way.
    writing: bool,
    /// Counts writes.
    writes: u64,
    rows: HashMap<KeyId, KeyRow>,
}

impl Recent {
    /// The keys of these ids, if all of them are here.
    pub(super) fn find(&self, ids: &[KeyId]) -> Option<Vec<KeyRow>> {
        let state = self.state();
        ids.iter().map(|id| state.rows.get(id).cloned()).collect()
    }

    /// How much was written until now; `None` while something is.
    pub(super) fn writes(&self) -> Option<u64> {
        let state = self.state();
        (!state.writing).then_some(state.writes)
    }

    /// Keeps what was read since then, unless something was written meanwhile.
    pub(super) fn keep(&self, since: Option<u64>, rows: &[KeyRow]) {
        let mut state = self.state();
        if state.writing || since != Some(state.writes) {
            return;
        }
        if state.rows.len() + rows.len() > MAX_KEPT {
            state.rows.clear();
        }
        state
            .rows
            .extend(rows.iter().map(|row| (row.key_id, row.clone())));
    }

    fn begin(&self) {
        let mut state = self.state();
        state.writing = true;
        state.writes += 1;
        // What is about to be destroyed shall not stay here either.
        state.rows = HashMap::new();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection that writes, and that nothing is kept meanwhile.
pub(super) struct Writing<'a> {
    connection: tokio::sync::MutexGuard<'a, SqliteConnection>,
    recent: &'a Recent,
}

impl<'a> Writing<'a> {
    pub(super) fn begin(
        connection: tokio::sync::MutexGuard<'a, SqliteConnection>,
        recent: &'a Recent,
    ) -> Self {
        recent.begin();
        Self { connection, recent }
    }
}

impl Deref for Writing<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for Writing<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        // Whoever wrote may have gone away before the driver was done: the next write finds out, and until then nothing is
        // kept.
        if !self.connection.is_in_transaction() {
            self.recent.state().writing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use keystore_types::{ConstantIv, Generation, KeyContext, Label, SUBSAMPLE_RULE, Scheme};

    use super::*;
    use crate::seal::Wrapped;
    use crate::store::KeyBody;

    fn key(byte: u8) -> KeyRow {
        KeyRow {
            key_id: KeyId::new([byte; 16]),
            context: KeyContext {
                tenant: "t".to_owned(),
                asset: "film".parse().unwrap(),
                label: Label::Hd,
                scheme: Scheme::Cbcs,
                subsample_rule: SUBSAMPLE_RULE,
                generation: Generation {
                    sources: [1; 32],
                    number: 1,
                },
            },
            iv: ConstantIv::new([2; 16]),
            kek_version: 1,
            body: KeyBody::Wrapped(Wrapped::from_stored(vec![3; 44])),
            created: 4,
        }
    }

    #[test]
    fn what_was_read_beside_a_write_is_not_kept() {
        let recent = Recent::default();
        let ids = [1, 2].map(|byte| key(byte).key_id);
        let since = recent.writes();
        recent.keep(since, &[key(1)]);
        assert_eq!(recent.find(&ids[..1]), Some(vec![key(1)]));
        assert_eq!(recent.find(&ids), None, "all or nothing");

        // Read before a write begins, during it, and told only when it is over.
        recent.begin();
        assert_eq!(recent.find(&ids[..1]), None);
        assert_eq!(recent.writes(), None);
        recent.keep(since, &[key(1)]);
        recent.keep(recent.writes(), &[key(1)]);
        recent.state().writing = false;
        recent.keep(since, &[key(1)]);
        recent.keep(None, &[key(1)]);
        assert_eq!(recent.find(&ids[..1]), None);
        recent.keep(recent.writes(), &[key(1)]);
        assert_eq!(recent.find(&ids[..1]), Some(vec![key(1)]));
    }
}
