//! Generates `crates/proto/src/generated` from the `.proto` files, without `protoc`.
//!
//! The result is committed, so that a user's build needs no generator; `cargo xtask check` fails when it is stale.

use std::path::Path;

use anyhow::{Context, Result};

/// Writes the generated Rust files into `out`.
pub(crate) fn generate(root: &Path, out: &Path) -> Result<()> {
    let include = root.join("crates/proto/proto");
    let files = [
        "envoy/service/discovery/v3/discovery.proto",
        "google/rpc/status.proto",
        "heddle/mesh/v1/mesh.proto",
        "heddle/mesh/v1/session.proto",
    ];
    let descriptors = protox::compile(files, [&include]).context("compiling the .proto files")?;
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    tonic_prost_build::configure()
        .out_dir(out)
        .btree_map(".")
        .compile_fds(descriptors)
        .context("generating Rust from the descriptors")
}
