//! `curl`, `h2load` and `wrk`, with what they report.

use std::ffi::OsStr;
use std::time::Duration;

use crate::process::Command;

/// Longer than any request of a test may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What curl got.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status of the final response.
    pub status: u16,
    /// HTTP version as curl writes it: `1.1` or `2`.
    pub version: String,
    /// Headers in order, names as they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first value of a header; case does not matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    ///
    /// # Panics
    /// It is not UTF-8.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("tests speak UTF-8")
    }
}

/// Runs `curl ARGS`, which must get an answer of whatever status.
///
/// # Panics
/// No answer came; with what curl said.
#[track_caller]
pub fn curl<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Answer {
    try_curl(args).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs `curl ARGS`; an error is what curl said. Proxy variables of the surroundings do not count; name one with `--proxy`.
///
/// # Errors
/// No answer came.
///
/// # Panics
/// curl is not installed.
#[track_caller]
pub fn try_curl<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Answer, String> {
    let dir = tempfile::tempdir().expect("the temporary directory takes a directory");
    let (head, body) = (dir.path().join("head"), dir.path().join("body"));
    let mut command =
        Command::new("curl").args(["--silent", "--show-error", "--suppress-connect-headers", "--max-time", "60"]);
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        command = command.env_remove(name).env_remove(&name.to_uppercase());
    }
    let finished = command
        .args(["--write-out", "%{http_code} %{http_version}", "--dump-header"])
        .args([&head])
        .args(["--output"])
        .args([&body])
        .args(args)
        .run(LIMIT);
    if !finished.status.success() {
        return Err(finished.stderr.trim().to_owned());
    }
    let (status, version) = finished.stdout.split_once(' ').ok_or_else(|| finished.stdout.clone())?;
    let head = std::fs::read_to_string(head).map_err(|error| format!("curl's head: {error}"))?;
    // Informational responses and CONNECT have heads of their own; the last one counts. Trailers follow an empty line.
    let last = head.match_indices("HTTP/").filter(|(at, _)| *at == 0 || head[..*at].ends_with("\r\n\r\n")).last();
    let headers = last.map_or("", |(at, _)| &head[at..]).lines().skip(1);
    let headers =
        headers.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    Ok(Answer {
        status: status.parse().map_err(|_| format!("curl's status {status:?}"))?,
        version: version.to_owned(),
        headers: headers.collect(),
        // No file is written for an empty body.
        body: std::fs::read(body).unwrap_or_default(),
    })
}

/// What a load generator reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Requests answered.
    pub done: u64,
    /// Of those, answers other than 2xx and 3xx.
    pub refused: u64,
    /// Requests without an answer: connection errors, resets, time-outs.
    pub failed: u64,
    /// Requests a second.
    pub rate: f64,
}

/// Runs `h2load ARGS` (HTTP/2; HTTP/1.1 with `--h1`).
///
/// # Panics
/// It is not installed or reports nothing.
#[track_caller]
pub fn h2load<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Report {
    let text = Command::new("h2load").args(args).run(LIMIT).success();
    parse_h2load(&text).unwrap_or_else(|| panic!("h2load reports\n{text}"))
}

/// Runs `wrk ARGS` (HTTP/1.1).
///
/// # Panics
/// It is not installed or reports nothing.
#[track_caller]
pub fn wrk<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Report {
    let text = Command::new("wrk").args(args).run(LIMIT).success();
    parse_wrk(&text).unwrap_or_else(|| panic!("wrk reports\n{text}"))
}

fn parse_h2load(text: &str) -> Option<Report> {
    let line = |start: &str| text.lines().find_map(|line| line.trim().strip_prefix(start));
    // `12 total, 12 started, …` → the number before a word.
    let number = |line: &str, word: &str| -> Option<u64> {
        line.split(',').find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
    };
    let requests = line("requests:")?;
    let codes = line("status codes:")?;
    let good = number(codes, "2xx")? + number(codes, "3xx")?;
    let refused = number(codes, "4xx")? + number(codes, "5xx")?;
    let rate =
        line("finished in")?.split(',').find_map(|part| part.trim().strip_suffix("req/s")?.trim().parse().ok())?;
    Some(Report {
        done: good + refused,
        refused,
        failed: number(requests, "total")?.saturating_sub(good + refused),
        rate,
    })
}

fn parse_wrk(text: &str) -> Option<Report> {
    let line = |start: &str| text.lines().find_map(|line| line.trim().strip_prefix(start));
    let done = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())?;
    let refused = line("Non-2xx or 3xx responses:").map_or(Some(0), |count| count.trim().parse().ok())?;
    let errors = line("Socket errors:").unwrap_or_default().split(',');
    let failed = errors.filter_map(|part| part.split_whitespace().last()?.parse::<u64>().ok()).sum();
    Some(Report { done, refused, failed, rate: line("Requests/sec:")?.trim().parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nginx::Nginx;
    use crate::raw::RawServer;

    #[test]
    fn load_generators_count_what_a_real_server_answers() {
        let nginx = Nginx::start("location = /ok { return 200 ok; }\nlocation = /no { return 500; }");
        let url = |path: &str| format!("http://{}{path}", nginx.address());
        let good = h2load(["--h1", "-n", "40", "-c", "2", &url("/ok")]);
        assert_eq!((good.done, good.refused, good.failed), (40, 0, 0));
        let bad = h2load(["--h1", "-n", "40", "-c", "2", &url("/no")]);
        assert_eq!((bad.done, bad.refused, bad.failed), (40, 40, 0));
        let good = wrk(["-t", "1", "-c", "2", "-d", "1", &url("/ok")]);
        assert!(good.done > 0 && good.rate > 0.0 && good.refused + good.failed == 0, "{good:?}");
        let bad = wrk(["-t", "1", "-c", "2", "-d", "1", &url("/no")]);
        assert_eq!(bad.refused, bad.done);
    }

    #[test]
    fn failures_are_counted() {
        let server = RawServer::start(|_, raw| raw.reset());
        let report = h2load(["--h1", "-n", "4", "-c", "2", &format!("http://{}/", server.address())]);
        assert_eq!((report.done, report.failed), (0, 4));
    }

    #[test]
    fn wrk_reports_are_read() {
        let text = "  100 requests in 1.00s, 12.3KB read\n  Socket errors: connect 1, read 2, write 3, timeout 4\n  \
                    Non-2xx or 3xx responses: 5\nRequests/sec:     99.5\n";
        assert_eq!(parse_wrk(text), Some(Report { done: 100, refused: 5, failed: 10, rate: 99.5 }));
        assert_eq!(parse_wrk("unable to connect"), None);
    }

    #[test]
    fn curl_tells_the_last_head_and_its_failures() {
        let server = RawServer::start(|_, mut raw| {
            raw.read_head();
            raw.send("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\nX-One: 1\r\nx-one: 2\r\ncontent-length: 2\r\n\r\nhi");
        });
        let answer = curl([format!("http://{}/", server.address())]);
        assert_eq!((answer.status, answer.version.as_str(), answer.text()), (200, "1.1", "hi"));
        assert_eq!((answer.header("x-ONE"), answer.header("link"), answer.headers.len()), (Some("1"), None, 3));
        let address = crate::address::free();
        assert!(try_curl([format!("http://{address}/")]).unwrap_err().contains("connect"));
    }
}
