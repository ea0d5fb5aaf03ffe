//! Why an administrative act was not done.

use std::borrow::Cow;

use keystore_client::Error as CallError;
use keystore_client::admin::AdminError;

use crate::error::{Error, ErrorKind};
use crate::unlock::shares::{ShareError, ShareFault};

/// Why an administrative act was not done.
pub(crate) enum Refusal {
    /// Something failed.
    Failed(Error),
    /// A share is wrong.
    Share(ShareFault),
    /// It cannot be done while sealed.
    Sealed,
    /// It cannot be done as things stand.
    Refused(Cow<'static, str>),
}

pub(crate) fn refused(why: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::Refused(why.into())
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<ShareError> for Refusal {
    fn from(error: ShareError) -> Self {
        match error {
            ShareError::Fault(fault) => Self::Share(fault),
            ShareError::Failed(error) => Self::Failed(error),
        }
    }
}

impl From<Refusal> for AdminError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Failed(error) => match error.kind() {
                ErrorKind::WrongPassphrase => Self::WrongPassphrase,
                ErrorKind::DoesNotOpen => Self::Refused(error.to_string()),
                ErrorKind::Damaged
                | ErrorKind::Unsupported
                | ErrorKind::Superseded
                | ErrorKind::Destroyed
                | ErrorKind::AuditUnavailable
                | ErrorKind::Unavailable => CallError::from(error).into(),
            },
            Refusal::Share(fault) => Self::WrongShare(fault.to_string()),
            Refusal::Sealed => CallError::Sealed.into(),
            Refusal::Refused(why) => Self::Refused(why.into_owned()),
        }
    }
}
