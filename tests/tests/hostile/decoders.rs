//! Every decoder against its corpus, in every run: whole, cut anywhere, and mutated from a printed
//! seed.
//!
//! A corpus (`fuzz/corpora/DECODER`) holds well-formed samples, a small selection of what fuzzing
//! found interesting, and every finding. `CULVERT_SEED=n` repeats a run; `CULVERT_WRITE_CORPORA=1`
//! writes the samples again.

use std::fs;
use std::path::{Path, PathBuf};

use culvert_tests::decoders::{DECODERS, Decoder};
use culvert_tests::random::{Random, seeds};

/// A decoder with this many mutations per run is also given every prefix of its samples.
const MUTATIONS_OF_QUICK: usize = 10_000;

/// A damaged sample: bits flipped, bytes set to extremes, cut, repeated, joined with itself.
fn mutate(random: &mut Random, sample: &[u8]) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..=below(random, 4) {
        let at = below(random, bytes.len());
        match below(random, 6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << below(random, 8),
            1 if !bytes.is_empty() => bytes[at] = [0, 0x7f, 0x80, 0xff][below(random, 4)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.next_u64() as u8),
            4 => {
                let part = bytes[at..].to_vec();
                bytes.extend_from_slice(&part[..part.len().min(512)]);
            }
            _ => bytes.extend_from_slice(&random.next_u64().to_le_bytes()),
        }
    }
    bytes
}

fn below(random: &mut Random, limit: usize) -> usize {
    random.below(limit.max(1) as u64) as usize
}

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn replay(decoder: &Decoder) {
    let directory = fuzz_folder().join("corpora").join(decoder.name);
    let samples = (decoder.samples)();
    if std::env::var_os("CULVERT_WRITE_CORPORA").is_some() {
        fs::create_dir_all(&directory).unwrap();
        for (number, sample) in samples.iter().enumerate() {
            fs::write(directory.join(format!("sample-{number}")), sample).unwrap();
        }
    }
    let mut files: Vec<PathBuf> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= samples.len(), "the corpus {} is not complete", directory.display());
    let seed = seeds(1)[0];
    eprintln!("{}: {} files, CULVERT_SEED={seed}", decoder.name, files.len());
    let mut random = Random::new(seed);
    for sample in &samples {
        (decoder.check)(sample);
    }
    for file in &files {
        let sample = fs::read(file).unwrap();
        (decoder.check)(&sample);
        if decoder.mutations >= MUTATIONS_OF_QUICK {
            for end in 0..sample.len().min(600) {
                (decoder.check)(&sample[..end]);
            }
        }
        for _ in 0..decoder.mutations / files.len() {
            (decoder.check)(&mutate(&mut random, &sample));
        }
    }
}

macro_rules! replayed {
    ($($name:ident)*) => { $(
        #[test]
        fn $name() {
            let name = stringify!($name);
            replay(DECODERS.iter().find(|decoder| decoder.name == name).expect("a decoder of that name"));
        }
    )* };
}

replayed!(datagram report flow message entries receipt journal configuration link stamp twamp captured);

/// Each decoder has a fuzz target, a corpus and a test above, and none of these is for a decoder
/// that does not exist.
#[test]
fn each_decoder_is_fuzzed_and_replayed() {
    let decoders: Vec<&str> = DECODERS.iter().map(|decoder| decoder.name).collect();
    let names = |folder: &str| {
        let mut names: Vec<String> = fs::read_dir(fuzz_folder().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let mut sorted = decoders.clone();
    sorted.sort_unstable();
    assert_eq!(names("fuzz_targets"), sorted);
    assert_eq!(names("corpora"), sorted);
    let manifest = fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap();
    let this = include_str!("decoders.rs");
    let replayed = this.lines().find_map(|line| line.strip_prefix("replayed!(")).expect("the list of tests");
    for name in decoders {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not in fuzz/Cargo.toml");
        assert!(replayed.trim_end_matches(");").split(' ').any(|test| test == name), "{name} is not replayed");
    }
}
