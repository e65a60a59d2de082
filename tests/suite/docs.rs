//! The pages of the documentation, compared with the code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

fn source(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The setters of a type: the public methods in its `impl` blocks in this file that return the type,
/// or a `Result` of it.
fn setters(path: &str, of: &str) -> BTreeSet<String> {
    let text = source(path);
    let mut found = BTreeSet::new();
    for block in text.split("\nimpl").skip(1) {
        let (head, body) = block.split_once('{').unwrap();
        if !head.contains(of) || head.contains(" for ") {
            continue;
        }
        let body = body.split("\n}\n").next().unwrap();
        for method in body.split("pub fn ").skip(1) {
            let signature = method.split(" {\n").next().unwrap();
            // The `where` clause may contain further arrows.
            let signature = signature.split("\n    where").next().unwrap();
            let answers = signature.rsplit("->").next().unwrap();
            if signature.contains("self") && answers.contains("Self") {
                let name = method.split(['(', '<']).next().unwrap();
                found.insert(name.to_owned());
            }
        }
    }
    found
}

/// The names in the first column of a section's table.
fn listed(page: &str, section: &str) -> BTreeSet<String> {
    let named = format!("`{section}`");
    let rest = page
        .split("\n# ")
        .find(|part| part.lines().next().unwrap().contains(&named))
        .unwrap();
    let rows = rest.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().unwrap().to_owned())
        .collect()
}

#[test]
fn security_page_names_only_existing_tests() {
    let text = source("SECURITY.md");
    let named: Vec<_> = text
        .split('`')
        .filter_map(|word| word.split_once(".rs::"))
        .collect();
    assert!(named.len() >= 8, "{named:?}");
    for (file, test) in named {
        let suite = source(&format!("tests/suite/{file}.rs"));
        assert!(suite.contains(&format!("fn {test}(")), "{file}::{test}");
    }
}

#[test]
fn configuration_page_lists_exactly_the_settings() {
    let page = source("src/docs/configuration.md");
    for (path, name, at_least) in [
        ("src/cache/builder.rs", "SessionCacheBuilder", 15),
        ("src/redis/config.rs", "RedisConfig", 8),
        ("src/memory/config.rs", "LocalCacheConfig", 3),
        ("src/middleware/layer.rs", "SessionCacheLayer", 5),
        ("src/token/source.rs", "TokenSource", 3),
        (
            "src/validator/appwrite/builder.rs",
            "AppwriteValidatorBuilder",
            3,
        ),
        (
            "src/validator/introspection/builder.rs",
            "IntrospectionValidatorBuilder",
            9,
        ),
        ("src/events/appwrite.rs", "AppwriteWebhook", 2),
        ("src/events/standard_webhook.rs", "StandardWebhook", 2),
        ("src/events/header_secret.rs", "HeaderSecret", 2),
        ("src/events/issuer_builder.rs", "EventIssuerBuilder", 8),
        ("src/events/back_channel_logout.rs", "BackChannelLogout", 1),
        ("src/events/shared_signals.rs", "SharedSignals", 3),
    ] {
        let mut setters = setters(path, name);
        assert!(setters.len() >= at_least, "{name}: {setters:?}");
        if name == "LocalCacheConfig" {
            setters.insert("new".to_owned());
        }
        if name == "RedisConfig" {
            setters.extend(["single", "sentinel", "cluster"].map(str::to_owned));
        }
        assert_eq!(listed(&page, name), setters, "{name}");
    }
}

/// Target, level, message and the names of the fields.
type Event = (String, String, String, BTreeSet<String>);

/// The text of all files in `src`, with each string on one line.
fn code(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &code(&path);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let file = fs::read_to_string(&path).unwrap();
            let parts: Vec<_> = file.split("\\\n").map(str::trim_start).collect();
            text += &parts.concat();
        }
    }
    text
}

/// The arguments of a macro, from after its opening parenthesis to the closing one.
fn arguments(text: &str) -> Vec<String> {
    let (mut found, mut depth, mut is_string) = (vec![String::new()], 0, false);
    for letter in text.chars() {
        match letter {
            '"' => is_string = !is_string,
            '(' if !is_string => depth += 1,
            ')' if !is_string && depth == 0 => break,
            ')' if !is_string => depth -= 1,
            ',' if !is_string && depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        found.last_mut().unwrap().push(letter);
    }
    let found = found.iter().map(|argument| argument.trim().to_owned());
    found.filter(|argument| !argument.is_empty()).collect()
}

fn logged() -> BTreeSet<Event> {
    let constants = source("src/telemetry/targets.rs");
    let targets: BTreeMap<_, _> = constants
        .lines()
        .filter_map(|line| {
            line.strip_prefix("pub(crate) const ")?
                .split_once(": &str = ")
        })
        .map(|(name, value)| (name, value.trim_matches(['"', ';'])))
        .collect();
    let text = code(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let mut found = BTreeSet::new();
    for level in ["error", "warn", "info", "debug", "trace"] {
        let opening = format!("tracing::{level}!(");
        // No event without the path, which this test would not see.
        let short = format!("{level}!(");
        assert_eq!(text.matches(&opening).count(), text.matches(&short).count());
        for call in text.split(&opening).skip(1) {
            let mut arguments = arguments(call);
            let message = arguments.pop().unwrap();
            assert!(!message.contains('{') && message.len() <= 62, "{message}");
            let (mut target, mut fields) = (None, BTreeSet::new());
            for argument in arguments {
                if let Some(name) = argument.strip_prefix("target: ") {
                    target = Some(targets[name].to_owned());
                } else if !argument.starts_with("parent: ") {
                    let name = argument.split(" = ").next().unwrap();
                    fields.insert(name.trim_start_matches(['%', '?']).to_owned());
                }
            }
            let message = message.trim_matches('"').to_owned();
            found.insert((target.expect("a target"), level.to_owned(), message, fields));
        }
    }
    found
}

#[test]
fn observability_page_lists_exactly_the_events_of_the_code() {
    let page = source("src/docs/observability.md");
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| `tower_session_cache::"));
    let listed: Vec<Event> = rows
        .map(|row| {
            let columns: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            let name = |column: &str| column.trim_matches('`').to_owned();
            let fields = columns[3].split(", ").map(name);
            let fields = fields.filter(|field| !field.is_empty()).collect();
            (name(columns[0]), name(columns[1]), name(columns[2]), fields)
        })
        .collect();
    let count = listed.len();
    let listed: BTreeSet<_> = listed.into_iter().collect();
    assert_eq!(listed.len(), count, "an event is listed twice");
    let logged = logged();
    assert!(logged.len() > 20, "{logged:?}");
    assert_eq!(listed, logged);
}
