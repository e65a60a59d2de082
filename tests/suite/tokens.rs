//! Token extraction for arbitrary inputs: the token found is the token sent, and nothing panics.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use proptest::prelude::*;
use tower_session_cache::{SessionToken, TokenError, TokenSource};

const SESSION: HeaderName = HeaderName::from_static("x-appwrite-session");

fn headers(name: &HeaderName, values: &[impl AsRef<[u8]>]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        let value = HeaderValue::from_bytes(value.as_ref()).unwrap();
        headers.append(name, value);
    }
    headers
}

fn found(source: &TokenSource, headers: &HeaderMap) -> Result<Option<String>, TokenError> {
    let token = source.extract(headers)?;
    Ok(token.map(|token| token.expose_secret().to_owned()))
}

fn cookies(values: &[&str]) -> Result<Option<String>, TokenError> {
    found(&TokenSource::cookie("s"), &headers(&header::COOKIE, values))
}

/// Tokens that need no escaping anywhere.
fn plain() -> impl Strategy<Value = String> {
    "[A-Za-z0-9._~+/=-]{1,80}"
}

/// Any value that a header may have.
fn any_value() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'\t'), 32u8..=126, 128u8..=255];
    proptest::collection::vec(byte, 0..100)
}

proptest! {
    #[test]
    fn bearer_token_is_found_with_any_case_and_white_space(
        token in plain(), scheme in "[Bb][Ee][Aa][Rr][Ee][Rr]", before in "[ \t]{1,3}", after in "[ \t]{0,3}",
    ) {
        let headers = headers(&header::AUTHORIZATION, &[format!("{scheme}{before}{token}{after}")]);
        prop_assert_eq!(found(&TokenSource::bearer(), &headers), Ok(Some(token)));
    }

    #[test]
    fn cookie_is_found_among_others(
        token in "[A-Za-z0-9._~+/=-]{1,80}", before in "([a-r]{1,5}=[a-z]{0,5}; ?){0,4}", after in "(; ?[a-r]{1,5}=[a-z]{0,5}){0,4}",
    ) {
        let cookie = format!("{before}s={token}{after}");
        prop_assert_eq!(cookies(&[&cookie]), Ok(Some(token)));
    }

    #[test]
    fn percent_encoded_cookie_is_decoded_to_the_token(token in "[!-~]{1,80}") {
        let encoded: String = token.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let source = TokenSource::percent_encoded_cookie("s");
        let headers = headers(&header::COOKIE, &[format!("s={encoded}")]);
        prop_assert_eq!(found(&source, &headers), Ok(Some(token)));
    }

    #[test]
    fn arbitrary_headers_yield_only_valid_tokens(
        authorization in proptest::collection::vec(any_value(), 0..3),
        session in proptest::collection::vec(any_value(), 0..3),
        cookie in proptest::collection::vec(any_value(), 0..3),
    ) {
        let source = TokenSource::appwrite("p").with_max_len(64);
        let mut all = headers(&header::AUTHORIZATION, &authorization);
        all.extend(headers(&SESSION, &session));
        all.extend(headers(&header::COOKIE, &cookie));
        if let Ok(Some(token)) = source.extract(&all) {
            let text = token.expose_secret();
            prop_assert!((1..=64).contains(&text.len()));
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }

    #[test]
    fn bytes_are_a_token_exactly_when_they_are_visible_ascii(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
        let graphic = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic);
        prop_assert_eq!(SessionToken::parse(bytes).is_ok(), graphic);
    }

    #[test]
    fn token_longer_than_max_len_is_rejected(length in 1usize..200, max in 1usize..200) {
        let token = "x".repeat(length);
        let expected = if length > max { Err(TokenError::TooLong) } else { Ok(Some(token.clone())) };
        for (source, name, value) in [
            (TokenSource::bearer(), header::AUTHORIZATION, format!("Bearer {token}")),
            (TokenSource::header(SESSION), SESSION, token.clone()),
            (TokenSource::cookie("s"), header::COOKIE, format!("s={token}")),
            (TokenSource::percent_encoded_cookie("s"), header::COOKIE, format!("s={}", token.replace('x', "%78"))),
        ] {
            prop_assert_eq!(&found(&source.with_max_len(max), &headers(&name, &[value])), &expected);
        }
    }
}

#[test]
fn other_schemes_and_a_bare_scheme_count_as_absent() {
    let bearer = |value: &str| {
        found(
            &TokenSource::bearer(),
            &headers(&header::AUTHORIZATION, &[value]),
        )
    };
    assert_eq!(bearer("Basic dTpw"), Ok(None));
    assert_eq!(bearer("Bearerx"), Ok(None));
    for empty in [
        "",
        "Bearer",
        "Bearer  ",
        "DPoP",
        "dpop\t",
        "Basic dTpw, Bearer",
    ] {
        assert_eq!(bearer(empty), Ok(None), "{empty}");
    }
    assert_eq!(bearer("Bearer a b"), Err(TokenError::InvalidByte));
    assert_eq!(bearer("Bearer a,b"), Err(TokenError::List));
    assert_eq!(found(&TokenSource::bearer(), &HeaderMap::new()), Ok(None));
}

#[test]
fn token_with_a_scheme_that_is_not_read_is_an_error() {
    let [bearer, dpop] = [TokenSource::bearer(), TokenSource::dpop()];
    let both = bearer.clone().or(dpop.clone());
    for (value, as_bearer, as_dpop) in [("Bearer t", true, false), ("dPoP \tt ", false, true)] {
        let headers = headers(&header::AUTHORIZATION, &[value]);
        for (source, is_read) in [(&bearer, as_bearer), (&dpop, as_dpop), (&both, true)] {
            let expected = match is_read {
                true => Ok(Some("t".to_owned())),
                false => Err(TokenError::UnsupportedScheme),
            };
            assert_eq!(found(source, &headers), expected, "{value} {source:?}");
            // No other source decides in its place.
            let with_header = source
                .clone()
                .or(TokenSource::header(header::AUTHORIZATION));
            assert_eq!(
                found(&with_header, &headers),
                expected,
                "{value} {source:?}"
            );
        }
    }
}

/// The quotes of a header of 400 kB, the most that hyper reads, are searched in linear time.
#[test]
fn long_header_of_another_scheme_is_read_once() {
    let [escaped, open] =
        ["\\\"", "a\",b"].map(|part| format!("Digest a=\"{}", part.repeat(100_000)));
    for value in [escaped, open] {
        let headers = headers(&header::AUTHORIZATION, &[value]);
        assert_eq!(found(&TokenSource::bearer(), &headers), Ok(None));
    }
}

#[test]
fn first_present_source_decides_even_if_malformed() {
    let source = TokenSource::appwrite("p");
    let mut all = headers(
        &header::COOKIE,
        &["a_session_p=cookie; a_session_p_legacy=legacy"],
    );
    assert_eq!(found(&source, &all), Ok(Some("cookie".into())));
    all.insert(SESSION, HeaderValue::from_static("header"));
    assert_eq!(found(&source, &all), Ok(Some("header".into())));
    all.insert(
        header::AUTHORIZATION,
        HeaderValue::from_static("Basic eA=="),
    );
    assert_eq!(found(&source, &all), Ok(Some("header".into())));
    all.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer"));
    assert_eq!(found(&source, &all), Ok(Some("header".into())));
    all.insert(
        header::AUTHORIZATION,
        HeaderValue::from_static("Bearer a b"),
    );
    assert_eq!(found(&source, &all), Err(TokenError::InvalidByte));
    all.insert(
        header::AUTHORIZATION,
        HeaderValue::from_static("bearer first"),
    );
    assert_eq!(found(&source, &all), Ok(Some("first".into())));
    all.remove(header::AUTHORIZATION);
    all.append(SESSION, HeaderValue::from_static("header"));
    assert_eq!(found(&source, &all), Err(TokenError::Repeated));

    let legacy = headers(&header::COOKIE, &["a_session_p_legacy=eyJ%3D%3D"]);
    assert_eq!(found(&source, &legacy), Ok(Some("eyJ==".into())));
}

#[test]
fn cookie_without_a_token_counts_only_if_there_is_no_other() {
    assert_eq!(cookies(&["s=a; t=b; s=a"]), Ok(Some("a".into())));
    assert_eq!(cookies(&["s=a; s=b"]), Ok(Some("a".into())));
    assert_eq!(cookies(&["s=", "s=a b", "s=b"]), Ok(Some("b".into())));
    assert_eq!(cookies(&["s="]), Ok(None));
    assert_eq!(cookies(&["s=\"\"; s=  "]), Ok(None));
    assert_eq!(cookies(&["s=\"a\""]), Ok(Some("a".into())));
    assert_eq!(cookies(&["s=a b"]), Err(TokenError::InvalidByte));
    assert_eq!(cookies(&["S=a; ss=b; s; =s; x=s=a"]), Ok(None));
}

fn candidates(source: &TokenSource, headers: &HeaderMap) -> Result<Vec<String>, TokenError> {
    let tokens = source.candidates(headers)?;
    Ok(tokens
        .iter()
        .map(|token| token.expose_secret().to_owned())
        .collect())
}

#[test]
fn candidates_are_the_different_tokens_of_one_cookie() {
    let source = TokenSource::bearer()
        .or(TokenSource::percent_encoded_cookie("s"))
        .or(TokenSource::cookie("t"));
    let of = |values: &[&str]| candidates(&source, &headers(&header::COOKIE, values));
    let tokens = |tokens: &[&str]| Ok(tokens.iter().map(|token| (*token).to_owned()).collect());
    assert_eq!(of(&["t=x; s=a; s=b", "s=c; s=d"]), tokens(&["a", "b", "c"]));
    // One token in several spellings, of which only the first counts.
    assert_eq!(of(&["s=a%3D; s=a=; s=\"a=\"; s=b"]), tokens(&["a=", "b"]));
    assert_eq!(of(&["s=; s=%20; s=b"]), tokens(&["b"]));
    assert_eq!(of(&["s=%20; s=,%00"]), Err(TokenError::InvalidByte));
    assert_eq!(of(&["S=a; t=b"]), tokens(&["b"]));
    assert_eq!(of(&["u=a"]), tokens(&[]));

    let mut all = headers(&header::COOKIE, &["s=a; s=b"]);
    all.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer c"));
    assert_eq!(candidates(&source, &all), tokens(&["c"]));
}

#[test]
fn strict_source_rejects_different_cookies_of_one_name() {
    for source in [
        TokenSource::cookie("s").reject_repeated_cookies(),
        TokenSource::bearer()
            .reject_repeated_cookies()
            .or(TokenSource::cookie("s")),
        TokenSource::bearer().or(TokenSource::cookie("s").reject_repeated_cookies()),
    ] {
        let of = |values: &[&str]| candidates(&source, &headers(&header::COOKIE, values));
        let a = || Ok(vec!["a".to_owned()]);
        assert_eq!(of(&["s=a; s=; s=a"]), a());
        assert_eq!(of(&["s=a", "t=b", "s=\"a\""]), a());
        assert_eq!(of(&["s=a; s=b"]), Err(TokenError::Repeated));
        assert_eq!(of(&["s=a b", "s=a"]), Err(TokenError::Repeated));
    }
}

#[test]
fn closure_source_can_read_any_header() {
    let source = TokenSource::from_fn(|head| {
        let Some(path) = head.headers().get("x-path") else {
            return Ok(None);
        };
        SessionToken::parse(path.as_bytes().to_vec()).map(Some)
    });
    let path = HeaderName::from_static("x-path");
    assert_eq!(
        found(&source, &headers(&path, &["t"])),
        Ok(Some("t".into()))
    );
    assert_eq!(
        found(&source, &headers(&path, &["a b"])),
        Err(TokenError::InvalidByte)
    );
    assert_eq!(found(&source, &HeaderMap::new()), Ok(None));
    assert_eq!(found(&source, &headers(&path, &[""])), Ok(None));
    let long = headers(&path, &["t".repeat(16_385)]);
    assert_eq!(found(&source, &long), Err(TokenError::TooLong));
}

/// Appwrite writes the names of its cookies in lower case.
#[test]
fn appwrite_cookies_of_a_project_with_capitals_are_found() {
    let source = TokenSource::appwrite("MyProject");
    for name in [
        "a_session_myproject",
        "a_session_myproject_legacy",
        "a_session_MyProject",
        "a_session_MyProject_legacy",
    ] {
        let cookie = headers(&header::COOKIE, &[format!("{name}=eyJ%3D%3D")]);
        assert_eq!(found(&source, &cookie), Ok(Some("eyJ==".into())), "{name}");
    }
    let other = headers(&header::COOKIE, &["a_session_MYPROJECT=eyJ%3D%3D"]);
    assert_eq!(found(&source, &other), Ok(None));
}
