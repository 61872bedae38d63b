//! Whether the committed generated code is what the `.proto` files give.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let fresh = root.join("target/xtask-codegen");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).with_context(|| format!("removing {}", fresh.display()))?;
    }
    crate::codegen::generate(root, &fresh)?;
    let (wanted, committed) = (files(&fresh)?, files(&root.join("crates/proto/src/generated"))?);
    if wanted == committed {
        return Ok(Vec::new());
    }
    Ok(vec!["crates/proto/src/generated is stale: run `cargo xtask codegen`".to_owned()])
}

fn files(folder: &Path) -> Result<BTreeMap<std::ffi::OsString, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry?;
        files.insert(entry.file_name(), std::fs::read(entry.path())?);
    }
    Ok(files)
}
