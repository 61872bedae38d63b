//! Which crate may depend on which.

use super::graph::Graph;

/// Crates by layer: a crate depends on lower layers only. A new crate must be given its place here.
const LAYERS: &[(&str, u8)] = &[
    ("api", 0),
    ("proto", 0),
    ("engine", 0),
    ("net", 1),
    ("telemetry", 1),
    ("simulate", 1),
    ("xds", 2),
    ("sources", 2),
    ("proxy", 3),
    ("control", 3),
    ("heddle", 4),
    // For development alone, and for nobody else to depend on.
    ("testkit", 5),
    ("xtask", 5),
];

/// What must never be reached, not even through others.
const FORBIDDEN: &[(&str, &[&str])] = &[
    // The data path knows compiled rules, not where they come from.
    ("proxy", &["api", "sources", "kubernetes", "xds"]),
    // Decisions are pure, so that tests, simulations and the proxy run the same code.
    ("engine", &["tokio", "prost", "proto", "granit-parser", "socket2", "nix"]),
    // A simulation that waited or measured would not follow from its seed.
    ("simulate", &["net", "telemetry"]),
    // Objects are read by tools that have no runtime.
    ("api", &["tokio", "kube"]),
    // What is shipped has one cryptographic library and one YAML parser.
    ("heddle", &["ring", "openssl", "openssl-sys", "native-tls", "serde_yaml"]),
];

pub(super) fn check(graph: &Graph) -> Vec<String> {
    let layer = |name: &str| LAYERS.iter().find(|(other, _)| *other == name).map(|(_, layer)| *layer);
    let mut problems = Vec::new();
    for member in &graph.members {
        let Some(own) = layer(member) else {
            problems.push(format!("crate {member} has no layer: give it one in xtask/src/check/edges.rs"));
            continue;
        };
        for dependency in graph.depends.get(member).into_iter().flatten() {
            if layer(dependency).is_some_and(|other| other >= own) {
                problems.push(format!("crate {member} may not depend on {dependency}, which is not in a lower layer"));
            }
        }
    }
    for (from, targets) in FORBIDDEN {
        for target in *targets {
            if let Some(chain) = graph.chain(from, target) {
                problems.push(format!("crate {from} must not reach {target}: {}", chain.join(" → ")));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Graph {
            members: edges
                .iter()
                .map(|(name, _)| *name)
                .filter(|name| !name.starts_with('_'))
                .map(str::to_owned)
                .collect(),
            depends: edges.iter().map(|(name, targets)| ((*name).to_owned(), own(targets))).collect(),
        }
    }

    #[test]
    fn downward_edges_pass() {
        assert!(check(&graph(&[("proxy", &["engine", "net"]), ("net", &[]), ("engine", &["_regex"])])).is_empty());
    }

    #[test]
    fn upward_and_level_edges_fail() {
        let problems = check(&graph(&[("net", &["telemetry"]), ("engine", &["net"]), ("telemetry", &[])]));
        assert_eq!(problems.len(), 2, "{problems:?}");
    }

    #[test]
    fn hidden_edges_are_shown_with_their_way() {
        let problems = check(&graph(&[("engine", &["_helper"]), ("_helper", &["tokio"])]));
        assert_eq!(problems, ["crate engine must not reach tokio: engine → _helper → tokio"]);
    }

    #[test]
    fn a_crate_without_a_place_fails() {
        assert!(check(&graph(&[("newcomer", &[])]))[0].contains("no layer"));
    }
}
