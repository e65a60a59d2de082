//! Tests with the vectors of the RFCs, with those of Wycheproof, and with tokens that other
//! implementations have made.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ALL: [JwsAlgorithm; 9] = [
    JwsAlgorithm::Rs256,
    JwsAlgorithm::Rs384,
    JwsAlgorithm::Rs512,
    JwsAlgorithm::Ps256,
    JwsAlgorithm::Ps384,
    JwsAlgorithm::Ps512,
    JwsAlgorithm::Es256,
    JwsAlgorithm::Es384,
    JwsAlgorithm::EdDsa,
];

fn key_set(keys: &Value) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn verify(token: &str, keys: &KeySet) -> Result<Vec<u8>, JwsError> {
    Jws::parse(token, &ALL)?.verify(keys)
}

const RFC_7515_CLAIMS: &str =
    "{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}";

fn rfc_7515_a_3() -> (Value, &'static str) {
    let key = json!({
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    });
    let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9\
                 leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFC\
                 gfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    (key, token)
}

#[test]
fn vectors_of_rfc_7515_and_rfc_8037_are_verified() {
    let rsa = json!([{
        "kty": "RSA",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1\
              Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpa\
              SHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4\
              LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        "e": "AQAB",
    }]);
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9\
                 leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQ\
                 gr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYN\
                 X4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN938\
                 3LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6\
                 LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    assert_eq!(
        verify(token, &key_set(&rsa)).unwrap(),
        RFC_7515_CLAIMS.as_bytes()
    );

    let (key, token) = rfc_7515_a_3();
    let keys = key_set(&json!([key]));
    assert_eq!(verify(token, &keys).unwrap(), RFC_7515_CLAIMS.as_bytes());
    let claims = Jws::parse(token, &ALL).unwrap().claims(&keys).unwrap();
    assert_eq!(claims["iss"], "joe");

    let ed25519 = json!([{
        "kty": "OKP",
        "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }]);
    let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1P\
                 POt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let payload = verify(token, &key_set(&ed25519)).unwrap();
    assert_eq!(payload, b"Example of Ed25519 signing");
}

#[test]
fn tokens_of_other_implementations_are_verified() {
    for made in [
        include_str!("../../../tests/fixtures/jws/jose.json"),
        include_str!("../../../tests/fixtures/jws/pyjwt.json"),
    ] {
        let made: Value = serde_json::from_str(made).unwrap();
        let keys = key_set(&made["keys"]);
        let tokens = made["tokens"].as_array().unwrap();
        assert_eq!(tokens.len(), ALL.len());
        for (token, algorithm) in tokens.iter().zip(ALL) {
            let token = token.as_str().unwrap();
            let jws = Jws::parse(token, &[algorithm]).unwrap();
            assert_eq!(jws.typ(), Some("JWT"));
            assert_eq!(jws.claims(&keys).unwrap()["sub"], made["sub"]);
            let others: Vec<_> = ALL.into_iter().filter(|one| *one != algorithm).collect();
            let refused = Jws::parse(token, &others).unwrap_err();
            assert_eq!(refused, JwsError::Algorithm);
        }
    }
}

/// The groups of a file of Wycheproof, with the keys and the tests of each.
fn wycheproof(file: &str) -> Vec<(Value, Vec<Value>)> {
    let file: Value = serde_json::from_str(file).unwrap();
    let groups = file["testGroups"].as_array().unwrap();
    let groups = groups.iter().map(|group| {
        let key = match &group["public"] {
            Value::Null => &group["private"],
            key => key,
        };
        let keys = match key.get("keys") {
            Some(keys) => keys.clone(),
            None => json!([key]),
        };
        (keys, group["tests"].as_array().unwrap().clone())
    });
    groups.collect()
}

fn number(test: &Value) -> u64 {
    let id = &test["tcId"];
    id.as_u64().or_else(|| id.as_str()?.parse().ok()).unwrap()
}

/// The valid vectors that are rejected and the invalid ones that are accepted, by number.
fn deviations(file: &str) -> (Vec<u64>, Vec<u64>, usize) {
    let (mut rejected, mut accepted, mut invalid) = (Vec::new(), Vec::new(), 0);
    for (keys, tests) in wycheproof(file) {
        let keys = key_set(&keys);
        for test in tests {
            let is_accepted = verify(test["jws"].as_str().unwrap(), &keys).is_ok();
            let is_valid = test["result"] == "valid";
            invalid += usize::from(!is_valid);
            match (is_valid, is_accepted) {
                (true, false) => rejected.push(number(&test)),
                (false, true) => accepted.push(number(&test)),
                _ => {}
            }
        }
    }
    (rejected, accepted, invalid)
}

#[test]
fn invalid_signatures_of_wycheproof_are_rejected() {
    /// Valid vectors with algorithms that this crate does not have: HMAC and ES512.
    const OTHER_ALGORITHM: [u64; 12] = [1, 347, 348, 351, 352, 357, 358, 359, 372, 373, 376, 377];
    /// Valid vectors of RFC 7520, section 4.2, whose key the file restricts to PS256 although the
    /// token uses PS384.
    const OTHER_KEY: [u64; 2] = [346, 350];

    let file = include_str!("../../../tests/fixtures/wycheproof/json_web_signature_test.json");
    let (mut rejected, accepted, invalid) = deviations(file);
    assert_eq!((accepted, invalid), (Vec::new(), 355));
    rejected.retain(|number| !OTHER_ALGORITHM.contains(number) && !OTHER_KEY.contains(number));
    assert_eq!(rejected, Vec::<u64>::new());
}

#[test]
fn invalid_keys_of_wycheproof_are_rejected() {
    /// An RSA key of the generator that CVE-2017-15361 describes. The token itself is valid, and the
    /// key is one that the issuer publishes.
    const WEAK_KEY: [u64; 1] = [7];
    /// Valid vectors with HMAC.
    const HMAC: [u64; 4] = [2, 13, 14, 15];

    let file = include_str!("../../../tests/fixtures/wycheproof/json_web_key_test.json");
    let (rejected, accepted, _) = deviations(file);
    assert_eq!(accepted, WEAK_KEY);
    assert_eq!(rejected, HMAC);
}

fn signer() -> (TestSigner, KeySet) {
    let signer = TestSigner::new("k1").unwrap();
    let keys = key_set(&json!([signer.jwk()]));
    (signer, keys)
}

#[test]
fn header_of_a_token_chooses_neither_the_algorithm_nor_the_key() {
    let (signer, keys) = signer();
    let attacker = TestSigner::new("k1").unwrap();
    let payload = json!({ "sub": "u1" });
    assert!(verify(&signer.sign(&json!({}), &payload), &keys).is_ok());

    let url = "https://attacker.example.com/keys";
    for header in [
        json!({ "jwk": attacker.jwk() }),
        json!({ "jku": url }),
        json!({ "x5u": url }),
        json!({ "x5c": ["MIIB"] }),
    ] {
        let forged = attacker.sign(&header, &payload);
        assert_eq!(verify(&forged, &keys), Err(JwsError::Signature));
    }
    for algorithm in [
        "none", "None", "HS256", "HS512", "ES256K", "RS1", "es256", "",
    ] {
        let token = signer.sign(&json!({ "alg": algorithm }), &payload);
        assert_eq!(verify(&token, &keys), Err(JwsError::Algorithm));
        let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
        assert_eq!(verify(&unsigned, &keys), Err(JwsError::Algorithm));
    }
    let other = signer.sign(&json!({ "kid": "k2" }), &payload);
    assert_eq!(verify(&other, &keys), Err(JwsError::UnknownKey));
    let unnamed = signer.sign(&json!({ "kid": null }), &payload);
    assert!(verify(&unnamed, &keys).is_ok());
    let unnamed = attacker.sign(&json!({ "kid": null }), &payload);
    assert_eq!(verify(&unnamed, &keys), Err(JwsError::UnknownKey));
}

#[test]
fn tokens_that_two_parsers_read_differently_are_rejected() {
    let (signer, keys) = signer();
    let valid = signer.sign(&json!({}), &json!({ "sub": "u1" }));
    let claims = |token: &str| Jws::parse(token, &ALL)?.claims(&keys);
    assert_eq!(claims(&valid).unwrap()["sub"], "u1");

    for payload in [
        r#"{"sub":"u1","sub":"u2"}"#,
        r#"{"events":{"a":{},"a":{}}}"#,
        r#"{"aud":["a",{"b":1,"b":2}]}"#,
        r#"{"sub":"u1"} {}"#,
        r#"["sub"]"#,
        "",
    ] {
        let token = signer.sign_text(r#"{"alg":"ES256","kid":"k1"}"#, payload);
        assert_eq!(claims(&token), Err(JwsError::Malformed), "{payload}");
    }
    for (header, error) in [
        (
            r#"{"alg":"ES256","kid":"k1","alg":"ES256"}"#,
            JwsError::Malformed,
        ),
        (r#"{"alg":"ES256","kid":1}"#, JwsError::Malformed),
        (
            r#"{"alg":"ES256","kid":"k1","typ":["JWT"]}"#,
            JwsError::Malformed,
        ),
        (r#"{"alg":["ES256"],"kid":"k1"}"#, JwsError::Algorithm),
        (
            r#"{"alg":"ES256","kid":"k1","crit":["exp"],"exp":1}"#,
            JwsError::CriticalExtension,
        ),
        (
            r#"{"alg":"ES256","kid":"k1","b64":false,"crit":["b64"]}"#,
            JwsError::CriticalExtension,
        ),
    ] {
        let token = signer.sign_text(header, r#"{"sub":"u1"}"#);
        assert_eq!(claims(&token), Err(error), "{header}");
    }
    for token in [
        format!("{valid}="),
        format!("{valid}\n"),
        format!(" {valid}"),
        format!("{valid}.AA"),
        valid.replace('.', ".."),
        valid.rsplit_once('.').unwrap().0.to_owned(),
        String::new(),
    ] {
        assert_eq!(claims(&token), Err(JwsError::Malformed), "{token}");
    }
    let long = signer.sign(&json!({}), &json!({ "sub": "u".repeat(64 * 1024) }));
    assert_eq!(claims(&long), Err(JwsError::TooLong));
}

#[test]
fn key_is_used_only_as_the_issuer_allows() {
    let (signer, _) = signer();
    let token = signer.sign(&json!({}), &json!({}));
    let with = |members: Value| {
        let mut key = signer.jwk();
        let object = key.as_object_mut().unwrap();
        object.extend(members.as_object().unwrap().clone());
        object.retain(|_, value| !value.is_null());
        key
    };
    let result = |keys: Value| verify(&token, &key_set(&keys));
    for (members, expected) in [
        (json!({ "use": null, "alg": null }), Ok(())),
        (json!({ "key_ops": ["verify"] }), Ok(())),
        (json!({ "key_ops": ["sign"] }), Err(JwsError::UnknownKey)),
        (json!({ "key_ops": "verify" }), Err(JwsError::UnknownKey)),
        (json!({ "use": "enc" }), Err(JwsError::UnknownKey)),
        (json!({ "alg": "ECDH-ES" }), Err(JwsError::UnknownKey)),
        (json!({ "alg": "ES384" }), Err(JwsError::UnfitKey)),
        (json!({ "crv": "P-384" }), Err(JwsError::UnfitKey)),
        (json!({ "kty": "OKP" }), Err(JwsError::UnfitKey)),
        (json!({ "y": signer.jwk()["x"] }), Err(JwsError::Signature)),
    ] {
        let result = result(json!([with(members.clone())])).map(|_| ());
        assert_eq!(result, expected, "{members}");
    }
    let twice = json!([signer.jwk(), signer.jwk()]);
    assert_eq!(result(twice), Err(JwsError::AmbiguousKey));
    let other = json!([{ "kty": "oct", "kid": "k1", "k": "AAAA" }, signer.jwk()]);
    assert!(result(other).is_ok());
}

#[test]
fn text_that_is_not_a_key_set_is_rejected() {
    let key = json!({ "kty": "oct" });
    for text in [
        "",
        "{}",
        "[]",
        r#"{"keys":{}}"#,
        r#"{"keys":[],"keys":[]}"#,
        &json!({ "keys": vec![key; 65] }).to_string(),
    ] {
        assert!(KeySet::parse(text.as_bytes()).is_none(), "{text}");
    }
    assert!(KeySet::parse(br#"{"keys":["a",{}]}"#).unwrap().is_empty());
}

proptest! {
    #[test]
    fn changed_token_is_rejected(place in 0_usize..1_000, byte in any::<u8>()) {
        let (key, token) = rfc_7515_a_3();
        let mut bytes = token.as_bytes().to_vec();
        let place = place % bytes.len();
        prop_assume!(bytes[place] != byte);
        bytes[place] = byte;
        if let Ok(changed) = String::from_utf8(bytes) {
            prop_assert!(verify(&changed, &key_set(&json!([key]))).is_err());
        }
    }
}
