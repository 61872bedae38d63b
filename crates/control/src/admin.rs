//! The admin socket: what people and the supervisor ask a control plane.

pub mod model;
