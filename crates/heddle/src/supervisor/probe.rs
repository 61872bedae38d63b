//! Probes: whether an application has started, lives, and may be sent requests.

use std::net::SocketAddr;
use std::time::Duration;

use api::{Container, PortRef, Probe, ProbeAction};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::time::Instant;

use super::application::Program;

/// Until it first succeeds a probe is made this often, where Kubernetes would wait a whole period: a laptop's user watches.
const FIRST_PERIOD: Duration = Duration::from_millis(100);

/// And this often when it is down, so that a recovery is seen.
const LATER_PERIOD: Duration = Duration::from_secs(1);

/// One check of an application.
#[derive(Clone, Debug)]
enum Check {
    Http { address: SocketAddr, host: String, path: String, headers: Vec<(String, String)> },
    Tcp(SocketAddr),
    Exec(Vec<String>),
}

/// The checks of one application, their ports looked up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probes {
    startup: Option<Timed>,
    liveness: Option<Timed>,
    readiness: Option<Timed>,
}

#[derive(Clone, Debug)]
struct Timed {
    check: Check,
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    successes: u32,
    failures: u32,
}

/// What the probes say of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may be sent requests.
    Ready,
    /// It may not, and why.
    NotReady(String),
    /// It must be started again, and why.
    Dead(String),
}

impl Probes {
    /// The probes of `container` whose application listens on `ip`. Without a readiness probe it is ready when one of its
    /// ports accepts, or at once when it declares none. `Err` says what is not supported.
    pub(crate) fn new(container: &Container, ip: std::net::IpAddr) -> Result<Probes, String> {
        let timed = |what: &str, probe: &Option<Probe>| match probe {
            None => Ok(None),
            Some(probe) => Timed::new(probe, container, ip).map(Some).map_err(|why| format!("{what}: {why}")),
        };
        let readiness = timed("readinessProbe", &container.readiness)?;
        let first_port = container.ports.first().map(|p| Timed::accepts(SocketAddr::new(ip, p.port)));
        Ok(Probes {
            startup: timed("startupProbe", &container.startup)?,
            liveness: timed("livenessProbe", &container.liveness)?,
            readiness: readiness.or(first_port),
        })
    }

    /// Ready when `address` accepts.
    pub(crate) fn accepting(address: SocketAddr) -> Probes {
        Probes { startup: None, liveness: None, readiness: Some(Timed::accepts(address)) }
    }

    /// Watches an application for as long as it runs and tells `verdict`. Ends only when it is dropped.
    pub(crate) async fn watch(&self, program: &Program, verdict: &watch::Sender<Verdict>) {
        if let Some(startup) = &self.startup
            && let Err(why) = startup.first_success(program).await
        {
            verdict.send_replace(Verdict::Dead(format!("startupProbe: {why}")));
            return std::future::pending().await;
        }
        let ready = async {
            match &self.readiness {
                Some(probe) => {
                    probe
                        .follow(program, |up| {
                            verdict.send_if_modified(|v| match (&v, up) {
                                (Verdict::Dead(_), _) | (Verdict::Ready, Ok(())) => false,
                                (_, Ok(())) => {
                                    *v = Verdict::Ready;
                                    true
                                }
                                (_, Err(why)) => {
                                    *v = Verdict::NotReady(format!("readinessProbe: {why}"));
                                    true
                                }
                            });
                        })
                        .await
                }
                None => {
                    verdict.send_replace(Verdict::Ready);
                    std::future::pending().await
                }
            }
        };
        let live = async {
            let Some(probe) = &self.liveness else { return std::future::pending().await };
            probe
                .follow(program, |up| {
                    if let Err(why) = up {
                        verdict.send_replace(Verdict::Dead(format!("livenessProbe: {why}")));
                    }
                })
                .await;
        };
        tokio::join!(ready, live);
    }
}

impl Timed {
    fn new(probe: &Probe, container: &Container, ip: std::net::IpAddr) -> Result<Timed, String> {
        let host = |host: &Option<String>| match host {
            None => Ok(ip),
            Some(host) => host.parse().map_err(|_| format!("the host {host:?} is not an address")),
        };
        let check = match &probe.action {
            ProbeAction::HttpGet { https: true, .. } => {
                return Err("scheme HTTPS is not supported on one machine".to_owned());
            }
            ProbeAction::HttpGet { path, port, host: to, headers, .. } => {
                let address = SocketAddr::new(host(to)?, port_number(port, container)?);
                let path = if path.starts_with('/') { path.clone() } else { format!("/{path}") };
                Check::Http { address, host: address.to_string(), path, headers: headers.clone() }
            }
            ProbeAction::Tcp { port, host: to } => {
                Check::Tcp(SocketAddr::new(host(to)?, port_number(port, container)?))
            }
            ProbeAction::Exec { command } => Check::Exec(command.clone()),
            // What a gRPC server says of itself is not asked; that it accepts is what can be seen without its protocol.
            ProbeAction::Grpc { port, .. } => Check::Tcp(SocketAddr::new(ip, *port)),
        };
        Ok(Timed {
            check,
            initial_delay: probe.initial_delay,
            period: probe.period.max(FIRST_PERIOD),
            timeout: probe.timeout.max(Duration::from_millis(1)),
            successes: probe.success_threshold.max(1),
            failures: probe.failure_threshold.max(1),
        })
    }

    /// With Kubernetes' defaults.
    fn accepts(address: SocketAddr) -> Timed {
        Timed {
            check: Check::Tcp(address),
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            successes: 1,
            failures: 3,
        }
    }

    /// Tells `tell` each time that the state changes. It begins as unknown, which ends with enough successes, or with
    /// failures for the time that the threshold's full periods would take.
    async fn follow(&self, program: &Program, mut tell: impl FnMut(Result<(), String>)) {
        tokio::time::sleep(self.initial_delay).await;
        let mut up = None;
        let (mut successes, mut failures) = (0, 0);
        loop {
            let began = Instant::now();
            match self.check.once(program, self.timeout).await {
                Ok(()) => {
                    (successes, failures) = (successes + 1, 0);
                    if successes >= self.successes && up != Some(true) {
                        up = Some(true);
                        tell(Ok(()));
                    }
                }
                Err(why) => {
                    (successes, failures) = (0, failures + 1);
                    let limit = if up.is_none() { self.patience() } else { self.failures };
                    if failures >= limit && up != Some(false) {
                        up = Some(false);
                        tell(Err(why));
                    }
                }
            }
            let period = match up {
                Some(true) => self.period,
                Some(false) => self.period.min(LATER_PERIOD),
                None => FIRST_PERIOD,
            };
            tokio::time::sleep_until(began + period).await;
        }
    }

    /// How many quick failures make up the threshold's time.
    fn patience(&self) -> u32 {
        let quick = (self.period.as_millis() / FIRST_PERIOD.as_millis()).max(1);
        self.failures.saturating_mul(u32::try_from(quick).unwrap_or(u32::MAX))
    }

    /// Waits for the first success; `Err` when the threshold's time has passed.
    async fn first_success(&self, program: &Program) -> Result<(), String> {
        tokio::time::sleep(self.initial_delay).await;
        let mut failures = 0;
        loop {
            let began = Instant::now();
            match self.check.once(program, self.timeout).await {
                Ok(()) => return Ok(()),
                Err(why) if failures + 1 >= self.patience() => return Err(why),
                Err(_) => failures += 1,
            }
            tokio::time::sleep_until(began + FIRST_PERIOD).await;
        }
    }
}

/// A port by number or by the name that the container gives it.
fn port_number(port: &PortRef, container: &Container) -> Result<u16, String> {
    match port {
        PortRef::Number(number) => Ok(*number),
        PortRef::Name(name) => container
            .ports
            .iter()
            .find(|p| p.name.as_deref() == Some(name))
            .map(|p| p.port)
            .ok_or_else(|| format!("the container has no port named {name:?}")),
    }
}

impl Check {
    async fn once(&self, program: &Program, timeout: Duration) -> Result<(), String> {
        let check = async {
            match self {
                Check::Http { address, host, path, headers } => http_get(program, *address, host, path, headers).await,
                Check::Tcp(address) => program.connect(*address).await.map(drop).map_err(|e| format!("{address}: {e}")),
                Check::Exec(command) => program.check(command).await,
            }
        };
        tokio::time::timeout(timeout, check).await.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
    }
}

/// As Kubernetes has it, any status from 200 to 399 is a success.
async fn http_get(
    program: &Program,
    address: SocketAddr,
    host: &str,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), String> {
    let stream = program.connect(address).await.map_err(|e| format!("{address}: {e}"))?;
    let failed = |e: hyper::Error| format!("http://{address}{path}: {e}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let connection = tokio::spawn(connection);
    let mut request = http::Request::get(path).header("user-agent", "heddle-probe");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("host", host);
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|e| format!("the request cannot be made: {e}"))?;
    let answer = sender.send_request(request).await.map_err(failed);
    let result = match answer {
        Ok(answer) if answer.status().is_success() || answer.status().is_redirection() => {
            // Read to the end, or the application would see a broken connection; a health page is short.
            let _ = http_body_util::Limited::new(answer.into_body(), 64 * 1024).collect().await;
            Ok(())
        }
        Ok(answer) => Err(format!("http://{address}{path} answers {}", answer.status())),
        Err(why) => Err(why),
    };
    connection.abort();
    result
}

#[cfg(test)]
mod tests;
