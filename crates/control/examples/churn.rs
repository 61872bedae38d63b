//! Many instances whose states change all the time, without their applications: for measuring what a control plane and the
//! proxies that hold them do about it (row `changes` of `bench/run`).
//!
//! `churn RUNTIME INSTANCES CHANGES`: registers so many instances in the mesh whose control plane has the runtime directory
//! RUNTIME, as endpoints of what selects `app: many` in the namespace `bench`, and says `ready`. A line `go` on standard input
//! makes CHANGES of them a second become ready or not ready, one after the other; a line `stop` ends that, and the number of
//! changes is printed. The end of input ends everything.

#![allow(clippy::print_stdout, reason = "its output is for a program to read")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use net::identity::{Identity, read_certificates};
use proto::mesh;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::{Channel, Endpoint};
use xds::session::{Event, Options, Session, start};

type Failure = Box<dyn Error + Send + Sync>;

/// What every instance registers as; the control plane signs it a certificate.
const ACCOUNT: &str = "many";

/// One instance.
struct Instance {
    session: Session,
    events: mpsc::Receiver<Event>,
    ready: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [runtime, instances, changes] = arguments.as_slice() else {
        return Err("usage: churn RUNTIME INSTANCES CHANGES".into());
    };
    let (runtime, instances, changes): (&Path, u16, u32) = (runtime.as_ref(), instances.parse()?, changes.parse()?);
    if instances == 0 || changes == 0 {
        return Err("INSTANCES and CHANGES must be 1 at least".into());
    }
    let mut all = Vec::new();
    for number in 0..instances {
        all.push(instance(runtime, number).await?);
    }
    for one in &mut all {
        registered(&mut one.events).await?;
    }
    println!("ready");
    let mut lines = lines();
    let mut tick = interval(Duration::from_secs(1) / changes);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut going, mut done) = (false, 0_usize);
    loop {
        tokio::select! {
            line = lines.recv() => match line.as_deref() {
                Some("go") => {
                    (going, done) = (true, 0);
                    tick.reset();
                }
                Some("stop") => {
                    going = false;
                    println!("{done}");
                }
                Some(other) => return Err(format!("{other:?} is neither go nor stop").into()),
                None => return Ok(()),
            },
            _ = tick.tick(), if going => {
                let number = done % all.len();
                let one = &mut all[number];
                one.ready = !one.ready;
                let state = if one.ready { mesh::State::Ready } else { mesh::State::NotReady };
                one.session.state(state, "it changes all the time");
                done += 1;
            }
        }
    }
}

/// The lines of standard input, read by a thread of their own.
fn lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Starts the session of the instance with this number.
async fn instance(runtime: &Path, number: u16) -> Result<Instance, Failure> {
    let [high, low] = number.to_be_bytes();
    let address = format!("127.253.{high}.{low}");
    let registration = mesh::Registration {
        workload: format!("bench/churn-{number}"),
        service_account: ACCOUNT.into(),
        dial: format!("{address}:15006"),
        address,
        labels: vec![mesh::Label { name: "app".into(), value: "many".into() }],
        ports: vec![mesh::NamedPort { name: "http".into(), port: 80, protocol: mesh::Protocol::Http1.into() }],
        state: mesh::State::Ready.into(),
        ..mesh::Registration::default()
    };
    let identity = Identity::generate()?;
    identity.set_roots(read_certificates(&runtime.join("roots.pem"))?)?;
    let token = token(&runtime.join("admin.sock"), &registration.workload).await?;
    let socket = runtime.join("control.sock");
    let connector = {
        let identity = identity.clone();
        move || -> xds::client::Connecting { Box::pin(connect(socket.clone(), identity.clone())) }
    };
    let version = "churn".to_owned();
    let options = Options { identity, registration, version, token: Some(token), explainer: None };
    let (session, events) = start(options, Arc::new(connector), Box::new(mesh::Statistics::default));
    Ok(Instance { session, events, ready: true })
}

/// Waits until the control plane knows the instance.
async fn registered(events: &mut mpsc::Receiver<Event>) -> Result<(), Failure> {
    loop {
        match events.recv().await.ok_or("the session has ended")? {
            Event::Registered => return Ok(()),
            Event::Problem { message, permanent: true, .. } => return Err(message.into()),
            _ => {}
        }
    }
}

/// A join token for `workload`, from the control plane's admin socket.
async fn token(socket: &Path, workload: &str) -> Result<String, Failure> {
    let body = serde_json::json!({ "workload": workload, "serviceAccount": ACCOUNT }).to_string();
    let mut stream = UnixStream::connect(socket).await?;
    let length = body.len();
    let head = format!("POST /v1/tokens HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + &body).as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let made: control::admin::model::TokenResponse = serde_json::from_str(body)?;
    Ok(made.token)
}

async fn connect(socket: PathBuf, identity: Identity) -> Result<Channel, Failure> {
    let stream = net::tls::connect_control(UnixStream::connect(socket).await?, &identity).await?;
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        std::future::ready(once.take().ok_or_else(|| std::io::Error::other("a channel connects once")))
    });
    Ok(Endpoint::from_static("http://control").connect_with_connector(connector).await?)
}
