//! `heddle token`: a one-use token with which an instance gets its identity.

use std::process::ExitCode;

use clap::Args;
use control::admin::model::TokenRequest;
use control::claims::digest;

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
    /// A label that it registers with, as NAME=VALUE; several times for several
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::run::label)]
    label: Vec<(String, String)>,
    /// A service of its namespace that it joins; several times for several [default: it may register as part of any, unless --label is given]
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
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

fn request(args: &TokenArgs) -> TokenRequest {
    let bound = !(args.label.is_empty() && args.service.is_empty());
    let namespace = args.workload.split('/').next().unwrap_or_default();
    let services: Vec<String> = args.service.iter().map(|name| format!("{namespace}/{name}")).collect();
    let labels = args.label.iter().map(|(name, value)| (&**name, &**value));
    TokenRequest {
        workload: args.workload.clone(),
        service_account: args.service_account.clone(),
        claims: bound.then(|| digest(labels, services.iter().map(String::as_str))),
    }
}

pub(super) fn run(args: TokenArgs) -> anyhow::Result<ExitCode> {
    crate::block_on(async {
        let client = Client::new(&find(&args.mesh)?);
        let answer = client.token(&request(&args)).await?;
        if args.output.json() {
            console::line(serde_json::to_string(&answer)?);
        } else {
            console::line(answer.token);
        }
        Ok(ExitCode::SUCCESS)
    })
}
