//! `heddle demo-service`: a part of the demo's shop. Hidden; the demo's manifests start it.

use std::process::ExitCode;

use crate::demo::service::{Role, ServiceArgs};
use crate::demo::{load, service};

pub(super) fn run(args: ServiceArgs) -> anyhow::Result<ExitCode> {
    crate::block_on(async {
        match args.role {
            Role::Load => load::run(args).await,
            Role::Web | Role::Catalog | Role::Cart | Role::Recommendations => service::serve(args).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
