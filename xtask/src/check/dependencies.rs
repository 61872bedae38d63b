//! Versions, reasons and use of what we depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::scan::Source;

/// Crates of which the shipped binary may hold two versions, and why nothing can be done about it here. Procedural macros are
/// not counted: they are not shipped.
const DUPLICATES: &[(&str, &str)] = &[(
    "untrusted",
    "rustls-webpki uses 0.9; x509-parser, which verifies certificate requests for rcgen, turns on aws-lc-rs's \
     compatibility layer, which uses 0.7. Both are a few hundred lines without dependencies.",
)];

/// Second versions in the shipped tree.
pub(super) fn duplicates(root: &Path) -> Result<Vec<String>> {
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["tree", "--locked", "--package", "heddle", "--edges", "normal,no-proc-macro"]);
    command.args(["--prefix", "none", "--format", "{p}", "--target", "x86_64-unknown-linux-gnu"]);
    Ok(second_versions(&crate::output(&mut command)?))
}

/// Reads lines `name v1.2.3 …`.
fn second_versions(tree: &str) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in tree.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            versions.entry(name).or_default().insert(version);
        }
    }
    let mut problems = Vec::new();
    for (name, found) in &versions {
        if found.len() > 1 && !DUPLICATES.iter().any(|(excepted, _)| excepted == name) {
            let found = found.iter().copied().collect::<Vec<_>>().join(" and ");
            problems.push(format!(
                "two versions of {name} would be shipped, {found}: `cargo tree -d` shows who asks for them"
            ));
        }
    }
    for (name, _) in DUPLICATES {
        if versions.get(name).is_none_or(|found| found.len() < 2) {
            problems.push(format!(
                "{name} no longer comes in two versions: remove its exception from xtask/src/check/dependencies.rs"
            ));
        }
    }
    problems
}

/// Every dependency of the workspace has its line in `docs/dependencies.md`, and every line its dependency.
pub(super) fn documented(root: &Path) -> Result<Vec<String>> {
    let wanted: BTreeSet<String> = outside(&root.join("Cargo.toml"))?.into_iter().collect();
    let path = root.join("docs/dependencies.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let explained: BTreeSet<String> = rows.map(|(name, _)| name.to_owned()).collect();
    let missing =
        wanted.difference(&explained).map(|name| format!("docs/dependencies.md does not say why {name} is needed"));
    let stale =
        explained.difference(&wanted).map(|name| format!("docs/dependencies.md explains {name}, which is not used"));
    Ok(missing.chain(stale).collect())
}

/// The dependencies of the workspace's manifest that are not our own crates.
fn outside(manifest: &Path) -> Result<Vec<String>> {
    let manifest = read(manifest)?;
    let dependencies = manifest["workspace"]["dependencies"].as_table().context("the workspace has dependencies")?;
    Ok(dependencies.iter().filter(|(_, value)| value.get("path").is_none()).map(|(name, _)| name.clone()).collect())
}

fn read(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    text.parse().with_context(|| format!("parsing {}", path.display()))
}

/// Dependencies that no crate names, and dependencies of a crate that its code does not mention.
pub(super) fn unused(root: &Path, sources: &[Source]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut named = BTreeSet::new();
    let mut folders: Vec<_> = std::fs::read_dir(root.join("crates"))?.collect::<Result<_, _>>()?;
    folders.sort_by_key(std::fs::DirEntry::path);
    let folders = folders.iter().map(|folder| Path::new("crates").join(folder.file_name())).chain(["xtask".into()]);
    for folder in folders {
        let manifest = read(&root.join(&folder).join("Cargo.toml"))?;
        let mut words: BTreeSet<&str> = BTreeSet::new();
        for source in sources.iter().filter(|source| source.path.starts_with(&folder)) {
            words.extend(source.words().map(|word| word.text));
        }
        let generated = generated_words(&root.join(&folder))?;
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for name in manifest.get(section).and_then(Value::as_table).into_iter().flat_map(Table::keys) {
                named.insert(name.clone());
                let word = name.replace('-', "_");
                if !words.contains(word.as_str()) && !generated.contains(&word) {
                    problems.push(format!("{}: {name} is not used in its code", folder.join("Cargo.toml").display()));
                }
            }
        }
    }
    let unnamed = outside(&root.join("Cargo.toml"))?.into_iter().filter(|name| !named.contains(name));
    problems.extend(unnamed.map(|name| format!("Cargo.toml: no crate uses {name}")));
    Ok(problems)
}

/// Generated code is not among the sources, but it uses crates.
fn generated_words(folder: &Path) -> Result<BTreeSet<String>> {
    let mut words = BTreeSet::new();
    let Ok(files) = std::fs::read_dir(folder.join("src/generated")) else { return Ok(words) };
    for file in files {
        let source = Source::new(
            file.as_ref().map_or_else(|_| folder.into(), std::fs::DirEntry::path),
            &std::fs::read_to_string(file?.path())?,
        );
        words.extend(source.words().map(|word| word.text.to_owned()));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_versions_are_found_and_exceptions_expire() {
        let fine = "heddle v0.1.0 (/x)\nuntrusted v0.7.1\nuntrusted v0.9.0\nbytes v1.0.0\nbytes v1.0.0 (*)\n";
        assert_eq!(second_versions(fine), [""; 0]);
        let problems = second_versions("bytes v1.0.0\nbytes v0.5.0\nuntrusted v0.9.0\n");
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].contains("bytes would be shipped, v0.5.0 and v1.0.0")
                && problems[1].contains("untrusted no longer")
        );
    }
}
