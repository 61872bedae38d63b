use api::parse;

use super::*;

fn service(name: &str, port: u32) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n")
}

fn names(keys: &BTreeSet<ObjectKey>) -> Vec<&str> {
    keys.iter().map(|key| &*key.name).collect()
}

#[tokio::test]
async fn a_slow_reader_sees_the_sum_of_what_it_missed() {
    let store = Store::new();
    let sink = store.sink();
    let mut changes = store.subscribe();
    sink.replace("f", parse("f", (service("a", 1) + &service("b", 1)).as_bytes()));
    sink.replace("f", parse("f", (service("b", 2) + &service("c", 1)).as_bytes()));
    sink.replace("f", parse("f", (service("c", 1) + &service("d", 1)).as_bytes()));
    let change = changes.changed().await.unwrap();
    assert_eq!(names(&change.keys), ["c", "d"], "what came and went in between is no change");
    assert_eq!(change.snapshot.revision, 3);
    sink.remove("f");
    assert_eq!(names(&changes.changed().await.unwrap().keys), ["c", "d"]);
}

#[tokio::test]
async fn what_only_moved_within_its_file_is_no_change() {
    let store = Store::new();
    let sink = store.sink();
    sink.replace("f", parse("f", service("a", 1).as_bytes()));
    let mut changes = store.subscribe();
    sink.replace("f", parse("f", format!("# a comment\n{}", service("a", 1)).as_bytes()));
    assert_eq!(store.snapshot().revision, 1);
    sink.replace("g", parse("g", b"kind: ["));
    let change = changes.changed().await.unwrap();
    assert!(change.keys.is_empty());
    assert_eq!(change.snapshot.problems.len(), 1, "a problem alone is a change without keys");
    let object = change.snapshot.objects.values().next().unwrap();
    assert_eq!(object.location.as_ref().unwrap().line, 3, "its place is the new one all the same");
}

#[tokio::test]
async fn the_earlier_source_wins_and_loaded_waits_for_all() {
    let store = Store::new();
    let (first, second) = (store.sink(), store.sink());
    second.replace("a", parse("a", service("x", 2).as_bytes()));
    first.replace("z", parse("z", service("x", 1).as_bytes()));
    let snapshot = store.snapshot();
    let (_, object) = snapshot.of_kind(Kind::Service).next().unwrap();
    assert_eq!(object.location.as_ref().unwrap().file.as_ref(), "z");
    assert!(snapshot.problems["a"][0].message.contains("written twice"));
    first.loaded();
    assert!(!store.snapshot().loaded);
    second.loaded();
    assert!(store.loaded().await.loaded);
}

#[test]
fn a_policy_that_cannot_be_used_denies_until_it_can() {
    let policy = |action: &str| {
        format!(
            "apiVersion: heddle.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: n}}\nspec: {{action: {action}}}\n"
        )
    };
    let unusable = |store: &Store| store.snapshot().objects.values().map(|o| is_fallback(o)).collect::<Vec<_>>();
    let store = Store::new();
    let sink = store.sink();
    sink.replace("f", parse("f", policy("nonsense").as_bytes()));
    assert_eq!(unusable(&store), [true], "never good: denies");
    sink.replace("f", parse("f", policy("allow").as_bytes()));
    assert_eq!(unusable(&store), [false]);
    sink.replace("f", parse("f", policy("nonsense").as_bytes()));
    assert_eq!(unusable(&store), [false], "the last good version stays");
    assert_eq!(store.problems().len(), 1);
}

#[test]
fn dangling_references_are_warnings_at_run_time() {
    let store = Store::new();
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  parentRefs: [{name: g}]\n  rules: [{backendRefs: [{name: s, port: 80}]}]\n";
    store.sink().replace("f", parse("f", route.as_bytes()));
    let snapshot = store.snapshot();
    assert_eq!(snapshot.objects.len(), 1, "the route is used");
    let lines: Vec<_> = snapshot.problems["f"].iter().map(|d| (d.severity, d.line)).collect();
    assert_eq!(lines, [(Severity::Warning, 5), (Severity::Warning, 6)]);
}
