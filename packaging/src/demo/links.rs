//! What the demo says of itself: the object of `castellum demo --json`, also at `/api/v1/demo`.

use std::net::SocketAddr;
use std::path::PathBuf;

use conf::{HlsClearKey, OriginSettings, PackScheme};
use keystore_types::AssetId;
use serde::Serialize;

/// The demo's object; [`crate::output::Output`] adds `"schema": 1`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Links {
    page: String,
    admin: String,
    origin: String,
    origin_tls: String,
    license: String,
    license_tls: String,
    ca: PathBuf,
    token: String,
    issuer: Issuer,
    assets: Vec<AssetLinks>,
}

/// By whose signature further tokens are taken, for whoever wants many.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Issuer {
    pub(crate) iss: &'static str,
    pub(crate) aud: &'static str,
    pub(crate) algorithm: &'static str,
    /// The private key, in PEM.
    pub(crate) key_file: PathBuf,
}

#[derive(Clone, Debug, Serialize)]
struct AssetLinks {
    id: AssetId,
    streams: Vec<Stream>,
}

#[derive(Clone, Debug, Serialize)]
struct Stream {
    policy: String,
    scheme: PackScheme,
    hls: String,
    dash: String,
    /// The players that take this policy's HLS; DASH plays in all.
    hls_players: &'static [&'static str],
    license: Option<String>,
}

/// Where the demo's listeners are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bases {
    pub(crate) admin: SocketAddr,
    pub(crate) origin: SocketAddr,
    pub(crate) origin_tls: SocketAddr,
    pub(crate) license: SocketAddr,
    pub(crate) license_tls: SocketAddr,
}

impl Links {
    /// Links to every policy of the settings for each of `assets`.
    pub(crate) fn new(
        bases: Bases,
        ca: PathBuf,
        settings: &OriginSettings,
        assets: &[AssetId],
        token: String,
        issuer: Issuer,
    ) -> Self {
        let admin = format!("http://{}", bases.admin);
        let origin = format!("http://{}", bases.origin);
        let license = format!("http://{}", bases.license);
        let assets = assets.iter().map(|id| AssetLinks {
            id: id.clone(),
            streams: streams(settings, &origin, &license, id),
        });
        Self {
            page: format!("{admin}/"),
            assets: assets.collect(),
            admin,
            origin,
            origin_tls: format!("https://{}", bases.origin_tls),
            license,
            license_tls: format!("https://{}", bases.license_tls),
            ca,
            token,
            issuer,
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("\n  Player page   {}\n\n", self.page);
        for asset in &self.assets {
            text.push_str(&format!("  {}\n", asset.id));
            for stream in &asset.streams {
                text.push_str(&format!(
                    "    {:14}  {}\n                    {}\n",
                    stream.policy, stream.dash, stream.hls
                ));
            }
            let license = asset
                .streams
                .iter()
                .find_map(|stream| stream.license.as_ref());
            if let Some(license) = license {
                text.push_str(&format!("    {:14}  {license}\n", "licence"));
            }
            text.push('\n');
        }
        text.push_str(&format!("  Token         {}\n\n", self.token));
        text.push_str(&format!(
            "  Over TLS, HTTP/2 and HTTP/3: {} with the CA {}\n  Ctrl-C ends it.\n",
            self.origin_tls,
            self.ca.display()
        ));
        text
    }
}

fn streams(settings: &OriginSettings, origin: &str, license: &str, asset: &AssetId) -> Vec<Stream> {
    let stream = |(name, policy): (&String, &conf::PolicySettings)| {
        let scheme = settings.packs.get(&policy.pack)?.scheme;
        let encrypted = scheme != PackScheme::Clear;
        Some(Stream {
            policy: name.clone(),
            scheme,
            hls: format!("{origin}/v1/{asset}/{name}/main.m3u8"),
            dash: format!("{origin}/v1/{asset}/{name}/main.mpd"),
            hls_players: match (encrypted, policy.hls_clear_key) {
                (false, _) | (true, HlsClearKey::Both) => &["hls.js", "shaka"],
                (true, HlsClearKey::ClearKey) => &["hls.js"],
                (true, HlsClearKey::Identity) => &["shaka"],
            },
            license: encrypted.then(|| format!("{license}/license/clearkey/{asset}")),
        })
    };
    settings.policies.iter().filter_map(stream).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_the_object() {
        let settings = conf::parse("default", conf::DEFAULT).unwrap();
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let bases = Bases {
            admin: at(5),
            origin: at(2),
            origin_tls: at(1),
            license: at(4),
            license_tls: at(3),
        };
        let links = Links::new(
            bases,
            "/ca.pem".into(),
            &settings.origin,
            &["film".parse().unwrap()],
            "t".to_owned(),
            Issuer {
                iss: "a",
                aud: "b",
                algorithm: "ES256",
                key_file: "/key.pem".into(),
            },
        );
        let json = serde_json::to_value(&links).unwrap();
        let members: Vec<&str> = json
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let expected = [
            "admin",
            "assets",
            "ca",
            "issuer",
            "license",
            "license_tls",
            "origin",
            "origin_tls",
            "page",
            "token",
        ];
        assert_eq!(members, expected);
        let streams = json["assets"][0]["streams"].as_array().unwrap();
        let row = |policy: &str| {
            streams
                .iter()
                .find(|stream| stream["policy"] == policy)
                .cloned()
                .unwrap()
        };
        assert_eq!(
            row("cbcs"),
            serde_json::json!({
                "policy": "cbcs", "scheme": "cbcs",
                "hls": "http://127.0.0.1:2/v1/film/cbcs/main.m3u8",
                "dash": "http://127.0.0.1:2/v1/film/cbcs/main.mpd",
                "hls_players": ["hls.js"],
                "license": "http://127.0.0.1:4/license/clearkey/film",
            })
        );
        assert_eq!(
            row("cbcs-identity")["hls_players"],
            serde_json::json!(["shaka"])
        );
        assert_eq!(
            row("cenc")["hls_players"],
            serde_json::json!(["hls.js", "shaka"])
        );
        assert_eq!(row("clear")["license"], serde_json::Value::Null);
        let text = links.text();
        for line in [
            "    licence         http://127.0.0.1:4/license/clearkey/film\n",
            "  Token         t\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
