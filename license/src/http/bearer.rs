//! The token of a request, wherever it may stand.

use http::{HeaderMap, HeaderName, header, request};

use crate::Refusal;
use crate::entitlement::Malformation;

/// Where a token may stand besides `Authorization`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'a> {
    /// A header that holds it alone, unless it is `Authorization` itself.
    pub(super) header: &'a HeaderName,
    /// A query parameter; none: none in the URL, where logs and referrers would keep it.
    pub(super) query: Option<&'a str>,
}

impl Sources<'_> {
    /// The one token of a request: after `Bearer` in `Authorization` (RFC 6750 2.1), alone in the configured header, in the
    /// query parameter, or in the custom data of a PlayReady challenge, of which each token is given.
    ///
    /// # Errors
    /// [`Refusal::NoToken`] where there is none; [`Refusal::TokenAmbiguous`] where there are two, were they the same, since
    /// two readers could take one each; a malformation where a header is no text.
    pub(super) fn token<'a>(
        &self,
        head: &'a request::Parts,
        custom_data: &'a [String],
    ) -> Result<&'a str, Refusal> {
        let mut tokens = Vec::new();
        for value in texts(&head.headers, &header::AUTHORIZATION) {
            let value = value?;
            let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
            // Another scheme is someone else's business.
            if scheme.eq_ignore_ascii_case("Bearer") {
                tokens.push(token.trim_start_matches(' '));
            }
        }
        if *self.header != header::AUTHORIZATION {
            for value in texts(&head.headers, self.header) {
                tokens.push(value?);
            }
        }
        if let Some(name) = self.query {
            let pairs = head.uri.query().unwrap_or_default().split('&');
            let pairs = pairs.filter_map(|pair| pair.split_once('='));
            // No token needs an escape, so none is read.
            tokens.extend(
                pairs
                    .filter(|(key, _)| *key == name)
                    .map(|(_, token)| token),
            );
        }
        tokens.extend(custom_data.iter().map(|token| token.trim()));
        tokens.retain(|token| !token.is_empty());
        match tokens[..] {
            [] => Err(Refusal::NoToken),
            [token] => Ok(token),
            [_, _, ..] => Err(Refusal::TokenAmbiguous),
        }
    }
}

fn texts<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = Result<&'a str, Refusal>> {
    headers.get_all(name).into_iter().map(|value| {
        let text = value.to_str().map_err(|_| Malformation::NotText)?;
        Ok(text.trim_matches(' '))
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    const OWN: HeaderName = HeaderName::from_static("x-token");

    fn head(target: &str, headers: &[(&'static str, &str)]) -> request::Parts {
        let (mut head, ()) = Request::builder()
            .uri(target)
            .body(())
            .unwrap()
            .into_parts();
        head.headers = headers
            .iter()
            .map(|(name, value)| {
                let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
                (HeaderName::from_static(name), value)
            })
            .collect();
        head
    }

    #[test]
    fn authorization_holds_a_bearer_token() {
        for (values, expected) in [
            (&["Bearer a.b.c"][..], Ok("a.b.c")),
            (&["bearer   a.b.c"], Ok("a.b.c")),
            (&["BEARER a.b.c "], Ok("a.b.c")),
            (&["Bearer a b"], Ok("a b")),
            (&[], Err(Refusal::NoToken)),
            (&[""], Err(Refusal::NoToken)),
            (&["Bearer"], Err(Refusal::NoToken)),
            (&["Bearer "], Err(Refusal::NoToken)),
            (&["Basic a.b.c"], Err(Refusal::NoToken)),
            (&["a.b.c"], Err(Refusal::NoToken)),
            (&["Basic a", "Bearer b"], Ok("b")),
            (&["Bearer é"], Err(Malformation::NotText.into())),
            (&["Bearer a", "Bearer a"], Err(Refusal::TokenAmbiguous)),
        ] {
            let values: Vec<_> = values.iter().map(|it| ("authorization", *it)).collect();
            let head = head("/", &values);
            for header in [&header::AUTHORIZATION, &OWN] {
                let sources = Sources {
                    header,
                    query: None,
                };
                assert_eq!(sources.token(&head, &[]), expected, "{values:?}");
            }
        }
    }

    #[test]
    fn another_source_holds_the_token_alone_and_there_is_only_one() {
        let bearer = ("authorization", "Bearer a");
        let alone = |value| ("x-token", value);
        for (target, headers, custom_data, expected) in [
            ("/", &[alone("a.b.c")][..], &[][..], Ok("a.b.c")),
            ("/", &[alone("Bearer a.b.c")], &[], Ok("Bearer a.b.c")),
            ("/", &[alone("")], &[], Err(Refusal::NoToken)),
            ("/", &[], &[" a.b.c\n"], Ok("a.b.c")),
            ("/", &[], &[""], Err(Refusal::NoToken)),
            ("/?a=b&token=a.b.c", &[], &[], Ok("a.b.c")),
            ("/?token=", &[], &[], Err(Refusal::NoToken)),
            ("/?Token=a&tokens=b&token", &[], &[], Err(Refusal::NoToken)),
            (
                "/",
                &[bearer, alone("a")],
                &[],
                Err(Refusal::TokenAmbiguous),
            ),
            (
                "/",
                &[alone("a"), alone("b")],
                &[],
                Err(Refusal::TokenAmbiguous),
            ),
            ("/?token=a&token=a", &[], &[], Err(Refusal::TokenAmbiguous)),
            ("/?token=a", &[bearer], &[], Err(Refusal::TokenAmbiguous)),
            ("/", &[bearer], &["a"], Err(Refusal::TokenAmbiguous)),
            ("/?token=a", &[], &["b"], Err(Refusal::TokenAmbiguous)),
            ("/", &[], &["a", "a"], Err(Refusal::TokenAmbiguous)),
            ("/", &[bearer], &["a", "b"], Err(Refusal::TokenAmbiguous)),
        ] {
            let sources = Sources {
                header: &OWN,
                query: Some("token"),
            };
            let head = head(target, headers);
            let custom_data: Vec<_> = custom_data.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(
                sources.token(&head, &custom_data),
                expected,
                "{target} {headers:?} {custom_data:?}"
            );
        }
    }

    /// The attack row "token in the URL".
    #[test]
    fn the_url_holds_a_token_only_where_that_is_configured() {
        let sources = Sources {
            header: &OWN,
            query: None,
        };
        let head = head("/?token=a.b.c", &[]);
        assert_eq!(sources.token(&head, &[]), Err(Refusal::NoToken));
    }
}
