//! The order of imports in `src/`, compared with the list in `ARCHITECTURE.md`, so that a circle or
//! an import upwards fails a test and not a reader.
//!
//! What counts are `use` items, and paths in other items that start with `crate`. Unit tests within
//! `src/` may import what they like.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{Item, UseTree};

/// A path of modules below the crate's root.
type Module = Vec<String>;

fn source(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The modules that are files, with their items. Unit tests in files of their own are left out.
fn modules() -> BTreeMap<Module, Vec<Item>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&root, &mut found);
    let modules = found.into_iter().filter_map(|path| {
        let below = path.strip_prefix(&root).unwrap().with_extension("");
        let mut module: Module = below
            .iter()
            .map(|name| name.to_str().unwrap().to_owned())
            .collect();
        if module == ["lib"] || module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        let is_test = module.last().is_some_and(|name| name == "tests");
        let items = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        (!is_test).then_some((module, items.items))
    });
    modules.collect()
}

/// The paths that a `use` item names, each up to its last segment.
fn paths(tree: &UseTree, before: &[String], found: &mut Vec<Module>) {
    let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
    match tree {
        UseTree::Path(path) => paths(&path.tree, &with(&path.ident), found),
        UseTree::Name(name) => found.push(with(&name.ident)),
        UseTree::Rename(name) => found.push(with(&name.ident)),
        UseTree::Glob(_) => found.push(before.to_vec()),
        UseTree::Group(group) => group
            .items
            .iter()
            .for_each(|tree| paths(tree, before, found)),
    }
}

fn is_for_tests(item: &Item) -> bool {
    let Item::Mod(module) = item else {
        return false;
    };
    let text = quote::quote!(#module).to_string();
    text.contains("cfg (test)")
}

/// The files that a file imports. An import from a face is one of the face.
fn imports(
    module: &Module,
    items: &[Item],
    modules: &BTreeMap<Module, Vec<Item>>,
) -> BTreeSet<Module> {
    let mut found = Vec::new();
    for item in items.iter().filter(|item| !is_for_tests(item)) {
        if let Item::Use(item) = item {
            paths(&item.tree, &[], &mut found);
            continue;
        }
        let tokens = quote::quote!(#item).to_string();
        for path in tokens.split("crate :: ").skip(1) {
            let names = path
                .split(" :: ")
                .map(|name| name.split(' ').next().unwrap());
            let names = std::iter::once("crate").chain(names);
            found.push(names.map(str::to_owned).collect());
        }
    }
    let absolute = found.into_iter().filter_map(|path| {
        let (first, rest) = path.split_first()?;
        let base = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => module[..module.len() - 1].to_vec(),
            // In the root paths may start with a module's name; all others are of other crates.
            _ if module.is_empty() => return Some(path),
            _ => return None,
        };
        Some([&base, rest].concat())
    });
    let longest = absolute.filter_map(|path| {
        let lengths = (1..=path.len()).rev();
        lengths
            .map(|length| path[..length].to_vec())
            .find(|module| modules.contains_key(module))
    });
    longest.filter(|imported| imported != module).collect()
}

/// The levels in `ARCHITECTURE.md`, from the lowest on: lines such as `5  memory · redis`.
fn levels() -> BTreeMap<String, u32> {
    let text = source("ARCHITECTURE.md");
    let lines = text.lines().filter_map(|line| {
        let (level, names) = line.trim().split_once("  ")?;
        let level: u32 = level.parse().ok()?;
        let names = names.trim().split(" · ").map(str::to_owned);
        Some(names.map(move |name| (name, level)).collect::<Vec<_>>())
    });
    lines.flatten().collect()
}

#[test]
fn imports_point_down_the_order_in_architecture_md() {
    let (modules, levels) = (modules(), levels());
    let level = |module: &Module| {
        let top = module.first().map_or("lib", String::as_str);
        *levels
            .get(top)
            .unwrap_or_else(|| panic!("`{top}` has no level in ARCHITECTURE.md"))
    };
    let mut upwards = Vec::new();
    for (module, items) in &modules {
        for imported in imports(module, items, &modules) {
            let is_inside = module.first() == imported.first();
            if !is_inside && level(&imported) >= level(module) {
                upwards.push(format!("{} -> {}", module.join("::"), imported.join("::")));
            }
        }
    }
    assert!(
        upwards.is_empty(),
        "imports against the order: {upwards:#?}"
    );
    let tops: BTreeSet<_> = modules
        .keys()
        .filter_map(|module| module.first().cloned())
        .collect();
    let named: BTreeSet<_> = levels.into_keys().filter(|name| name != "lib").collect();
    let docs = BTreeSet::from(["docs".to_owned()]);
    assert_eq!(&named | &docs, &tops | &docs, "modules and their levels");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let modules = modules();
    let graph: BTreeMap<_, _> = modules
        .iter()
        .map(|(module, items)| (module.clone(), imports(module, items, &modules)))
        .collect();
    // What imports nothing that is left is taken away, until only circles remain.
    let mut left: BTreeSet<_> = graph.keys().cloned().collect();
    loop {
        let before = left.len();
        let ends: Vec<_> = left
            .iter()
            .filter(|module| graph[*module].is_disjoint(&left))
            .cloned()
            .collect();
        ends.iter().for_each(|module| {
            left.remove(module);
        });
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "in or above a circle: {left:#?}");
    assert!(graph.len() > 100, "the sources were read");
}

#[test]
fn faces_declare_and_re_export_and_nothing_else() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&root, &mut found);
    found.retain(|path| path.ends_with("mod.rs"));
    assert!(found.len() > 10, "{found:?}");
    for path in found {
        let items = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        for item in items.items {
            let is_face = match &item {
                Item::Use(_) => true,
                Item::Mod(module) => module.content.is_none(),
                _ => false,
            };
            assert!(is_face, "{} defines something itself", path.display());
        }
    }
}

/// Each `folder/file.rs` in backticks.
#[test]
fn pages_for_contributors_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in ["ARCHITECTURE.md", "tests/GUARDS.md"] {
        let text = source(page);
        let named = text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| name.ends_with(".rs") && name.contains('/') && !name.contains('*'));
        let mut count = 0;
        for name in named {
            let exists = ["", "src/", "src/redis/", "src/validator/", "tests/suite/"]
                .iter()
                .any(|folder| root.join(format!("{folder}{name}")).exists());
            assert!(exists, "{page} names `{name}`, which does not exist");
            count += 1;
        }
        assert!(count > 20, "{page} names {count} files");
    }
}
