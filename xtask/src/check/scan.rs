//! Just enough of Rust's lexical structure to find words and bodies: comments, strings and characters are blanked out.

use std::path::{Path, PathBuf};

/// A file whose comments, strings and character literals have become spaces; lines stay where they are.
#[derive(Debug)]
pub(super) struct Source {
    /// From the root of the workspace.
    pub(super) path: PathBuf,
    code: String,
}

/// An identifier or keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    /// From 1.
    pub(super) line: usize,
    /// Where it ends in the code.
    end: usize,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    /// Where its `fn` is, from 1.
    pub(super) line: usize,
    /// From its `fn` to its closing brace.
    pub(super) lines: usize,
}

impl Source {
    pub(super) fn new(path: PathBuf, text: &str) -> Source {
        Source { path, code: blank(text) }
    }

    /// Whether the whole file is for tests.
    pub(super) fn is_test(&self) -> bool {
        self.path.components().any(|part| part.as_os_str() == "tests") || self.path.ends_with(Path::new("tests.rs"))
    }

    pub(super) fn lines(&self) -> usize {
        self.code.lines().count()
    }

    pub(super) fn words(&self) -> impl Iterator<Item = Word<'_>> {
        let mut rest = self.code.char_indices().peekable();
        let mut line = 1;
        std::iter::from_fn(move || {
            while let Some((start, first)) = rest.next() {
                line += usize::from(first == '\n');
                if !(first.is_alphanumeric() || first == '_') {
                    continue;
                }
                let mut end = start + first.len_utf8();
                while let Some((at, next)) = rest.next_if(|(_, next)| next.is_alphanumeric() || *next == '_') {
                    end = at + next.len_utf8();
                }
                return Some(Word { text: &self.code[start..end], line, end });
            }
            None
        })
    }

    /// Every function with a body, nested ones too.
    pub(super) fn functions(&self) -> Vec<Function> {
        let words: Vec<_> = self.words().collect();
        let pairs = words.windows(2).filter(|pair| {
            // `fn(u8)` is a type: its name would not follow directly.
            pair[0].text == "fn" && self.code[pair[0].end..pair[1].end - pair[1].text.len()].trim().is_empty()
        });
        let function = |pair: &[Word<'_>]| {
            let body = self.body_after(pair[1].end)?;
            let lines = self.code[pair[0].end..body].matches('\n').count() + 1;
            Some(Function { name: pair[1].text.to_owned(), line: pair[0].line, lines })
        };
        pairs.filter_map(function).collect()
    }

    /// Lines of `#[cfg(test)] mod … { … }`.
    pub(super) fn inline_test_lines(&self) -> usize {
        let spans = self.code.match_indices("#[cfg(test)]").filter_map(|(start, mark)| {
            let rest = &self.code[start + mark.len()..];
            rest.trim_start().starts_with("mod ").then_some(())?;
            let end = self.body_after(start + mark.len())?;
            Some(self.code[start..end].matches('\n').count() + 1)
        });
        spans.sum()
    }

    /// Where the brace closes that opens first after `start`; none when a `;` comes before it.
    fn body_after(&self, start: usize) -> Option<usize> {
        let (mut braces, mut others) = (0_usize, 0_usize);
        for (at, character) in self.code[start..].char_indices() {
            match character {
                '(' | '[' => others += 1,
                ')' | ']' => others = others.saturating_sub(1),
                ';' if braces == 0 && others == 0 => return None,
                '{' => braces += 1,
                '}' => {
                    braces = braces.checked_sub(1)?;
                    // A brace inside brackets is a constant expression of the signature.
                    if braces == 0 && others == 0 {
                        return Some(start + at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// Replaces everything that is not code by spaces, character for character, except line ends.
fn blank(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        let end = skip(&characters, at);
        if end == at {
            code.push(characters[at]);
            at += 1;
        } else {
            code.extend(characters[at..end].iter().map(|character| if *character == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// The end of the comment or literal that begins at `at`, or `at` when none does.
fn skip(text: &[char], at: usize) -> usize {
    let inside_word = at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_');
    match text[at..] {
        ['/', '/', ..] => find(text, at, |rest| rest[0] == '\n').unwrap_or(text.len()),
        ['/', '*', ..] => block_comment(text, at),
        ['"', ..] => string(text, at),
        ['r', '"' | '#', ..] if !inside_word => raw_string(text, at + 1).unwrap_or(at),
        ['b' | 'c', 'r', '"' | '#', ..] if !inside_word => raw_string(text, at + 2).unwrap_or(at),
        ['\'', '\\', ..] => find(text, at + 3, |rest| rest[0] == '\'').map_or(text.len(), |end| end + 1),
        // Otherwise it is a lifetime or a label.
        ['\'', _, '\'', ..] => at + 3,
        _ => at,
    }
}

fn find(text: &[char], from: usize, wanted: impl Fn(&[char]) -> bool) -> Option<usize> {
    (from..text.len()).find(|at| wanted(&text[*at..]))
}

/// Block comments nest.
fn block_comment(text: &[char], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < text.len() {
        match text[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] if depth == 1 => return at + 2,
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

fn string(text: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// `at` is behind the `r`. None for a raw identifier.
fn raw_string(text: &[char], at: usize) -> Option<usize> {
    let hashes = text[at..].iter().take_while(|character| **character == '#').count();
    if text.get(at + hashes) != Some(&'"') {
        return None;
    }
    let closes =
        |rest: &[char]| rest[0] == '"' && rest[1..].iter().take(hashes).filter(|next| **next == '#').count() == hashes;
    Some(find(text, at + hashes + 1, closes).map_or(text.len(), |end| end + 1 + hashes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("crates/a/src/lib.rs".into(), text)
    }

    fn words(text: &str) -> Vec<String> {
        source(text).words().map(|word| word.text.to_owned()).collect()
    }

    #[test]
    fn only_code_is_left() {
        assert_eq!(words("a // b\nc /* d /* e */ f */ g"), ["a", "c", "g"]);
        assert_eq!(words(r#"a "b \" c" d"#), ["a", "d"]);
        assert_eq!(words(r###"a r#"b " c"# d br##"e "# f"## g"###), ["a", "d", "g"]);
        assert_eq!(words(r"a 'b' '\'' '\u{1F600}' '\\' c"), ["a", "c"]);
        assert_eq!(words("fn f<'a>(x: &'a str) { 'out: loop { break 'out } }").last().unwrap(), "out");
        assert_eq!(words("r#fn for"), ["r", "fn", "for"]);
        assert_eq!(words("b\"x\" c\"y\" 'ä' z"), ["b", "c", "z"]);
        assert_eq!(words("\"no end"), [""; 0]);
    }

    #[test]
    fn lines_stay_where_they_are() {
        let text = "/* a\nb */ c\n\"d\ne\" f";
        let found: Vec<_> = source(text).words().map(|word| (word.text.to_owned(), word.line)).collect();
        assert_eq!(found, [("c".to_owned(), 2), ("f".to_owned(), 4)]);
    }

    #[test]
    fn functions_have_their_lengths() {
        let text = "fn a() { \"}\" }\ntrait T { fn b(&self) -> [u8; 4]; fn c() {} }\nfn d<const N: usize>(x: fn(u8))\nwhere\n    [(); { N }]: Sized,\n{\n    fn e() {\n    }\n}\n";
        let found: Vec<_> = source(text).functions().into_iter().map(|f| (f.name, f.line, f.lines)).collect();
        let wanted = [("a", 1, 1), ("c", 2, 1), ("d", 3, 7), ("e", 7, 2)];
        assert_eq!(found, wanted.map(|(name, line, lines)| (name.to_owned(), line, lines)));
    }

    #[test]
    fn inline_tests_are_counted() {
        assert_eq!(source("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n").inline_test_lines(), 4);
        assert_eq!(source("#[cfg(test)]\nmod tests;\nfn a() {\n}\n").inline_test_lines(), 0);
    }
}
