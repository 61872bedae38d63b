//! `heddle explain`: how a live sidecar would send a request, and why.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use control::admin::model::ExplainRequest;

use super::OutputArgs;
use crate::client::Client;
use crate::console;
use crate::explain::{model::Explanation, table};
use crate::runtime::{MeshArgs, find};

/// Show how a live sidecar would send a request to a service, and why
///
/// Asks one sidecar which route the request would take and why not the others, which policies hold and from which object, and
/// every instance with the terms of its score and the chance that it is chosen. Nothing is sent to the service.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The service; `default` is the namespace where none is written.
    #[arg(value_name = "NAMESPACE/SERVICE")]
    service: String,
    /// Its port; the first, if it is not written.
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "PORT")]
    port: u16,
    /// Path and query of the request.
    #[arg(long, default_value = "/", value_name = "PATH")]
    path: String,
    /// Method of the request.
    #[arg(long, short = 'X', default_value = "GET", value_name = "METHOD")]
    method: String,
    /// A header of the request; may be given several times.
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Host of the request; the service's name, if it is not written.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "HOST")]
    host: String,
    /// Address of the client, where the choice goes by it.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ADDRESS")]
    source: String,
    /// Whose sidecar is asked (a gateway is called gateway-NAME); one that calls the service, if it is not written.
    #[arg(long, value_name = "[NAMESPACE/]INSTANCE")]
    from: Option<String>,
    #[command(flatten)]
    mesh: MeshArgs,
    #[command(flatten)]
    output: OutputArgs,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as `name: value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub(super) fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    crate::block_on(async {
        let (namespace, name) = args.service.split_once('/').unwrap_or(("default", args.service.as_str()));
        let in_namespace =
            |name: &String| if name.contains('/') { name.clone() } else { format!("{namespace}/{name}") };
        let request = ExplainRequest {
            service: format!("{namespace}/{name}"),
            port: args.port,
            method: args.method,
            path: args.path,
            authority: args.host,
            headers: args.header,
            source: args.source,
            from: args.from.as_ref().map(in_namespace),
        };
        let answer = Client::new(&find(&args.mesh)?).explain(&request).await?;
        if args.output.json() {
            console::line(serde_json::to_string_pretty(&answer)?);
        } else {
            let explanation: Explanation = serde_json::from_value(answer.explanation)
                .context("the sidecar's answer is not understood (is it of another version of heddle?)")?;
            console::raw(&table::show(&explanation, &answer.from));
        }
        Ok(ExitCode::SUCCESS)
    })
}
