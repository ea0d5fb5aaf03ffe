//! The token of a request.

use http::{HeaderMap, HeaderName, header};

use crate::Refusal;
use crate::entitlement::Malformation;

/// The token in this header: after `Bearer` in `Authorization` (RFC 6750 2.1), alone in any other. Never one in
/// the URL, where logs and referrers would keep it.
///
/// # Errors
/// [`Refusal::NoToken`] where the header is missing, empty or of another scheme; a malformation where it stands
/// twice, since two readers could take one each.
pub(super) fn token<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, Refusal> {
    let mut values = headers.get_all(name).into_iter();
    let value = values.next().ok_or(Refusal::NoToken)?;
    if values.next().is_some() {
        return Err(Malformation::NotOneToken.into());
    }
    let value = value
        .to_str()
        .map_err(|_| Malformation::NotText)?
        .trim_matches(' ');
    let token = if name == header::AUTHORIZATION {
        let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
        if !scheme.eq_ignore_ascii_case("Bearer") {
            return Err(Refusal::NoToken);
        }
        token.trim_start_matches(' ')
    } else {
        value
    };
    if token.is_empty() {
        Err(Refusal::NoToken)
    } else {
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let values = values
            .iter()
            .map(|value| HeaderValue::from_bytes(value.as_bytes()).unwrap());
        values
            .map(|value| (HeaderName::from_static(name), value))
            .collect()
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
            (&["Bearer é"], Err(Malformation::NotText.into())),
            (
                &["Bearer a", "Bearer a"],
                Err(Malformation::NotOneToken.into()),
            ),
        ] {
            let headers = headers("authorization", values);
            assert_eq!(
                token(&headers, &header::AUTHORIZATION),
                expected,
                "{values:?}"
            );
        }
    }

    #[test]
    fn another_header_holds_the_token_alone() {
        let name = HeaderName::from_static("x-token");
        for (values, expected) in [
            (&["a.b.c"][..], Ok("a.b.c")),
            (&["Bearer a.b.c"], Ok("Bearer a.b.c")),
            (&[""], Err(Refusal::NoToken)),
        ] {
            assert_eq!(token(&headers("x-token", values), &name), expected);
        }
        assert_eq!(
            token(&headers("authorization", &["Bearer a"]), &name),
            Err(Refusal::NoToken)
        );
    }
}
