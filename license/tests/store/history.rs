//! Who held a stream when, by what clients were told; and the most that one viewer held at once.

use std::collections::BTreeSet;
use std::sync::Mutex;

/// A lease as its client knows it: `from` included, `to` not.
#[derive(Clone, Debug)]
pub struct Held {
    pub viewer: usize,
    pub session: String,
    pub from: u64,
    pub to: u64,
}

#[derive(Default)]
pub struct History(Mutex<Vec<Held>>);

impl History {
    pub fn hold(&self, held: Held) {
        self.0.lock().unwrap().push(held);
    }

    /// The client stops: nothing that it was granted lasts longer.
    pub fn end(&self, of: &Held, at: u64) {
        let mut all = self.0.lock().unwrap();
        let own = all
            .iter_mut()
            .filter(|held| held.viewer == of.viewer && held.session == of.session);
        for held in own {
            held.to = held.to.min(at);
        }
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// The number is highest where some lease begins.
    pub fn most_at_once(&self) -> usize {
        let all = self.0.lock().unwrap();
        let sessions_at = |viewer: usize, at: u64| {
            let live = all
                .iter()
                .filter(|held| held.viewer == viewer && held.from <= at && at < held.to);
            live.map(|held| &held.session)
                .collect::<BTreeSet<_>>()
                .len()
        };
        let counts = all.iter().map(|held| sessions_at(held.viewer, held.from));
        counts.max().unwrap_or(0)
    }
}

#[test]
fn what_is_too_much_is_found() {
    let history = History::default();
    let held = |viewer, session: &str, from, to| Held {
        viewer,
        session: session.to_owned(),
        from,
        to,
    };
    history.hold(held(0, "a", 0, 60));
    history.hold(held(0, "a", 30, 90));
    history.hold(held(1, "b", 30, 90));
    assert_eq!(history.most_at_once(), 1, "a renewal, and another viewer");
    history.hold(held(0, "c", 90, 150));
    assert_eq!(history.most_at_once(), 1, "one ends as the other begins");
    history.hold(held(0, "d", 149, 200));
    assert_eq!(history.most_at_once(), 2);
    history.end(&held(0, "c", 0, 0), 149);
    assert_eq!(history.most_at_once(), 1, "it was ended before");
}
