//! `heddle demo`: the mesh at work, with nothing to write first.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use control::admin::model::Stats;
use std::io::IsTerminal;
use tokio::sync::watch;

use super::{OutputArgs, own_name};
use crate::client::Client;
use crate::console;
use crate::demo::{SHOP, Summary, first_page, table};
use crate::signals::Signals;
use crate::supervisor::mode::ModeArgs;
use crate::supervisor::report::Reporter;
use crate::supervisor::status::Status;
use crate::supervisor::{Options, Supervisor};

/// Show a mesh at work: a small shop under a load, and a live table of what the mesh sees
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// End by itself after this time with a summary and an exit status, such as 30s
    #[arg(long = "for", value_name = "TIME", value_parser = super::duration)]
    duration: Option<Duration>,
    /// Name of the mesh
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Print a table now and then instead of drawing over the screen
    #[arg(long)]
    no_tui: bool,
    #[command(flatten)]
    mode: ModeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// How often the screen is drawn.
const REDRAW: Duration = Duration::from_secs(1);

/// How often a table is printed where there is no screen.
const REPRINT: Duration = Duration::from_secs(5);

/// Notes that are shown below the table.
const NOTES: usize = 5;

pub(super) fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    crate::block_on(Box::pin(demo(args, began)))
}

async fn demo(args: DemoArgs, began: Instant) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let reporter = Reporter::kept();
    let options = Options {
        name: args.name.clone(),
        suggestion: "demo".to_owned(),
        runtime: None,
        paths: Vec::new(),
        files: vec![("shop.yaml", SHOP)],
        keep: false,
        mode: args.mode.mode,
        reporter: reporter.clone(),
    };
    let mut supervisor = tokio::select! {
        supervisor = Supervisor::start(options) => supervisor.inspect_err(|_| show_notes(&reporter))?,
        _ = signals.next() => return Ok(ExitCode::FAILURE),
    };
    let (first_sender, first) = watch::channel(None);
    let status = supervisor.status();
    let probe = tokio::spawn({
        let status = status.clone();
        async move { first_sender.send_replace(first_page(status, began).await) }
    });
    let mut screen = Screen {
        client: supervisor.mesh().client.clone(),
        hints: Hints { mesh: supervisor.mesh().name.clone(), manifests: supervisor.manifests().join("shop.yaml") },
        reporter: reporter.clone(),
        status,
        first,
        began,
        last: Stats::default(),
        kind: match () {
            () if args.output.json() => Kind::Silent,
            () if args.no_tui || !std::io::stdout().is_terminal() => Kind::Lines,
            () => Kind::Drawn,
        },
    };
    let timed_out = tokio::select! {
        () = supervisor.run(std::future::pending()) => false,
        () = screen.run() => false,
        () = tokio::time::sleep(args.duration.unwrap_or_default()), if args.duration.is_some() => true,
        _ = signals.next() => false,
    };
    screen.refresh().await;
    let first = *screen.first.borrow();
    let summary = Summary::new(screen.last, &screen.status.borrow(), began.elapsed(), first);
    probe.abort();
    if screen.kind != Kind::Silent {
        console::line("ending; again to kill");
    }
    tokio::select! {
        () = supervisor.end() => {}
        _ = signals.next() => {}
    }
    match screen.kind {
        Kind::Silent => console::line(serde_json::to_string_pretty(&summary)?),
        Kind::Lines | Kind::Drawn => console::line(summary.text()),
    }
    // Who ends it by hand has seen enough; only a timed run passes judgement.
    Ok(if summary.ok || !timed_out { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show_notes(reporter: &Reporter) {
    for note in reporter.take() {
        console::note(note);
    }
}

/// How the demo shows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A program reads the summary alone.
    Silent,
    /// Lines one after the other.
    Lines,
    /// Drawn over itself on a terminal.
    Drawn,
}

/// What to try next.
struct Hints {
    mesh: String,
    manifests: std::path::PathBuf,
}

struct Screen {
    client: Client,
    hints: Hints,
    reporter: Reporter,
    status: watch::Receiver<Status>,
    first: watch::Receiver<Option<Duration>>,
    began: Instant,
    last: Stats,
    kind: Kind,
}

impl Screen {
    async fn run(&mut self) {
        let mut told = false;
        let mut next_table = self.began + REPRINT;
        if self.kind == Kind::Drawn {
            console::raw("\x1b[2J");
        }
        loop {
            self.refresh().await;
            match self.kind {
                Kind::Silent => {}
                Kind::Drawn => self.draw(),
                Kind::Lines => {
                    for note in self.reporter.take() {
                        console::line(note);
                    }
                    if !told && self.status.borrow().up && self.first.borrow().is_some() {
                        told = true;
                        console::raw(&self.head());
                        console::raw(&self.hints());
                    }
                    if told && Instant::now() >= next_table {
                        next_table = Instant::now() + REPRINT;
                        console::line("");
                        console::raw(&table::stats(&self.last));
                    }
                }
            }
            // At the start the state changes many times a second.
            let wait = if self.status.borrow().up { REDRAW } else { REDRAW / 4 };
            tokio::time::sleep(wait).await;
        }
    }

    async fn refresh(&mut self) {
        if let Ok(stats) = self.client.get("/v1/stats").await {
            self.last = stats;
        }
    }

    fn draw(&self) {
        let mut text = self.head();
        text.push('\n');
        text.push_str(&table::stats(&self.last));
        text.push('\n');
        text.push_str(&self.hints());
        for note in self.reporter.last(NOTES) {
            text.push_str(&format!("· {note}\n"));
        }
        let (width, height) = console::size();
        let mut screen = String::from("\x1b[H");
        for line in text.lines().take(height.saturating_sub(1)) {
            let line: String = line.chars().take(width).collect();
            screen.push_str(&line);
            screen.push_str("\x1b[K\r\n");
        }
        screen.push_str("\x1b[J");
        console::raw(&screen);
    }

    fn head(&self) -> String {
        let status = self.status.borrow();
        let ready = status.instances.iter().filter(|i| i.phase == "ready").count();
        let state = if status.up { "up" } else { "starting" };
        let first = match *self.first.borrow() {
            Some(first) => format!("first request routed after {:.2} s", first.as_secs_f64()),
            None => "no request routed yet".to_owned(),
        };
        format!(
            "heddle demo · {state} · {ready} of {} instances ready, each with a sidecar · {:.0} s · {first}\n",
            status.instances.len(),
            self.began.elapsed().as_secs_f64()
        )
    }

    fn hints(&self) -> String {
        let heddle = own_name();
        let (mesh, status) = (&self.hints.mesh, self.status.borrow());
        let mut text = String::from("Try, in another terminal:\n");
        let mut hint = |command: String, why: &str| text.push_str(&format!("  {command}   # {why}\n"));
        if let Some(url) = status.gateways.iter().find_map(|g| g.url.as_ref()) {
            hint(format!("curl -s {url}/"), "a page, through the gateway");
        }
        hint(format!("{heddle} exec -m {mesh} web -- curl -s http://cart/"), "as the front end: allowed");
        hint(format!("{heddle} exec -m {mesh} catalog -- curl -si http://cart/"), "as another service: 403");
        hint(
            format!("{heddle} exec -m {mesh} web -- curl -s -H 'x-next: yes' http://cart/"),
            "routed to the next version",
        );
        hint(format!("{heddle} stat -m {mesh}"), "these numbers once");
        hint(format!("{heddle} get -m {mesh}"), "every object and its status");
        if let Some(instance) = status.instances.iter().find(|i| i.set == "catalog") {
            hint(format!("curl -s {}", instance.metrics), "one sidecar's metrics");
            hint(
                // The brackets keep it from fitting the shell that it is typed into.
                format!("pkill -f '[d]emo-service --role catalog --listen {}:'", instance.address),
                "kill an instance and watch",
            );
        }
        hint(format!("sed -i 's/weight: 90/weight: 10/' {}", self.hints.manifests.display()), "edit a rule and watch");
        text.push_str("Ctrl-C ends everything.\n");
        text
    }
}
