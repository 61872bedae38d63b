//! How an attempt ended, as balancing, ejection and retries see it.

/// The end of one attempt at one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer that is not the server's fault: 1xx to 4xx, gRPC statuses that blame the caller.
    Success,
    /// 5xx, or a gRPC status that blames the server.
    ServerError(ServerError),
    /// The connection could not be made, or the peer could not prove its identity.
    ConnectFailure,
    /// The connection broke before the answer was complete.
    Reset,
    /// No answer within the attempt's time.
    Timeout,
    /// The client went away or the request was given up for reasons of ours; says nothing of the endpoint.
    Cancelled,
}

/// What the server said when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerError {
    /// An HTTP status of 500 and above.
    Http(u16),
    /// A gRPC status.
    Grpc(u8),
}

impl Outcome {
    /// From an HTTP status.
    pub const fn from_status(status: u16) -> Self {
        if status >= 500 { Outcome::ServerError(ServerError::Http(status)) } else { Outcome::Success }
    }

    /// From a gRPC status (`grpc-status`, <https://grpc.io/docs/guides/status-codes/>). UNKNOWN, DEADLINE_EXCEEDED,
    /// RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE and DATA_LOSS blame the server.
    pub const fn from_grpc(status: u8) -> Self {
        match status {
            2 | 4 | 8 | 13 | 14 | 15 => Outcome::ServerError(ServerError::Grpc(status)),
            _ => Outcome::Success,
        }
    }

    /// Whether the endpoint is to blame.
    pub const fn is_failure(self) -> bool {
        !matches!(self, Outcome::Success | Outcome::Cancelled)
    }

    /// Whether the caller is to ask for less (gRPC's RESOURCE_EXHAUSTED, which is what a quota answers), as 429 says: such an
    /// answer may be the rule for one caller and says nothing of others, so it makes an endpoint dearer and ejects nobody.
    pub const fn is_refusal(self) -> bool {
        matches!(self, Outcome::ServerError(ServerError::Grpc(8)))
    }

    /// Whether the application was not reached, or something before it answered in its place: no connection, a broken one, no
    /// answer in time, 502, 503, 504, and gRPC's UNAVAILABLE.
    pub const fn is_gateway_failure(self) -> bool {
        match self {
            Outcome::ConnectFailure | Outcome::Reset | Outcome::Timeout => true,
            Outcome::ServerError(ServerError::Http(status)) => matches!(status, 502..=504),
            Outcome::ServerError(ServerError::Grpc(status)) => status == 14,
            Outcome::Success | Outcome::Cancelled => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_servers_own_failures_count_against_it() {
        for status in [100, 200, 304, 400, 404, 429, 499] {
            assert_eq!(Outcome::from_status(status), Outcome::Success, "{status}");
        }
        for status in [500, 503, 599, 999] {
            assert!(Outcome::from_status(status).is_failure(), "{status}");
        }
        let blaming: Vec<u8> = (0..=20).filter(|&s| Outcome::from_grpc(s).is_failure()).collect();
        assert_eq!(blaming, [2, 4, 8, 13, 14, 15]);
        assert!(!Outcome::Cancelled.is_failure());
        assert!([Outcome::ConnectFailure, Outcome::Reset, Outcome::Timeout].iter().all(|o| o.is_failure()));
    }
}
