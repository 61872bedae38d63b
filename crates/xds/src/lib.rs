//! Delta xDS, both ends, the session stream's client, and compile: resources → `engine::snapshot`.

pub mod session;
