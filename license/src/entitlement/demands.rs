//! What a token asks for besides keys: plain data, for the decision and for sessions. Nothing is enforced here.

use std::collections::BTreeMap;
use std::time::Duration;

use conf::AddressBlock;
use keystore_types::KeyId;
use serde::{Deserialize, Serialize};

use crate::UnixTime;
use crate::policy::terms::{
    FairPlayHdcp, Hdcp, KeyRule, PlayReadyLevel, Renewal, Terms, WidevineLevel,
};

/// What a token demands. Empty, it leaves everything to the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// The token is good for one licence; the bearer then has a token id.
    pub single_use: bool,
    /// The stream that the token is for.
    pub session: Option<String>,
    /// The device that it is for.
    pub device: Option<String>,
    /// How many devices the subject may have, in place of what is configured.
    pub devices: Option<u32>,
    /// How many may play at once on this subject's word.
    pub streams: Option<StreamDemand>,
    /// From where alone a licence may be asked for; none: from anywhere.
    pub addresses: Option<Vec<AddressBlock>>,
    /// What the licence shall say.
    pub license: LicenseDemand,
    /// What it shall say in one system, over what it says in all.
    pub license_of: BTreeMap<DrmSystem, LicenseDemand>,
    /// What is asked of a device before it gets a key.
    pub keys: KeyDemands,
}

/// The longest name of a session or a device, in bytes.
pub const MAX_NAME_LEN: usize = 128;

/// Whether sessions and devices may be called so: it stands in headers, logs and URLs.
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_LEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
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

impl LicenseDemand {
    /// The terms that it demands, for [`Terms::and`]: what it leaves open limits nothing.
    pub fn terms(&self) -> Terms {
        Terms {
            persistent: self.persistent.unwrap_or(true),
            begins: self.begins,
            expires: self.expires,
            license_duration: self.duration,
            rental_duration: None,
            playback_duration: self.playback_duration,
            renewal: self.renewal,
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

/// What a licence shall say; none: as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    pub renewal: Option<Renewal>,
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
    pub fairplay: FairPlayHdcp,
}

/// What is asked of a Widevine device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WidevineDemand {
    /// The least robustness.
    pub security_level: WidevineLevel,
    /// The HDCP version.
    pub hdcp: Hdcp,
    /// Whether analogue outputs may show it without copy protection.
    pub analogue: bool,
}

impl Default for WidevineDemand {
    fn default() -> Self {
        Self {
            security_level: WidevineLevel::default(),
            hdcp: Hdcp::None,
            analogue: true,
        }
    }
}

/// What is asked of a PlayReady device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlayReadyDemand {
    /// The least security level.
    pub security_level: PlayReadyLevel,
    /// Whether uncompressed digital video needs HDCP (an output protection level above 100).
    pub hdcp: bool,
    /// Whether analogue outputs may show it without protection.
    pub analogue: bool,
}

impl Default for PlayReadyDemand {
    fn default() -> Self {
        Self {
            security_level: PlayReadyLevel::default(),
            hdcp: false,
            analogue: true,
        }
    }
}

impl KeyDemand {
    /// What is asked in this system, for [`KeyRule::and`]. In one of which tokens do not speak it is what is asked in any: a
    /// key that is protected elsewhere is not given away there.
    pub fn rule(&self, system: Option<DrmSystem>) -> KeyRule {
        let widevine = KeyRule {
            hdcp: self.widevine.hdcp,
            no_analogue: !self.widevine.analogue,
            widevine: self.widevine.security_level,
            ..KeyRule::default()
        };
        let playready = KeyRule {
            hdcp: match self.playready.hdcp {
                true => Hdcp::V1,
                false => Hdcp::None,
            },
            no_analogue: !self.playready.analogue,
            playready: self.playready.security_level,
            ..KeyRule::default()
        };
        let fairplay = KeyRule {
            fairplay_hdcp: self.fairplay,
            ..KeyRule::default()
        };
        match system {
            Some(DrmSystem::Widevine) => widevine,
            Some(DrmSystem::PlayReady) => playready,
            Some(DrmSystem::FairPlay) => fairplay,
            None => widevine.and(playready).and(fairplay),
        }
    }
}
