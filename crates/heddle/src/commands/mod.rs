//! The command line: one module a command.

mod control;
mod demo;
mod demo_service;
mod exec;
mod explain;
mod get;
mod init;
mod inside;
mod proxy;
mod run;
mod simulate;
mod stat;
mod token;
mod up;
mod validate;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A service mesh in one binary.
#[derive(Debug, Parser)]
#[command(name = "heddle", version, about, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Up(up::UpArgs),
    Exec(exec::ExecArgs),
    Run(run::RunArgs),
    Get(get::GetArgs),
    #[command(visible_alias = "stats")]
    Stat(stat::StatArgs),
    Explain(explain::ExplainArgs),
    Validate(validate::ValidateArgs),
    Simulate(simulate::SimulateArgs),
    Token(token::TokenArgs),
    Control(control::ControlArgs),
    Proxy(proxy::ProxyArgs),
    Init(init::InitArgs),
    #[command(hide = true)]
    Inside(inside::InsideArgs),
    /// Say which signals the process group gets
    #[command(hide = true)]
    Witness,
    #[command(hide = true)]
    DemoService(crate::demo::service::ServiceArgs),
}

/// How a result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// `-o json`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArgs {
    /// How to write the result.
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(crate) output: Format,
}

impl OutputArgs {
    /// Whether a program reads the result.
    pub(crate) fn json(self) -> bool {
        self.output == Format::Json
    }
}

/// Runs what the command line asks for.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Demo(args) => demo::run(args),
        Command::Up(args) => up::run(args),
        Command::Exec(args) => exec::run(args),
        Command::Run(args) => run::run(args),
        Command::Get(args) => get::run(args),
        Command::Stat(args) => stat::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Validate(args) => validate::run(args),
        Command::Simulate(args) => simulate::run(args),
        Command::Token(args) => token::run(args),
        Command::Control(args) => control::run(args),
        Command::Proxy(args) => proxy::run(args),
        Command::Init(args) => init::run(args),
        Command::Inside(args) => inside::run(args),
        Command::Witness => crate::witness::watch(),
        Command::DemoService(args) => demo_service::run(args),
    }
}

/// How this binary is called, for commands to type next, in whatever folder that is: by its name where it was found on the
/// search path, else by its whole path.
pub(crate) fn own_name() -> String {
    let called = std::env::args().next().filter(|name| !name.is_empty()).unwrap_or_else(|| "heddle".to_owned());
    match std::env::current_exe() {
        Ok(path) if called.contains('/') => path.display().to_string(),
        _ => called,
    }
}

/// A length of time as people write it: `30s`, `5m`, `1h`, `500ms`, or a number of seconds.
pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let scale = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is not one of ms, s, m, h")),
    };
    let number: f64 = number.parse().map_err(|_| "write a number and a unit, such as 30s".to_owned())?;
    std::time::Duration::try_from_secs_f64(number * scale).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_is_documented() {
        let page = include_str!("../../../../docs/commands.md");
        for command in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let name = command.get_name();
            let of_it = |s: &&str| s.split_whitespace().take(2).eq(["heddle", name]);
            let section = page.split("\n## ").find(of_it).unwrap_or_else(|| panic!("heddle {name} is missing"));
            for option in command.get_arguments().filter(|a| !a.is_hide_set()).filter_map(|a| a.get_long()) {
                assert!(section.contains(&format!("--{option}")), "heddle {name}: --{option} is missing");
            }
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "s", "3d", "-1s", "1e999s", "1.2.3s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
