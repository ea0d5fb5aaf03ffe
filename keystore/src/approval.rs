//! What needs two operators: asked for by one, approved by another, done once, in time.
//!
//! Requests are kept in memory: a restart forgets them, and nobody who writes to the disk can forge one. Every step is
//! in the audit log before it counts. Operators are told apart by the names that the configuration gives their Unix
//! users; root and the keystore's own user are one person. Whoever is root can become any user: against root, two
//! operators are a record of what was done, not a lock.

use std::time::Duration;

use keystore_client::admin::{Act, Approval};

use crate::audit::{Event, Step, hex};
use crate::capability::same_person;
use crate::error::Error;
use crate::local::Inner;
use crate::refusal::{Refusal, refused};
use crate::seal::fill;

/// The most requests at once: more than operators can look through are none.
const MAX_PENDING: usize = 32;

/// The requests.
pub(crate) struct Approvals {
    term: Duration,
    pending: tokio::sync::Mutex<Vec<Approval>>,
}

impl Approvals {
    pub(crate) fn new(term: Duration) -> Self {
        Self {
            term,
            pending: tokio::sync::Mutex::default(),
        }
    }
}

impl Inner {
    /// Takes the approval of an act, which is used up by that. Where there is none, the act is asked for, and what waits
    /// is returned.
    pub(crate) async fn claim(&self, caller: &str, act: &Act) -> Result<Option<Approval>, Refusal> {
        let mut pending = self.approvals.pending.lock().await;
        self.expire(&mut pending).await?;
        if let Some(at) = pending.iter().position(|approval| approval.act == *act) {
            if pending[at].approved_by.is_none() {
                return Ok(Some(pending[at].clone()));
            }
            self.step(caller, &pending[at], Step::Used).await?;
            pending.remove(at);
            return Ok(None);
        }
        if pending.len() >= MAX_PENDING {
            return Err(refused(format!(
                "{MAX_PENDING} requests wait already: cancel some of them"
            )));
        }
        let mut id = [0; 4];
        fill(&self.random, &mut id)?;
        let approval = Approval {
            id: hex(&id),
            act: act.clone(),
            requested_by: caller.to_owned(),
            approved_by: None,
            expires: self.now() + self.approvals.term.as_secs(),
        };
        self.step(caller, &approval, Step::Requested).await?;
        pending.push(approval.clone());
        Ok(Some(approval))
    }

    pub(crate) async fn pending(&self) -> Result<Vec<Approval>, Error> {
        let mut pending = self.approvals.pending.lock().await;
        self.expire(&mut pending).await?;
        Ok(pending.clone())
    }

    pub(crate) async fn approve(&self, caller: &str, id: &str) -> Result<Approval, Refusal> {
        let mut pending = self.approvals.pending.lock().await;
        self.expire(&mut pending).await?;
        let approval = find(&mut pending, id)?;
        if same_person(caller, &approval.requested_by) {
            return Err(refused(
                "whoever asks for something cannot approve it: another operator must",
            ));
        }
        if approval.approved_by.is_none() {
            self.step(caller, approval, Step::Approved).await?;
            approval.approved_by = Some(caller.to_owned());
        }
        Ok(approval.clone())
    }

    pub(crate) async fn cancel(&self, caller: &str, id: &str) -> Result<Approval, Refusal> {
        let mut pending = self.approvals.pending.lock().await;
        self.expire(&mut pending).await?;
        let approval = find(&mut pending, id)?.clone();
        self.step(caller, &approval, Step::Cancelled).await?;
        pending.retain(|approval| approval.id != id);
        Ok(approval)
    }

    async fn expire(&self, pending: &mut Vec<Approval>) -> Result<(), Error> {
        let now = self.now();
        while let Some(at) = pending.iter().position(|approval| approval.expires <= now) {
            self.step("keystore", &pending[at], Step::Expired).await?;
            pending.remove(at);
        }
        Ok(())
    }

    async fn step(&self, caller: &str, approval: &Approval, step: Step) -> Result<(), Error> {
        let event = Event::Approval {
            id: approval.id.clone(),
            act: approval.act.clone(),
            step,
        };
        self.record(caller, event).await
    }
}

fn find<'a>(pending: &'a mut [Approval], id: &str) -> Result<&'a mut Approval, Refusal> {
    (pending.iter_mut())
        .find(|approval| approval.id == id)
        .ok_or_else(|| {
            refused(format!(
                "no request {id} waits: it was done, cancelled or too old"
            ))
        })
}
