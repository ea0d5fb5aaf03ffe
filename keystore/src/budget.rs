//! What a caller may use in a minute: so that whoever takes over a role cannot carry off the catalogue at once, and is
//! noticed when trying.
//!
//! A partner of key exchange that is configured has a budget of its own, so that none uses up another's, or that of the
//! viewers. Any other name is the caller's own claim, and counts as the caller: names that are made up bring nothing. A
//! role that was taken over can use the budgets of all partners that it serves.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use conf::BudgetSettings;
use keystore_client::exchange::Partner;
use keystore_types::{KeyContext, KeyId};
use ring::digest::{SHA256, digest};

use crate::capability::Caller;

/// The length of a window, in seconds.
const WINDOW: u64 = 60;

/// Tells keys apart, whether they exist or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 16]);

impl Fingerprint {
    pub(crate) fn of_id(id: &KeyId) -> Self {
        Self(*id.as_bytes())
    }

    /// Of the key that a context has, or would have.
    pub(crate) fn of_context(context: &KeyContext) -> Self {
        // A context is made of texts and numbers, which can always be written.
        let text = serde_json::to_vec(context).unwrap_or_default();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest(&SHA256, &text).as_ref()[..16]);
        Self(bytes)
    }
}

/// Who uses keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spender<'a> {
    /// The caller's name.
    pub caller: &'a str,
    /// The partner whom it serves, if one.
    pub partner: Option<&'a str>,
}

impl<'a> Spender<'a> {
    pub(crate) fn serving(caller: &'a Caller, partner: &'a Partner) -> Self {
        Self {
            caller: caller.name(),
            partner: Some(&partner.name),
        }
    }
}

impl<'a> From<&'a Caller> for Spender<'a> {
    fn from(caller: &'a Caller) -> Self {
        Self {
            caller: caller.name(),
            partner: None,
        }
    }
}

impl fmt::Display for Spender<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partner {
            None => f.write_str(self.caller),
            Some(partner) => write!(f, "{} for {partner}", self.caller),
        }
    }
}

/// What was used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    /// `uses`, `keys`, `denials` or `descriptions`.
    pub limit: &'static str,
    /// How much there is in a minute.
    pub of: u32,
    /// Whether it is the first time in this minute that this limit is.
    pub first: bool,
}

/// The budget of each caller, and of each partner that is configured.
pub(crate) struct Budget {
    limits: BudgetSettings,
    partners: HashSet<String>,
    windows: Mutex<Windows>,
}

/// By the caller, and the partner if it is the partner's.
type Windows = HashMap<(String, Option<String>), Window>;

/// A minute of a caller or partner, from the first use on.
#[derive(Default)]
struct Window {
    began: u64,
    uses: u64,
    /// At most as many as the limit.
    keys: HashSet<Fingerprint>,
    denials: u32,
    /// Refusals to describe.
    undescribed: u32,
    /// The limits that were exceeded so far.
    told: Vec<&'static str>,
}

impl Window {
    fn exceeded(&mut self, limit: &'static str, of: u32) -> Exceeded {
        let first = !self.told.contains(&limit);
        if first {
            self.told.push(limit);
        }
        Exceeded { limit, of, first }
    }
}

impl Budget {
    pub(crate) fn new(limits: BudgetSettings, partners: &[String]) -> Self {
        Self {
            limits,
            partners: partners.iter().cloned().collect(),
            windows: Mutex::default(),
        }
    }

    /// Whose budget it comes off.
    pub(crate) fn whose<'a>(&self, spender: Spender<'a>) -> Spender<'a> {
        let partner = spender.partner;
        Spender {
            partner: partner.filter(|partner| self.partners.contains(*partner)),
            ..spender
        }
    }

    /// Takes the uses of these keys off the budget, or none of them. `now` is in seconds of Unix time.
    pub(crate) fn spend(
        &self,
        spender: Spender<'_>,
        now: u64,
        keys: impl ExactSizeIterator<Item = Fingerprint> + Clone,
    ) -> Result<(), Exceeded> {
        let BudgetSettings {
            uses: most_uses,
            keys: most_keys,
            denials: most_denials,
        } = self.limits;
        let mut windows = self.windows();
        let window = window(&mut windows, self.whose(spender), now);
        // Whoever goes about asking for what is not theirs gets nothing more, of their own either.
        if window.denials > most_denials {
            return Err(window.exceeded("denials", most_denials));
        }
        let uses = window.uses + keys.len() as u64;
        let new: HashSet<_> = (keys.clone())
            .filter(|key| !window.keys.contains(key))
            .collect();
        if uses > u64::from(most_uses) {
            return Err(window.exceeded("uses", most_uses));
        }
        if window.keys.len() as u64 + new.len() as u64 > u64::from(most_keys) {
            return Err(window.exceeded("keys", most_keys));
        }
        window.uses = uses;
        window.keys.extend(new);
        Ok(())
    }

    /// Counts a refusal.
    pub(crate) fn deny(&self, spender: Spender<'_>, now: u64) -> Result<(), Exceeded> {
        let most = self.limits.denials;
        let mut windows = self.windows();
        let window = window(&mut windows, self.whose(spender), now);
        window.denials = window.denials.saturating_add(1);
        match window.denials > most {
            true => Err(window.exceeded("denials", most)),
            false => Ok(()),
        }
    }

    /// Counts a refusal to describe keys: as many are ordinary as other refusals are, and they take nothing away.
    pub(crate) fn deny_description(&self, spender: Spender<'_>, now: u64) -> Result<(), Exceeded> {
        let most = self.limits.denials;
        let mut windows = self.windows();
        let window = window(&mut windows, self.whose(spender), now);
        window.undescribed = window.undescribed.saturating_add(1);
        match window.undescribed > most {
            true => Err(window.exceeded("descriptions", most)),
            false => Ok(()),
        }
    }

    fn windows(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The minute of a caller or partner. Both are those of the configuration: few.
fn window<'a>(windows: &'a mut Windows, whose: Spender<'_>, now: u64) -> &'a mut Window {
    let Spender { caller, partner } = whose;
    let window = windows
        .entry((caller.to_owned(), partner.map(str::to_owned)))
        .or_default();
    // A clock that is put back begins a new minute too.
    if now < window.began || now - window.began >= WINDOW {
        *window = Window {
            began: now,
            ..Window::default()
        };
    }
    window
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BudgetSettings = BudgetSettings {
        uses: 10,
        keys: 4,
        denials: 2,
    };

    fn of(caller: &str) -> Spender<'_> {
        Spender {
            caller,
            partner: None,
        }
    }

    fn keys(ids: std::ops::Range<u8>) -> Vec<Fingerprint> {
        ids.map(|id| Fingerprint([id; 16])).collect()
    }

    #[test]
    fn a_minute_has_so_many_uses_and_so_many_keys() {
        let budget = Budget::new(LIMITS, &[]);
        let spend = |caller, now, ids| budget.spend(of(caller), now, keys(ids).into_iter());
        assert_eq!(spend("one", 100, 0..4), Ok(()));
        assert_eq!(spend("one", 100, 0..4), Ok(()));
        let over = |limit, of, first| Err(Exceeded { limit, of, first });
        assert_eq!(spend("one", 101, 3..5), over("keys", 4, true));
        assert_eq!(spend("one", 102, 0..3), over("uses", 10, true));
        // Whatever was refused was not counted.
        assert_eq!(spend("one", 159, 0..2), Ok(()));
        assert_eq!(spend("one", 159, 0..1), over("uses", 10, false));
        // Another caller, the next minute, and a clock that goes back.
        assert_eq!(spend("other", 159, 4..8), Ok(()));
        assert_eq!(spend("one", 160, 4..8), Ok(()));
        assert_eq!(spend("one", 160, 8..9), over("keys", 4, true));
        assert_eq!(spend("one", 50, 8..9), Ok(()));
    }

    #[test]
    fn whoever_is_refused_too_often_gets_nothing_of_their_own() {
        let budget = Budget::new(LIMITS, &[]);
        let own = |caller, now| budget.spend(of(caller), now, keys(0..1).into_iter());
        assert_eq!(budget.deny(of("thief"), 100), Ok(()));
        assert_eq!(budget.deny(of("thief"), 100), Ok(()));
        assert_eq!(own("thief", 100), Ok(()));
        let over = |first| {
            Err(Exceeded {
                limit: "denials",
                of: 2,
                first,
            })
        };
        assert_eq!(budget.deny(of("thief"), 101), over(true));
        assert_eq!(own("thief", 102), over(false));
        assert_eq!(own("another", 102), Ok(()));
        assert_eq!(own("thief", 160), Ok(()));
    }

    #[test]
    fn whoever_is_told_nothing_of_keys_gets_their_own_all_the_same() {
        let budget = Budget::new(LIMITS, &[]);
        let describe = |now| budget.deny_description(of("server"), now);
        assert_eq!((describe(100), describe(100)), (Ok(()), Ok(())));
        for first in [true, false] {
            let over = Exceeded {
                limit: "descriptions",
                of: 2,
                first,
            };
            assert_eq!(describe(101), Err(over));
        }
        assert_eq!(
            budget.spend(of("server"), 101, keys(0..1).into_iter()),
            Ok(())
        );
        assert_eq!(describe(160), Ok(()));
    }

    #[test]
    fn a_partner_uses_up_nobody_elses() {
        let budget = Budget::new(LIMITS, &["one".to_owned(), "other".to_owned()]);
        let serving = |partner| Spender {
            caller: "license",
            partner: Some(partner),
        };
        let spend = |spender, ids| budget.spend(spender, 100, keys(ids).into_iter());
        assert_eq!(spend(serving("one"), 0..4), Ok(()));
        assert!(spend(serving("one"), 4..5).is_err());
        for _ in 0..3 {
            let _ = budget.deny(serving("one"), 100);
        }
        assert_eq!(spend(serving("other"), 0..4), Ok(()));
        assert_eq!(spend(of("license"), 0..2), Ok(()));
        // Names that nobody configured are all the caller's.
        assert_eq!(spend(serving("made up"), 2..4), Ok(()));
        assert!(spend(serving("made up too"), 4..5).is_err());
        assert!(spend(of("license"), 4..5).is_err());
    }
}
