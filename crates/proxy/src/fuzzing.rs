//! The laws that hostile bytes must not break, for fuzz targets and benchmarks.

pub use crate::h1::fuzzing::*;
pub use crate::h2::fuzzing::*;
pub use crate::link::fuzzing::*;

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_keeps_the_laws() {
        type Law = fn(&[u8]);
        let targets: [(&str, Law); 7] = [
            ("h1_request", super::request),
            ("h1_response", super::response),
            ("h1_chunked", super::chunked),
            ("h2_hpack", super::hpack),
            ("h2_frames", super::frames),
            ("h2_connection", super::connection),
            ("link", super::link),
        ];
        for (name, check) in targets {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
            let mut count = 0;
            for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
                check(&std::fs::read(entry.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count >= 10, "{name}: {count} files");
        }
    }
}
