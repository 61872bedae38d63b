//! `heddle token`: a one-use token with which an instance gets its identity.

use std::process::ExitCode;

use clap::Args;

use super::OutputArgs;
use crate::client::Client;
use crate::console;
use crate::runtime::{MeshArgs, find};

/// Make a one-use token with which an instance elsewhere joins the mesh
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// The instance that may use it, as namespace/name
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = workload)]
    workload: String,
    /// The service account whose identity it gets
    #[arg(long, value_name = "NAME", default_value = "default")]
    service_account: String,
    #[command(flatten)]
    mesh: MeshArgs,
    #[command(flatten)]
    output: OutputArgs,
}

fn workload(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(text.to_owned())
        }
        _ => Err("write the namespace and the name, such as shop/cart-7".to_owned()),
    }
}

pub(super) fn run(args: TokenArgs) -> anyhow::Result<ExitCode> {
    crate::block_on(async {
        let client = Client::new(&find(&args.mesh)?);
        let answer = client.token(&args.workload, &args.service_account).await?;
        if args.output.json() {
            console::line(serde_json::to_string(&answer)?);
        } else {
            console::line(answer.token);
        }
        Ok(ExitCode::SUCCESS)
    })
}
