//! An old store beside a newer log, or the other way about.
//!
//! The store counts its writes, and the log states the count whenever it makes a checkpoint or records that a key was
//! made. The store in turn remembers a record of the log. The log states too how many tombstones there are. So whoever
//! puts back one of the three, and not the others, is found out before a key leaves: the keystore stays sealed until two
//! operators accept it. All put back together, with all checkpoints that were shipped elsewhere, look like what they
//! were: that is out of reach of anything on this host.

use crate::error::Error;
use crate::local::Inner;

impl Inner {
    /// What does not fit together.
    pub(crate) async fn rolled_back(&self) -> Result<Option<String>, Error> {
        // Taken first: other nodes write meanwhile.
        let seen = self.log.store_seen();
        let writes = self.store.writes().await?;
        if writes < seen {
            return Ok(Some(format!(
                "the store was put back: it was written to {writes} times, and the audit log has seen {seen}"
            )));
        }
        if let Some(anchor) = self.store.anchor().await?
            && !self.log.holds(anchor)?
        {
            return Ok(Some(format!(
                "the audit log was put back, cut short or written anew: the store remembers record {} otherwise",
                anchor.seq
            )));
        }
        if let Some(what) = self.foreign_tombstones().await? {
            return Ok(Some(what));
        }
        let done = self.store.tombstones().await?;
        let (count, seen) = (
            self.tombstones.count(),
            self.log.tombstones_seen().max(done),
        );
        if count < seen {
            return Ok(Some(format!(
                "the tombstones were put back or are gone: there are {count}, and once were {seen}"
            )));
        }
        Ok(None)
    }
}
