//! A keystore as one caller sees it: whether the caller may, what is counted, and nothing else.

use std::sync::Arc;

use keystore_client::admin::{
    Act, Acted, Admin, AdminError, Approval, CheckpointText, Dealing, DealtShare, Keeping,
    KekVersion, KeyFilter, KeyPage, KeyRecord, Outcome, Progress, Report, RotatedRoot, SharePlan,
    Status, UnlockMethod,
};
use keystore_client::exchange::{DepositRequest, ExchangeRequest, HandOverRequest, HandedOver};
use keystore_client::{
    Answer, DescribeRequest, Error as CallError, ExportRequest, ExportedKey, KeyDescription,
    Keystore, Lease, LeaseRequest, SealState,
};
use keystore_types::KeyId;
use secrecy::SecretString;
use tokio::sync::watch;

use crate::capability::{Caller, Capability};
use crate::local::{Inner, Local};

impl Local {
    /// The keystore as this caller sees it.
    pub fn handle(&self, caller: Caller) -> Arc<dyn Keystore> {
        Arc::new(Handle {
            inner: self.0.clone(),
            caller,
        })
    }

    /// The keystore's administration as this caller sees it.
    pub fn admin(&self, caller: Caller) -> Arc<dyn Admin> {
        Arc::new(Handle {
            inner: self.0.clone(),
            caller,
        })
    }
}

/// A keystore, and who asks.
struct Handle {
    inner: Arc<Inner>,
    caller: Caller,
}

impl Keystore for Handle {
    fn lease(&self, request: LeaseRequest) -> Answer<'_, Lease> {
        Box::pin(async move {
            let result = self.inner.lease(&self.caller, request).await;
            counted("lease", result)
        })
    }

    fn export(&self, request: ExportRequest) -> Answer<'_, Vec<ExportedKey>> {
        Box::pin(async move {
            let result = self.inner.export(&self.caller, request).await;
            counted("export", result)
        })
    }

    fn describe(&self, request: DescribeRequest) -> Answer<'_, Vec<KeyDescription>> {
        Box::pin(async move {
            let result = self.inner.describe(&self.caller, request).await;
            counted("describe", result)
        })
    }

    fn exchange(&self, request: ExchangeRequest) -> Answer<'_, Vec<ExportedKey>> {
        Box::pin(async move {
            let result = self.inner.exchange(&self.caller, request).await;
            counted("exchange", result)
        })
    }

    fn hand_over(&self, request: HandOverRequest) -> Answer<'_, HandedOver> {
        Box::pin(async move {
            let result = self.inner.hand_over(&self.caller, request).await;
            counted("hand_over", result)
        })
    }

    fn deposit(&self, request: DepositRequest) -> Answer<'_, ()> {
        Box::pin(async move {
            let result = self.inner.deposit(&self.caller, request).await;
            counted("deposit", result)
        })
    }

    fn seal_state(&self) -> watch::Receiver<SealState> {
        self.inner.state.subscribe()
    }
}

impl Admin for Handle {
    fn init(&self, passphrase: SecretString) -> Outcome<'_, ()> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            let made = Inner::init_with(
                &self.inner,
                self.caller.name(),
                Keeping::default(),
                Some(passphrase),
            );
            Ok(made.await.map(drop)?)
        })
    }

    fn init_with(
        &self,
        keeping: Keeping,
        passphrase: Option<SecretString>,
    ) -> Outcome<'_, Option<Dealing>> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            let name = self.caller.name();
            Ok(Inner::init_with(&self.inner, name, keeping, passphrase).await?)
        })
    }

    fn deal_share(&self) -> Outcome<'_, DealtShare> {
        Box::pin(async {
            self.check(Capability::Operate).await?;
            Ok(self.inner.deal_share(self.caller.name()).await?)
        })
    }

    fn confirm_share(&self, share: SecretString) -> Outcome<'_, Progress> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            Ok(Inner::confirm_share(&self.inner, self.caller.name(), &share).await?)
        })
    }

    fn unseal_share(&self, share: SecretString) -> Outcome<'_, Progress> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            Ok(Inner::unseal_share(&self.inner, self.caller.name(), &share).await?)
        })
    }

    fn unseal_by(&self, method: UnlockMethod) -> Outcome<'_, ()> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            Ok(Inner::unseal_by(&self.inner, self.caller.name(), method).await?)
        })
    }

    fn unseal(&self, passphrase: SecretString) -> Outcome<'_, ()> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            Ok(Inner::unseal(&self.inner, self.caller.name(), &passphrase).await?)
        })
    }

    fn seal(&self) -> Outcome<'_, ()> {
        Box::pin(async {
            self.check(Capability::Operate).await?;
            Ok(self
                .inner
                .seal(self.caller.name())
                .await
                .map_err(CallError::from)?)
        })
    }

    fn rotate_root(
        &self,
        shares: Option<SharePlan>,
        passphrase: Option<SecretString>,
        new_passphrase: Option<SecretString>,
    ) -> Outcome<'_, RotatedRoot> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            let name = self.caller.name();
            let rotated = Inner::rotate_root(&self.inner, name, shares, passphrase, new_passphrase);
            Ok(rotated.await?)
        })
    }

    fn rotate_keks(&self, tenant: Option<String>) -> Outcome<'_, Vec<KekVersion>> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            Ok(Inner::rotate_keks(&self.inner, self.caller.name(), tenant.as_deref()).await?)
        })
    }

    fn status(&self) -> Outcome<'_, Status> {
        Box::pin(async {
            self.check(Capability::Audit).await?;
            Ok(self.inner.status().await)
        })
    }

    fn checkpoint(&self) -> Outcome<'_, CheckpointText> {
        Box::pin(async {
            self.check(Capability::Audit).await?;
            Ok(self.inner.checkpoint().await?)
        })
    }

    fn verify(&self, against: Option<CheckpointText>) -> Outcome<'_, Report> {
        Box::pin(async move {
            self.check(Capability::Audit).await?;
            Ok(self.inner.verify(against.as_ref()).await?)
        })
    }

    fn act(&self, act: Act) -> Outcome<'_, Acted> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            Ok(Inner::act(&self.inner, self.caller.name(), act).await?)
        })
    }

    fn revoke_node(&self, node: String) -> Outcome<'_, ()> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            Ok(self.inner.revoke_node(self.caller.name(), &node).await?)
        })
    }

    fn approvals(&self) -> Outcome<'_, Vec<Approval>> {
        Box::pin(async {
            self.check(Capability::Operate).await?;
            Ok(self.inner.pending().await.map_err(CallError::from)?)
        })
    }

    fn approve(&self, id: String) -> Outcome<'_, Approval> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            Ok(self.inner.approve(self.caller.name(), &id).await?)
        })
    }

    fn cancel(&self, id: String) -> Outcome<'_, Approval> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            Ok(self.inner.cancel(self.caller.name(), &id).await?)
        })
    }

    fn backup(&self, recipients: Vec<String>) -> Outcome<'_, String> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            Ok(self.inner.backup(self.caller.name(), &recipients).await?)
        })
    }

    fn backup_chunk(&self, id: String) -> Outcome<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            Ok(self.inner.backup_chunk(&id).await?)
        })
    }

    fn restore(&self, lines: String) -> Outcome<'_, Option<String>> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            Ok(self.inner.restore_lines(&lines).await?)
        })
    }

    fn key_list(&self, filter: KeyFilter) -> Outcome<'_, KeyPage> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            Ok(self
                .inner
                .key_list(&filter)
                .await
                .map_err(CallError::from)?)
        })
    }

    fn key_show(&self, id: KeyId) -> Outcome<'_, KeyRecord> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            let rows = (self.inner.store.keys_by_id(&[id]).await).map_err(CallError::from)?;
            let row = rows.into_iter().next();
            row.map(KeyRecord::from).ok_or(AdminError::NotFound(id))
        })
    }

    fn key_destroy(&self, id: KeyId) -> Outcome<'_, KeyRecord> {
        Box::pin(async move {
            self.check(Capability::Operate).await?;
            let destroyed = self.inner.destroy(self.caller.name(), id).await;
            let row = counted("destroy", destroyed)?;
            row.map(KeyRecord::from).ok_or(AdminError::NotFound(id))
        })
    }
}

impl Handle {
    async fn check(&self, capability: Capability) -> Result<(), CallError> {
        if self.caller.may(capability) {
            return Ok(());
        }
        Err(self.inner.deny(&self.caller, capability, None).await)
    }
}

fn counted<T>(op: &'static str, result: Result<T, CallError>) -> Result<T, CallError> {
    let label = match &result {
        Ok(_) => "ok",
        Err(CallError::Sealed) => "sealed",
        Err(CallError::Denied(_)) => "denied",
        Err(CallError::Malformed(_)) => "malformed",
        Err(CallError::Conflict(_)) => "conflict",
        Err(CallError::AuditUnavailable(_)) => "audit_unavailable",
        Err(CallError::Unavailable(_)) => "unavailable",
    };
    metrics::counter!("castellum_keystore_ops_total", "op" => op, "result" => label).increment(1);
    result
}
