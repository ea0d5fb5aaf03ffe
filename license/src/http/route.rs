//! The URLs of licences. Pure: a path becomes a [`Route`] and back.

use std::fmt;

use keystore_types::{AssetId, KeyId};

/// Where a request goes. Every licence URL is known, also those that are not answered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `POST /license/clearkey/{asset}`: an EME ClearKey licence.
    ClearKey {
        /// The asset.
        asset: AssetId,
    },
    /// `POST /license/clearkey/{asset}/release`: an EME ClearKey licence that was kept is given up.
    ClearKeyRelease {
        /// The asset.
        asset: AssetId,
    },
    /// `GET /license/hls/{asset}/{kid}`: an HLS key of KEYFORMAT `identity`.
    HlsKey {
        /// The asset.
        asset: AssetId,
        /// The key.
        key_id: KeyId,
    },
    /// `POST /license/{system}/{asset}`: a challenge of a licensed system.
    Challenge {
        /// The system.
        system: LicensedSystem,
        /// The asset.
        asset: AssetId,
    },
    /// `GET /license/{system}/certificate[/{asset}]`: its service certificate.
    Certificate {
        /// The system, Widevine or FairPlay.
        system: LicensedSystem,
        /// The asset, where the certificate depends on it.
        asset: Option<AssetId>,
    },
    /// `POST /license/session/renew/{asset}` and `/license/session/release/{asset}`: a stream goes on, or ends.
    Session {
        /// Which of the two.
        act: SessionAct,
        /// The asset.
        asset: AssetId,
    },
    /// `POST /speke/v1.0` and `/speke/v2.0`.
    Speke {
        /// The major version.
        version: SpekeVersion,
    },
    /// `GET` and `POST /cpix/{contentId}`.
    Cpix {
        /// The content id, which is an asset's name.
        content_id: AssetId,
    },
}

/// A system whose licences come from whom the operator has licensed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LicensedSystem {
    /// Google Widevine.
    Widevine,
    /// Microsoft PlayReady.
    PlayReady,
    /// Apple FairPlay Streaming.
    FairPlay,
}

/// What a player says of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionAct {
    /// It goes on.
    Renew,
    /// It has ended.
    Release,
}

/// A version of the Secure Packager and Encoder Key Exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpekeVersion {
    /// 1.0.
    V1,
    /// 2.0, and 2.1 by its version header.
    V2,
}

impl Route {
    /// The route of a path, which is compared as it stands: no name needs an escape, so none is read.
    pub fn parse(path: &str) -> Option<Self> {
        let mut segments = path.strip_prefix('/')?.split('/');
        let first = segments.next()?;
        let rest: [Option<&str>; 4] = std::array::from_fn(|_| segments.next());
        match (first, rest) {
            ("license", [Some("clearkey"), Some(asset), None, _]) => Some(Self::ClearKey {
                asset: asset.parse().ok()?,
            }),
            ("license", [Some("clearkey"), Some(asset), Some("release"), None]) => {
                Some(Self::ClearKeyRelease {
                    asset: asset.parse().ok()?,
                })
            }
            ("license", [Some("hls"), Some(asset), Some(key_id), None]) => Some(Self::HlsKey {
                asset: asset.parse().ok()?,
                key_id: key_id.parse().ok()?,
            }),
            (
                "license",
                [
                    Some(system @ ("widevine" | "fairplay")),
                    Some("certificate"),
                    None,
                    _,
                ],
            ) => Some(Self::Certificate {
                system: LicensedSystem::parse(system)?,
                asset: None,
            }),
            (
                "license",
                [
                    Some(system @ ("widevine" | "fairplay")),
                    Some("certificate"),
                    Some(asset),
                    None,
                ],
            ) => {
                let asset = Some(asset.parse().ok()?);
                Some(Self::Certificate {
                    system: LicensedSystem::parse(system)?,
                    asset,
                })
            }
            ("license", [Some("session"), Some(act), Some(asset), None]) => Some(Self::Session {
                act: match act {
                    "renew" => SessionAct::Renew,
                    "release" => SessionAct::Release,
                    _ => return None,
                },
                asset: asset.parse().ok()?,
            }),
            ("license", [Some(system), Some(asset), None, _]) => Some(Self::Challenge {
                system: LicensedSystem::parse(system)?,
                asset: asset.parse().ok()?,
            }),
            ("speke", [Some("v1.0"), None, _, _]) => Some(Self::Speke {
                version: SpekeVersion::V1,
            }),
            ("speke", [Some("v2.0"), None, _, _]) => Some(Self::Speke {
                version: SpekeVersion::V2,
            }),
            ("cpix", [Some(content_id), None, _, _]) => Some(Self::Cpix {
                content_id: content_id.parse().ok()?,
            }),
            _ => None,
        }
    }

    /// The fixed name in metrics and the access log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ClearKey { .. } => "license_clearkey",
            Self::ClearKeyRelease { .. } => "license_clearkey_release",
            Self::HlsKey { .. } => "license_hls",
            Self::Challenge { .. } => "license_challenge",
            Self::Certificate { .. } => "license_certificate",
            Self::Session { .. } => "license_session",
            Self::Speke { .. } => "speke",
            Self::Cpix { .. } => "cpix",
        }
    }
}

impl fmt::Display for Route {
    /// Writes the path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClearKey { asset } => write!(f, "/license/clearkey/{asset}"),
            Self::ClearKeyRelease { asset } => write!(f, "/license/clearkey/{asset}/release"),
            Self::HlsKey { asset, key_id } => write!(f, "/license/hls/{asset}/{key_id}"),
            Self::Challenge { system, asset } => write!(f, "/license/{system}/{asset}"),
            Self::Certificate {
                system,
                asset: None,
            } => write!(f, "/license/{system}/certificate"),
            Self::Certificate {
                system,
                asset: Some(asset),
            } => {
                write!(f, "/license/{system}/certificate/{asset}")
            }
            Self::Session { act, asset } => {
                let act = match act {
                    SessionAct::Renew => "renew",
                    SessionAct::Release => "release",
                };
                write!(f, "/license/session/{act}/{asset}")
            }
            Self::Speke {
                version: SpekeVersion::V1,
            } => f.write_str("/speke/v1.0"),
            Self::Speke {
                version: SpekeVersion::V2,
            } => f.write_str("/speke/v2.0"),
            Self::Cpix { content_id } => write!(f, "/cpix/{content_id}"),
        }
    }
}

impl LicensedSystem {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "widevine" => Some(Self::Widevine),
            "playready" => Some(Self::PlayReady),
            "fairplay" => Some(Self::FairPlay),
            _ => None,
        }
    }
}

impl fmt::Display for LicensedSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Widevine => "widevine",
            Self::PlayReady => "playready",
            Self::FairPlay => "fairplay",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_licence_url_round_trips() {
        for path in [
            "/license/clearkey/Film.2024_v1-x",
            "/license/clearkey/film/release",
            "/license/clearkey/release",
            "/license/hls/film/9eb4050d-e44b-4802-932e-27d75083e266",
            "/license/widevine/film",
            "/license/playready/film",
            "/license/fairplay/film",
            "/license/widevine/certificate",
            "/license/fairplay/certificate",
            "/license/widevine/certificate/film",
            "/license/fairplay/certificate/film",
            "/license/playready/certificate",
            "/license/session/renew/film",
            "/license/session/release/film",
            "/speke/v1.0",
            "/speke/v2.0",
            "/cpix/film",
        ] {
            let route = Route::parse(path).expect(path);
            assert_eq!(route.to_string(), path);
        }
    }

    #[test]
    fn nothing_else_is_a_route() {
        for path in [
            "",
            "/",
            "/license",
            "/license/",
            "/license/clearkey",
            "/license/clearkey/",
            "/license/clearkey/film/",
            "/license/clearkey/film/x",
            "/license/clearkey/film/release/",
            "/license/clearkey/film/release/x",
            "/license/widevine/film/release",
            "/license//clearkey/film",
            "/license/clearkey/..",
            "/license/clearkey/%66ilm",
            "/license/clearkey/film%00",
            "/License/clearkey/film",
            "/license/hls/film",
            "/license/hls/film/9EB4050D-e44b-4802-932e-27d75083e266",
            "/license/hls/film/nrQFDeRLSAKTLifXUIPiZg",
            "/license/hls/film/9eb4050d-e44b-4802-932e-27d75083e266/x",
            "/license/session/film",
            "/license/session/renew",
            "/license/session/end/film",
            "/license/playready/certificate/film",
            "/license/marlin/film",
            "/speke/v3.0",
            "/speke/v1.0/x",
            "/cpix",
            "license/clearkey/film",
            "*",
        ] {
            assert_eq!(Route::parse(path), None, "{path}");
        }
    }
}
