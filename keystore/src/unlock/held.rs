//! What is secret and waits for people: kept for a while after the last step, then wiped without being asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// At most one value, for `patience` after it was last touched.
pub(crate) struct Held<T> {
    place: Arc<Mutex<Place<T>>>,
    patience: Duration,
    what: &'static str,
}

struct Place<T> {
    value: Option<T>,
    /// Counts the touches, so that a wake-up knows whether it is the last one's.
    touches: u64,
}

impl<T: Send + 'static> Held<T> {
    /// Nothing yet. `what` names it in the log when it is given up.
    pub(crate) fn new(patience: Duration, what: &'static str) -> Self {
        let place = Place {
            value: None,
            touches: 0,
        };
        Self {
            place: Arc::new(Mutex::new(place)),
            patience,
            what,
        }
    }

    /// Takes the place of what was there.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn put(&self, value: T) {
        let mut place = self.lock();
        place.value = Some(value);
        self.touch(&mut place);
    }

    /// Works on the value, whose time then begins anew; `None` where there is none.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut place = self.lock();
        let result = work(place.value.as_mut()?);
        self.touch(&mut place);
        Some(result)
    }

    /// Looks at the value.
    pub(crate) fn peek<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.lock().value.as_ref().map(look)
    }

    /// Takes the value out.
    pub(crate) fn take(&self) -> Option<T> {
        self.lock().value.take()
    }

    fn touch(&self, place: &mut Place<T>) {
        place.touches += 1;
        let touches = place.touches;
        let (weak, patience, what) = (Arc::downgrade(&self.place), self.patience, self.what);
        tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            let Some(place) = weak.upgrade() else { return };
            let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
            if place.touches == touches && place.value.take().is_some() {
                tracing::warn!(?patience, "{what} given up: nothing came for too long");
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Place<T>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_wiped_when_nothing_comes_for_too_long() {
        let value = Arc::new(());
        let held = Held::new(Duration::from_secs(10), "a test's value");
        held.put(value.clone());
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(held.with(|_| ()).is_some());
        // Looking does not count.
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(held.peek(|_| ()).is_some());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(Arc::strong_count(&value), 1);
        assert!(held.with(|_| ()).is_none());
    }
}
