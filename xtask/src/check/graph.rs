//! Who depends on whom, as `cargo tree` resolves it. (`cargo metadata` also lists optional dependencies that nothing turns on.)

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// The dependency graph without development dependencies, by crate name. Where several versions of a crate are in the tree
/// their dependencies are joined, which can only find more.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// The crates of this workspace.
    pub(super) members: BTreeSet<String>,
    /// Direct dependencies.
    pub(super) depends: BTreeMap<String, BTreeSet<String>>,
}

pub(super) fn load(root: &Path) -> Result<Graph> {
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["tree", "--workspace", "--edges", "normal,build", "--prefix", "depth"]);
    command.args(["--format", " {p}", "--target", "x86_64-unknown-linux-gnu"]);
    read(&crate::output(&mut command)?).context("cargo's tree has another shape than expected")
}

/// Reads lines `depth name version …`; a line depends on the next ones that are one deeper.
fn read(tree: &str) -> Option<Graph> {
    let mut graph = Graph::default();
    let mut above: Vec<&str> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let depth: usize = words.next()?.parse().ok()?;
        let name = words.next()?;
        above.truncate(depth);
        graph.depends.entry(name.to_owned()).or_default();
        match above.last() {
            Some(parent) => graph.depends.entry((*parent).to_owned()).or_default().insert(name.to_owned()),
            None => graph.members.insert(name.to_owned()),
        };
        above.push(name);
    }
    Some(graph)
}

impl Graph {
    /// How `from` comes to depend on `to`, if it does: a shortest chain of names.
    pub(super) fn chain(&self, from: &str, to: &str) -> Option<Vec<&str>> {
        let (start, _) = self.depends.get_key_value(from)?;
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = std::collections::VecDeque::from([start.as_str()]);
        while let Some(name) = queue.pop_front() {
            if name == to {
                let mut chain = vec![name];
                while let Some(previous) = came_from.get(chain[chain.len() - 1]) {
                    chain.push(previous);
                }
                chain.reverse();
                return Some(chain);
            }
            for next in self.depends.get(name).into_iter().flatten() {
                if next != from && !came_from.contains_key(next.as_str()) {
                    came_from.insert(next, name);
                    queue.push_back(next);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read() {
        let graph =
            read("0 a v0.1.0 (/a)\n1 b v1.0.0\n2 c v1.0.0\n1 d v2.0.0\n\n0 e v0.1.0 (/e)\n1 b v1.0.0 (*)\n").unwrap();
        assert_eq!(graph.members.iter().collect::<Vec<_>>(), ["a", "e"]);
        assert_eq!(graph.chain("e", "c"), Some(vec!["e", "b", "c"]));
        assert_eq!(graph.chain("e", "d"), None);
        assert!(read("a v0.1.0").is_none());
    }
}
