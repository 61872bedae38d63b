//! Rules of the project that no compiler knows. Each check returns what is wrong, in words; nothing is fixed silently.

mod dependencies;
mod edges;
mod generated;
mod graph;
mod length;
mod scan;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use self::scan::Source;

/// Runs every check and prints every problem.
pub(crate) fn run(root: &Path) -> Result<()> {
    let graph = graph::load(root)?;
    let sources = sources(root)?;
    let mut problems = edges::check(&graph);
    problems.extend(dependencies::duplicates(root)?);
    problems.extend(dependencies::documented(root)?);
    problems.extend(dependencies::unused(root, &sources)?);
    problems.extend(length::check(&sources));
    problems.extend(unsafe_code(&sources));
    problems.extend(generated::check(root)?);
    for problem in &problems {
        eprintln!("{problem}");
    }
    match problems.len() {
        0 => Ok(()),
        1 => bail!("1 problem"),
        count => bail!("{count} problems"),
    }
}

/// Every Rust file of the workspace that people write, scanned.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for folder in ["crates", "xtask", "fuzz"] {
        if root.join(folder).is_dir() {
            collect(&root.join(folder), &mut files)?;
        }
    }
    files.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let path = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
        Ok(Source::new(path, &text))
    };
    files.into_iter().map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && name != "generated" && name != "target" {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// `unsafe` belongs to the crate `net`, whatever lint a file may switch off.
fn unsafe_code(sources: &[Source]) -> Vec<String> {
    let outside = sources.iter().filter(|source| !source.path.starts_with("crates/net"));
    let found =
        outside.flat_map(|source| source.words().filter(|word| word.text == "unsafe").map(move |word| (source, word)));
    found
        .map(|(source, word)| format!("{}:{}: `unsafe` outside the crate net", source.path.display(), word.line))
        .collect()
}
