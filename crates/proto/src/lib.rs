//! Generated protobuf messages and gRPC services; no logic.
//!
//! The sources are the `.proto` files in this crate's `proto/` folder, where every field is explained. Regenerate with
//! `cargo xtask codegen`.

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod generated {
    // prost refers to other packages by relative module paths, so the modules nest as the packages do.
    pub mod envoy {
        pub mod service {
            pub mod discovery {
                pub mod v3 {
                    include!("generated/envoy.service.discovery.v3.rs");
                }
            }
        }
    }
    pub mod google {
        pub mod rpc {
            include!("generated/google.rpc.rs");
        }
    }
    pub mod heddle {
        pub mod mesh {
            pub mod v1 {
                include!("generated/heddle.mesh.v1.rs");
            }
        }
    }
}

/// The xDS transport: `DeltaAggregatedResources` and its messages.
pub use generated::envoy::service::discovery::v3 as discovery;
/// The gRPC error model's status.
pub use generated::google::rpc;
/// Heddle's own resources and the session stream.
pub use generated::heddle::mesh::v1 as mesh;

/// Type URLs of the resources that travel over xDS.
pub mod type_url {
    /// [`crate::mesh::Service`].
    pub const SERVICE: &str = "type.googleapis.com/heddle.mesh.v1.Service";
    /// [`crate::mesh::Endpoint`].
    pub const ENDPOINT: &str = "type.googleapis.com/heddle.mesh.v1.Endpoint";
    /// [`crate::mesh::Route`].
    pub const ROUTE: &str = "type.googleapis.com/heddle.mesh.v1.Route";
    /// [`crate::mesh::Policy`].
    pub const POLICY: &str = "type.googleapis.com/heddle.mesh.v1.Policy";
    /// [`crate::mesh::Workload`].
    pub const WORKLOAD: &str = "type.googleapis.com/heddle.mesh.v1.Workload";
    /// [`crate::mesh::Gateway`].
    pub const GATEWAY: &str = "type.googleapis.com/heddle.mesh.v1.Gateway";
    /// [`crate::mesh::Trust`]; its one resource is named [`crate::TRUST_NAME`].
    pub const TRUST: &str = "type.googleapis.com/heddle.mesh.v1.Trust";
    /// [`crate::mesh::Refusal`], in a NACK's details.
    pub const REFUSAL: &str = "type.googleapis.com/heddle.mesh.v1.Refusal";
}

/// The name of the one [`mesh::Trust`] resource.
pub const TRUST_NAME: &str = "mesh";
