//! What a control plane is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What a control plane is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the mesh, for people.
    pub mesh: String,
    /// Where `control.sock`, `admin.sock`, `roots.pem` and `ca/` are. Made with mode 0700 when it is missing.
    pub runtime_dir: PathBuf,
    /// Files and folders of manifests.
    pub paths: Vec<PathBuf>,
    /// Serve sidecars over TCP besides the Unix socket.
    pub listen: Option<SocketAddr>,
    /// How long a registration outlives its stream, and how long a control plane that has just started removes no endpoint.
    pub grace: Duration,
    /// How long a certificate is valid.
    pub certificate_life: Duration,
    /// How long a token may be used.
    pub token_life: Duration,
}

impl Config {
    /// A control plane over `paths` with everything else at its default: 15 s of grace, certificates of 24 hours, tokens of
    /// five minutes, no TCP.
    pub fn new(runtime_dir: impl Into<PathBuf>, paths: Vec<PathBuf>) -> Config {
        Config {
            mesh: "default".to_owned(),
            runtime_dir: runtime_dir.into(),
            paths,
            listen: None,
            grace: Duration::from_secs(15),
            certificate_life: Duration::from_secs(24 * 60 * 60),
            token_life: Duration::from_secs(5 * 60),
        }
    }
}
