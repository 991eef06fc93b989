//! Writes what the fuzzer starts from: every small model of the repository, and one of every operator.
//!
//! `cargo run --release --example seeds` in this folder fills `corpus/read` and `corpus/derive`.

#[path = "../tests/hostile/sweep.rs"]
mod sweep;

use std::path::Path;
use std::{fs, io};

/// As `-max_len`: what is longer would be cut.
const MAX_BYTES: u64 = 64 * 1024;

fn main() -> io::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds: Vec<(String, Vec<u8>)> = Vec::new();
    for folder in ["../../export/reference", "../../zoo"] {
        for entry in fs::read_dir(here.join(folder))? {
            let path = entry?.path();
            let small = fs::metadata(&path)?.len() <= MAX_BYTES;
            if small && path.extension().is_some_and(|e| e == "onnx") {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                seeds.push((name, fs::read(&path)?));
            }
        }
    }
    for op in onnx_grad::check::operators() {
        for (i, graph) in sweep::plausible(op).into_iter().enumerate() {
            seeds.push((format!("{op}.{i}.onnx"), graph.encode()));
        }
    }
    for target in ["read", "derive"] {
        let folder = here.join("corpus").join(target);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in &seeds {
            fs::write(folder.join(name), bytes)?;
        }
    }
    // Names that the fuzzer would not guess.
    let names = onnx_grad::check::operators().chain(sweep::attribute_names());
    let dictionary: String = names.map(|name| format!("\"{name}\"\n")).collect();
    fs::write(here.join("corpus").join("names.dict"), dictionary)?;
    println!("{} seeds", seeds.len());
    Ok(())
}
