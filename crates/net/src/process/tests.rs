use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;

use super::*;

#[tokio::test]
async fn open_files_are_raised_to_the_hard_limit_but_not_for_others() {
    let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
    setrlimit(Resource::RLIMIT_NOFILE, 100.min(hard), hard).unwrap();
    raise_open_files().unwrap();
    raise_open_files().unwrap();
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn; ulimit -Hn"]);
    usual_open_files(&mut command);
    let said = String::from_utf8(command.output().await.unwrap().stdout).unwrap();
    assert_eq!(said, format!("{}\n{hard}\n", 100.min(hard)));
}

#[test]
fn a_newer_file_stands_for_one_that_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("heddle");
    let mut gone = file.clone().into_os_string();
    gone.push(" (deleted)");
    let gone = PathBuf::from(gone);
    assert_eq!(in_place(gone.clone()), None);
    std::fs::write(&file, "new").unwrap();
    assert_eq!(in_place(gone.clone()), Some(file.clone()));
    assert_eq!(in_place(file.clone()), Some(file));
    // It may really be called that.
    std::fs::write(&gone, "odd").unwrap();
    assert_eq!(in_place(gone.clone()), Some(gone));
}

/// Starts a shell and waits until it says "up"; its output ends when everything that it started has ended.
async fn shell(script: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).stdout(Stdio::piped());
    own_group(&mut command);
    die_with_parent(&mut command);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("up"));
    (child, lines)
}

#[tokio::test]
async fn a_polite_child_ends_itself() {
    let (mut child, _output) = shell("trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done").await;
    let status = terminate(&mut child, Duration::from_secs(30)).await.unwrap();
    assert_eq!(status.code(), Some(7));
    assert_eq!(terminate(&mut child, Duration::ZERO).await.unwrap().code(), Some(7), "a second call tells the same");
}

#[tokio::test]
async fn a_stubborn_child_is_killed_with_what_it_started() {
    let (mut child, mut output) = shell("trap '' TERM; sleep 1000 & echo up; while :; do sleep 0.05; done").await;
    let status = terminate(&mut child, Duration::from_millis(50)).await.unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    let end = tokio::time::timeout(Duration::from_secs(10), output.next_line()).await;
    assert_eq!(end.expect("a grandchild outlived its group").unwrap(), None);
}

#[test]
fn a_child_dies_with_the_thread_that_started_it() {
    let child = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (child, _output) = runtime.block_on(shell("echo up; exec sleep 1000"));
        (child.id().unwrap(), child)
    });
    let (pid, child) = child.join().unwrap();
    let status = nix::sys::wait::waitpid(Pid::from_raw(pid.try_into().unwrap()), None).unwrap();
    assert!(matches!(status, nix::sys::wait::WaitStatus::Signaled(_, Signal::SIGKILL, _)), "{status:?}");
    drop(child);
}
