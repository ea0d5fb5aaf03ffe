//! Who may have a licence now, from where and how often.

use std::net::IpAddr;

use super::*;

/// What is asked beyond the token and the policy.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// Streams at once; none: as many as one likes, unless a token says otherwise.
    pub streams: Option<u32>,
    /// How long a stream's lease lasts.
    pub lease: Duration,
    /// How much longer its place stays taken.
    pub grace: Duration,
    /// The header that names the stream, in lower case; none: it is the token's `jti`.
    pub session_header: Option<String>,
    /// How many devices; none: as many as one likes.
    pub devices: Option<u32>,
    /// How long a device counts after its last use.
    pub device_term: Duration,
    /// The header that names the device, in lower case. There is one where devices are counted.
    pub device_header: Option<String>,
    /// Every token is good for one licence.
    pub single_use: bool,
    /// For how long a retry is answered.
    pub retry_window: Duration,
    /// What is looked for among revocations; none: nothing.
    pub revocations: Option<RevocationSettings>,
    /// Where it is kept.
    pub store: LicenseStoreSettings,
    /// From where.
    pub access: AccessSettings,
    /// How often.
    pub rates: RateSettings,
    /// Whoever is told what happened, by name.
    pub webhooks: BTreeMap<String, WebhookSettings>,
    /// Whoever is asked before a licence is given; none: nobody.
    pub authorisation: Option<AuthorisationSettings>,
}

/// How revocations are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevocationSettings {
    /// How often.
    pub interval: Duration,
    /// For how long what was read is good.
    pub staleness: Duration,
}

/// Where streams, devices and used tokens are kept.
#[derive(Clone, Debug)]
pub struct LicenseStoreSettings {
    /// The most rows of each kind.
    pub capacity: u64,
    /// The database that several licence servers share; none: SQLite in the state folder. It has no `survival`.
    pub postgres: Option<PostgresSettings>,
}

/// From where licences may be asked for.
#[derive(Clone, Debug, Default)]
pub struct AccessSettings {
    /// Who is believed in what the headers say.
    pub proxies: Vec<AddressBlock>,
    /// The header with the client's address, in lower case.
    pub address_header: Option<String>,
    /// The header with its country, in lower case.
    pub country_header: Option<String>,
    /// The MaxMind DB file.
    pub country_file: Option<PathBuf>,
    /// The addresses that get licences; none: all.
    pub allow: Vec<AddressBlock>,
    /// The addresses that get none.
    pub deny: Vec<AddressBlock>,
    /// The countries that get licences; none: all. In upper case.
    pub countries: Vec<String>,
    /// The countries that get none. In upper case.
    pub denied_countries: Vec<String>,
}

/// Licences in a minute; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateSettings {
    /// By all.
    pub tenant: u32,
    /// From one address.
    pub address: u32,
    /// By one subject.
    pub subject: u32,
    /// For one key.
    pub key: u32,
}

/// The addresses that share their first bits (RFC 4632 3.1, RFC 4291 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressBlock {
    first: IpAddr,
    bits: u8,
}

impl AddressBlock {
    /// Whether the address is one of these. An IPv4 address within IPv6 is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let outside = |width: u32| width.saturating_sub(u32::from(self.bits));
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let differing = first.to_bits() ^ address.to_bits();
                differing.checked_shr(outside(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let differing = first.to_bits() ^ address.to_bits();
                differing.checked_shr(outside(128)).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl std::str::FromStr for AddressBlock {
    type Err = AddressBlockError;

    /// An address, or one and how many of its first bits count. Bits beyond those are 0, so that no more is meant than
    /// is written.
    fn from_str(text: &str) -> Result<Self, AddressBlockError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| AddressBlockError)?;
        let width = if first.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) if bits.bytes().all(|digit| digit.is_ascii_digit()) => {
                bits.parse().map_err(|_| AddressBlockError)?
            }
            Some(_) => return Err(AddressBlockError),
            None => width,
        };
        let all = match first {
            IpAddr::V4(first) => u128::from(first.to_bits()) << 96,
            IpAddr::V6(first) => first.to_bits(),
        };
        let beyond = all.checked_shl(u32::from(bits)).unwrap_or(0);
        if bits > width || beyond != 0 {
            return Err(AddressBlockError);
        }
        Ok(Self { first, bits })
    }
}

/// The text is no block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a block of addresses is written such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32")]
pub struct AddressBlockError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_the_addresses_that_share_its_first_bits() {
        for (block, inside, outside) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("::1/128", "::1", "::2"),
        ] {
            let block: AddressBlock = block.parse().unwrap();
            assert!(
                block.contains(inside.parse().unwrap()),
                "{block:?} {inside}"
            );
            assert!(
                !block.contains(outside.parse().unwrap()),
                "{block:?} {outside}"
            );
        }
        for wrong in [
            "",
            "10",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.1/8",
            "::1/64",
            "::/129",
            "host",
            "10.0.0.0/8/8",
            "::/256",
        ] {
            assert_eq!(
                wrong.parse::<AddressBlock>(),
                Err(AddressBlockError),
                "{wrong}"
            );
        }
    }
}
