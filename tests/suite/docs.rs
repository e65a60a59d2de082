//! The pages of the documentation, compared with the code.

use std::{collections::BTreeSet, fs};

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
