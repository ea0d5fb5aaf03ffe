//! Who is worked for first where all cannot be: whoever is playing goes before whoever begins.
//!
//! So many requests are worked on at once. Others wait in two rows, and a place that comes free goes to the row of
//! renewals first. A start that has waited for `queue_time` is told to come again, since its player would soon do so by
//! itself; a renewal waits until it is its turn. Both rows are bounded.
//!
//! A request is a renewal if this node has answered its token before, with a licence or a lease that goes on: that is known
//! before a signature is verified. That a client *says* it renews, by its URL too, counts for nothing: anybody can, with any
//! token.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conf::AdmissionSettings;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::{Refusal, telemetry};

/// What a request is to a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A picture stops without it.
    Renewal,
    /// A picture does not begin without it.
    Start,
}

impl Class {
    /// As it is written in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Renewal => "renewal",
            Self::Start => "start",
        }
    }
}

/// The places, and who waits for one.
#[derive(Debug)]
pub struct Admission {
    settings: AdmissionSettings,
    state: Mutex<State>,
    answered: Mutex<Answered>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// Nobody waits where a place is free.
    renewals: VecDeque<oneshot::Sender<Place>>,
    starts: VecDeque<oneshot::Sender<Place>>,
    shed: u32,
}

/// A place among those who are worked for; dropped, it is the next one's.
#[derive(Debug)]
pub struct Place(Option<Arc<Admission>>);

/// Starts that are shed are told to come again after 1 to so many seconds, by turns: those who came together shall not come
/// together again.
const SPREAD_SECONDS: u32 = 5;

impl Admission {
    /// All places are free, and no token was answered yet.
    pub fn new(settings: AdmissionSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            state: Mutex::default(),
            answered: Mutex::default(),
            hasher: RandomState::new(),
        })
    }

    /// A place, at once or when it is the request's turn. `waited` is how long its connection waited before, which counts.
    /// Whose turn it is decides `class`, which is asked only where that matters.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`], for a start that has waited too long, or where no more may wait.
    pub async fn enter(
        self: &Arc<Self>,
        waited: Duration,
        class: impl Fn() -> Class,
    ) -> Result<Place, Refusal> {
        let left = self.settings.queue_time.saturating_sub(waited);
        if left.is_zero() && class() == Class::Start {
            return Err(self.state().shed(Class::Start));
        }
        let (class, place) = {
            let mut state = self.state();
            if state.taken < self.settings.at_once {
                state.taken += 1;
                return Ok(Place(Some(Arc::clone(self))));
            }
            let class = class();
            let (row, most) = match class {
                Class::Renewal => (&mut state.renewals, self.settings.renewals_waiting),
                Class::Start => (&mut state.starts, self.settings.starts_waiting),
            };
            if row.len() >= most {
                // Some players may have gone away meanwhile.
                row.retain(|waiting| !waiting.is_closed());
            }
            if row.len() >= most {
                return Err(state.shed(class));
            }
            let (turn, place) = oneshot::channel();
            row.push_back(turn);
            (class, place)
        };
        let since = Instant::now();
        let place = match class {
            Class::Renewal => place.await.ok(),
            Class::Start => {
                let waited = tokio::time::timeout(left, place).await;
                waited.ok().and_then(Result::ok)
            }
        };
        match place {
            Some(place) => {
                telemetry::waited(class, since.elapsed());
                Ok(place)
            }
            None => Err(self.state().shed(class)),
        }
    }

    /// Waits for somebody else's service, meanwhile without a place: one that is slow holds up only those who need it.
    ///
    /// # Errors
    /// As for [`Self::enter`]; what was begun goes before what begins.
    pub async fn outside<T>(
        self: &Arc<Self>,
        place: Place,
        asking: impl Future<Output = T>,
    ) -> Result<(Place, T), Refusal> {
        drop(place);
        let told = asking.await;
        let place = self.enter(Duration::ZERO, || Class::Renewal).await?;
        Ok((place, told))
    }

    /// Takes note that the token was answered with a licence, or with a longer lease.
    pub fn answered(&self, token: &str) {
        let token = self.hasher.hash_one(token);
        self.tokens().keep(token, Instant::now());
    }

    /// Whether the token was answered so lately, for all that this node remembers.
    pub fn has_answered(&self, token: &str) -> bool {
        let token = self.hasher.hash_one(token);
        self.tokens().holds(token, Instant::now())
    }

    /// Whose place it becomes: the first renewal's that still waits, else the first start's, else nobody's.
    fn leave(self: Arc<Self>) {
        let mut state = self.state();
        while let Some(next) = (state.renewals.pop_front()).or_else(|| state.starts.pop_front()) {
            match next.send(Place(Some(Arc::clone(&self)))) {
                Ok(()) => return,
                // It waits no more. The lock is held: the place must not give itself back.
                Err(mut place) => place.0 = None,
            }
        }
        state.taken -= 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is counted is right even where a thread died while it counted.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tokens(&self) -> MutexGuard<'_, Answered> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn shed(&mut self, class: Class) -> Refusal {
        telemetry::shed(class);
        self.shed = self.shed.wrapping_add(1);
        Refusal::Overloaded {
            retry_after: 1 + self.shed % SPREAD_SECONDS,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(admission) = self.0.take() {
            admission.leave();
        }
    }
}

/// Tokens that were answered, by a hash under a key of this process, for one to two [`GENERATION`]s since the last time.
#[derive(Debug)]
struct Answered {
    young: HashSet<u64>,
    old: HashSet<u64>,
    since: Instant,
}

/// Longer than most licences last, so that a renewal is known by the one before it.
const GENERATION: Duration = Duration::from_secs(6 * 3600);

/// The most of a generation, of which there are two: 5 MB together. Whoever was before is forgotten sooner.
const MAX_ANSWERED: usize = 200_000;

impl Default for Answered {
    fn default() -> Self {
        Self {
            young: HashSet::new(),
            old: HashSet::new(),
            since: Instant::now(),
        }
    }
}

impl Answered {
    fn keep(&mut self, token: u64, now: Instant) {
        self.age(now);
        if self.young.len() >= MAX_ANSWERED && !self.young.contains(&token) {
            self.turn(now);
        }
        self.young.insert(token);
    }

    fn holds(&mut self, token: u64, now: Instant) -> bool {
        self.age(now);
        self.young.contains(&token) || self.old.contains(&token)
    }

    fn age(&mut self, now: Instant) {
        if now.duration_since(self.since) >= 2 * GENERATION {
            self.young.clear();
        }
        if now.duration_since(self.since) >= GENERATION {
            self.turn(now);
        }
    }

    fn turn(&mut self, now: Instant) {
        self.old = std::mem::take(&mut self.young);
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;

    const QUEUE_TIME: Duration = Duration::from_millis(500);

    fn admission(at_once: usize) -> Arc<Admission> {
        Admission::new(AdmissionSettings {
            at_once,
            queue_time: QUEUE_TIME,
            starts_waiting: 3,
            renewals_waiting: 100,
        })
    }

    /// Asks for a place in a task of its own, which has asked when this returns.
    async fn ask(admission: &Arc<Admission>, class: Class) -> JoinHandle<Result<Place, Refusal>> {
        let admission = Arc::clone(admission);
        let asking = tokio::spawn(async move { admission.enter(Duration::ZERO, || class).await });
        tokio::task::yield_now().await;
        asking
    }

    fn is_shed(result: &Result<Place, Refusal>) -> bool {
        matches!(result, Err(Refusal::Overloaded { retry_after }) if (1..=SPREAD_SECONDS).contains(retry_after))
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_go_before_starts_that_came_earlier() {
        let admission = admission(1);
        let first = admission
            .enter(Duration::ZERO, || Class::Start)
            .await
            .unwrap();
        let start = ask(&admission, Class::Start).await;
        let renewal = ask(&admission, Class::Renewal).await;
        let later = ask(&admission, Class::Renewal).await;
        drop(first);
        let renewal = renewal.await.unwrap().unwrap();
        assert!(!start.is_finished() && !later.is_finished());
        drop(renewal);
        let later = later.await.unwrap().unwrap();
        assert!(!start.is_finished());
        drop(later);
        drop(start.await.unwrap().unwrap());
        assert_eq!(admission.state().taken, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn starts_are_shed_in_time_and_renewals_wait_on() {
        let admission = admission(1);
        let held = admission
            .enter(Duration::ZERO, || Class::Start)
            .await
            .unwrap();
        let renewal = ask(&admission, Class::Renewal).await;
        let begun = Instant::now();
        let start = ask(&admission, Class::Start).await;
        assert!(is_shed(&start.await.unwrap()));
        assert_eq!(begun.elapsed(), QUEUE_TIME);
        tokio::time::sleep(10 * QUEUE_TIME).await;
        assert!(!renewal.is_finished());
        drop(held);
        assert!(renewal.await.unwrap().is_ok());
    }

    /// Ten starts for each renewal, all at once, and every answer takes as long: more than can be done.
    #[tokio::test(start_paused = true)]
    async fn in_a_storm_all_renewals_are_answered_while_starts_are_shed() {
        const TOOK: Duration = Duration::from_millis(100);
        let admission = admission(2);
        let ask = |class| {
            let admission = Arc::clone(&admission);
            tokio::spawn(async move {
                let place = admission.enter(Duration::ZERO, || class).await;
                if place.is_ok() {
                    tokio::time::sleep(TOOK).await;
                }
                place.map(drop)
            })
        };
        let (mut starts, mut renewals) = (Vec::new(), Vec::new());
        for _ in 0..50 {
            starts.extend((0..10).map(|_| ask(Class::Start)));
            renewals.push(ask(Class::Renewal));
            tokio::time::sleep(TOOK).await;
        }
        for renewal in renewals {
            assert_eq!(renewal.await.unwrap(), Ok(()));
        }
        let (mut answered, mut shed) = (0, 0);
        for start in starts {
            match start.await.unwrap() {
                Ok(()) => answered += 1,
                Err(Refusal::Overloaded { .. }) => shed += 1,
                Err(other) => panic!("{other}"),
            }
        }
        // Two places; every second answer is a renewal's.
        assert!((45..=60).contains(&answered), "{answered}");
        assert_eq!(answered + shed, 500);
        assert_eq!(admission.state().taken, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_whose_connection_waited_has_waited() {
        let admission = admission(1);
        let late = admission.enter(QUEUE_TIME, || Class::Start).await;
        assert!(is_shed(&late));
        let held = admission
            .enter(QUEUE_TIME, || Class::Renewal)
            .await
            .unwrap();
        let begun = Instant::now();
        let shed = admission.enter(QUEUE_TIME / 2, || Class::Start).await;
        assert!(is_shed(&shed));
        assert_eq!(begun.elapsed(), QUEUE_TIME / 2);
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_row_sheds_at_once_and_tells_them_apart() {
        let admission = admission(1);
        let _held = admission
            .enter(Duration::ZERO, || Class::Renewal)
            .await
            .unwrap();
        for _ in 0..3 {
            ask(&admission, Class::Start).await;
        }
        let again: Vec<_> = {
            let mut again = Vec::new();
            for _ in 0..6 {
                match admission.enter(Duration::ZERO, || Class::Start).await {
                    Err(Refusal::Overloaded { retry_after }) => again.push(retry_after),
                    other => panic!("{other:?}"),
                }
            }
            again
        };
        assert_eq!(again, [2, 3, 4, 5, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_leaves_his_turn_to_the_next() {
        let admission = admission(1);
        let held = admission
            .enter(Duration::ZERO, || Class::Start)
            .await
            .unwrap();
        for _ in 0..3 {
            ask(&admission, Class::Start).await.abort();
        }
        tokio::task::yield_now().await;
        // Their places in the row are to be had again.
        let next = ask(&admission, Class::Start).await;
        drop(held);
        // It has the place, and goes away before it is told.
        next.abort();
        tokio::task::yield_now().await;
        assert_eq!(admission.state().taken, 0);
        assert!(
            admission
                .enter(Duration::ZERO, || Class::Start)
                .await
                .is_ok()
        );
    }

    #[test]
    fn tokens_are_remembered_for_a_while() {
        let mut answered = Answered::default();
        let now = answered.since;
        answered.keep(1, now);
        let later = now + GENERATION;
        assert!(answered.holds(1, later));
        answered.keep(2, later);
        assert!(!answered.holds(1, later + GENERATION));
        assert!(answered.holds(2, later + GENERATION));
        assert!(!answered.holds(2, later + 4 * GENERATION));
        for token in 0..=2 * MAX_ANSWERED as u64 {
            answered.keep(token, later + 4 * GENERATION);
        }
        assert!(answered.young.len() + answered.old.len() <= 2 * MAX_ANSWERED);
    }
}
