//! `heddle.dev/v1alpha1` Mesh.

use serde::{Deserialize, Serialize};

use crate::read::Map;
use crate::text;

/// Mesh-wide settings. The one that counts is called `default`; [`Mesh::default`] holds where there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mesh {
    /// Trust domain of every identity; `cluster.local` when not written.
    pub trust_domain: String,
    /// `mtls.mode`; permissive when not written.
    pub mtls: MtlsMode,
    /// `outbound.mode`; any when not written.
    pub outbound: OutboundMode,
    /// `accessLog`; errors when not written.
    pub access_log: AccessLog,
}

impl Default for Mesh {
    fn default() -> Self {
        Mesh {
            trust_domain: "cluster.local".to_owned(),
            mtls: MtlsMode::Permissive,
            outbound: OutboundMode::Any,
            access_log: AccessLog::Errors,
        }
    }
}

/// What a sidecar accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MtlsMode {
    /// Mutual TLS and plain text.
    Permissive,
    /// Mutual TLS alone.
    Strict,
}

/// Which destinations a workload may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutboundMode {
    /// Any.
    Any,
    /// Only what the mesh knows.
    Registered,
}

/// Which requests are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// None.
    Off,
    /// Those that failed.
    Errors,
    /// All.
    All,
}

impl AccessLog {
    /// As it is written, here and in `heddle.mesh.v1`.
    pub const fn name(self) -> &'static str {
        match self {
            AccessLog::Off => "off",
            AccessLog::Errors => "errors",
            AccessLog::All => "all",
        }
    }
}

/// Reads `spec`.
pub(crate) fn read(spec: &mut Map<'_>, _namespace: &str) -> Mesh {
    let default = Mesh::default();
    Mesh {
        trust_domain: spec.get("trustDomain").and_then(|at| at.parse(text::host)).unwrap_or(default.trust_domain),
        mtls: mode(spec, "mtls", &[("permissive", MtlsMode::Permissive), ("strict", MtlsMode::Strict)])
            .unwrap_or(default.mtls),
        outbound: mode(spec, "outbound", &[("any", OutboundMode::Any), ("registered", OutboundMode::Registered)])
            .unwrap_or(default.outbound),
        access_log: spec
            .get("accessLog")
            .and_then(|at| at.choice(&[AccessLog::Off, AccessLog::Errors, AccessLog::All].map(|a| (a.name(), a))))
            .unwrap_or(default.access_log),
    }
}

/// The `mode` in the mapping `name`.
fn mode<T: Copy>(spec: &mut Map<'_>, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
    let mut map = spec.get(name)?.map()?;
    let mode = map.require("mode").and_then(|at| at.choice(choices));
    map.finish();
    mode
}
