use std::fmt;
use std::fs;
use std::io;

/// A Unix user, by name or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// A number: right even where no user database exists, as in a container from scratch.
    Uid(u32),
    /// A name, looked up in `/etc/passwd`: the callers are static system users, so no directory service is asked.
    Name(String),
}

impl User {
    /// The number, or `None` where the host has no such user.
    ///
    /// # Errors
    /// Those of reading `/etc/passwd`; an absent file counts as one without users.
    pub fn uid(&self) -> io::Result<Option<u32>> {
        match self {
            Self::Uid(uid) => Ok(Some(*uid)),
            Self::Name(name) => match fs::read_to_string("/etc/passwd") {
                Ok(passwd) => Ok(uid_in(&passwd, name)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
        }
    }
}

/// Finds `name` in the text of `/etc/passwd` (passwd(5)).
fn uid_in(passwd: &str, name: &str) -> Option<u32> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

impl From<String> for User {
    fn from(text: String) -> Self {
        text.parse().map_or(Self::Name(text), Self::Uid)
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "{uid}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_fields() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\ncastellum-origin:x:990:989::/:/usr/sbin/nologin\n";
        assert_eq!(uid_in(passwd, "castellum-origin"), Some(990));
        assert_eq!(uid_in(passwd, "castellum"), None);
        assert_eq!(uid_in("", "root"), None);
    }
}
