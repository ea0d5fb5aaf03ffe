//! The refusal table, `license/design/refusals.md`: every row of it is asked, and answered and recorded as it says.
//!
//! What it cannot catch: what a protocol, or a process that dies, makes of an answer.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use conf::{
    AuthorisationSettings, HookSettings, IssuerKeys, IssuerSettings, KeyPlace, RateSettings,
    RevocationSettings, SecretSource, SessionSettings, TokenAlgorithm, UpstreamBody, UpstreamKind,
};
use http::request;
use origin_front::{BodyError, ConnectionInfo, Protocol};
use ring::hmac;

use super::upstreams::{BRIEF, StandIn, answer, ckc, soap, spc, widevine};
use super::*;
use crate::admission::Place;
use crate::entitlement::{KeySet, Keys, KidRule, Shape, Token};
use crate::http::{rescue, route};

const TABLE: &str = include_str!("../../../design/refusals.md");

/// The `com_key_id` of entitlement messages.
pub(super) const COM_KEY_ID: &str = "6e5a1d26-2757-47d7-8046-eaa5d1d34b5a";

/// A row: what is sent to which server, and what comes of it.
#[derive(Clone, Debug)]
struct Row {
    what: String,
    server: String,
    request: String,
    token: String,
    body: String,
    answer: String,
    reason: String,
    bearer: String,
    exported: usize,
}

fn rows() -> Vec<Row> {
    let ids = [
        ("VIDEO", VIDEO),
        ("AUDIO", AUDIO),
        ("OTHER", OTHER),
        ("UNKNOWN", UNKNOWN),
    ];
    let read = |line: &str| {
        let line = ids.iter().fold(line.to_owned(), |line, (name, key_id)| {
            line.replace(name, &key_id.to_string())
        });
        let cells: Vec<_> = (line.trim_matches('|').split('|'))
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .collect();
        let cells: [String; 9] = cells.try_into().expect(&line);
        let [
            what,
            server,
            request,
            token,
            body,
            answer,
            reason,
            bearer,
            exported,
        ] = cells;
        Row {
            what,
            server,
            request,
            token,
            body,
            answer,
            reason,
            bearer,
            exported: exported.parse().unwrap(),
        }
    };
    let lines = TABLE.lines().filter(|line| line.starts_with("| "));
    lines.skip(2).map(read).collect()
}

#[tokio::test]
async fn every_row_is_answered_and_recorded_as_the_table_says() {
    let rows = rows();
    assert!(rows.len() >= 60, "{} rows", rows.len());
    let mut failed = Vec::new();
    for row in rows.clone() {
        let what = row.what.clone();
        // Each as a task of its own, so that one which fails does not hide the others.
        let tried = tokio::spawn(async move { Trial::of(&row).await.run(&row).await });
        if tried.await.is_err() {
            failed.push(what);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    let names: BTreeSet<_> = rows.iter().map(|row| &row.what).collect();
    assert_eq!(names.len(), rows.len(), "two rows of one name");
}

#[test]
fn every_reason_is_in_the_table() {
    let rows = rows();
    for refusal in rescue::tests::every() {
        let reason = refusal.reason();
        // Of what is told to come again nothing was decided.
        let is_of = |row: &Row| match refusal {
            crate::Refusal::Overloaded { .. } => row.answer == "503 overloaded",
            _ => row.reason == reason,
        };
        assert!(rows.iter().any(is_of), "{reason}");
    }
}

/// A server, in the state in which the request finds it.
struct Trial {
    rig: Rig,
    sessions: Arc<Sessions>,
    _places: Vec<Place>,
    _stand_ins: Vec<StandIn>,
}

impl Trial {
    async fn of(row: &Row) -> Self {
        let name = row.server.as_str();
        let folder = tempfile::tempdir().unwrap().keep();
        let mut settings = no_rules();
        let mut stand_ins = Vec::new();
        let authoriser = match name {
            "hook: no" => Some(StandIn::saying(answer(200, r#"{"allow":false}"#)).await),
            "hook: 500" => Some(StandIn::saying(answer(500, "")).await),
            "hook: nonsense" => Some(StandIn::saying(answer(200, "yes")).await),
            "hook: silent" => Some(StandIn::new(|_| None).await),
            _ => None,
        };
        if let Some(authoriser) = authoriser {
            let secret = folder.join("hook.secret");
            std::fs::write(&secret, SECRET).unwrap();
            settings.authorisation = Some(AuthorisationSettings {
                hook: HookSettings {
                    table: "license.authorisation".to_owned(),
                    tls: false,
                    authority: authoriser.authority.clone(),
                    path: "/ask".to_owned(),
                    secret: SecretSource::file(secret),
                    ca_file: "/none".into(),
                    timeout: match name {
                        "hook: silent" => BRIEF,
                        _ => Duration::from_secs(60),
                    },
                },
                cache: Duration::ZERO,
                fail_open: false,
            });
            stand_ins.push(authoriser);
        }
        rules(name, &mut settings);
        let mut upstreams = Vec::new();
        if name != "no upstreams" {
            let said = name.strip_prefix("upstreams: ");
            let vendors = name.strip_prefix("vendors: ");
            let kinds = match vendors {
                Some(_) => &[UpstreamKind::Vendor][..],
                None => &[
                    UpstreamKind::Widevine,
                    UpstreamKind::PlayReady,
                    UpstreamKind::FairPlay,
                ],
            };
            for kind in kinds {
                let stand_in = stand_in(*kind, said.or(vendors).unwrap_or("honest")).await;
                let mut settings = stand_in.upstream(*kind);
                if said.or(vendors) == Some("silent") {
                    settings.timeout = BRIEF;
                }
                if said == Some("busy") {
                    settings.in_flight = 0;
                }
                if said == Some("in two steps and failing") {
                    settings.two_steps = true;
                }
                settings.body = match name {
                    "vendors: garbage" => UpstreamBody::Json,
                    _ => UpstreamBody::Raw,
                };
                upstreams.push(settings);
                stand_ins.push(stand_in);
            }
        }
        let upstreams = Upstreams::open(&upstreams, &CertificateSettings::default()).unwrap();
        let mut sessions = None;
        let rig = Rig::of(
            name != "no ClearKey",
            HeaderName::from_static("x-token"),
            upstreams,
            &settings,
            |parts| {
                sessions = Some(Arc::clone(&parts.sessions));
                parts.verifier = Verifier::new(issuers(&folder));
                parts.token_query = (name == "query").then(|| "token".to_owned());
                let later = Terms {
                    begins: Some(NOW.plus(Duration::from_secs(60))),
                    ..Terms::default()
                };
                let over = Terms {
                    expires: Some(NOW),
                    ..Terms::default()
                };
                for (name, terms) in [("later", later), ("over", over)] {
                    let rule = PolicyRule {
                        terms,
                        ..PolicyRule::default()
                    };
                    parts.rules.policies.insert(name.to_owned(), rule);
                }
            },
        );
        let places = match name {
            "full" => rig.fill().await,
            _ => Vec::new(),
        };
        let trial = Self {
            rig,
            _places: places,
            sessions: sessions.unwrap(),
            _stand_ins: stand_ins,
        };
        trial.prepare(name).await;
        trial
    }

    /// What happened before the request came.
    async fn prepare(&self, name: &str) {
        let keystore = &self.rig.keystore;
        match name {
            "sealed" => drop(keystore.seal.send_replace(SealState::Sealed)),
            "uninitialised" => drop(keystore.seal.send_replace(SealState::Uninitialised)),
            "keystore gone" => drop(keystore.seal.send_replace(SealState::Unreachable)),
            "audit full" => keystore.audit_full.store(true, Ordering::Relaxed),
            _ => {}
        }
        let body = match name {
            "revoked subject" => json!({ "subject": "viewer-1" }),
            "revoked token" => json!({ "token": "t1", "issuer": "test" }),
            "revoked key" => json!({ "key": VIDEO }),
            _ => Value::Null,
        };
        if !body.is_null() {
            let request = http::Request::post("/api/v1/revocations")
                .header("content-type", "application/json")
                .body(axum::body::Body::from(body.to_string()))
                .unwrap();
            let issuers = vec!["test".to_owned()];
            let api = crate::session::api::api(Arc::clone(&self.sessions), issuers);
            let response = tower::ServiceExt::oneshot(api, request).await.unwrap();
            assert!(response.status().is_success());
        }
        let taken =
            name.starts_with("rate ") || matches!(name, "one stream" | "one device" | "single use");
        if taken {
            let headers = [("x-session-id", "tv"), ("x-device-id", "tv")];
            let token = jwt("good");
            let tokens = [("bearer", token.as_str())];
            let reply = self.send(FILM, &headers, &tokens, asking(&[VIDEO])).await;
            let reply = Reply::of(reply).await;
            assert_eq!(reply.status, StatusCode::OK, "{name}");
        }
    }

    /// Before anything of the answer is read: the record is there by then.
    async fn send(
        &self,
        request: &str,
        headers: &[(&str, &str)],
        tokens: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response {
        let (head, body) = asked(request, headers, tokens, body);
        self.rig.service.call(Request::from_parts(head, body)).await
    }

    async fn run(&self, row: &Row) {
        let told = || (self.rig.decisions.latest(9), self.rig.exports());
        let (before, exported_before) = told();
        let mut request = row.request.split("; ");
        let line = request.next().unwrap();
        let headers: Vec<_> = request
            .map(|field| field.split_once(": ").unwrap())
            .collect();
        let (tokens, body) = (tokens(&row.token), body(row, line));
        let named: Vec<_> = tokens.iter().map(|(place, it)| (*place, &**it)).collect();
        let response = match body {
            Ok(body) => self.send(line, &headers, &named, body).await,
            Err(error) => {
                let (head, _) = asked(line, &headers, &named, "");
                let route = route::Route::parse(head.uri.path());
                self.rig.service.answer(route, &head, Err(error)).await
            }
        };
        let (after, exported_after) = told();

        let what = &row.what;
        let reply = Reply::of(response).await;
        let answer = format!("{} {}", reply.status.as_u16(), reply.kind());
        assert_eq!(answer, row.answer, "{what}: {after:?}");
        assert_eq!(exported_after - exported_before, row.exported, "{what}");
        let header = |name| reply.headers.get(name).map(|value| value.to_str().unwrap());
        let unauthorised = reply.status == StatusCode::UNAUTHORIZED;
        let challenge = header("www-authenticate");
        assert_eq!(challenge, unauthorised.then_some("Bearer"), "{what}");
        if matches!(reply.status.as_u16(), 429 | 503) {
            assert!(header("retry-after").is_some(), "{what}");
        }
        let said = String::from_utf8(reply.body.to_vec()).unwrap();
        for (_, token) in &tokens {
            assert!(token.is_empty() || !said.contains(token), "{what}: {said}");
        }

        if row.reason == "nothing" {
            assert_eq!(after, before, "{what}");
            return;
        }
        assert_eq!(after.len(), before.len() + 1, "{what}");
        let entry = serde_json::to_value(&after[0]).unwrap();
        assert_eq!(entry["result"], "refused", "{what}");
        assert_eq!(entry["reason"], row.reason, "{what}: {entry}");
        let asset = line.split(['/', '?']).nth(3).unwrap();
        assert_eq!(entry["asset"], asset, "{what}");
        let bearer = match (entry["issuer"].as_str(), entry["subject"].as_str()) {
            (None, None) => "nobody",
            (Some(_), Some(subject)) => subject,
            (Some(issuer), None) => issuer,
            (None, Some(_)) => panic!("{what}: a subject of nobody's"),
        };
        assert_eq!(bearer, row.bearer, "{what}: {entry}");
        let entry = entry.to_string();
        for (_, token) in &tokens {
            assert!(token.len() < 9 || !entry.contains(token), "{what}: {entry}");
        }
    }
}

const FILM: &str = "POST /license/clearkey/film";

/// The rules of sessions that a server has.
fn rules(name: &str, settings: &mut SessionSettings) {
    let rate = RateSettings::default();
    match name {
        "one stream" => {
            settings.streams = Some(1);
            settings.session_header = Some("x-session-id".to_owned());
        }
        "one stream a token" => settings.streams = Some(1),
        "one device" => {
            settings.devices = Some(1);
            settings.device_header = Some("x-device-id".to_owned());
        }
        "single use" => settings.single_use = true,
        "store full" => {
            settings.single_use = true;
            settings.store.capacity = 0;
        }
        "revoked subject" | "revoked token" | "revoked key" => {
            settings.revocations = Some(RevocationSettings {
                interval: Duration::from_secs(3600),
                staleness: Duration::from_secs(3600),
            });
        }
        // What was read is old at once.
        "store gone" => {
            settings.revocations = Some(RevocationSettings {
                interval: Duration::from_secs(3600),
                staleness: Duration::ZERO,
            });
        }
        "rate of tenant" => settings.rates = RateSettings { tenant: 1, ..rate },
        "rate of address" => settings.rates = RateSettings { address: 1, ..rate },
        "rate of subject" => settings.rates = RateSettings { subject: 1, ..rate },
        "rate of key" => settings.rates = RateSettings { key: 1, ..rate },
        "places" => {
            settings.access.proxies = vec!["192.0.2.1/32".parse().unwrap()];
            settings.access.address_header = Some("x-forwarded-for".to_owned());
            settings.access.country_header = Some("x-country".to_owned());
            settings.access.deny = vec!["198.51.100.0/24".parse().unwrap()];
            settings.access.countries = vec!["SE".to_owned(), "FI".to_owned()];
        }
        _ => {}
    }
}

/// All the issuers that the table's tokens are of.
fn issuers(folder: &std::path::Path) -> Vec<Issuer> {
    let key = || VerificationKey::read(Algorithm::Hs256, SECRET).unwrap();
    let named = |iss: &str| Issuer::new(iss, iss, "castellum", key());
    let away = IssuerSettings {
        keys: IssuerKeys::Fetched(KeyPlace {
            tls: false,
            // Nobody listens there.
            authority: "127.0.0.1:1".to_owned(),
            path: "/jwks".to_owned(),
            discovery: false,
            ca_file: "/none".into(),
            timeout: Duration::from_millis(300),
        }),
        ..IssuerSettings::of_key(
            "away",
            "away",
            "castellum",
            TokenAlgorithm::Es256,
            SecretSource::file("/none"),
        )
    };
    let (away, refresher) = Issuer::load(&away, folder).unwrap();
    tokio::spawn(refresher.unwrap().run(Arc::new(Fixed)));
    vec![
        Issuer::new("test", "ott", "castellum", key()),
        Issuer {
            keys: Keys::Fixed(KeySet::of(Some("k1".to_owned()), key())),
            ..named("keyed")
        },
        Issuer {
            max_lifetime: Some(Duration::from_secs(3600)),
            ..named("brief")
        },
        Issuer {
            kid_rule: KidRule::Strict,
            ..named("strict")
        },
        Issuer {
            openid: true,
            ..named("openid")
        },
        Issuer {
            shape: Shape::DashIf,
            ..named("dash")
        },
        Issuer {
            shape: Shape::Axinom,
            iss: Some(COM_KEY_ID.to_owned()),
            audience: None,
            ..named("axinom")
        },
        away,
    ]
}

/// An upstream that behaves so.
async fn stand_in(kind: UpstreamKind, how: &str) -> StandIn {
    let fault = "<s:Envelope xmlns:s=\"x\"><s:Body><s:Fault/></s:Body></s:Envelope>";
    let message = "<s:Envelope xmlns:s=\"x\"><s:Body><License/></s:Body></s:Envelope>";
    let ckc = json!({ "ckc": URL_SAFE_NO_PAD.encode(ckc()) }).to_string();
    let said = match (how, kind) {
        ("silent", _) => return StandIn::new(|_| None).await,
        ("500" | "in two steps and failing", _) => answer(500, ""),
        ("garbage", _) => answer(200, "garbage"),
        ("too long", _) => answer(200, vec![b'x'; 300 << 10]),
        ("cut short", _) => b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi".to_vec(),
        ("redirecting", _) => {
            b"HTTP/1.1 302 X\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_vec()
        }
        ("refusing", UpstreamKind::Widevine) => answer(200, r#"{"status":"DEVICE_REVOKED"}"#),
        ("refusing", UpstreamKind::PlayReady) => answer(500, fault),
        ("refusing", _) => answer(403, ""),
        (_, UpstreamKind::Widevine) => widevine(b"a licence"),
        (_, UpstreamKind::PlayReady) => answer(200, message),
        (_, UpstreamKind::FairPlay) => answer(200, ckc),
        (_, UpstreamKind::Vendor) => answer(200, "a licence"),
    };
    StandIn::saying(said).await
}

/// The tokens of a cell, each with the place in which it stands.
fn tokens(cell: &str) -> Vec<(&str, String)> {
    let tokens = cell.split(" & ").filter(|token| *token != "none");
    tokens
        .map(|token| match token.rsplit_once(" in ") {
            Some((token, place)) => (place, jwt(token)),
            None => ("bearer", jwt(token)),
        })
        .collect()
}

/// A token, rightly signed unless it says otherwise: `good`, with the header and the claims that are given in place of
/// its own.
pub(super) fn jwt(token: &str) -> String {
    let good = signed(r#"{"alg":"HS256"}"#, &claims("{}"));
    let (parts, tag) = good.rsplit_once('.').unwrap();
    let (header, payload) = parts.split_once('.').unwrap();
    let (how, json) = token
        .split_once(' ')
        .map_or((token, ""), |(how, json)| (how, json));
    match how {
        "good" => good.clone(),
        "header" => match json.split_once(" claims ") {
            Some((header, over)) => signed(header, &claims(over)),
            None => signed(json, &claims("{}")),
        },
        "claims" => signed(r#"{"alg":"HS256"}"#, &claims(json)),
        "verbatim" => signed(r#"{"alg":"HS256"}"#, json),
        "message" => signed(r#"{"alg":"HS256"}"#, &message(json)),
        "unsigned" => format!("{parts}."),
        "unsigned-none" => format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#)),
        "forged" => format!("{parts}.{}", URL_SAFE_NO_PAD.encode([0; 32])),
        "spliced" => {
            let other = URL_SAFE_NO_PAD.encode(claims(r#"{"assets":["*"]}"#));
            format!("{header}.{other}.{tag}")
        }
        "padded" => format!("{good}="),
        "two-parts" => parts.to_owned(),
        "five-parts" => format!("{good}.{tag}.{tag}"),
        "too-long" => "a".repeat(Token::MAX_LEN + 1),
        _ => token.to_owned(),
    }
}

fn signed(header: &str, claims: &str) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
    let signed = format!("{header}.{claims}");
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, SECRET),
        signed.as_bytes(),
    );
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// The members of `over` in place of those of the same name; null takes one away.
fn merged(mut base: Value, over: &str) -> Value {
    let Value::Object(over) = serde_json::from_str(over).expect(over) else {
        panic!("{over} is no object");
    };
    let members = base.as_object_mut().unwrap();
    for (name, value) in over {
        match value {
            Value::Null => drop(members.remove(&name)),
            value => drop(members.insert(name, value)),
        }
    }
    base
}

fn claims(over: &str) -> String {
    let base = json!({
        "iss": "ott", "aud": "castellum", "exp": NOW.as_seconds() + 60,
        "sub": "viewer-1", "jti": "t1", "assets": ["film"],
    });
    merged(base, over).to_string()
}

fn message(over: &str) -> String {
    let base = json!({
        "type": "entitlement_message", "version": 2,
        "content_keys_source": { "inline": [{ "id": VIDEO }] },
    });
    let envelope = json!({
        "version": 1, "com_key_id": COM_KEY_ID, "message": merged(base, over),
    });
    envelope.to_string()
}

/// The body of a cell; what is put into it besides: the token that stands in custom data.
fn body(row: &Row, line: &str) -> Result<Bytes, BodyError> {
    let cell = row.body.as_str();
    if let Some(asked) = cell.strip_prefix("asks ") {
        let (asked, kind) = match asked.strip_suffix(" to keep") {
            Some(asked) => (asked, "persistent-license"),
            None => (asked, "temporary"),
        };
        let kids = asked
            .split(' ')
            .map(|kid| kid.parse::<KeyId>().unwrap().to_base64url());
        let body = json!({ "kids": kids.collect::<Vec<_>>(), "type": kind });
        return Ok(body.to_string().into());
    }
    Ok(match cell {
        "none" => Bytes::new(),
        "broken off" => return Err(BodyError::Broken),
        "too slow" => return Err(BodyError::Slow),
        "too long" => vec![b' '; BODY_BYTES + 1].into(),
        "challenge" => Bytes::from_static(b"\x08\x01a challenge"),
        "certificate request" => Bytes::from_static(&[8, 4]),
        "SPC" => spc().into(),
        "message" => {
            let message = soap(VIDEO);
            let custom = tokens(&row.token);
            let custom = custom.iter().filter(|(place, _)| *place == "custom data");
            let custom: String = custom
                .map(|(_, token)| format!("<CustomData>{token}</CustomData>"))
                .collect();
            assert!(line.contains("/playready/"), "{}", row.what);
            let end = "</AcquireLicense>";
            message.replace(end, &format!("{custom}{end}")).into()
        }
        literal => literal.to_owned().into(),
    })
}

fn asked(
    line: &str,
    headers: &[(&str, &str)],
    tokens: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> (request::Parts, RequestBody) {
    let (method, target) = line.split_once(' ').unwrap();
    let mut target = target.to_owned();
    let mut request = Request::new(RequestBody::full(body));
    *request.method_mut() = method.parse().unwrap();
    for (place, token) in tokens {
        let (name, value) = match *place {
            "bearer" => ("authorization", format!("Bearer {token}")),
            "x-token" => ("x-token", (*token).to_owned()),
            "query" => {
                let sign = if target.contains('?') { '&' } else { '?' };
                target = format!("{target}{sign}token={token}");
                continue;
            }
            "custom data" => continue,
            place => panic!("a token in {place}"),
        };
        (request.headers_mut()).append(name, value.parse().unwrap());
    }
    *request.uri_mut() = target.parse().unwrap();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request.extensions_mut().insert(ConnectionInfo {
        peer: ([192, 0, 2, 1], 1).into(),
        protocol: Protocol::H1,
        tls: true,
        listener: "license_tls",
    });
    request.into_parts()
}
