//! What ARCHITECTURE.md promises of the source, and what the pages of the repository promise each other.

use std::fs;
use std::path::Path;

use dkt_agent::strategy::{Rehearsal, STRATEGIES};
use dkt_tests::repository;

/// Files below a folder of the repository, by their path in it, in order; nothing that was built.
pub fn files(folder: &str, extensions: &[&str]) -> Vec<(String, String)> {
    let root = repository(".");
    let mut found = Vec::new();
    let mut folders = vec![repository(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if path.is_dir() && !hidden && path != root.join("target") && path != root.join("runs") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)) {
                let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "`{folder}` has no files");
    found
}

/// Source without comments: whatever follows `//`, also in a string, where nothing is looked for here.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Whether `word` is in `text` with nothing around it that would make it part of another word.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

/// Files whose code has the word.
fn files_with(files: &[(String, String)], word: &str) -> Vec<String> {
    files.iter().filter(|(_, text)| has_word(&code(text), word)).map(|(name, _)| name.clone()).collect()
}

/// Files that use the crate.
fn importers(files: &[(String, String)], krate: &str) -> Vec<String> {
    let uses = |text: &str| {
        text.match_indices(krate).any(|(at, _)| {
            has_word(&text[at.saturating_sub(1)..at + krate.len()], krate)
                && text[at + krate.len()..].starts_with("::")
        })
    };
    files.iter().filter(|(_, text)| uses(&code(text))).map(|(name, _)| name.clone()).collect()
}

#[test]
fn each_outside_runtime_is_imported_by_one_file() {
    let sources = [files("agent/src", &["rs"]), files("models/src", &["rs"])].concat();
    for (krate, owner) in [
        ("ort", "agent/src/train/runtime.rs"),
        ("tract_onnx", "agent/src/eval/evaluator.rs"),
        ("rumqttc", "agent/src/exchange/connection.rs"),
        ("rumqttd", "agent/src/exchange/broker.rs"),
    ] {
        assert_eq!(importers(&sources, krate), [owner], "who imports `{krate}`");
    }
}

#[test]
fn the_exchange_engine_is_pure() {
    let sources: Vec<_> = files("agent/src/exchange", &["rs"])
        .into_iter()
        .filter(|(name, _)| {
            let shells = [
                "connection.rs",
                "counters.rs",
                "inbox.rs",
                "broker.rs",
                "tls.rs",
                "signing.rs",
                "signing/tests.rs",
                "error.rs",
                "rejection.rs",
            ];
            !shells.iter().any(|shell| name.ends_with(shell))
        })
        .collect();
    assert!(sources.iter().any(|(name, _)| name == "agent/src/exchange/engine.rs"));
    for word in [
        "Instant",
        "SystemTime",
        "UNIX_EPOCH",
        "thread",
        "spawn",
        "fs",
        "net",
        "io",
        "env",
        "process",
        "tokio",
        "rand",
        "Draw",
        "random",
        "println",
        "eprintln",
        "tracing",
        "Mutex",
        "AtomicU64",
    ] {
        // The shape of a pure engine: no clock, no input or output, no generator of random numbers, no state shared.
        assert_eq!(files_with(&sources, word), [""; 0], "`{word}` in the pure part of the exchange");
    }
}

#[test]
fn only_reading_and_writing_know_the_protobuf_types() {
    let sources = files("models/onnx-grad/src", &["rs"]);
    let in_source = |name: &str| format!("models/onnx-grad/src/{name}.rs");
    assert_eq!(importers(&sources, "proto"), [in_source("read"), in_source("write")]);
    // An error names the library's own as its cause.
    assert_eq!(importers(&sources, "prost"), ["error", "proto", "read", "write"].map(in_source));
    let others = [files("agent/src", &["rs"]), files("models/src", &["rs"])].concat();
    // TensorBoard's format is protobuf too.
    assert_eq!(importers(&others, "prost"), ["agent/src/report/tensorboard/event_file.rs"]);
}

#[test]
fn no_source_file_is_long() {
    for folder in ["agent/src", "models/src", "models/onnx-grad/src", "tests/src", "tests/tests"] {
        for (name, text) in files(folder, &["rs"]) {
            let n_lines = text.lines().count();
            assert!(n_lines <= 600, "{name} has {n_lines} lines; split it by subject");
        }
    }
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let mut n_links = 0;
    for (name, text) in files(".", &["md"]) {
        let folder = Path::new(&name).parent().unwrap().to_owned();
        for target in links(&text) {
            let file = target.split('#').next().unwrap();
            if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            n_links += 1;
            let path = repository(".").join(&folder).join(file);
            assert!(path.exists(), "{name} links to `{target}`, which is not there");
        }
    }
    assert!(n_links > 0, "there are links");
}

/// Targets of `[text](target)` outside of code blocks.
fn links(text: &str) -> Vec<&str> {
    let mut in_code = false;
    let mut links = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if !in_code {
            links.extend(line.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
        }
    }
    links
}

#[test]
fn every_page_that_the_source_names_is_there() {
    for folder in ["agent", "models", "broker-config", "deploy", "tests"] {
        for (name, text) in files(folder, &["rs", "md", "conf", "acl", "toml", "sh", "service", "py"]) {
            for rest in text.split("docs/").skip(1) {
                let page: String =
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_./".contains(*c)).collect();
                let page = page.trim_end_matches('.');
                if page.ends_with(".md") || page.ends_with(".cddl") {
                    let path = repository(".").join("docs").join(page);
                    assert!(path.exists(), "{name} names `docs/{page}`, which is not there");
                }
            }
        }
    }
}

/// Rows of the tables of a section whose first cell is code, without the marks of code.
fn table_of(page: &str, section: &str) -> Vec<Vec<String>> {
    let (_, after) = page.split_once(&format!("\n## {section}\n")).unwrap();
    let text = after.split("\n## ").next().unwrap();
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim_matches('|');
        line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    text.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
}

#[test]
fn the_page_of_strategies_has_their_names_memories_and_constants() {
    let page = fs::read_to_string(repository("docs/strategies.md")).unwrap();
    let said: Vec<(String, String)> = table_of(&page, "The strategies")
        .into_iter()
        .map(|cells| (cells[0].clone(), cells[2].clone()))
        .collect();
    let memory = |rehearsal: Rehearsal| match rehearsal {
        Rehearsal::Never => "none".to_owned(),
        Rehearsal::Optional => "optional".to_owned(),
        Rehearsal::Needed { capacity, selection } => {
            format!("{capacity}, {}", serde_json::to_value(selection).unwrap().as_str().unwrap())
        }
    };
    let expected: Vec<(String, String)> =
        STRATEGIES.iter().map(|s| (s.name.to_owned(), memory(s.rehearsal))).collect();
    assert_eq!(said, expected, "names and memories in docs/strategies.md");

    // As text, so that a difference is easy to read; numbers as numbers, however they are written.
    let row = |strategy: &str, name: &str, numbers: [f64; 3], whole: bool| {
        let [default, low, high] = numbers;
        format!("{strategy} {name} = {default:e}, {low:e} to {high:e}{}", if whole { ", whole" } else { "" })
    };
    let number = |text: &str| -> f64 { text.parse().unwrap_or_else(|_| panic!("`{text}` is no number")) };
    let said: Vec<String> = table_of(&page, "Constants")
        .iter()
        .map(|cells| {
            let (range, whole) = cells[3].strip_suffix(", whole").map_or((&*cells[3], false), |r| (r, true));
            let (low, high) = range.split_once(" to ").unwrap();
            row(&cells[0], &cells[1], [cells[2].as_str(), low, high].map(number), whole)
        })
        .collect();
    let expected: Vec<String> = STRATEGIES
        .iter()
        .flat_map(|strategy| strategy.constants.iter().map(move |constant| (strategy, constant)))
        .map(|(strategy, c)| {
            row(strategy.name, c.name, [c.default, *c.range.start(), *c.range.end()], c.is_whole)
        })
        .collect();
    assert_eq!(said, expected, "constants in docs/strategies.md");
}
