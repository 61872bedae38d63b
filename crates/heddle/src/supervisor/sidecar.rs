//! A proxy's process: started, given its tokens, told the application's state, started again when it dies.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use control::admin::model::{ServiceEntry, TokenRequest};
use net::handoff::inherit;
use net::process::{die_with_parent, executable, own_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::application::describe;
use super::backoff::Backoff;
use super::inside::Inside;
use super::output::copy_lines;
use super::report::Reporter;
use crate::client::Client;
use crate::link::{FromProxy, Messages, ToProxy};
use crate::sidecar::settings::SidecarSettings;

/// Between attempts to get a token from a control plane that does not answer.
const TOKEN_RETRY: Duration = Duration::from_millis(200);

/// After its drain a proxy has this long to end before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(2);

/// A process that was to take another's place and does not serve by then is killed, so that another one may try. It takes less
/// than a second where all is well, and some seconds more where the control plane does not answer.
const TAKE_OVER: Duration = Duration::from_secs(60);

/// Where attestation comes from when a proxy asks.
#[derive(Clone, Debug)]
pub(crate) enum Tokens {
    /// The control plane's admin socket.
    Admin(Client),
    /// One that was handed to us; it can be used once.
    Given(String),
}

/// How far a proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyState {
    /// Not ready, or being started again.
    Starting,
    /// It holds a certificate and its configuration.
    Ready,
    /// Told to drain, it has nothing more under way that others have begun, or the time for that is over.
    Drained,
    /// It has ended for good.
    Ended,
}

/// A proxy that is kept alive.
#[derive(Debug)]
pub(crate) struct Sidecar {
    orders: mpsc::UnboundedSender<ToProxy>,
    state: watch::Receiver<ProxyState>,
    services: watch::Receiver<Option<Vec<ServiceEntry>>>,
    task: JoinHandle<()>,
}

impl Sidecar {
    /// Writes the settings and starts the process, beside an application in the namespaces `inside` if it has some.
    pub(crate) fn start(
        name: &str,
        settings: &SidecarSettings,
        tokens: Tokens,
        inside: Option<Arc<Inside>>,
        reporter: &Reporter,
    ) -> anyhow::Result<Sidecar> {
        crate::runtime::private_dir(&settings.directory)?;
        let file = settings.directory.join("settings.json");
        let text = serde_json::to_vec_pretty(settings).context("settings have a JSON form")?;
        net::files::write_private(&file, &text)?;
        let (orders, inbox) = mpsc::unbounded_channel();
        let (sender, state) = watch::channel(ProxyState::Starting);
        let (listed, services) = watch::channel(None);
        let (busy, quiet) = mpsc::channel(1);
        let keeper = Keeper {
            name: name.to_owned(),
            file,
            attested: TokenRequest {
                workload: settings.proxy.workload.clone(),
                service_account: settings.registration.service_account.clone(),
                claims: Some(settings.registration.claims()),
            },
            tokens,
            inside,
            reporter: reporter.clone(),
            state: sender,
            services: listed,
            ready: false,
            draining: false,
            kill_at: None,
            retired: JoinSet::new(),
            passed_on: watch::Sender::new(None),
            busy: Some(busy),
            quiet,
        };
        Ok(Sidecar { orders, state, services, task: tokio::spawn(keeper.keep(inbox)) })
    }

    /// Tells it whether the application may be sent requests, now and after every restart of the proxy.
    pub(crate) fn ready(&self, ready: bool) {
        let _ = self.orders.send(ToProxy::Ready(ready));
    }

    /// Tells it to take nothing more from others, who may have `limit` for what is under way. The application's own calls go on.
    pub(crate) fn drain(&self, limit: Duration) {
        let _ = self.orders.send(ToProxy::Drain { seconds: limit.as_secs() });
    }

    /// Resolves when it has nothing more to do for others after [`Sidecar::drain`].
    pub(crate) async fn drained(&self) {
        let done = |state: &ProxyState| matches!(state, ProxyState::Drained | ProxyState::Ended);
        let _ = self.state().wait_for(done).await;
    }

    /// Tells it to end, after at most `limit` for what is under way.
    pub(crate) fn end(&self, limit: Duration) {
        let _ = self.orders.send(ToProxy::End { seconds: limit.as_secs() });
    }

    /// How far it is.
    pub(crate) fn state(&self) -> watch::Receiver<ProxyState> {
        self.state.clone()
    }

    /// The services of its namespace, once it has heard of them; it asks only where its registration says so.
    pub(crate) fn services(&self) -> watch::Receiver<Option<Vec<ServiceEntry>>> {
        self.services.clone()
    }

    /// Resolves when it has ended after [`Sidecar::end`].
    pub(crate) async fn ended(&mut self) {
        let _ = self.state.wait_for(|s| *s == ProxyState::Ended).await;
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // The child is killed with the task that holds it.
        self.task.abort();
    }
}

struct Keeper {
    name: String,
    file: PathBuf,
    /// What its tokens are made for.
    attested: TokenRequest,
    tokens: Tokens,
    /// The instance's namespaces, if it has some.
    inside: Option<Arc<Inside>>,
    reporter: Reporter,
    state: watch::Sender<ProxyState>,
    services: watch::Sender<Option<Vec<ServiceEntry>>>,
    ready: bool,
    /// It is told to drain or to end: what is started again takes nothing from others.
    draining: bool,
    /// It is told to end, and until when that may take: no process is started again.
    kill_at: Option<tokio::time::Instant>,
    /// Processes whose place was taken and that finish what they have. They end with the keeper at the latest.
    retired: JoinSet<()>,
    /// The last order, for them.
    passed_on: watch::Sender<Option<ToProxy>>,
    /// Every process has one of these until it has drained or ended; none is given out after the order to drain.
    busy: Option<mpsc::Sender<()>>,
    /// Closed when nobody is busy.
    quiet: mpsc::Receiver<()>,
}

/// One process.
struct Life {
    child: Child,
    stdin: ChildStdin,
    messages: Messages<ChildStdout>,
    linked: bool,
    /// A token that it has asked for.
    token: Option<Asked>,
    busy: Option<mpsc::Sender<()>>,
}

/// What there is of a process.
enum Said {
    Message(FromProxy),
    /// The token that it has asked for is there; `None`: there never will be one.
    Token(Option<String>),
    /// It is gone.
    Ended(String),
}

impl Life {
    /// The next thing that it says. Cancel safe.
    async fn next(&mut self) -> Said {
        loop {
            tokio::select! {
                // What it said before it ended counts: that it took over from another, or why it cannot go on.
                biased;
                message = self.messages.next(), if self.linked => match message {
                    Some(message) => {
                        if message == FromProxy::Drained(true) {
                            self.busy = None;
                        }
                        return Said::Message(message);
                    }
                    None => self.linked = false,
                },
                token = async { self.token.as_mut().expect("guarded").await }, if self.token.is_some() => {
                    self.token = None;
                    return Said::Token(token);
                }
                status = self.child.wait() => {
                    return Said::Ended(status.map_or_else(|e| e.to_string(), |s| format!("ended ({})", describe(s))));
                }
            }
        }
    }

    /// Lets it end by itself, or as it is told.
    async fn finish(mut self, mut orders: watch::Receiver<Option<ToProxy>>) {
        loop {
            let order = tokio::select! {
                said = self.next() => match said {
                    Said::Message(_) => continue,
                    Said::Token(token) => token.map(ToProxy::Token),
                    Said::Ended(_) => return,
                },
                Ok(()) = orders.changed() => orders.borrow_and_update().clone(),
            };
            if let Some(order) = order {
                send(&mut self.stdin, &order).await;
            }
        }
    }
}

/// What a process says, if there is one.
async fn next(life: &mut Option<Life>) -> Said {
    match life {
        Some(life) => life.next().await,
        None => std::future::pending().await,
    }
}

/// The next signal that asks for new processes in place of the old ones.
async fn told(signal: &mut Option<Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// Resolves when it is time.
async fn due(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

type Asked = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

impl Keeper {
    async fn keep(mut self, mut inbox: mpsc::UnboundedReceiver<ToProxy>) {
        let mut backoff = Backoff::new();
        loop {
            backoff.started();
            let ended = match self.spawn(false).await {
                Ok(life) => self.serve(life, &mut inbox).await,
                Err(error) => format!("{error:#}"),
            };
            if self.kill_at.is_some() {
                break;
            }
            if !self.draining {
                self.state.send_replace(ProxyState::Starting);
            }
            let wait = backoff.died();
            self.reporter.problem(format_args!("the proxy of {}: {ended}; started again in {wait:?}", self.name));
            let again = tokio::time::sleep(wait);
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = &mut again => break,
                    order = inbox.recv() => match order {
                        Some(order) => self.note_order(&order),
                        None => return,
                    },
                }
                if self.kill_at.is_some() {
                    break;
                }
            }
            if self.kill_at.is_some() {
                break;
            }
        }
        self.finish(inbox).await;
        self.state.send_replace(ProxyState::Ended);
    }

    /// Waits for the processes whose place was taken, as long as they may take.
    async fn finish(&mut self, mut inbox: mpsc::UnboundedReceiver<ToProxy>) {
        loop {
            tokio::select! {
                ended = self.retired.join_next() => if ended.is_none() { return },
                _ = self.quiet.recv(), if *self.state.borrow() != ProxyState::Drained => {
                    self.state.send_replace(ProxyState::Drained);
                }
                order = inbox.recv() => match order {
                    Some(order) => self.note_order(&order),
                    None => return,
                },
                () = due(self.kill_at) => return,
            }
        }
    }

    /// Starts a process. `replace`: in place of the one that runs.
    async fn spawn(&self, replace: bool) -> anyhow::Result<Life> {
        let mut command = Command::new(executable());
        // A token that `run` was given goes over standard input, to whoever asks for it.
        command.arg("proxy").arg("--settings").arg(&self.file).env_remove("HEDDLE_JOIN_TOKEN");
        if replace {
            command.arg("--replace");
        }
        if let Some(inside) = &self.inside {
            let number = inherit(&mut command, inside.handoff().context("its sockets cannot be handed over")?);
            command.arg("--inside").arg(number.to_string());
        }
        if std::env::var_os("HEDDLE_LOG").is_none() {
            // That the control plane is gone is told once by who keeps it, not by every proxy.
            command.env("HEDDLE_LOG", "warn,xds=error");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        own_group(&mut command);
        die_with_parent(&mut command);
        let mut child = command.spawn().context("cannot be started")?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("its link is missing");
        };
        if let Some(stderr) = child.stderr.take() {
            let label = self.reporter.label(&format!("{}/proxy", self.name), &self.name);
            let reporter = self.reporter.clone();
            // What a proxy sees while everything around it ends is of no interest.
            tokio::spawn(async move {
                copy_lines(stderr, |line| {
                    if !reporter.ending() {
                        label.print(line)
                    }
                })
                .await;
            });
        }
        send(&mut stdin, &ToProxy::Ready(self.ready)).await;
        if self.draining {
            // It takes the place of one that died: only the application's own calls are left.
            send(&mut stdin, &ToProxy::Drain { seconds: 0 }).await;
        }
        Ok(Life { child, stdin, messages: Messages::new(stdout), linked: true, token: None, busy: self.busy.clone() })
    }

    fn note_order(&mut self, order: &ToProxy) {
        match order {
            ToProxy::Ready(ready) => self.ready = *ready,
            ToProxy::Drain { .. } => {}
            ToProxy::End { seconds } => {
                self.kill_at = Some(tokio::time::Instant::now() + Duration::from_secs(*seconds) + KILL_AFTER);
            }
            ToProxy::Token(_) => {}
        }
        if matches!(order, ToProxy::Drain { .. } | ToProxy::End { .. }) {
            self.draining = true;
            self.busy = None;
            self.passed_on.send_replace(Some(order.clone()));
        }
    }

    /// One life of the process, or of several where one takes the place of another; says how the last one ended.
    async fn serve(&mut self, mut life: Life, inbox: &mut mpsc::UnboundedReceiver<ToProxy>) -> String {
        let mut successor: Option<Life> = None;
        let mut give_up = None;
        let mut replace = signal(SignalKind::user_defined2()).ok();
        loop {
            tokio::select! {
                // An old process ends as soon as a new one serves: if both are heard of at once, that it serves comes first.
                biased;
                said = next(&mut successor) => match (said, successor.take()) {
                    (Said::Message(message @ FromProxy::Ready(true)), Some(new)) => {
                        // It has taken over. The other one ends by itself, some time.
                        let old = std::mem::replace(&mut life, new);
                        self.retired.spawn(old.finish(self.passed_on.subscribe()));
                        self.heard(&mut life, message);
                    }
                    (Said::Ended(how), _) => self.not_replaced(format_args!("the new one {how}")),
                    (Said::Message(message), Some(mut new)) => {
                        self.heard(&mut new, message);
                        successor = Some(new);
                    }
                    (Said::Token(token), Some(mut new)) => {
                        give(&mut new, token).await;
                        successor = Some(new);
                    }
                    (Said::Message(_) | Said::Token(_), None) => {}
                },
                said = life.next() => match (said, successor.take()) {
                    (Said::Ended(_), Some(new)) => {
                        // It may hold the sockets already; if it does not, it says so and ends.
                        life = new;
                        self.heard(&mut life, FromProxy::Ready(false));
                    }
                    (Said::Ended(how), None) => return how,
                    (Said::Message(message), waiting) => {
                        self.heard(&mut life, message);
                        successor = waiting;
                    }
                    (Said::Token(token), waiting) => {
                        give(&mut life, token).await;
                        successor = waiting;
                    }
                },
                () = due(give_up), if successor.is_some() => {
                    successor = None;
                    self.not_replaced(format_args!("the new one did not serve within {TAKE_OVER:?}"));
                }
                () = told(&mut replace), if successor.is_none() && !self.draining => match self.spawn(true).await {
                    Ok(new) => {
                        successor = Some(new);
                        give_up = Some(tokio::time::Instant::now() + TAKE_OVER);
                    }
                    Err(error) => self.not_replaced(format_args!("{error:#}")),
                },
                order = inbox.recv() => {
                    // Without an owner there is nobody to serve; the process ends with this task.
                    let Some(order) = order else { return "nobody needs it".to_owned() };
                    self.note_order(&order);
                    if self.draining {
                        // It was never needed, and is killed.
                        successor = None;
                    }
                    send(&mut life.stdin, &order).await;
                    if let Some(new) = &mut successor {
                        send(&mut new.stdin, &order).await;
                    }
                }
                _ = self.quiet.recv(), if self.draining && *self.state.borrow() != ProxyState::Drained => {
                    self.state.send_replace(ProxyState::Drained);
                }
                () = due(self.kill_at) => {
                    let _ = life.child.kill().await;
                }
            }
        }
    }

    fn not_replaced(&self, why: fmt::Arguments<'_>) {
        self.reporter.problem(format_args!("the proxy of {} was not replaced: {why}", self.name));
    }

    /// Passes on what `life` says, and gets it what it asks for.
    fn heard(&mut self, life: &mut Life, message: FromProxy) {
        match message {
            FromProxy::NeedToken(true) if life.token.is_none() => life.token = Some(self.token()),
            FromProxy::Ready(ready) if !self.draining => {
                let state = if ready { ProxyState::Ready } else { ProxyState::Starting };
                self.state.send_replace(state);
            }
            FromProxy::Problem(text) => self.reporter.problem(format_args!("the proxy of {}: {text}", self.name)),
            FromProxy::Services(services) => _ = self.services.send_replace(Some(services)),
            FromProxy::NeedToken(_) | FromProxy::Ready(_) | FromProxy::Listening(_) | FromProxy::Drained(_) => {}
        }
    }

    /// Asks for a token until there is one; `None` when there never will be.
    fn token(&mut self) -> Asked {
        match &self.tokens {
            Tokens::Given(token) if token.is_empty() => {
                self.reporter.problem("the join token was used already, and the certificate that it gave is gone or was made for other labels and services; start again with a new one (`heddle token`)");
                Box::pin(std::future::ready(None))
            }
            Tokens::Given(token) => {
                let token = token.clone();
                self.tokens = Tokens::Given(String::new());
                Box::pin(std::future::ready(Some(token)))
            }
            Tokens::Admin(client) => {
                let (client, request) = (client.clone(), self.attested.clone());
                Box::pin(async move {
                    loop {
                        match client.token(&request).await {
                            Ok(answer) => return Some(answer.token),
                            Err(_) => tokio::time::sleep(TOKEN_RETRY).await,
                        }
                    }
                })
            }
        }
    }
}

/// Hands `life` the token that it has asked for, if there is one.
async fn give(life: &mut Life, token: Option<String>) {
    if let Some(token) = token {
        send(&mut life.stdin, &ToProxy::Token(token)).await;
    }
}

/// A process that no longer reads is about to end, which is seen elsewhere.
async fn send(stdin: &mut ChildStdin, message: &ToProxy) {
    let mut line = serde_json::to_vec(message).expect("messages are JSON");
    line.push(b'\n');
    let _ = stdin.write_all(&line).await;
}
