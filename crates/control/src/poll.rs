//! Reads manifests until the watched files source takes its place.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) async fn run(paths: Vec<PathBuf>, sink: sources::Sink) {
    let mut seen: BTreeMap<PathBuf, String> = BTreeMap::new();
    loop {
        let mut files = Vec::new();
        for path in &paths {
            if path.is_dir() {
                let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
                files.extend(entries.filter(|p| p.extension().is_some_and(|e| e == "yaml")));
            } else {
                files.push(path.clone());
            }
        }
        for file in &files {
            let Ok(text) = std::fs::read_to_string(file) else { continue };
            if seen.get(file) != Some(&text) {
                let name = file.display().to_string();
                sink.replace(&name, api::parse(&name, text.as_bytes()));
                seen.insert(file.clone(), text);
            }
        }
        sink.loaded();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
