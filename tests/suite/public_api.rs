//! Compares the public API with `tests/public_api.txt`, so that every change of it is noticed.
//!
//! The lint `unreachable_pub` ensures that whatever is `pub` in a file can be reached from outside,
//! so reading the sources is enough. Renew the list with
//! `SESSION_CACHE_RENEW=1 cargo test --all-features --test suite public_api`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use quote::{ToTokens, quote};
use syn::{
    Attribute, Fields, FieldsNamed, ImplItem, Item, TraitItem, Type, Visibility,
    punctuated::Punctuated,
};

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

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Whether the item is compiled only for the crate's own tests or for its fuzz targets.
fn is_internal(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = attribute.to_token_stream().to_string();
        text.contains("cfg (test)") || text.contains("cfg (fuzzing)") || text.contains("doctest")
    })
}

/// Returns the attributes that matter to users.
fn kept(attributes: &[Attribute]) -> Vec<Attribute> {
    let names = ["non_exhaustive", "must_use", "derive", "deprecated"];
    let is_kept = |attribute: &&Attribute| names.iter().any(|name| attribute.path().is_ident(name));
    attributes.iter().filter(is_kept).cloned().collect()
}

fn line(tokens: impl ToTokens) -> String {
    tokens.to_token_stream().to_string()
}

/// Removes private fields. For tuples a placeholder shows that there are some.
fn public_fields(fields: &mut Fields) {
    let is_kept = |field: &syn::Field| is_public(&field.vis);
    match fields {
        Fields::Named(FieldsNamed { named, .. }) => {
            let mut kept_fields = Punctuated::new();
            for mut field in std::mem::take(named) {
                if is_kept(&field) {
                    field.attrs.clear();
                    kept_fields.push(field);
                }
            }
            *named = kept_fields;
        }
        Fields::Unnamed(unnamed) => {
            if !unnamed.unnamed.iter().all(is_kept) {
                *unnamed = syn::parse_quote!((_));
            }
        }
        Fields::Unit => {}
    }
}

/// Returns the name of the type that an `impl` is for.
fn subject(of: &Type) -> Option<String> {
    match of {
        Type::Path(path) => Some(path.path.segments.last()?.ident.to_string()),
        _ => None,
    }
}

fn names(items: &[Item], found: &mut BTreeSet<String>) {
    for item in items {
        match item {
            Item::Struct(item) if is_public(&item.vis) => {
                found.insert(item.ident.to_string());
            }
            Item::Enum(item) if is_public(&item.vis) => {
                found.insert(item.ident.to_string());
            }
            Item::Macro(item) => {
                // The public struct inside `pin_project!`.
                let text = item.mac.tokens.to_string();
                if let Some((_, rest)) = text.split_once("pub struct ") {
                    found.insert(rest.split([' ', '<']).next().unwrap().to_owned());
                }
            }
            _ => {}
        }
    }
}

fn list(items: Vec<Item>, public: &BTreeSet<String>, lines: &mut BTreeSet<String>) {
    for item in items {
        match item {
            Item::Fn(item) if is_public(&item.vis) && !is_internal(&item.attrs) => {
                let (attributes, signature) = (kept(&item.attrs), &item.sig);
                lines.insert(line(quote!(#(#attributes)* pub #signature)));
            }
            Item::Struct(mut item) if is_public(&item.vis) => {
                item.attrs = kept(&item.attrs);
                public_fields(&mut item.fields);
                lines.insert(line(item));
            }
            Item::Enum(mut item) if is_public(&item.vis) => {
                item.attrs = kept(&item.attrs);
                for variant in &mut item.variants {
                    variant.attrs.clear();
                    for field in &mut variant.fields {
                        field.attrs.clear();
                    }
                }
                lines.insert(line(item));
            }
            Item::Trait(mut item) if is_public(&item.vis) => {
                item.attrs = kept(&item.attrs);
                for member in &mut item.items {
                    if let TraitItem::Fn(method) = member {
                        method.attrs = kept(&method.attrs);
                        // Whether there is a default body matters, and its content does not.
                        method.default = method.default.as_ref().map(|_| syn::parse_quote!({}));
                    }
                }
                lines.insert(line(item));
            }
            Item::Const(item) if is_public(&item.vis) => {
                let (name, of) = (&item.ident, &item.ty);
                lines.insert(line(quote!(pub const #name: #of)));
            }
            Item::Type(item) if is_public(&item.vis) => {
                lines.insert(line(item));
            }
            Item::Mod(item) if is_public(&item.vis) && !is_internal(&item.attrs) => {
                lines.insert(format!("pub mod {}", item.ident));
                if let Some((_, items)) = item.content {
                    list(items, public, lines);
                }
            }
            Item::Use(item) if is_public(&item.vis) => {
                let tree = &item.tree;
                lines.insert(line(quote!(pub use #tree)));
            }
            Item::Macro(item) => {
                let text = item.mac.tokens.to_string();
                if let Some((_, rest)) = text.split_once("pub struct ") {
                    let head = rest.split('{').next().unwrap();
                    lines.insert(format!("pub struct {head}"));
                }
            }
            Item::Impl(item) if !is_internal(&item.attrs) => {
                let Some(name) = subject(&item.self_ty) else {
                    continue;
                };
                if !public.contains(&name) && item.trait_.is_none() {
                    continue;
                }
                let (generics, of, clause) =
                    (&item.generics, &item.self_ty, &item.generics.where_clause);
                match &item.trait_ {
                    Some((not, path, _)) => {
                        // An implementation for a type parameter applies to all types.
                        let is_blanket = item
                            .generics
                            .type_params()
                            .any(|parameter| parameter.ident == name.as_str());
                        if public.contains(&name) || is_blanket || name == "Arc" {
                            lines.insert(line(quote!(impl #generics #not #path for #of #clause)));
                        }
                    }
                    None => {
                        for member in &item.items {
                            if let ImplItem::Fn(method) = member
                                && is_public(&method.vis)
                                && !is_internal(&method.attrs)
                            {
                                let (attributes, signature) = (kept(&method.attrs), &method.sig);
                                let head = line(quote!(impl #generics #of #clause));
                                let method = line(quote!(#(#attributes)* pub #signature));
                                lines.insert(format!("{head}: {method}"));
                            }
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

#[test]
fn public_api_matches_the_list() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    files(&root.join("src"), &mut paths);
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap();
        name != "tests.rs" && name != "fuzzing.rs"
    };
    let parsed: Vec<_> = paths
        .iter()
        .filter(|path| is_ours(path))
        .map(|path| {
            syn::parse_file(&fs::read_to_string(path).unwrap())
                .unwrap()
                .items
        })
        .collect();
    let mut public = BTreeSet::new();
    for items in &parsed {
        names(items, &mut public);
    }
    let mut lines = BTreeSet::new();
    for items in parsed {
        list(items, &public, &mut lines);
    }
    // Re-exports between modules are left out. The crate root decides what becomes public.
    lines.retain(|line| !line.contains("use self ::"));
    let mut list: String = lines.into_iter().collect::<Vec<_>>().join("\n");
    list.push('\n');

    let path = root.join("tests/public_api.txt");
    if std::env::var_os("SESSION_CACHE_RENEW").is_some() {
        fs::write(&path, &list).unwrap();
    }
    let before = fs::read_to_string(&path).unwrap_or_default();
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (before.lines().collect(), list.lines().collect());
    let gone: Vec<_> = old.difference(&new).collect();
    let come: Vec<_> = new.difference(&old).collect();
    assert!(
        gone.is_empty() && come.is_empty(),
        "gone: {gone:#?}\ncome: {come:#?}\nIf this is intended, say so in CHANGELOG.md and renew the list:\n\
         SESSION_CACHE_RENEW=1 cargo test --all-features --test suite public_api"
    );
    assert!(new.len() > 150, "{} lines are too few to be all", new.len());
}
