//! Other people's servers on ports that say nothing of what they speak, called by their own clients.
#![allow(clippy::unwrap_used)] // In a test the panic is the message.

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::Mesh;

/// A stall of detection would be that of `detectTimeout`, 10 s.
const NO_STALL: Duration = Duration::from_secs(5);

/// `name` asked by its own client, several times: nothing waits for a client or a server that does not speak first.
fn ask(mesh: &Mesh, command: &str, expected: &str) {
    for attempt in 1..=3 {
        let begin = Instant::now();
        let said = mesh.exec("redis", ["sh", "-c", command]);
        let took = begin.elapsed();
        assert!(said.status.success() && said.stdout.contains(expected), "{command}: {said:?}");
        assert!(took < NO_STALL, "{command}, time {attempt}: {took:?}");
    }
}

#[test]
fn servers_that_speak_first_and_others_are_reached_by_their_clients_without_a_stall() {
    let mesh = Mesh::example("../bench/detect", &[]);
    let mariadb =
        "mariadb --no-defaults --skip-ssl -h $MARIADB_SERVICE_HOST -P $MARIADB_SERVICE_PORT -u any -e 'SELECT 6*7'";
    ask(&mesh, mariadb, "42");
    let postgres = "psql -h $POSTGRES_SERVICE_HOST -p $POSTGRES_SERVICE_PORT -U any -d postgres -Atc 'SELECT 6*7'";
    ask(&mesh, postgres, "42");
    let redis = "redis-cli -h $REDIS_SERVICE_HOST -p $REDIS_SERVICE_PORT";
    ask(&mesh, &format!("{redis} SET answer 42 && {redis} GET answer"), "42");
    let ssh = "ssh-keyscan -T 5 -p $SSH_SERVICE_PORT $SSH_SERVICE_HOST";
    ask(&mesh, ssh, "ssh-ed25519");
    let nats = "exec 3<>/dev/tcp/$NATS_SERVICE_HOST/$NATS_SERVICE_PORT; read -r -t 5 info <&3; echo \"$info\"";
    ask(&mesh, &format!("bash -c '{nats}'"), "INFO {");
    let smtp = "import os, smtplib; host, port = (os.environ[f\"SMTP_SERVICE_{name}\"] for name in (\"HOST\", \"PORT\")); s = smtplib.SMTP(host, int(port)); print(s.sendmail(\"a@example.com\", [\"b@example.com\"], \"Subject: 6*7\"), s.quit())";
    ask(&mesh, &format!("/usr/bin/python3 -c '{smtp}'"), "{} (221");
    mesh.end(Signal::SIGTERM);
}
