//! The walls between crates: who may import whom, and what each crate may know.
//!
//! The table is ARCHITECTURE.md's; change both together.

use cargo_metadata::{DependencyKind, MetadataCommand};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// crate, layer, what of ours it may import.
const WALLS: [(&str, u8, &[&str]); 6] = [
    ("dialogue", 0, &[]),
    ("ops", 0, &[]),
    ("model", 1, &["dialogue", "ops"]),
    ("engine", 2, &["dialogue", "ops", "model"]),
    ("roleplay", 2, &["dialogue"]),
    ("cli", 4, &["dialogue", "ops", "model", "engine", "roleplay"]),
];

/// Crates that must never see a tensor, so that their tests need no weights.
const NO_CANDLE: [&str; 2] = ["dialogue", "roleplay"];

fn workspace() -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(root).no_deps().exec().unwrap();
    let short = |name: &str| name.strip_prefix("troupe-").unwrap_or(name).to_string();
    metadata
        .workspace_packages()
        .into_iter()
        .map(|package| {
            let imports = package.dependencies.iter();
            // What only tests import is not a wall: a test may join what code may not.
            let imports = imports.filter(|d| d.kind != DependencyKind::Development);
            (short(&package.name), imports.map(|d| short(&d.name)).collect())
        })
        .collect()
}

#[test]
fn crates_import_only_what_the_table_allows() {
    let crates = workspace();
    let known: BTreeSet<&str> = WALLS.iter().map(|(name, ..)| *name).collect();
    let present: BTreeSet<&str> = crates.keys().map(String::as_str).collect();
    assert_eq!(present, known, "the table lists every crate of the workspace, and no other");
    for (name, layer, allowed) in WALLS {
        for import in crates[name].iter().filter(|i| known.contains(i.as_str())) {
            assert!(allowed.contains(&import.as_str()), "{name} may not import {import}");
            let below = WALLS.iter().find(|(other, ..)| other == import).unwrap().1;
            assert!(below < layer, "{name} (layer {layer}) imports {import} (layer {below})");
        }
    }
}

#[test]
fn domain_crates_see_no_tensor() {
    let crates = workspace();
    for name in NO_CANDLE {
        for import in &crates[name] {
            assert!(!import.starts_with("candle"), "{name} may not import {import}");
        }
    }
}

#[test]
fn folders_bear_the_names_of_their_crates() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (name, ..) in WALLS {
        let manifest = std::fs::read_to_string(crates.join(name).join("Cargo.toml")).unwrap();
        assert!(manifest.contains(&format!("name = \"troupe-{name}\"")), "crates/{name}");
    }
}

#[test]
fn architecture_md_has_the_same_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    for (name, layer, allowed) in WALLS {
        let imports =
            if allowed.is_empty() { "nothing of ours".into() } else { allowed.join(", ") };
        let row = page.lines().find(|l| l.starts_with(&format!("| {layer} | {name} |")));
        let row = row.unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for {name}"));
        assert!(row.ends_with(&format!("| {imports} |")), "ARCHITECTURE.md: {row}");
    }
}
