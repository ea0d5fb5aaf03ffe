//! A group at work: it lets viewers in when they come, and turns away those for whom there is no room.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use tokio::task::{JoinError, JoinSet};

use super::World;
use super::library::{Stream, Title};
use super::session::{self, Ending, Visit};
use crate::client::Client;
use crate::player::{Errand, Fault, Player};
use crate::random::Random;
use crate::report::GroupRow;
use crate::scenario::{self, Arrivals, Choice, Chosen, ConnectionRule};
use crate::target::CLEAR_POLICY;
use crate::viewer::{Behaviour, Experience};

/// Streams whose files are read before a run of those who only want licences. More have no use: a licence server
/// looks at keys and not at titles.
const PREPARED_LIMIT: usize = 200;

/// Turns of a player that bring him to the licence: manifest, playlists, init segments, and one to see that there is one.
const TURNS_TO_LICENCE: usize = 4;

/// A group with what its viewers have in common.
pub(super) struct Group {
    rule: scenario::Group,
    titles: Vec<Title>,
    random: Random,
    choice: Mutex<Choice>,
    /// Connections of viewers who left.
    kept: Mutex<Vec<Client>>,
    /// Turns that could have been compared.
    turns: AtomicU64,
    row: Mutex<GroupRow>,
}

impl Group {
    pub(super) fn new(rule: scenario::Group, titles: Vec<Title>) -> Self {
        let choice = Choice::new(rule.titles.rule, titles.len(), rule.titles.seed);
        Self {
            random: Random::seeded(rule.titles.seed),
            choice: Mutex::new(choice),
            kept: Mutex::default(),
            turns: AtomicU64::new(0),
            row: Mutex::new(GroupRow::new(rule.name.clone())),
            rule,
            titles,
        }
    }

    /// Reads, for those who only want licences, what the titles say of their keys.
    pub(super) async fn prepare(&mut self, world: &World) {
        if !matches!(self.rule.behaviour, Behaviour::Licence(_)) {
            return;
        }
        let client = world.connector.client();
        let mut left = PREPARED_LIMIT;
        for title in &mut self.titles {
            title.streams.truncate(left);
            left -= title.streams.len();
            let mut prepared = Vec::with_capacity(title.streams.len());
            for mut stream in title.streams.drain(..) {
                match read_keys(world, &client, &mut stream.player).await {
                    Ok(true) => prepared.push(stream),
                    Ok(false) => {}
                    Err(fault) => {
                        let about = format!("{} {}", title.asset, stream.policy);
                        world.recorder.fault(format!("{about}: {fault}"));
                    }
                }
            }
            title.streams = prepared;
        }
        self.titles.retain(|title| !title.streams.is_empty());
        let rule = &self.rule.titles;
        self.choice = Mutex::new(Choice::new(rule.rule, self.titles.len(), rule.seed));
        if self.titles.is_empty() {
            let name = &self.rule.name;
            world.recorder.fault(format!(
                "group {name:?}: no title of the target has a licence"
            ));
        }
    }

    /// Whether something of what its viewers get is to be compared.
    pub(super) fn compares(&self) -> bool {
        let comparable = |title: &Title| {
            let mut streams = title.streams.iter();
            title.is_comparable && streams.any(|stream| stream.policy != CLEAR_POLICY)
        };
        self.rule.verify > 0.0 && self.titles.iter().any(comparable)
    }

    /// Whether the next turn that could be compared shall be: the first is, and then the rule's share of all.
    pub(super) fn compares_next(&self) -> bool {
        let number = self.turns.fetch_add(1, Ordering::Relaxed);
        is_due(number, self.rule.verify)
    }

    pub(super) fn behaviour(&self) -> Behaviour {
        self.rule.behaviour
    }

    pub(super) fn random(&self, viewer: u64) -> Random {
        self.random.of(viewer)
    }

    /// The next viewer's title; `None` when nobody is to come any more.
    pub(super) fn choose(&self) -> Option<Chosen> {
        lock(&self.choice).next()
    }

    pub(super) fn title(&self, chosen: Chosen) -> (&Title, &Stream) {
        let title = &self.titles[chosen.title];
        (title, title.stream(chosen.visit))
    }

    fn arrived(&self, at_once: usize, has_room: bool) {
        let mut row = lock(&self.row);
        row.arrived += 1;
        if has_room {
            row.at_once = row.at_once.max(at_once as u64);
        } else {
            row.shed += 1;
        }
    }

    fn client(&self, world: &World) -> Client {
        let kept = lock(&self.kept).pop();
        kept.unwrap_or_else(|| world.connector.client())
    }

    fn leave(&self, client: Client, ending: Ending) {
        if self.rule.connection == ConnectionRule::Kept && ending != Ending::Failed {
            lock(&self.kept).push(client);
        }
        let mut row = lock(&self.row);
        match ending {
            Ending::Finished => row.finished += 1,
            Ending::Cut => row.cut += 1,
            Ending::Failed => row.failed += 1,
        }
    }

    /// Takes note of what one title was to a viewer.
    pub(super) fn experienced(&self, experience: Experience) {
        lock(&self.row).add(experience);
    }

    pub(super) fn row(&self) -> GroupRow {
        lock(&self.row).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the turn of this number is one of the share, which are spread evenly.
fn is_due(number: u64, share: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "no run has 2^53 turns")]
    let before = |number: u64| (number as f64 * share).floor();
    share > 0.0 && (number == 0 || before(number + 1) > before(number))
}

/// Brings a player to where he asks for a licence; says whether there is one to ask for.
async fn read_keys(world: &World, client: &Client, player: &mut Player) -> Result<bool, Fault> {
    for _ in 0..TURNS_TO_LICENCE {
        let missing = player.missing(0);
        if matches!(missing.first(), Some(Errand::Licence { .. })) {
            return Ok(true);
        }
        let fetched = missing
            .iter()
            .map(|errand| session::aside(world, client, errand));
        let Some(fetched) = join_all(fetched)
            .await
            .into_iter()
            .collect::<Option<Vec<_>>>()
        else {
            return Ok(false); // which has been recorded
        };
        for (errand, body) in missing.iter().zip(fetched) {
            player.take(errand, &body)?;
        }
    }
    Ok(false)
}

/// One viewer, from his coming to his leaving.
async fn admit(group: Arc<Group>, world: Arc<World>, visit: Visit) {
    world.viewers.fetch_add(1, Ordering::Relaxed);
    let client = group.client(&world);
    let ending = session::attend(&group, &world, &client, visit).await;
    group.leave(client, ending);
    world.viewers.fetch_sub(1, Ordering::Relaxed);
}

/// Lets viewers come until the run is over, and waits for those who are still there.
pub(super) async fn run(group: Arc<Group>, world: Arc<World>) {
    let rule = group.rule.arrivals;
    let arrivals = Arrivals::new(rule.shape, rule.spacing, rule.seed);
    let mut viewers = JoinSet::new();
    let reap = |ended: Result<(), JoinError>| {
        if ended.is_err() {
            let what = "a viewer of this loadtest broke down".to_owned();
            world.recorder.fault(what);
        }
    };
    for (number, due) in (0..).zip(arrivals) {
        world.sleep_until(due).await;
        if due >= world.duration {
            break;
        }
        while let Some(ended) = viewers.try_join_next() {
            reap(ended);
        }
        let has_room = viewers.len() < group.rule.at_most;
        // Who is turned away chooses nothing, so that no title is passed over.
        let chosen = has_room.then(|| group.choose());
        if chosen == Some(None) {
            break; // everything has been seen once
        }
        group.arrived(viewers.len() + 1, has_room);
        let Some(chosen) = chosen.flatten() else {
            continue;
        };
        let (group, world) = (Arc::clone(&group), Arc::clone(&world));
        viewers.spawn(admit(
            group,
            world,
            Visit {
                number,
                due,
                chosen,
            },
        ));
    }
    while let Some(ended) = viewers.join_next().await {
        reap(ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_turn_is_compared_and_then_a_share_of_all() {
        let due = |share| {
            let numbers = (0..1000).filter(move |number| is_due(*number, share));
            numbers.collect::<Vec<u64>>()
        };
        assert!(due(0.0).is_empty());
        assert_eq!(due(1.0).len(), 1000);
        assert_eq!(due(0.25)[..4], [0, 3, 7, 11]);
        assert_eq!(due(0.001), [0, 999]);
        assert_eq!(due(0.0001), [0]);
    }
}
