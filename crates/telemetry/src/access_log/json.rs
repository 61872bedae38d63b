//! One line of the access log.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Entry;

/// Appends `entry` as one JSON object and a line feed.
pub(super) fn write(entry: &Entry<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"time\":\"");
    time(entry.time, out);
    out.push(b'"');
    text("direction", Some(entry.direction.name()), out);
    text("identity", entry.identity, out);
    text("method", entry.method, out);
    text("authority", entry.authority, out);
    text("path", entry.path, out);
    if entry.status != 0 {
        number("status", u64::from(entry.status), out);
    }
    text("reason", entry.reason.map(|reason| reason.code()), out);
    text("route", Some(entry.route).filter(|route| !route.is_empty()), out);
    text("endpoint", entry.endpoint, out);
    number("bytesReceived", entry.bytes_received, out);
    number("bytesSent", entry.bytes_sent, out);
    number("durationMicros", entry.duration.0 / 1000, out);
    number("attempts", u64::from(entry.attempts), out);
    if let Some(decision) = entry.decision {
        // JSON already.
        out.extend_from_slice(b",\"decision\":");
        out.extend_from_slice(decision.as_bytes());
    }
    out.extend_from_slice(b"}\n");
}

fn text(name: &str, value: Option<&str>, out: &mut Vec<u8>) {
    let Some(value) = value else { return };
    format(out, format_args!(",\"{name}\":\""));
    escape(value, out);
    out.push(b'"');
}

fn number(name: &str, value: u64, out: &mut Vec<u8>) {
    format(out, format_args!(",\"{name}\":{value}"));
}

/// RFC 8259, section 7. DEL is escaped as well, so that a terminal never acts on what a client sent.
fn escape(value: &str, out: &mut Vec<u8>) {
    let mut copied = 0;
    for (index, byte) in value.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' && byte != 0x7f {
            continue;
        }
        out.extend_from_slice(&value.as_bytes()[copied..index]);
        copied = index + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => format(out, format_args!("\\u{byte:04x}")),
        }
    }
    out.extend_from_slice(&value.as_bytes()[copied..]);
}

/// RFC 3339 in UTC with microseconds. A clock set before 1970 gives 1970.
fn time(time: SystemTime, out: &mut Vec<u8>) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let micros = since.subsec_micros();
    format(out, format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"));
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar, whose 400-year cycle has 146,097
/// days. Years are counted from March, so that the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    // Months from March have 30.6 days on average: 31, 30, 31, 30, 31 and again.
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    (cycle * 400 + year, month, day_of_month)
}

fn format(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing to a vector cannot fail");
}
