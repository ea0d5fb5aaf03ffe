//! What a token asks for besides keys: plain data, for the decision and for sessions. Nothing is enforced here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use keystore_types::KeyId;

use crate::UnixTime;

/// What a token demands. Empty, it leaves everything to the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// The token is good for one licence; the bearer then has a token id.
    pub single_use: bool,
    /// How many may play at once on this subject's word.
    pub streams: Option<StreamDemand>,
    /// From where alone a licence may be asked for; none: from anywhere.
    pub addresses: Option<Vec<AddressBlock>>,
    /// The devices that alone may have one, in lower case, for each system that the token limits.
    pub devices: BTreeMap<DrmSystem, BTreeSet<String>>,
    /// What the licence shall say.
    pub license: LicenseDemand,
    /// What it shall say in one system, over what it says in all.
    pub license_of: BTreeMap<DrmSystem, LicenseDemand>,
    /// What is asked of a device before it gets a key.
    pub keys: KeyDemands,
}

impl Demands {
    /// What the licence shall say in this system.
    pub fn license(&self, system: DrmSystem) -> LicenseDemand {
        let LicenseDemand {
            persistent,
            begins,
            expires,
            duration,
            playback_duration,
            renewal,
        } = self.license_of.get(&system).copied().unwrap_or_default();
        let all = self.license;
        LicenseDemand {
            persistent: persistent.or(all.persistent),
            begins: begins.or(all.begins),
            expires: expires.or(all.expires),
            duration: duration.or(all.duration),
            playback_duration: playback_duration.or(all.playback_duration),
            renewal: renewal.or(all.renewal),
        }
    }
}

/// A DRM system of which a token may speak by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrmSystem {
    /// Google Widevine.
    Widevine,
    /// Microsoft PlayReady.
    PlayReady,
    /// Apple FairPlay Streaming.
    FairPlay,
}

/// Concurrent streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamDemand {
    /// How many at once; none: as configured.
    pub limit: Option<u32>,
    /// How often a player says that it still plays.
    pub interval: Option<Duration>,
    /// How long after that it still counts as playing.
    pub grace: Option<Duration>,
}

/// An address, or all that share its first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressBlock {
    address: IpAddr,
    prefix: u8,
}

impl AddressBlock {
    /// Reads `192.0.2.1` or `2001:db8::/32`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address.parse().ok()?, Some(prefix.parse().ok()?)),
            None => (text.parse().ok()?, None),
        };
        let longest = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        let prefix = prefix.unwrap_or(longest);
        (prefix <= longest).then_some(Self { address, prefix })
    }

    /// Whether the address is of the block. One of version 4 that is written as one of version 6 is what it stands for.
    pub fn holds(&self, address: IpAddr) -> bool {
        match (self.address.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differ = ours.to_bits() ^ theirs.to_bits();
                differ
                    .checked_shr(32_u32.saturating_sub(self.prefix.into()))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differ = ours.to_bits() ^ theirs.to_bits();
                differ
                    .checked_shr(128_u32.saturating_sub(self.prefix.into()))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// What a licence shall say; none: as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LicenseDemand {
    /// Whether it may be stored.
    pub persistent: Option<bool>,
    /// Since when it is good.
    pub begins: Option<UnixTime>,
    /// Until when.
    pub expires: Option<UnixTime>,
    /// How long it is good from its issue.
    pub duration: Option<Duration>,
    /// How long from the first play.
    pub playback_duration: Option<Duration>,
    /// When the player comes again.
    pub renewal: Option<RenewalDemand>,
}

/// When a player renews its licence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenewalDemand {
    /// How long after its issue.
    pub after: Duration,
    /// How long between attempts that fail.
    pub retry: Option<Duration>,
    /// How long it may go on playing meanwhile.
    pub recovery: Option<Duration>,
}

/// What is asked of a device, key by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyDemands {
    /// Of each key that is not named.
    pub every: KeyDemand,
    /// Of these.
    pub of: BTreeMap<KeyId, KeyDemand>,
}

impl KeyDemands {
    /// What is asked before this key is given.
    pub fn of(&self, key_id: &KeyId) -> KeyDemand {
        self.of.get(key_id).copied().unwrap_or(self.every)
    }
}

/// What is asked of a device before it gets a key, system by system. The least is asked where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyDemand {
    /// Widevine.
    pub widevine: WidevineDemand,
    /// PlayReady.
    pub playready: PlayReadyDemand,
    /// FairPlay.
    pub fairplay: FairPlayHdcpDemand,
}

/// What is asked of a Widevine device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WidevineDemand {
    /// The `security_level` of a licence, 1 (software) to 5 (all in hardware).
    pub security_level: u8,
    /// The HDCP version.
    pub hdcp: HdcpDemand,
    /// Whether analogue outputs may show it without copy protection.
    pub analogue: bool,
}

impl Default for WidevineDemand {
    fn default() -> Self {
        Self {
            security_level: 1,
            hdcp: HdcpDemand::None,
            analogue: true,
        }
    }
}

/// The least HDCP version of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HdcpDemand {
    /// None.
    None,
    /// 1.x.
    V1,
    /// 2.0.
    V2,
    /// 2.1.
    V2_1,
    /// 2.2.
    V2_2,
    /// 2.3.
    V2_3,
}

/// What is asked of a PlayReady device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlayReadyDemand {
    /// The least security level: 150, 2000 or 3000.
    pub security_level: u16,
    /// Whether uncompressed digital video needs HDCP (an output protection level above 100).
    pub hdcp: bool,
    /// Whether analogue outputs may show it without protection.
    pub analogue: bool,
}

impl Default for PlayReadyDemand {
    fn default() -> Self {
        Self {
            security_level: 150,
            hdcp: false,
            analogue: true,
        }
    }
}

/// What FairPlay asks of an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum FairPlayHdcpDemand {
    /// Nothing.
    #[default]
    None,
    /// HDCP type 0.
    Type0,
    /// HDCP type 1.
    Type1,
}
