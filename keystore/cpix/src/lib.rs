//! Key exchange with the rest of the industry: CPIX documents (DASH-IF CPIX 2.0, 2.3, 2.4), and both halves of SPEKE
//! 1.0, 2.0 and 2.1 (AWS). Pure: bytes and values in, bytes and values out.
//!
//! ```text
//!                      ┌────────────── xml ──────────────┐
//!  CPIX in bytes ──────┤ no DTD, no entities, no PIs;     ├────── CPIX in bytes
//!                      │ depth, size, counts bounded      │
//!                      └──────────────┬──────────────────┘
//!                                     │
//!        certificates ──> Document: keys, systems, periods, usage rules
//!        (delivery)                   │
//!             ┌───────────────────────┴─────────────────────────┐
//!    we are the key server                            we ask a key server
//!             │                                                 │
//!   speke::Request::read(headers, body)               speke::Order { keys, systems, .. }
//!             │ the contract is kept                            │ request()
//!   Request::prepare(signalling, release)             headers, body ──> POST
//!             │ recipients are enrolled,                        │
//!             │ systems are served                    Order::accept(headers, body)
//!   ═══ lease or make Prepared::key_ids() ═══                   │ as ordered, and nothing else
//!             │                                                 │
//!   Prepared::respond(keys) ──> headers, body         Supply: keys and signalling
//! ```
//!
//! # Whom to hand what
//!
//! - [`speke`] is what an HTTP service needs. It authenticates the caller, checks that [`speke::Request::content_id`]
//!   is granted to it, [prepares](speke::Request::prepare), leases the keys (each with its audit entry) and
//!   [responds](speke::Prepared::respond). [`ErrorKind`] names the status that suits each error; the error's text
//!   is fit for the caller.
//! - [`Document`] is what `POST /cpix/{contentId}` reads and `GET` writes.
//! - [`signalling::Signalling`] is implemented where the keystore and the media code meet: payloads are made by the
//!   code that packages, and this crate spells them.
//!
//! # What leaves, and to whom
//!
//! Keys leave encrypted to *enrolled* certificates, byte for byte those that an operator gave. A certificate that
//! merely came with a request is refused. Each way around has a name that says so: [`Document::export_clear`],
//! [`speke::Release::danger_clear`], [`speke::Release::danger_unenrolled`]. Keys are
//! [`ContentKey`](keystore_types::ContentKey)s, wiped when dropped, as is every text that holds one, the trees
//! between included; errors and `Debug` never show the text of an element. The bytes that a caller passes in are
//! the caller's to wipe.
//!
//! RSA-OAEP is that of the crate `rsa`, since ring has none. The server uses public keys alone. A private key is
//! used when this machine is itself the recipient, and then behind [`delivery::RecipientKey`], which a token can
//! implement as well.
//!
//! # What is not here
//!
//! HTTP, authentication, grants, audit. XML signatures: SPEKE has none, a document's are counted
//! ([`Document::signatures`]) and never verified. Key hierarchies are read (`@dependsOnKey`) and not interpreted.
//! SPEKE 1.0's heartbeat is a GET that any answer satisfies.
//!
//! # Example
//!
//! ```
//! use cpix::delivery::SecureRandom;
//! use cpix::signalling::{SignalledKey, Signalling, Signals};
//! use cpix::speke::{Headers, IssuedKey, Release, Request};
//! use cpix::{Error, Limits, SystemId};
//! use keystore_types::{ContentKey, KeyId};
//!
//! /// FairPlay is served, and nothing else.
//! struct FairPlay;
//!
//! impl Signalling for FairPlay {
//!     fn signals(&self, system: SystemId, key: &SignalledKey<'_>) -> Option<Signals> {
//!         let uri = format!("skd://{}", key.key_id);
//!         (system == SystemId::FAIRPLAY).then(|| Signals::fairplay(uri))
//!     }
//! }
//!
//! fn serve(
//!     headers: &Headers<'_>,
//!     body: &[u8],
//!     random: &(dyn SecureRandom + Sync),
//!     lease: impl Fn(KeyId) -> ContentKey,
//! ) -> Result<String, Error> {
//!     let request = Request::read(headers, body, &Limits::default())?;
//!     let release = Release {
//!         danger_clear: true,
//!         ..Release::enrolled(&[], 1_800_000_000, random)
//!     };
//!     let prepared = request.prepare(&FairPlay, &release)?;
//!     let leased: Vec<_> = prepared.key_ids().map(|id| (id, lease(id))).collect();
//!     let issued: Vec<_> = (leased.iter())
//!         .map(|(key_id, key)| IssuedKey { key_id: *key_id, key, explicit_iv: None, hdcp: None })
//!         .collect();
//!     let response = prepared.respond(&issued)?;
//!     Ok(response.body.to_string())
//! }
//!
//! let headers = Headers { speke_version: Some("2.0"), ..Headers::default() };
//! let body = r#"<CPIX xmlns="urn:dashif:org:cpix" contentId="film" version="2.3">
//!   <ContentKeyList>
//!     <ContentKey kid="0f083e4e-b831-4a3d-917e-ce78076e54aa" commonEncryptionScheme="cbcs"/>
//!   </ContentKeyList>
//!   <DRMSystemList>
//!     <DRMSystem kid="0f083e4e-b831-4a3d-917e-ce78076e54aa"
//!                systemId="94ce86fb-07ff-4f43-adb8-93d2fa968ca2">
//!       <HLSSignalingData playlist="media"/>
//!     </DRMSystem>
//!   </DRMSystemList>
//!   <ContentKeyUsageRuleList>
//!     <ContentKeyUsageRule kid="0f083e4e-b831-4a3d-917e-ce78076e54aa" intendedTrackType="ALL">
//!       <VideoFilter/>
//!       <AudioFilter/>
//!     </ContentKeyUsageRule>
//!   </ContentKeyUsageRuleList>
//! </CPIX>"#;
//! let random = ring::rand::SystemRandom::new();
//! let answer = serve(&headers, body.as_bytes(), &random, |_| ContentKey::take(&mut [1; 16]))?;
//! assert!(answer.contains("<pskc:PlainValue>AQEBAQEBAQEBAQEBAQEBAQ==</pskc:PlainValue>"));
//!
//! let broken = body.replace(r#" intendedTrackType="ALL""#, "");
//! let error = serve(&headers, broken.as_bytes(), &random, |_| ContentKey::take(&mut [1; 16])).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "/CPIX/ContentKeyUsageRuleList[1]/ContentKeyUsageRule[1]/@intendedTrackType (line 12, column 5): \
//!      missing ContentKeyUsageRule@intendedTrackType for key 0f083e4e-b831-4a3d-917e-ce78076e54aa"
//! );
//! # Ok::<(), Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod delivery;
mod document;
mod encoding;
mod error;
mod identity;
mod period;
pub mod signalling;
pub mod speke;
pub mod usage;
mod xml;

pub use document::{ContentProtection, Document, Hdcp, HlsSignaling, Key, Legacy, Secret, System};
pub use error::{Error, ErrorKind, Fault, Place, Position};
pub use identity::{EncryptionScheme, Playlist, SystemId, UuidError, Version};
pub use period::{Period, seconds_of_date_time};
pub use xml::{Limits, Namespaces, Reading};
