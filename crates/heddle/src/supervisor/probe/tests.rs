use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use api::{AppProtocol, ContainerPort};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn container(readiness: Option<Probe>, liveness: Option<Probe>, startup: Option<Probe>, port: u16) -> Container {
    Container {
        name: "c".into(),
        command: Vec::new(),
        args: Vec::new(),
        env: Vec::new(),
        working_dir: None,
        ports: vec![ContainerPort { name: Some("http".into()), port, protocol: AppProtocol::Http }],
        readiness,
        liveness,
        startup,
    }
}

fn probe(action: ProbeAction) -> Probe {
    Probe {
        action,
        initial_delay: Duration::ZERO,
        period: Duration::from_millis(100),
        timeout: Duration::from_secs(1),
        success_threshold: 1,
        failure_threshold: 2,
    }
}

fn get(path: &str, port: PortRef) -> ProbeAction {
    ProbeAction::HttpGet { path: path.into(), port, host: None, https: false, headers: Vec::new() }
}

fn exec(words: &[&str]) -> ProbeAction {
    ProbeAction::Exec { command: words.iter().map(|w| (*w).to_owned()).collect() }
}

fn program() -> Program {
    let folder = std::env::temp_dir();
    Program { argv: vec!["true".into()], environment: BTreeMap::new(), folder, label: None, inside: None }
}

/// An HTTP server that answers with what `status` holds.
async fn server(status: watch::Receiver<u16>) -> u16 {
    let listener = TcpListener::bind((IP, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let answer = format!("HTTP/1.1 {} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", *status.borrow());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    port
}

/// Watches until the verdict fits.
async fn until(probes: &Probes, verdict: &watch::Sender<Verdict>, fits: impl Fn(&Verdict) -> bool) -> Verdict {
    let mut said = verdict.subscribe();
    let program = program();
    let wait = async { said.wait_for(|v| fits(v)).await.unwrap().clone() };
    tokio::select! {
        found = wait => found,
        () = probes.watch(&program, verdict) => unreachable!("probes are made for ever"),
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("it stays {:?}", *verdict.borrow()),
    }
}

fn verdict() -> watch::Sender<Verdict> {
    watch::channel(Verdict::NotReady("it starts".into())).0
}

#[tokio::test]
async fn readiness_follows_the_answers() {
    let (status, shown) = watch::channel(503);
    let port = server(shown).await;
    let probes =
        Probes::new(&container(Some(probe(get("healthz", PortRef::Name("http".into())))), None, None, port), IP)
            .unwrap();
    let verdict = verdict();
    let down = until(&probes, &verdict, |v| matches!(v, Verdict::NotReady(why) if why.contains("503"))).await;
    assert!(matches!(down, Verdict::NotReady(why) if why.contains("/healthz answers 503")));
    status.send_replace(204);
    until(&probes, &verdict, |v| *v == Verdict::Ready).await;
}

#[tokio::test]
async fn without_a_probe_a_port_that_accepts_is_ready() {
    let free = TcpListener::bind((IP, 0)).await.unwrap();
    let port = free.local_addr().unwrap().port();
    let probes = Probes::new(&container(None, None, None, port), IP).unwrap();
    until(&probes, &verdict(), |v| *v == Verdict::Ready).await;
    let mut none = container(None, None, None, port);
    none.ports.clear();
    until(&Probes::new(&none, IP).unwrap(), &verdict(), |v| *v == Verdict::Ready).await;
}

#[tokio::test]
async fn a_failing_liveness_probe_is_the_end() {
    let mut silent = container(None, Some(probe(exec(&["false"]))), None, 0);
    silent.ports.clear();
    let probes = Probes::new(&silent, IP).unwrap();
    let dead = until(&probes, &verdict(), |v| matches!(v, Verdict::Dead(_))).await;
    assert_eq!(dead, Verdict::Dead("livenessProbe: false: exit status 1".into()));
}

#[tokio::test]
async fn the_others_wait_for_the_startup_probe() {
    let flag: PathBuf = tempfile::tempdir().unwrap().keep().join("started");
    let look = exec(&["test", "-e", flag.to_str().unwrap()]);
    let mut slow =
        container(None, Some(probe(exec(&["false"]))), Some(Probe { failure_threshold: 1000, ..probe(look) }), 0);
    slow.ports.clear();
    let probes = Probes::new(&slow, IP).unwrap();
    let verdict = verdict();
    let program = program();
    // Liveness would fail at once, but is not asked while the application starts.
    let early = tokio::time::timeout(Duration::from_millis(600), probes.watch(&program, &verdict)).await;
    assert!(early.is_err());
    assert_eq!(*verdict.borrow(), Verdict::NotReady("it starts".into()));
    std::fs::write(&flag, "").unwrap();
    until(&probes, &verdict, |v| matches!(v, Verdict::Dead(_))).await;
    std::fs::remove_dir_all(flag.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn a_start_that_takes_too_long_is_the_end() {
    let probes = Probes::new(&container(None, None, Some(probe(exec(&["false"]))), 1), IP).unwrap();
    let dead = until(&probes, &verdict(), |v| matches!(v, Verdict::Dead(_))).await;
    assert!(matches!(dead, Verdict::Dead(why) if why.starts_with("startupProbe:")));
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_failure() {
    // A listener that never answers: connections wait in its queue.
    let listener = TcpListener::bind((IP, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let patient = Probe { timeout: Duration::from_millis(50), ..probe(get("/", PortRef::Number(port))) };
    let probes = Probes::new(&container(Some(patient), None, None, port), IP).unwrap();
    until(&probes, &verdict(), |v| matches!(v, Verdict::NotReady(why) if why.contains("no answer within 50ms"))).await;
}

#[tokio::test]
async fn what_a_command_started_ends_when_its_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid").display().to_string();
    let script = format!("sleep 1000 & echo $! > {file}.part; mv {file}.part {file}; wait");
    let mut stuck = container(Some(probe(exec(&["sh", "-c", &script]))), None, None, 0);
    stuck.ports.clear();
    let probes = Probes::new(&stuck, IP).unwrap();
    until(&probes, &verdict(), |v| matches!(v, Verdict::NotReady(why) if why.contains("no answer within"))).await;
    let pid = std::fs::read_to_string(&file).unwrap();
    let line = format!("/proc/{}/cmdline", pid.trim());
    // Of a process that nobody has waited for yet nothing is left there.
    testkit::wait::until("the end of what it started", testkit::wait::LONG, || match std::fs::read(&line) {
        Ok(text) if !text.is_empty() => Err(String::from_utf8_lossy(&text).into_owned()),
        Ok(_) | Err(_) => Ok(()),
    });
}

#[test]
fn what_is_not_supported_is_said() {
    let none = container(Some(probe(get("/", PortRef::Name("grpc".into())))), None, None, 1);
    assert_eq!(Probes::new(&none, IP).unwrap_err(), "readinessProbe: the container has no port named \"grpc\"");
    let https = ProbeAction::HttpGet {
        path: "/".into(),
        port: PortRef::Number(1),
        host: None,
        https: true,
        headers: Vec::new(),
    };
    assert!(Probes::new(&container(None, Some(probe(https)), None, 1), IP).unwrap_err().contains("HTTPS"));
}
