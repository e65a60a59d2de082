//! The ACL rules that the documentation lists.

use std::fs;

/// Returns the rules for a single server, without the user's name.
pub fn rules() -> Vec<String> {
    block("deployment.md", "```text\nuser sessions ")
}

/// Returns the additional rules for a cluster.
pub fn rules_of_a_cluster() -> Vec<String> {
    block("cluster.md", "```text\n")
}

fn block(page: &str, begin: &str) -> Vec<String> {
    let path = format!("{}/src/docs/{page}", env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(path).unwrap();
    let block = page.split(begin).nth(1).unwrap();
    let block = block.split("```").next().unwrap();
    block.split_whitespace().map(str::to_owned).collect()
}
