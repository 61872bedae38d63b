//! Every example that people can copy must work: the documentation's YAML blocks and the worked meshes.

use std::fs;
use std::path::{Path, PathBuf};

/// The files below `folder` whose names end so; none where there is no such folder.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.expect("readable").path()) {
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found
}

fn assert_good(name: &str, text: &str) {
    let parsed = api::parse(name, text.as_bytes());
    let said: Vec<String> = parsed.diagnostics.iter().filter(|d| d.is_error()).map(|d| d.render(false)).collect();
    assert!(said.is_empty(), "{}", said.join("\n\n"));
}

/// The blocks that begin with `apiVersion`, each behind as many empty lines as it has lines before it.
fn blocks(markdown: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim() == "```yaml" {
            let block: Vec<&str> = lines.by_ref().map(|(_, l)| l).take_while(|l| l.trim() != "```").collect();
            if block.first().is_some_and(|l| l.starts_with("apiVersion")) {
                blocks.push("\n".repeat(number + 1) + &block.join("\n"));
            }
        }
    }
    blocks
}

#[test]
fn examples_have_no_errors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut documents = files(&root.join("docs"), ".md");
    documents.push(root.join("README.md"));
    let mut count = 0;
    for path in documents.iter().filter(|path| path.exists()) {
        for block in blocks(&fs::read_to_string(path).expect("readable")) {
            assert_good(&path.to_string_lossy(), &block);
            count += 1;
        }
    }
    assert!(count >= 12, "every kind has an example in docs/resources.md, found {count}");
    for path in files(&root.join("examples"), ".yaml") {
        assert_good(&path.to_string_lossy(), &fs::read_to_string(&path).expect("readable"));
    }
}
