//! The example's page, in a real browser.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::support::{
    browser::Browser,
    client::http,
    example::{start, url},
};

#[tokio::test]
async fn logout_in_one_tab_takes_effect_in_the_other() {
    let Some(browser) = Browser::start().await else {
        eprintln!("SKIPPED: the page is not tested because chromium or chromedriver is missing");
        return;
    };
    let mut server = start(&[]);
    let url = url(&mut server);
    browser.open(&url).await;
    let first = browser.run("return 1").await;
    assert_eq!(first, 1);
    browser.click("log-in").await;
    let state = "document.getElementById('state').textContent";
    browser
        .until("the login", &format!("{state} === 'Logged in.'"))
        .await;
    let rows = |n: usize| format!("document.querySelectorAll('#answers tr').length === {n}");
    for n in [2, 3] {
        browser.click("who").await;
        browser.until("who it is", &rows(n)).await;
    }
    let cells = "[...document.querySelectorAll('#answers tr')].map((row) => \
        [...row.cells].map((cell) => cell.textContent))";
    let table = browser.run(&format!("return {cells}")).await;
    for (n, origin) in [(0, "local"), (1, "validator")] {
        let row = &table[n];
        assert_eq!(row[0], "GET me", "{table}");
        assert_eq!(
            (&row[1], &row[2]),
            (&"200".into(), &origin.into()),
            "{table}"
        );
        assert!(row[3].as_str().unwrap().ends_with(" ms"), "{table}");
        assert_eq!(row[4], "demo@example.com");
    }

    let second = browser.open_tab(&url).await;
    browser
        .until("the session", &format!("{state}.includes('taken over')"))
        .await;
    browser.click("who").await;
    browser
        .until("who it is", &format!("{state}.startsWith('You are')"))
        .await;
    let third = browser.open_tab(&url).await;
    browser
        .until("the session", &format!("{state}.includes('taken over')"))
        .await;
    browser.click("log-out").await;
    browser
        .until("the logout", &format!("{state} === 'Logged out.'"))
        .await;
    assert_ne!(second, third);
    browser.look_at(&second).await;
    browser.click("who").await;
    browser
        .until(
            "the refusal",
            &format!("{state} === 'This tab was refused: revoked_token.'"),
        )
        .await;
    assert_eq!(
        browser
            .run("return document.getElementById('who').disabled")
            .await,
        true
    );

    if let Some(path) = std::env::var_os("SESSION_CACHE_SCREENSHOT") {
        let png = BASE64_STANDARD.decode(browser.screenshot().await).unwrap();
        std::fs::write(path, png).unwrap();
    }
    // The policy blocks nothing that the page needs. The console shows only the 401.
    let complaints = browser.complaints().await.to_string();
    assert!(
        !complaints.contains("Content Security Policy"),
        "{complaints}"
    );
    assert!(!complaints.contains("Uncaught"), "{complaints}");
}

#[tokio::test]
async fn session_ended_in_appwrites_console_ends_in_the_tab() {
    let Some(browser) = Browser::start().await else {
        eprintln!("SKIPPED: the page is not tested because chromium or chromedriver is missing");
        return;
    };
    let mut server = start(&[]);
    browser.open(&url(&mut server)).await;
    browser.click("log-in").await;
    let state = "document.getElementById('state').textContent";
    browser
        .until("the login", &format!("{state} === 'Logged in.'"))
        .await;
    browser.click("end").await;
    browser
        .until("the refusal", &format!("{state}.includes('was refused')"))
        .await;
    let text = browser.run(&format!("return {state}")).await;
    let text = text.as_str().unwrap();
    let took = text
        .strip_prefix("Ended in Appwrite's console. This tab was refused ")
        .and_then(|rest| rest.strip_suffix(" ms later."))
        .unwrap_or_else(|| panic!("{text}"));
    assert!(took.parse::<f64>().unwrap() > 0.0, "{took}");
    assert_eq!(
        browser
            .run("return document.getElementById('end').disabled")
            .await,
        true
    );
}

#[tokio::test]
async fn page_headers_block_foreign_content() {
    let mut server = start(&[]);
    let url = url(&mut server);
    for path in ["/", "/page.js", "/page.css"] {
        let answer = http().get(format!("{url}{path}")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let headers = answer.headers();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cache-control"], "no-store");
    }
    // The page contains a password, so it is not served when a real Appwrite is configured.
    let real = [
        ("APPWRITE_ENDPOINT", "http://127.0.0.1:1/v1"),
        ("APPWRITE_PROJECT_ID", "real"),
    ];
    let mut server = start(&real);
    let url = crate::support::example::url(&mut server);
    assert_eq!(http().get(url).send().await.unwrap().status(), 404);
}
