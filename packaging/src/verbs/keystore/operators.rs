//! What needs two operators.

use keystore_client::admin::{Act, Acted, Admin as _, Approval};
use keystore_client::socket::AdminSocket;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::output::Output;

#[derive(Serialize)]
pub(super) struct Pending {
    pub(super) approvals: Vec<Approval>,
}

/// Does what needs two operators, or says what it waits for.
pub(super) async fn act(keystore: &AdminSocket, act: Act, output: Output) -> Result<(), Failure> {
    output.say(&agreed(keystore, act, output).await?, acted_text)
}

/// What came of an act that two operators have agreed on. Fails where it waits, once that is said.
pub(super) async fn agreed(
    keystore: &AdminSocket,
    act: Act,
    output: Output,
) -> Result<Acted, Failure> {
    let acted = keystore.act(act).await?;
    match acted {
        Acted::Waits(approval) => wait(approval, output),
        acted @ (Acted::Done(_) | Acted::File(_)) => Ok(acted),
    }
}

/// Says what waits, and fails.
pub(super) fn wait(approval: Approval, output: Output) -> Result<Acted, Failure> {
    let id = approval.id.clone();
    output.say(&Acted::Waits(approval), acted_text)?;
    Err(Failure::with_help(
        Exit::NotAllowed,
        "this needs a second operator",
        format!("let another operator say `castellum keystore approve {id}`, then say this again"),
    ))
}

pub(super) fn acted_text(acted: &Acted) -> String {
    match acted {
        Acted::Waits(approval) => approval_text(approval),
        Acted::Done(what) => what.clone(),
        Acted::File(text) => text.clone(),
    }
}

pub(super) fn pending_text(pending: &Pending) -> String {
    match pending.approvals.is_empty() {
        true => "nothing waits".to_owned(),
        false => {
            let lines: Vec<String> = pending.approvals.iter().map(approval_text).collect();
            lines.join("\n")
        }
    }
}

pub(super) fn approval_text(approval: &Approval) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let left = approval
        .expires
        .saturating_sub(now.unwrap_or_default().as_secs());
    let state = match &approval.approved_by {
        Some(by) => format!("agreed by {by}"),
        None => "waits for another operator".to_owned(),
    };
    format!(
        "{}  {}; asked by {}; {state}; void in {} minutes",
        approval.id,
        approval.act,
        approval.requested_by,
        left / 60
    )
}
