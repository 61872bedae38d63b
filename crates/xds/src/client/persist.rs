//! What is kept for a start without control plane: every resource, every answer and the names asked for.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use prost::Message;
use sha2::{Digest, Sha256};

use super::state::{Answer, State};
use crate::Kind;

/// Says what the file is and how it is laid out: this line, SHA-256 of the rest, the rest.
const MAGIC: &[u8] = b"heddle resources 1\n";
const DIGEST: usize = 32;

/// More than any proxy holds; a larger file is not ours.
const SIZE_LIMIT: u64 = 512 << 20;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Saved {
    #[prost(string, tag = "1")]
    pub(super) workload: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) names: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    resources: Vec<SavedResource>,
    #[prost(message, repeated, tag = "4")]
    answers: Vec<SavedAnswer>,
}

#[derive(Clone, PartialEq, Message)]
struct SavedResource {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(bytes = "vec", tag = "4")]
    body: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct SavedAnswer {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    asked: String,
    /// Empty: there is no such thing.
    #[prost(string, tag = "3")]
    canonical: String,
    #[prost(bool, tag = "4")]
    refused: bool,
}

/// What `state` holds, as a file's contents.
pub(super) fn encode(workload: &str, state: &State) -> Vec<u8> {
    let mut saved =
        Saved { workload: workload.to_owned(), names: state.names().map(str::to_owned).collect(), ..Saved::default() };
    for kind in Kind::ALL {
        saved.resources.extend(state.resources.all(kind).map(|(name, held)| SavedResource {
            type_url: kind.url().to_owned(),
            name: name.to_owned(),
            version: held.version.clone(),
            body: held.bytes.clone(),
        }));
        saved.answers.extend(state.answers[kind as usize].iter().map(|(asked, answer)| SavedAnswer {
            type_url: kind.url().to_owned(),
            asked: asked.clone(),
            canonical: if let Answer::Found(name) = answer { name.clone() } else { String::new() },
            refused: *answer == Answer::Refused,
        }));
    }
    let body = saved.encode_to_vec();
    let mut file = Vec::with_capacity(MAGIC.len() + DIGEST + body.len());
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&Sha256::digest(&body));
    file.extend_from_slice(&body);
    file
}

/// Reads what [`encode`] wrote for `workload`. `Ok(None)`: there is none.
///
/// # Errors
///
/// The file cannot be read, is damaged, or is not of this workload.
pub(super) fn read(path: &Path, workload: &str) -> io::Result<Option<Saved>> {
    let bad = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > SIZE_LIMIT => return bad("it is too large"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    let file = std::fs::read(path)?;
    let Some(rest) = file.strip_prefix(MAGIC) else {
        return bad("it does not begin as this version writes it");
    };
    let Some((digest, body)) = rest.split_at_checked(DIGEST) else {
        return bad("it is cut off");
    };
    if Sha256::digest(body).as_slice() != digest {
        return bad("its checksum is wrong: it is damaged or cut off");
    }
    let saved = Saved::decode(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if saved.workload != workload {
        return bad(&format!("it is of workload {}", saved.workload));
    }
    Ok(Some(saved))
}

/// Puts resources and answers into a new `state`; the names are the caller's to ask for. A resource that this version
/// cannot use is left out, and asked for again.
pub(super) fn restore(saved: Saved, state: &mut State) {
    for resource in saved.resources {
        let Some(kind) = Kind::from_url(&resource.type_url) else {
            continue;
        };
        if let Err(refusal) = state.restore(kind, &resource.name, resource.version, resource.body) {
            tracing::warn!(resource = %refusal.name, reason = %refusal.reason, "a kept resource cannot be used any more");
        }
    }
    for answer in saved.answers {
        let Some(kind) = Kind::from_url(&answer.type_url) else {
            continue;
        };
        let meaning = match (answer.refused, answer.canonical) {
            (true, _) => Answer::Refused,
            (false, canonical) if canonical.is_empty() => Answer::Absent,
            (false, canonical) => Answer::Found(canonical),
        };
        state.answers[kind as usize].insert(answer.asked, meaning);
    }
}

/// Replaces the file at `path` as a whole. Nobody else may read it. It is not forced to the disk: a crash of the process
/// loses nothing, and what a crash of the machine damages is noticed by its checksum.
///
/// # Errors
///
/// What the file system says.
pub(super) fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    // One that a killed process left behind may have other permissions.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(contents)?;
    drop(file);
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_configuration_that_is_too_large_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resources.bin");
        let file = std::fs::File::create(&path).unwrap();
        // A hole, which takes no room.
        file.set_len(SIZE_LIMIT + 1).unwrap();
        assert_eq!(read(&path, "shop/front-1").map(|_| ()).unwrap_err().to_string(), "it is too large");
    }
}
