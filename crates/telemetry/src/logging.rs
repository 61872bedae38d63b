//! The program's own log, on standard error.

use tracing_subscriber::EnvFilter;

/// A log that could not be set up.
#[derive(Debug)]
pub enum LoggingError {
    /// The filter cannot be read: its text and what is wrong with it.
    Filter(String, String),
    /// A log has been set up already.
    AlreadySet,
}

impl std::fmt::Display for LoggingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LoggingError::Filter(filter, cause) => write!(
                f,
                "log filter `{filter}`: {cause}; write a level (error, warn, info, debug, trace) or `crate=level,…`"
            ),
            LoggingError::AlreadySet => f.write_str("the log has been set up already; do it once, in main"),
        }
    }
}

impl std::error::Error for LoggingError {}

/// Sends the program's log to standard error. `filter` is in the syntax of [`EnvFilter`], such as `info` or
/// `warn,proxy=debug`; `json` writes one JSON object a line; `ansi` colours the lines of the other form.
///
/// # Errors
/// When the filter cannot be read, or a log has been set up before.
pub fn init(filter: &str, json: bool, ansi: bool) -> Result<(), LoggingError> {
    let parsed = parse(filter)?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr).with_ansi(ansi && !json);
    let set = if json { builder.json().try_init() } else { builder.try_init() };
    set.map_err(|_| LoggingError::AlreadySet)
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder().parse(filter).map_err(|e| LoggingError::Filter(filter.to_owned(), e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_bad_ones_named() {
        assert!(parse("info").is_ok());
        assert!(parse("warn,proxy=debug").is_ok());
        let error = parse("proxy=loud").expect_err("no such level").to_string();
        assert!(error.contains("`proxy=loud`") && error.contains("trace"), "{error}");
    }

    #[test]
    fn a_second_log_is_refused() {
        // Whichever test of this process came first, the second call here cannot be the first of all.
        let _ = init("off", false, false);
        assert!(matches!(init("off", true, false), Err(LoggingError::AlreadySet)));
    }
}
