//! From where: the client's address, and the country that it is in.

use std::net::IpAddr;
use std::sync::Arc;

use conf::{AccessSettings, AddressBlock};
use http::{HeaderMap, HeaderName};

use super::country::Countries;
use crate::{Error, Refusal};

/// The most addresses that are read in one header: proxies in a row are few.
const MAX_HOPS: usize = 16;

#[derive(Debug)]
pub(super) struct Access {
    settings: AccessSettings,
    address_header: Option<HeaderName>,
    country_header: Option<HeaderName>,
    countries: Option<Countries>,
}

impl Access {
    pub(super) fn open(settings: &AccessSettings) -> Result<Self, Error> {
        let header = |name: &Option<String>| {
            (name.as_deref().map(HeaderName::try_from).transpose())
                .map_err(|error| Error::internal("read the checked name of a header", error))
        };
        Ok(Self {
            address_header: header(&settings.address_header)?,
            country_header: header(&settings.country_header)?,
            countries: (settings.country_file.as_deref())
                .map(Countries::open)
                .transpose()?,
            settings: settings.clone(),
        })
    }

    /// Follows changes of the country file.
    pub(super) async fn follow(self: Arc<Self>) {
        if let Some(countries) = &self.countries {
            countries.follow().await;
        }
    }

    /// The client's address, if licences are given there.
    pub(super) fn enter(
        &self,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
    ) -> Result<Option<IpAddr>, Refusal> {
        let AccessSettings {
            allow,
            deny,
            countries,
            denied_countries,
            ..
        } = &self.settings;
        let by_proxy = self.is_proxy(peer);
        let address = match (&self.address_header, peer) {
            (Some(header), Some(_)) if by_proxy => Some(self.client(headers, header)?),
            _ => peer,
        };
        let allowed = allow.is_empty() || address.is_some_and(|address| holds(allow, address));
        if !allowed || address.is_some_and(|address| holds(deny, address)) {
            return Err(Refusal::AddressNotAllowed);
        }
        if !countries.is_empty() || !denied_countries.is_empty() {
            let country = self.country(by_proxy, headers, address)?;
            let within = |list: &[String]| {
                let country = country.as_deref();
                country.is_some_and(|country| list.iter().any(|listed| listed == country))
            };
            if !(countries.is_empty() || within(countries)) || within(denied_countries) {
                return Err(Refusal::CountryNotAllowed);
            }
        }
        Ok(address)
    }

    /// In which country that is, if it is known.
    pub(super) fn located(
        &self,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
        address: Option<IpAddr>,
    ) -> Option<String> {
        let country = self.country(self.is_proxy(peer), headers, address);
        country.ok().flatten()
    }

    fn is_proxy(&self, peer: Option<IpAddr>) -> bool {
        peer.is_some_and(|peer| holds(&self.settings.proxies, peer))
    }

    /// The last address of the header that is no proxy's: what stands before it, the client may have written. A proxy
    /// that writes none, or nonsense, has lost whose request it is, which is refused: its own address would be let in where
    /// the client's would not.
    fn client(&self, headers: &HeaderMap, header: &HeaderName) -> Result<IpAddr, Refusal> {
        let values: Vec<&str> = (headers.get_all(header).into_iter())
            .map(|value| value.to_str().map_err(|_| Refusal::AddressNotAllowed))
            .collect::<Result<_, _>>()?;
        let hops = values.iter().rev().flat_map(|value| value.rsplit(','));
        let mut client = None;
        for hop in hops.take(MAX_HOPS) {
            let hop = hop.trim_matches([' ', '\t']);
            let address: IpAddr = hop.parse().map_err(|_| Refusal::AddressNotAllowed)?;
            let address = address.to_canonical();
            client = Some(address);
            if !holds(&self.settings.proxies, address) {
                break;
            }
        }
        client.ok_or(Refusal::AddressNotAllowed)
    }

    /// In two letters, in upper case. A proxy's word counts before the file's. Of several in the header the client may have
    /// written one, so that none of them counts and the request is refused; so is what is no country.
    fn country(
        &self,
        by_proxy: bool,
        headers: &HeaderMap,
        address: Option<IpAddr>,
    ) -> Result<Option<String>, Refusal> {
        let header = self.country_header.as_ref().filter(|_| by_proxy);
        let mut told = header
            .into_iter()
            .flat_map(|header| headers.get_all(header));
        match (told.next(), told.next()) {
            (None, _) => {}
            (Some(value), None) => match value.as_bytes() {
                // A proxy that does not know it.
                b"" => {}
                // Providers have codes of their own beside those of ISO 3166-1, such as T1 and XX.
                [a, b] if a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric() => {
                    let country = [*a, *b].map(|it| char::from(it.to_ascii_uppercase()));
                    return Ok(Some(country.iter().collect()));
                }
                _ => return Err(Refusal::CountryNotAllowed),
            },
            (Some(_), Some(_)) => return Err(Refusal::CountryNotAllowed),
        }
        let countries = self.countries.as_ref().zip(address);
        Ok(countries.and_then(|(countries, address)| countries.of(address)))
    }
}

fn holds(blocks: &[AddressBlock], address: IpAddr) -> bool {
    blocks.iter().any(|block| block.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(texts: &[&str]) -> Vec<AddressBlock> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn entered(
        settings: &AccessSettings,
        peer: &str,
        pairs: &[(&'static str, &str)],
    ) -> Result<Option<IpAddr>, Refusal> {
        let access = Access::open(settings).unwrap();
        access.enter(Some(peer.parse().unwrap()), &headers(pairs))
    }

    #[test]
    fn a_header_counts_where_a_proxy_sent_it() {
        let settings = AccessSettings {
            proxies: blocks(&["10.0.0.0/8", "2001:db8::/32"]),
            address_header: Some("x-forwarded-for".to_owned()),
            ..AccessSettings::default()
        };
        const X: &str = "x-forwarded-for";
        let client = Ok(Some("192.0.2.7".parse().unwrap()));
        for (peer, pairs, expected) in [
            ("192.0.2.7", &[][..], client.clone()),
            ("192.0.2.7", &[(X, "198.51.100.1")], client.clone()),
            ("10.0.0.1", &[(X, "192.0.2.7")], client.clone()),
            ("10.0.0.1", &[(X, "::ffff:192.0.2.7")], client.clone()),
            // What the client wrote itself stands before.
            (
                "10.0.0.1",
                &[(X, "198.51.100.1, 192.0.2.7")],
                client.clone(),
            ),
            (
                "10.0.0.1",
                &[(X, "198.51.100.1"), (X, "192.0.2.7,2001:db8::1")],
                client.clone(),
            ),
            ("10.0.0.1", &[(X, "nonsense, 192.0.2.7")], client.clone()),
            (
                "10.0.0.1",
                &[(X, "192.0.2.7, nonsense")],
                Err(Refusal::AddressNotAllowed),
            ),
            ("10.0.0.1", &[(X, "")], Err(Refusal::AddressNotAllowed)),
            ("10.0.0.1", &[], Err(Refusal::AddressNotAllowed)),
            // Of a proxy itself.
            (
                "10.0.0.1",
                &[(X, "10.0.0.2")],
                Ok(Some("10.0.0.2".parse().unwrap())),
            ),
        ] {
            assert_eq!(
                entered(&settings, peer, pairs),
                expected,
                "{peer} {pairs:?}"
            );
        }
    }

    #[test]
    fn addresses_are_allowed_and_denied() {
        let settings = AccessSettings {
            allow: blocks(&["192.0.2.0/24"]),
            deny: blocks(&["192.0.2.128/25"]),
            ..AccessSettings::default()
        };
        assert!(entered(&settings, "192.0.2.1", &[]).is_ok());
        for peer in ["192.0.2.129", "198.51.100.1", "2001:db8::1"] {
            let refused = Err(Refusal::AddressNotAllowed);
            assert_eq!(entered(&settings, peer, &[]), refused, "{peer}");
        }
        let access = Access::open(&settings).unwrap();
        let nowhere = access.enter(None, &HeaderMap::new());
        assert_eq!(nowhere, Err(Refusal::AddressNotAllowed));
    }

    #[test]
    fn countries_are_allowed_and_denied() {
        let told = |countries: &[&str], denied: &[&str], peer: &str, country: Option<&str>| {
            let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let settings = AccessSettings {
                proxies: blocks(&["10.0.0.0/8"]),
                country_header: Some("x-country".to_owned()),
                countries: list(countries),
                denied_countries: list(denied),
                ..AccessSettings::default()
            };
            let pairs: Vec<_> = (country.iter().flat_map(|values| values.split('+')))
                .map(|country| ("x-country", country))
                .collect();
            entered(&settings, peer, &pairs).map(|_| ())
        };
        let refused = Err(Refusal::CountryNotAllowed);
        assert_eq!(told(&["SE", "FI"], &[], "10.0.0.1", Some("se")), Ok(()));
        assert_eq!(told(&["SE"], &[], "10.0.0.1", Some("NO")), refused);
        assert_eq!(
            told(&["SE"], &[], "10.0.0.1", None),
            refused,
            "nowhere known"
        );
        assert_eq!(
            told(&["SE"], &[], "192.0.2.1", Some("SE")),
            refused,
            "not a proxy's"
        );
        assert_eq!(told(&[], &["NO"], "10.0.0.1", Some("NO")), refused);
        assert_eq!(told(&[], &["NO"], "10.0.0.1", Some("SE")), Ok(()));
        assert_eq!(told(&[], &["NO"], "10.0.0.1", None), Ok(()));
        assert_eq!(told(&["SE"], &["SE"], "10.0.0.1", Some("SE")), refused);
        // A proxy that appends leaves what the client wrote.
        for several in ["SE+NO", "NO+SE", "SE+SE", "SE, NO", "SE,NO", "no country"] {
            for (countries, denied) in [(&["SE"][..], &[][..]), (&[], &["NO"])] {
                let told = told(countries, denied, "10.0.0.1", Some(several));
                assert_eq!(told, refused, "{several}");
            }
        }
        assert_eq!(told(&[], &["NO"], "10.0.0.1", Some("")), Ok(()));
        assert_eq!(told(&["SE"], &[], "192.0.2.1", Some("SE+NO")), refused);
        assert_eq!(told(&[], &["NO"], "192.0.2.1", Some("SE+NO")), Ok(()));
    }
}
