use std::path::Path;
use std::sync::Arc;

use api::{Kind, ObjectKey, Spec};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::{Snapshot, Store};

/// Longer than any machine takes; only a defect gets here.
const FOREVER: Duration = Duration::from_secs(20);

struct Watched {
    store: Store,
    task: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watched {
    async fn new(paths: &[&Path]) -> Watched {
        let store = Store::new();
        let task = tokio::spawn(Files::new(paths.iter().map(|p| p.to_path_buf())).run(store.sink()));
        let watched = Watched { store, task };
        tokio::time::timeout(FOREVER, watched.store.loaded()).await.expect("loads");
        watched
    }

    /// Waits until the store is as `wanted` says.
    async fn until(&self, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut changes = self.store.subscribe();
        let wait = async {
            loop {
                let now = self.store.snapshot();
                if wanted(&now) {
                    return now;
                }
                changes.changed().await.expect("the store lives");
            }
        };
        match tokio::time::timeout(FOREVER, wait).await {
            Ok(snapshot) => snapshot,
            Err(_) => panic!("{what}: {:?}", self.store.snapshot()),
        }
    }
}

fn service(name: &str, port: u32) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n")
}

fn port(snapshot: &Snapshot, name: &str) -> Option<u16> {
    match &snapshot.objects.get(&ObjectKey::new(Kind::Service, "default", name))?.spec {
        Spec::Service(service) => Some(service.ports[0].port),
        _ => None,
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn every_way_to_save_a_file_takes_effect() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("shop.yaml");
    write(&file, &service("cart", 80));
    for path in [dir.path(), &file] {
        write(&file, &service("cart", 80));
        let watched = Watched::new(&[path]).await;
        assert_eq!(port(&watched.store.snapshot(), "cart"), Some(80));

        write(&file, &service("cart", 81));
        watched.until("in place", |s| port(s, "cart") == Some(81)).await;

        let fresh = dir.path().join("shop.yaml.new");
        write(&fresh, &service("cart", 82));
        fs::rename(&fresh, &file).unwrap();
        watched.until("renamed over", |s| port(s, "cart") == Some(82)).await;

        fs::rename(&file, dir.path().join("shop.yaml~")).unwrap();
        write(&file, &service("cart", 83));
        watched.until("moved away and written anew", |s| port(s, "cart") == Some(83)).await;

        fs::remove_file(&file).unwrap();
        watched.until("removed", |s| s.objects.is_empty()).await;
        write(&file, &service("cart", 84));
        watched.until("back again", |s| port(s, "cart") == Some(84) && s.problems.is_empty()).await;
    }
}

#[tokio::test]
async fn files_of_a_directory_come_and_go() {
    let dir = TempDir::new().unwrap();
    write(&dir.path().join("notes.txt"), "no object");
    write(&dir.path().join(".hidden.yaml"), &service("hidden", 1));
    let watched = Watched::new(&[dir.path()]).await;
    assert!(watched.store.snapshot().objects.is_empty());

    write(&dir.path().join("a.yml"), &service("a", 1));
    write(
        &dir.path().join("b.json"),
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"}, "spec": {"ports": [{"port": 2}]}}"#,
    );
    watched.until("both", |s| port(s, "a") == Some(1) && port(s, "b") == Some(2)).await;
    fs::remove_file(dir.path().join("a.yml")).unwrap();
    let left = watched.until("one", |s| port(s, "a").is_none()).await;
    assert_eq!(left.objects.len(), 1);
}

#[tokio::test]
async fn a_directory_can_go_and_come_back() {
    let dir = TempDir::new().unwrap();
    let mesh = dir.path().join("mesh");
    let watched = Watched::new(&[&mesh]).await;
    assert_eq!(watched.store.problems().len(), 1, "a path that does not exist is a problem");
    fs::create_dir(&mesh).unwrap();
    write(&mesh.join("a.yaml"), &service("a", 1));
    watched.until("made", |s| port(s, "a") == Some(1) && s.problems.is_empty()).await;
    fs::remove_dir_all(&mesh).unwrap();
    watched.until("removed", |s| s.objects.is_empty() && !s.problems.is_empty()).await;
    fs::create_dir(&mesh).unwrap();
    write(&mesh.join("a.yaml"), &service("a", 2));
    watched.until("back", |s| port(s, "a") == Some(2)).await;
    write(&mesh.join("a.yaml"), &service("a", 3));
    watched.until("watched again", |s| port(s, "a") == Some(3)).await;
}

#[tokio::test]
async fn a_swapped_link_changes_all_files_behind_it() {
    let dir = TempDir::new().unwrap();
    for (version, n) in [("..1", 1), ("..2", 2)] {
        fs::create_dir(dir.path().join(version)).unwrap();
        write(&dir.path().join(version).join("a.yaml"), &service("a", n));
    }
    let link = |to: &str, from: &Path| std::os::unix::fs::symlink(to, from).unwrap();
    link("..1", &dir.path().join("..data"));
    link("..data/a.yaml", &dir.path().join("a.yaml"));
    let watched = Watched::new(&[dir.path()]).await;
    assert_eq!(port(&watched.store.snapshot(), "a"), Some(1));
    link("..2", &dir.path().join("..next"));
    fs::rename(dir.path().join("..next"), dir.path().join("..data")).unwrap();
    watched.until("swapped", |s| port(s, "a") == Some(2)).await;
}

#[tokio::test]
async fn what_a_link_leads_to_is_watched() {
    let dir = TempDir::new().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("link.yaml"));
    fs::create_dir(&real).unwrap();
    write(&real.join("a.yaml"), &service("a", 1));
    std::os::unix::fs::symlink("real/a.yaml", &link).unwrap();
    let watched = Watched::new(&[&link]).await;
    assert_eq!(port(&watched.store.snapshot(), "a"), Some(1));
    write(&real.join("a.yaml"), &service("a", 2));
    watched.until("edited behind the link", |s| port(s, "a") == Some(2)).await;
}

#[tokio::test]
async fn a_bad_edit_is_reported_and_the_good_state_stays() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("shop.yaml");
    write(&file, &(service("a", 1) + &service("b", 1)));
    let watched = Watched::new(&[&file]).await;

    // One bad object: it keeps its last good version, the other goes on.
    write(&file, &(service("a", 70_000) + &service("b", 2)));
    let now = watched.until("b", |s| port(s, "b") == Some(2)).await;
    assert_eq!(port(&now, "a"), Some(1));
    let problem = &now.problems[&*file.to_string_lossy()][0];
    assert_eq!((problem.line, problem.field.as_str()), (5, "spec.ports[0].port"));

    // A file that no longer parses keeps all its objects.
    write(&file, "kind: [");
    let now = watched.until("garbage", |s| s.problems.values().flatten().any(|d| d.message.contains("YAML"))).await;
    assert_eq!((port(&now, "a"), port(&now, "b")), (Some(1), Some(2)));

    // Half of it unreadable: what is readable takes effect, what may be hidden stays.
    write(&file, &(service("b", 3) + "---\nkind: ["));
    let now = watched.until("half", |s| port(s, "b") == Some(3)).await;
    assert_eq!(port(&now, "a"), Some(1));

    write(&file, &service("b", 4));
    let now = watched.until("good again", |s| s.problems.is_empty()).await;
    assert_eq!((port(&now, "a"), port(&now, "b")), (None, Some(4)));
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_a_problem_and_keeps_its_objects() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("a.yaml");
    write(&file, &service("a", 1));
    let watched = Watched::new(&[dir.path()]).await;
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("nowhere", &file).unwrap();
    let now = watched.until("unreadable", |s| !s.problems.is_empty()).await;
    assert!(now.problems.values().flatten().all(|d| d.message.contains("cannot be read")), "{now:?}");
    fs::remove_file(&file).unwrap();
    write(&file, &service("a", 2));
    watched.until("readable", |s| port(s, "a") == Some(2) && s.problems.is_empty()).await;
}

/// How long [`wait`] takes on a paused clock when `signs` come, each so many milliseconds after the one before.
async fn waits(signs: Vec<(u64, Sign)>) -> Duration {
    let (events, mut inbox) = mpsc::unbounded_channel();
    let start = Instant::now();
    tokio::spawn(async move {
        for (after, sign) in signs {
            tokio::time::sleep(Duration::from_millis(after)).await;
            let _ = events.send(sign);
        }
        // An open channel, as the watcher's is.
        std::future::pending::<()>().await;
    });
    wait(&mut inbox, true).await;
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_save_is_awaited_to_its_end_but_nobody_is_held_up_for_long() {
    let near = |took: Duration, expected: Duration| took >= expected && took < expected + Duration::from_millis(5);
    let path = || PathBuf::from("a.yaml");
    assert!(near(waits(vec![(0, Sign::Changed)]).await, QUIET));
    let busy = (0..100).map(|_| (5, Sign::Changed)).collect();
    assert!(near(waits(busy).await, Duration::from_millis(5) + LONGEST_DELAY));
    let slow = vec![(0, Sign::Writing(path())), (200, Sign::Writing(path())), (200, Sign::Written(path()))];
    assert!(near(waits(slow).await, Duration::from_millis(400)));
    let endless = (0..100).map(|_| (50, Sign::Writing(path()))).collect();
    assert!(near(waits(endless).await, Duration::from_millis(50) + LONGEST_WRITE));
}

#[tokio::test]
async fn the_first_of_two_files_with_one_object_counts() {
    let dir = TempDir::new().unwrap();
    write(&dir.path().join("2.yaml"), &service("a", 2));
    let watched = Watched::new(&[dir.path()]).await;
    assert_eq!(port(&watched.store.snapshot(), "a"), Some(2));
    write(&dir.path().join("1.yaml"), &service("a", 1));
    let now = watched.until("first", |s| port(s, "a") == Some(1)).await;
    let problems: Vec<_> = now.problems.iter().collect();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].0.ends_with("2.yaml") && problems[0].1[0].message.contains("1.yaml:2"), "{problems:?}");
    fs::remove_file(dir.path().join("1.yaml")).unwrap();
    watched.until("second", |s| port(s, "a") == Some(2) && s.problems.is_empty()).await;
}

#[tokio::test]
async fn a_directory_with_too_many_files_is_a_problem() {
    let dir = TempDir::new().unwrap();
    for n in 0..MAX_FILES {
        File::create(dir.path().join(format!("{n}.yaml"))).unwrap();
    }
    let files = directory(dir.path()).unwrap();
    assert_eq!(files.len(), MAX_FILES);
    File::create(dir.path().join("more.yaml")).unwrap();
    let watched = Watched::new(&[dir.path()]).await;
    let snapshot = watched.store.snapshot();
    let problems: Vec<_> = snapshot.problems.values().flatten().map(|p| p.message.as_str()).collect();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("has more than 10000 files"), "{problems:?}");
}

#[tokio::test]
async fn relative_paths_are_watched_too() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("a.yaml");
    let up = "../".repeat(std::env::current_dir().unwrap().components().count() - 1);
    let relative = PathBuf::from(format!("./{up}")).join(dir.path().strip_prefix("/").unwrap());
    for path in [relative.clone(), relative.join("a.yaml")] {
        write(&file, &service("a", 1));
        let watched = Watched::new(&[&path]).await;
        assert_eq!(port(&watched.store.snapshot(), "a"), Some(1));
        write(&file, &service("a", 2));
        watched.until("edited", |s| port(s, "a") == Some(2)).await;
        fs::remove_file(&file).unwrap();
        watched.until("removed", |s| s.objects.is_empty()).await;
        write(&file, &service("a", 3));
        watched.until("made anew", |s| port(s, "a") == Some(3)).await;
    }
}
