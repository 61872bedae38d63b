//! What the documentation tells people to type works as it stands.

mod support;

use std::fs;
use std::time::Duration;

use support::{PAIR, USER, examples, nothing_left};
use testkit::heddle::Heddle;
use testkit::process::Process;
use testkit::wait::{LONG, until};

/// A fenced block: what stands behind the fence, and what is in it.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let body: Vec<&str> = lines.by_ref().take_while(|l| !l.starts_with("```")).collect();
            found.push((kind.to_owned(), body.join("\n") + "\n"));
        }
    }
    found
}

#[test]
fn getting_started_works_as_it_is_written() {
    follow("getting-started.md", &Heddle::as_shipped());
    // Not at the same time: the page names ports.
    if nix::unistd::Uid::effective().is_root() {
        follow("getting-started.md", &Heddle::as_shipped_to(USER));
    }
}

/// Does what a page tells people to do.
fn follow(page: &str, heddle: &Heddle) {
    let page = fs::read_to_string(examples().join("../docs").join(page)).expect("the page");
    let folder = heddle.folder();
    // `heddle` by its name, in the folder of the page.
    let shell = |line: &str| {
        let script = format!("heddle() {{ \"$BINARY\" \"$@\"; }}; cd \"$FOLDER\" && {line}");
        heddle.program("sh", ["-c", &script]).env("FOLDER", folder.path()).env("BINARY", heddle.binary())
    };
    let mut up: Option<Process> = None;
    let mut commands = 0;
    for (kind, body) in blocks(&page) {
        match kind.split_once(' ').unwrap_or((&kind, "")) {
            ("yaml", file) if !file.is_empty() => fs::write(folder.path().join(file), body).expect("a file"),
            ("sh", "background") => {
                let mut process = shell(&format!(
                    "exec \"$BINARY\" {}",
                    body.trim().strip_prefix("heddle ").expect("a command of ours")
                ))
                .start();
                process.wait_line("is up after", LONG);
                up = Some(process);
            }
            ("sh", "") => {
                for line in body.lines() {
                    commands += 1;
                    // A change takes a moment to take effect.
                    until(line, LONG, || {
                        let answer = shell(line).run(LONG);
                        if answer.status.success() { Ok(()) } else { Err(format!("{answer:?}")) }
                    });
                }
            }
            other => panic!("what is to be done with a block {other:?}?"),
        }
    }
    assert!(commands > 8, "the page has lost its commands");
    let mut up = up.expect("the page starts a mesh");
    up.signal(nix::sys::signal::Signal::SIGINT);
    assert!(up.wait(Duration::from_secs(10)).success());
    nothing_left(heddle);
}

#[test]
fn what_up_prints_works_as_it_is_printed() {
    let heddle = Heddle::as_shipped();
    let folder = heddle.folder();
    fs::write(folder.path().join("pair.yaml"), PAIR).unwrap();
    let mut up = heddle.start(["up".as_ref(), folder.path().as_os_str()]);
    up.wait_line("Ctrl-C", LONG);
    let said = up.stdout();
    let line = |name: &str| {
        let found = said.lines().find_map(|line| line.split_once("| ")?.1.trim_start().strip_prefix(name));
        found.unwrap_or_else(|| panic!("{name} is missing: {said}")).trim_start()
    };
    let run = |command: &str| heddle.program("sh", ["-c", command]).run(LONG).success();
    let gateway = line("gateway ").split("   ").next().unwrap();
    assert!(run(&format!("curl -s {gateway}")).contains("back-"), "{said}");
    assert!(run(line("inside ")).contains("back-"), "{said}");
    let (metrics, list) = line("metrics ").split_once(" and others (`").unwrap();
    assert!(run(&format!("curl -s {metrics}")).contains("heddle_requests_total"), "{said}");
    assert!(run(list.split('`').next().unwrap()).contains("front-0"), "{said}");
    assert!(run(line("numbers ")).contains("SHARE"), "{said}");
    up.signal(nix::sys::signal::Signal::SIGINT);
    assert!(up.wait(Duration::from_secs(10)).success());
    nothing_left(&heddle);
}

/// A number as the page writes it: `65,536`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let group = |(i, digit): (usize, char)| {
        let comma = (i > 0 && (digits.len() - i).is_multiple_of(3)).then_some(',');
        comma.into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(group).collect()
}

#[test]
fn the_page_of_limits_names_every_limit_with_its_default() {
    let page = fs::read_to_string(examples().join("../docs/limits.md")).unwrap();
    let limits = serde_json::to_value(proxy::settings::Limits::default()).unwrap();
    for (name, value) in limits.as_object().unwrap() {
        let default = match value["secs"].as_u64() {
            Some(seconds) => format!("{} s", grouped(seconds)),
            None => grouped(value.as_u64().unwrap()),
        };
        let row = format!("| `{name}` | {default} |");
        assert!(page.contains(&row), "docs/limits.md has no row that begins with {row}");
    }
}

#[test]
fn the_page_of_limits_names_tests_that_exist() {
    let page = fs::read_to_string(examples().join("../docs/limits.md")).unwrap();
    let mut sources = String::new();
    let mut folders = vec![examples().join("../crates")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            match path.extension() {
                Some(end) if end == "rs" => sources.push_str(&fs::read_to_string(path).unwrap()),
                _ if path.is_dir() => folders.push(path),
                _ => {}
            }
        }
    }
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ") && !line.contains("shown by")).collect();
    for row in &rows {
        let shown_by = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let said = shown_by.contains('`') || shown_by.trim() == "not tested";
        assert!(said, "docs/limits.md neither names a test for this limit nor says that there is none: {row}");
    }
    let tests: Vec<&str> = rows
        .iter()
        .filter_map(|row| row.trim_end_matches('|').rsplit('|').next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    assert!(tests.len() > 30, "{tests:?}");
    for test in tests {
        assert!(sources.contains(&format!("fn {test}(")), "docs/limits.md names the test {test}, which does not exist");
    }
}
