//! Others who hang or lie: issuers that publish keys, whoever is asked before a licence, licence services. Whoever needs them is
//! answered in time, few of them wait, and nobody else does.

use std::sync::atomic::AtomicUsize;

use conf::{
    AuthorisationSettings, HookSettings, IssuerKeys, IssuerSettings, KeyPlace, SecretSource,
    TokenAlgorithm, UpstreamKind,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::refusals::jwt;
use super::upstreams::StandIn;
use super::*;

/// How long anyone is waited for in these tests.
const TIMEOUT: Duration = Duration::from_millis(500);

/// In which nobody is given up.
const LONG: Duration = Duration::from_secs(600);

/// An answer that has not come by then does not come: no measure of how fast it should.
const PATIENCE: Duration = Duration::from_secs(60);

/// How somebody who is asked misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Connections are never accepted, though the kernel makes them.
    Deaf,
    /// Takes the request and says nothing.
    Silent,
    /// A byte now and then, for ever.
    Drips,
    /// A head without end.
    EndlessHead,
    /// A body without end.
    EndlessBody,
    /// More is promised than comes.
    Short,
    /// Less is promised than comes, and that is no JSON.
    Long,
    Garbage,
    /// A page, as a captive portal has it.
    Html,
    /// Back to itself.
    Redirect,
    /// JSON that is nothing of the kind.
    OtherJson,
    /// A set of keys of many megabytes.
    Huge,
    /// Keys without names.
    Nameless,
}

const LIES: [Lie; 13] = [
    Lie::Deaf,
    Lie::Silent,
    Lie::Drips,
    Lie::EndlessHead,
    Lie::EndlessBody,
    Lie::Short,
    Lie::Long,
    Lie::Garbage,
    Lie::Html,
    Lie::Redirect,
    Lie::OtherJson,
    Lie::Huge,
    Lie::Nameless,
];

struct Liar {
    authority: String,
    /// How often it was asked.
    asked: Arc<AtomicUsize>,
    _deaf: Option<TcpListener>,
}

impl Liar {
    async fn new(lie: Lie) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        if lie == Lie::Deaf {
            let _deaf = Some(listener);
            return Self {
                authority,
                asked,
                _deaf,
            };
        }
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut request = [0; 16 << 10];
                    let _ = stream.read(&mut request).await;
                    // It fails when whoever asked has had enough.
                    let _ = lie.tell(&mut stream).await;
                });
            }
        });
        Self {
            authority,
            asked,
            _deaf: None,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Each, and how long it is waited for.
fn lies() -> impl Iterator<Item = (Lie, Duration)> {
    let long = (Lie::Silent, LONG);
    LIES.into_iter().map(|lie| (lie, TIMEOUT)).chain([long])
}

impl Lie {
    async fn tell(self, stream: &mut tokio::net::TcpStream) -> std::io::Result<()> {
        let whole = |kind: &str, body: &str| {
            let len = body.len();
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len}\r\n\r\n{body}"
            )
        };
        let json = "application/json";
        let key = r#"{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}"#;
        let said = match self {
            Self::Deaf | Self::Silent => return std::future::pending().await,
            Self::Drips => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n")
                    .await?;
                loop {
                    stream.write_all(b"x").await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Self::EndlessHead => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
                loop {
                    stream
                        .write_all(b"x-more: and more and more and more\r\n")
                        .await?;
                }
            }
            Self::EndlessBody => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                    .await?;
                loop {
                    stream.write_all(b"10\r\n0123456789abcdef\r\n").await?;
                }
            }
            Self::Short => "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}".to_owned(),
            Self::Long => "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{}{}{}".to_owned(),
            Self::Garbage => "\x00\x01\x02 what?\r\n\r\n".to_owned(),
            Self::Html => whole("text/html", "<html>Please log in</html>"),
            Self::Redirect => {
                "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_owned()
            }
            Self::OtherJson => whole(json, r#"{"keys":{"allow":"yes"},"status":1}"#),
            Self::Huge => whole(
                json,
                &format!("{{\"keys\":[{}]}}", [key; 100_000].join(",")),
            ),
            Self::Nameless => whole(json, &format!("{{\"keys\":[{key},{key}]}}")),
        };
        stream.write_all(said.as_bytes()).await
    }
}

/// Asks so often at once; all are answered.
async fn at_once(rig: &Arc<Rig>, count: usize, path: &'static str, token: &str) -> Vec<Reply> {
    let asking = (0..count).map(|_| {
        let (rig, token) = (Arc::clone(rig), token.to_owned());
        tokio::spawn(async move {
            let body = match path.starts_with("/license/clearkey") {
                true => asking(&[VIDEO]),
                false => "a challenge".to_owned(),
            };
            rig.call(Method::POST, path, Some(&token), body).await
        })
    });
    let asking = futures_util::future::try_join_all(asking.collect::<Vec<_>>());
    let replies = tokio::time::timeout(PATIENCE, asking).await;
    replies.expect("some are not answered").unwrap()
}

/// Licences that need nobody come all the same.
async fn others_go_on(rig: &Arc<Rig>, what: &str) {
    let replies = at_once(rig, 20, FILM, &token(|_| ())).await;
    assert!(
        replies.iter().all(|it| it.status == StatusCode::OK),
        "{what}"
    );
}

/// The same while somebody who says nothing is still waited for.
async fn others_go_on_meanwhile<T>(rig: &Arc<Rig>, liar: &Liar, waiting: JoinHandle<T>) {
    let asked = async {
        while liar.asked() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    (tokio::time::timeout(PATIENCE, asked).await).expect("nobody is asked");
    others_go_on(rig, "meanwhile").await;
    assert!(!waiting.is_finished());
    waiting.abort();
}

const FILM: &str = "/license/clearkey/film";

fn rig(
    sessions: &conf::SessionSettings,
    upstreams: Upstreams,
    change: impl FnOnce(&mut Parts),
) -> Arc<Rig> {
    Arc::new(Rig::of(
        true,
        header::AUTHORIZATION,
        upstreams,
        sessions,
        change,
    ))
}

fn no_upstreams() -> Upstreams {
    Upstreams::open(&[], &CertificateSettings::default()).unwrap()
}

/// An issuer whose keys are to be had from somebody else, and what fetches them.
fn elsewhere(liar: &Liar, timeout: Duration, folder: &std::path::Path) -> (Issuer, JoinHandle<()>) {
    let settings = IssuerSettings {
        keys: IssuerKeys::Fetched(KeyPlace {
            tls: false,
            authority: liar.authority.clone(),
            path: "/jwks".to_owned(),
            discovery: false,
            ca_file: "/none".into(),
            timeout,
        }),
        ..IssuerSettings::of_key(
            "away",
            "away",
            "castellum",
            TokenAlgorithm::Es256,
            SecretSource::file("/none"),
        )
    };
    let (issuer, refresher) = Issuer::load(&settings, folder).unwrap();
    let refresher = tokio::spawn(refresher.unwrap().run(Arc::new(Fixed)));
    (issuer, refresher)
}

/// Whoever makes up key ids, which costs nothing, waits without a place: there are fewer places than such strangers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_who_wait_for_an_issuers_keys_hold_no_place() {
    let liar = Liar::new(Lie::Silent).await;
    let folder = tempfile::tempdir().unwrap();
    let (issuer, refresher) = elsewhere(&liar, LONG, folder.path());
    let rig = rig(&no_rules(), no_upstreams(), |parts| {
        let ours = VerificationKey::read(Algorithm::Hs256, SECRET).unwrap();
        let ours = Issuer::new("test", "ott", "castellum", ours);
        parts.verifier = Verifier::new(vec![ours, issuer]);
        parts.admission = Admission::new(conf::AdmissionSettings {
            at_once: 4,
            queue_time: PATIENCE / 2,
            starts_waiting: 200,
            renewals_waiting: 200,
        });
    });
    let waiting = {
        let rig = Arc::clone(&rig);
        tokio::spawn(async move {
            let strangers = (0..60).map(|number| {
                let header = json!({ "alg": "ES256", "kid": format!("k{number}") });
                let theirs = jwt(&format!("header {header} claims {{\"iss\":\"away\"}}"));
                let rig = Arc::clone(&rig);
                async move { rig.clear_key("film", &theirs, &[VIDEO]).await }
            });
            futures_util::future::join_all(strangers).await
        })
    };
    others_go_on_meanwhile(&rig, &liar, waiting).await;
    refresher.abort();
}

/// More ask with key ids of an issuer that hangs than may wait: the others are answered at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_hangs_or_lies_costs_its_own_tokens_alone() {
    for (lie, timeout) in lies() {
        let liar = Liar::new(lie).await;
        let folder = tempfile::tempdir().unwrap();
        let begun = std::time::Instant::now();
        let (issuer, refresher) = elsewhere(&liar, timeout, folder.path());
        let rig = rig(&no_rules(), no_upstreams(), |parts| {
            let ours = VerificationKey::read(Algorithm::Hs256, SECRET).unwrap();
            let ours = Issuer::new("test", "ott", "castellum", ours);
            parts.verifier = Verifier::new(vec![ours, issuer]);
        });
        let theirs = jwt(r#"header {"alg":"ES256","kid":"k1"} claims {"iss":"away"}"#);
        let what = format!("{lie:?}");
        let waiting = {
            let (rig, theirs) = (Arc::clone(&rig), theirs.clone());
            tokio::spawn(async move { at_once(&rig, 200, FILM, &theirs).await })
        };
        if timeout == LONG {
            others_go_on_meanwhile(&rig, &liar, waiting).await;
            refresher.abort();
            continue;
        }
        others_go_on(&rig, &what).await;
        for reply in waiting.await.unwrap() {
            let told = (reply.status.as_u16(), reply.kind());
            assert_eq!(told, (503, "issuer-keys-unavailable".to_owned()), "{what}");
        }
        // It is asked every five seconds, however many want its keys.
        at_once(&rig, 20, FILM, &theirs).await;
        let turns = 1 + usize::try_from(begun.elapsed().as_secs() / 5).unwrap();
        assert!(liar.asked() <= turns, "{what}: {}", liar.asked());
        refresher.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_licence_service_that_hangs_or_lies_costs_its_own_system_alone() {
    for (lie, timeout) in lies() {
        let liar = Liar::new(lie).await;
        let stand_in = StandIn::saying("").await;
        let mut settings = stand_in.upstream(UpstreamKind::Widevine);
        settings.place = conf::UpstreamPlace::Url {
            tls: false,
            authority: liar.authority.clone(),
            path: "/license".to_owned(),
            ca_file: "/none".into(),
            identity: None,
        };
        settings.timeout = timeout;
        let most = settings.in_flight;
        let upstreams = Upstreams::open(&[settings], &CertificateSettings::default()).unwrap();
        let rig = rig(&no_rules(), upstreams, |_| ());
        let kids = token(|claims| claims.kids = Some(vec![VIDEO]));
        let what = format!("{lie:?}");
        let waiting = {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { at_once(&rig, 200, "/license/widevine/film", &kids).await })
        };
        if timeout == LONG {
            others_go_on_meanwhile(&rig, &liar, waiting).await;
            continue;
        }
        others_go_on(&rig, &what).await;
        for reply in waiting.await.unwrap() {
            let told = (reply.status.as_u16(), reply.kind());
            let unavailable = (503, "license-service-unavailable".to_owned());
            let failed = (502, "license-service-failed".to_owned());
            assert!(told == unavailable || told == failed, "{what}: {told:?}");
        }
        assert!(liar.asked() <= 2 * most, "{what}: {}", liar.asked());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_asked_before_a_licence_and_hangs_or_lies_is_soon_left_alone() {
    for lie in LIES {
        for fail_open in [false, true] {
            let liar = Liar::new(lie).await;
            let folder = tempfile::tempdir().unwrap();
            let secret = folder.path().join("secret");
            std::fs::write(&secret, SECRET).unwrap();
            let mut settings = no_rules();
            settings.authorisation = Some(AuthorisationSettings {
                hook: HookSettings {
                    table: "license.authorisation".to_owned(),
                    tls: false,
                    authority: liar.authority.clone(),
                    path: "/".to_owned(),
                    secret: SecretSource::file(secret),
                    ca_file: "/none".into(),
                    timeout: TIMEOUT,
                },
                cache: Duration::ZERO,
                fail_open,
            });
            let rig = rig(&settings, no_upstreams(), |_| ());
            let what = format!("{lie:?}");
            let expected = match fail_open {
                true => StatusCode::OK,
                false => StatusCode::SERVICE_UNAVAILABLE,
            };
            for count in [200, 20] {
                let replies = at_once(&rig, count, FILM, &token(|_| ())).await;
                assert!(replies.iter().all(|it| it.status == expected), "{what}");
            }
            // As many as may ask at once, and who came between the failures that shut the gate.
            assert!(liar.asked() < 128 + 5, "{what}: {}", liar.asked());
        }
    }
}
