//! What waits for people: a new root until all its shares were read back, and shares until they are enough.

use std::collections::VecDeque;

use keystore_client::admin::{Dealing, DealtShare, Progress, SharePlan};

use crate::error::Error;
use crate::hardening::Guarded;
use crate::seal::KeyBytes;
use crate::unlock::SealedRoot;
use crate::unlock::shares::{Share, ShareFault, ShareSet};

/// A new root, sealed in all its ways and not yet kept: that waits until each keeper has read back their share. Where
/// somebody wrote theirs down wrongly, or leaves, nothing was begun and nothing is lost.
pub(crate) struct Ceremony {
    root: Guarded<KeyBytes>,
    sealed: Vec<SealedRoot>,
    set: ShareSet,
    plan: SharePlan,
    /// Not yet dealt, by index.
    undealt: VecDeque<Share>,
    confirmed: Vec<u8>,
    /// `None` for a first root.
    succeeds: Option<Succession>,
}

/// What a new root is to the old one.
#[derive(Clone, Copy)]
pub(crate) struct Succession {
    /// The version of the root whose place it takes.
    pub(crate) of: u32,
    /// Whether another passphrase opens it.
    pub(crate) new_passphrase: bool,
}

/// What to keep once all shares were read back.
pub(crate) struct Finished {
    pub(crate) root: KeyBytes,
    pub(crate) sealed: Vec<SealedRoot>,
    pub(crate) succeeds: Option<Succession>,
}

impl Ceremony {
    pub(crate) fn new(
        root: &KeyBytes,
        sealed: Vec<SealedRoot>,
        set: ShareSet,
        plan: SharePlan,
        shares: Vec<Share>,
        succeeds: Option<Succession>,
    ) -> Result<Self, Error> {
        Ok(Self {
            root: Guarded::new(root.clone())?,
            sealed,
            set,
            plan,
            undealt: shares.into(),
            confirmed: Vec::new(),
            succeeds,
        })
    }

    pub(crate) fn dealing(&self) -> Dealing {
        Dealing {
            set: self.set.id().to_string(),
            plan: self.plan,
        }
    }

    /// The index of the share that is dealt next.
    pub(crate) fn next(&self) -> Option<u8> {
        self.undealt.front().map(Share::index)
    }

    /// The next share, which is gone from here then.
    pub(crate) fn deal(&mut self) -> Option<DealtShare> {
        let share = self.undealt.pop_front()?;
        Some(DealtShare {
            index: share.index(),
            text: share.text(),
        })
    }

    /// Whether this is a dealt share that was not read back yet.
    pub(crate) fn check(&self, share: &Share) -> Result<(), ShareFault> {
        self.set.check(share)?;
        let index = share.index();
        match self.confirmed.contains(&index) {
            true => Err(ShareFault::Repeated { index }),
            false => Ok(()),
        }
    }

    pub(crate) fn confirm(&mut self, share: &Share) {
        let place = self
            .confirmed
            .partition_point(|index| *index < share.index());
        self.confirmed.insert(place, share.index());
    }

    /// The root and its seals, once all but one share were read back: what to keep when the last one is.
    pub(crate) fn all_but_one(&self) -> Option<Finished> {
        let last = self.confirmed.len() + 1 == usize::from(self.plan.shares);
        last.then(|| Finished {
            root: self.root.clone(),
            sealed: self.sealed.clone(),
            succeeds: self.succeeds,
        })
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            set: self.set.id().to_string(),
            given: self.confirmed.clone(),
            needed: self.plan.shares,
            done: self.confirmed.len() == usize::from(self.plan.shares),
        }
    }
}

/// Shares of the root that were given so far.
pub(crate) struct Gathered {
    set: ShareSet,
    shares: Vec<Share>,
}

impl Gathered {
    pub(crate) fn new(set: ShareSet) -> Self {
        Self {
            set,
            shares: Vec::new(),
        }
    }

    /// Takes a share of the set in.
    pub(crate) fn add(&mut self, share: Share) -> Result<Progress, ShareFault> {
        self.set.check(&share)?;
        let index = share.index();
        match (self.shares).binary_search_by_key(&index, Share::index) {
            Ok(_) => return Err(ShareFault::Repeated { index }),
            Err(place) => self.shares.insert(place, share),
        }
        Ok(self.progress())
    }

    pub(crate) fn shares(&self) -> &[Share] {
        &self.shares
    }

    pub(crate) fn progress(&self) -> Progress {
        let threshold = self.set.threshold();
        Progress {
            set: self.set.id().to_string(),
            given: self.shares.iter().map(Share::index).collect(),
            needed: threshold,
            done: self.shares.len() >= usize::from(threshold),
        }
    }
}
