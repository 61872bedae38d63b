//! Files and functions that a person can hold in mind.

use super::scan::Source;

/// Lines of a file, its tests apart.
const LONGEST_FILE: usize = 800;
/// Lines of a function, from its `fn` to its closing brace.
const LONGEST_FUNCTION: usize = 100;

pub(super) fn check(sources: &[Source]) -> Vec<String> {
    sources.iter().flat_map(of).collect()
}

fn of(source: &Source) -> Vec<String> {
    let path = source.path.display();
    let mut problems = Vec::new();
    let lines = source.lines() - source.inline_test_lines();
    if lines > LONGEST_FILE && !source.is_test() {
        problems.push(format!("{path}: {lines} lines, {LONGEST_FILE} are allowed"));
    }
    let long = source.functions().into_iter().filter(|function| function.lines > LONGEST_FUNCTION);
    problems.extend(long.map(|function| {
        format!(
            "{path}:{}: `fn {}` has {} lines, {LONGEST_FUNCTION} are allowed",
            function.line, function.name, function.lines
        )
    }));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        of(&Source::new(path.into(), text))
    }

    #[test]
    fn long_files_fail_unless_they_are_tests() {
        let long = "// line\n".repeat(LONGEST_FILE + 1);
        assert_eq!(problems("crates/a/src/lib.rs", &long).len(), 1);
        assert!(problems("crates/a/src/foo/tests.rs", &long).is_empty());
        assert!(problems("crates/a/tests/mesh.rs", &long).is_empty());
        let inline = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert!(problems("crates/a/src/lib.rs", &inline).is_empty());
    }

    #[test]
    fn long_functions_fail_everywhere() {
        let body = |lines: usize| format!("fn f() {{\n{}}}\n", "    x();\n".repeat(lines));
        assert!(problems("crates/a/src/lib.rs", &body(LONGEST_FUNCTION - 2)).is_empty());
        let found = problems("crates/a/tests/lib.rs", &format!("\n{}", body(LONGEST_FUNCTION - 1)));
        assert_eq!(found, ["crates/a/tests/lib.rs:2: `fn f` has 101 lines, 100 are allowed"]);
    }
}
