//! Wrapped keys that were read before, for when the database does not answer.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keystore_types::{KeyContext, KeyId};

use super::super::{KeyBody, KeyRow};

/// The most rows: some 500 bytes each.
const MAX_ROWS: usize = 50_000;

/// The usable keys that were read last, and the machines that may have them.
#[derive(Default)]
pub(super) struct Remembered(Mutex<Rows>);

#[derive(Default)]
struct Rows {
    by_id: Recent<KeyId, KeyRow>,
    /// `None` where there was no key.
    ids: Recent<KeyContext, Option<KeyId>>,
    nodes: Recent<[u8; 32], ()>,
}

impl Remembered {
    pub(super) fn take_in<'r>(&self, rows: impl IntoIterator<Item = &'r KeyRow>) {
        let mut known = self.rows();
        for row in rows {
            if matches!(row.body, KeyBody::Wrapped(_)) {
                known.by_id.put(row.key_id, row.clone());
                known.ids.put(row.context.clone(), Some(row.key_id));
            }
        }
    }

    /// The answer to a question for contexts: an exchanged key is found only after its content has none of its own.
    pub(super) fn take_in_answer(&self, contexts: &[KeyContext], rows: &[Option<KeyRow>]) {
        self.take_in(rows.iter().flatten());
        let mut known = self.rows();
        for (context, row) in contexts.iter().zip(rows) {
            if row.is_none() {
                known.ids.put(context.clone(), None);
            }
        }
    }

    /// The key of each context; `None` where one of them is not known.
    pub(super) fn of_contexts(&self, contexts: &[KeyContext]) -> Option<Vec<Option<KeyRow>>> {
        let mut known = self.rows();
        (contexts.iter())
            .map(|context| match known.ids.get(context)? {
                Some(id) => known.by_id.get(&id).map(Some),
                None => Some(None),
            })
            .collect()
    }

    /// The keys; `None` where one of them is not known.
    pub(super) fn of_ids(&self, ids: &[KeyId]) -> Option<Vec<KeyRow>> {
        let mut known = self.rows();
        ids.iter().map(|id| known.by_id.get(id)).collect()
    }

    /// The machine with this certificate is not revoked.
    pub(super) fn take_in_node(&self, certificate: [u8; 32]) {
        self.rows().nodes.put(certificate, ());
    }

    /// Whether that is known of it.
    pub(super) fn knows_node(&self, certificate: [u8; 32]) -> bool {
        self.rows().nodes.get(&certificate).is_some()
    }

    pub(super) fn forget(&self) {
        *self.rows() = Rows::default();
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was put or asked for last: when the young half is full it becomes the old one, which goes.
struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Recent<K, V> {
    fn put(&mut self, key: K, value: V) {
        if self.young.len() >= MAX_ROWS / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let value = self.old.remove(key)?;
        self.put(key.clone(), value.clone());
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let mut recent = Recent::default();
        for number in 0..MAX_ROWS * 2 {
            recent.put(number, number);
            assert_eq!(recent.get(&0), Some(0), "{number}");
        }
        assert!(recent.young.len() + recent.old.len() <= MAX_ROWS);
        assert_eq!(recent.get(&1), None);
        assert_eq!(recent.get(&(MAX_ROWS * 2 - 1)), Some(MAX_ROWS * 2 - 1));
    }
}
