//! `heddle stat`: requests, success and latency by service and route; share and score by instance.

use std::process::ExitCode;

use clap::Args;
use control::admin::model::Stats;

use super::OutputArgs;
use crate::client::Client;
use crate::console;
use crate::demo::table;
use crate::runtime::{MeshArgs, find};

/// Show requests, success and latency by service and route, and share and score by instance
#[derive(Debug, Args)]
pub(crate) struct StatArgs {
    #[command(flatten)]
    mesh: MeshArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: StatArgs) -> anyhow::Result<ExitCode> {
    crate::block_on(async {
        let client = Client::new(&find(&args.mesh)?);
        let stats: Stats = client.get("/v1/stats").await?;
        if args.output.json() {
            console::line(serde_json::to_string_pretty(&stats)?);
        } else {
            console::raw(&table::stats(&stats));
        }
        Ok(ExitCode::SUCCESS)
    })
}
