//! `heddle`: a service mesh in one binary.
//!
//! [`commands`] has a module for each command. [`supervisor`] runs a mesh on one machine; [`sidecar`] is the proxy process,
//! which it starts beside every instance; [`link`] is what the two say to each other. [`console`] prints what people read.

mod client;
mod commands;
mod console;
mod demo;
mod explain;
mod guest;
mod link;
mod runtime;
mod sidecar;
mod signals;
mod supervisor;
mod witness;

use std::process::ExitCode;

/// Small allocations from few threads are what a proxy does; mimalloc is faster at that than the system's allocator and
/// gives memory back. It is built not to ask for huge pages (`no_thp`): an idle sidecar takes 4 MiB instead of 16.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match commands::run() {
        Ok(code) => code,
        Err(error) => {
            console::error(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs a command's future on this thread. Children are started here, so that they end when the process does.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(future);
    // A blocked read of the terminal must not hold up the end.
    runtime.shutdown_background();
    result
}
