//! Why the mesh answered itself: the codes that appear in `heddle-reason`, in the access log and in metrics.

/// Whose fault it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The client sent something unusable or went away.
    Client,
    /// The destination failed.
    Upstream,
    /// A rule said no.
    Policy,
    /// The mesh itself could not do its work.
    Mesh,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $status:literal, $source:ident;)*) => {
        /// A reason code. The documentation lists every one in `docs/reasons.md`, which a test compares with this list.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The word that people and programs see.
            pub const fn code(self) -> &'static str {
                match self { $(Reason::$variant => $code,)* }
            }

            /// The HTTP status that goes with it.
            pub const fn status(self) -> u16 {
                match self { $(Reason::$variant => $status,)* }
            }

            /// Whose fault it was.
            pub const fn source(self) -> Source {
                match self { $(Reason::$variant => Source::$source,)* }
            }
        }
    };
}

reasons! {
    /// The request breaks the HTTP specification or is ambiguous (request smuggling).
    BadRequest = "bad_request", 400, Client;
    /// The request's head is larger than the limit.
    HeadTooLarge = "head_too_large", 431, Client;
    /// The request line alone is larger than the limit.
    TargetTooLong = "target_too_long", 414, Client;
    /// The head did not arrive in time.
    HeadTimeout = "head_timeout", 408, Client;
    /// An HTTP version other than 1.0, 1.1 and 2.
    VersionNotSupported = "version_not_supported", 505, Client;
    /// A transfer coding other than `chunked`.
    CodingNotSupported = "coding_not_supported", 501, Client;
    /// A request to the forward proxy that names no destination.
    NoDestination = "no_destination", 400, Client;
    /// The client went away before the answer.
    ClientGone = "client_gone", 499, Client;
    /// No route of the destination matches.
    NoRoute = "no_route", 404, Policy;
    /// A redirect that a route asks for.
    Redirect = "redirect", 302, Policy;
    /// The route's backend does not exist or may not be used.
    InvalidBackend = "invalid_backend", 500, Policy;
    /// An authorization policy denied it.
    Denied = "denied", 403, Policy;
    /// The mesh does not know the destination and may not call others.
    NotRegistered = "not_registered", 502, Policy;
    /// The service has no such port.
    NoSuchPort = "no_such_port", 502, Policy;
    /// The port has HTTP rules and the bytes are not HTTP.
    NotHttp = "not_http", 400, Policy;
    /// Plain text where the mesh demands mutual TLS.
    PlainTextRefused = "plain_text_refused", 403, Policy;
    /// The service has no instance that may be used.
    NoEndpoint = "no_endpoint", 503, Upstream;
    /// No connection to the instance.
    ConnectFailed = "connect_failed", 503, Upstream;
    /// The instance could not prove the identity that it must have.
    IdentityMismatch = "identity_mismatch", 503, Upstream;
    /// The instance broke the connection before its answer began.
    UpstreamReset = "upstream_reset", 503, Upstream;
    /// The instance's answer breaks the HTTP specification.
    UpstreamProtocol = "upstream_protocol", 502, Upstream;
    /// The host's name has no address.
    NameNotFound = "name_not_found", 502, Upstream;
    /// One attempt took longer than it may.
    AttemptTimeout = "attempt_timeout", 504, Upstream;
    /// The request took longer than it may.
    RequestTimeout = "request_timeout", 504, Upstream;
    /// Nothing was sent either way for longer than allowed.
    IdleTimeout = "idle_timeout", 504, Upstream;
    /// No control plane answered what the destination is.
    DiscoveryUnavailable = "discovery_unavailable", 503, Mesh;
    /// The proxy holds no configuration yet, or no certificate that has not expired.
    NotReady = "not_ready", 503, Mesh;
    /// The certificate of either sidecar expired while the exchange was under way.
    CertificateExpired = "certificate_expired", 503, Mesh;
    /// A limit of the proxy was reached.
    Overloaded = "overloaded", 503, Mesh;
    /// The proxy is draining.
    Draining = "draining", 503, Mesh;
    /// A defect of the proxy.
    Internal = "internal", 500, Mesh;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Users look reasons up there, so nothing may be missing or stale.
    #[test]
    fn the_documentation_lists_every_reason() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reasons.md");
        let text = std::fs::read_to_string(path).expect("docs/reasons.md");
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
        let written: Vec<String> = rows
            .map(|row| {
                row.split('|').take(3).map(|cell| cell.trim().trim_end_matches('`')).collect::<Vec<_>>().join(" ")
            })
            .collect();
        let expected = Reason::ALL
            .iter()
            .map(|reason| format!("{} {} {:?}", reason.code(), reason.status(), reason.source()).to_lowercase());
        assert_eq!(written, expected.collect::<Vec<_>>());
    }

    #[test]
    fn places_and_codes_are_distinct() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index, "telemetry counts by place");
            assert!(Reason::ALL[..index].iter().all(|other| other.code() != reason.code()));
        }
    }
}
