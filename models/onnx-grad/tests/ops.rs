//! `OPS.md` says what the table of rules holds. `UPDATE_OPS=1 cargo test -p onnx-grad --test ops` rewrites it.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::path::Path;

use onnx_grad::check;

#[test]
fn ops_md_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("OPS.md");
    let expected = coverage();
    if std::env::var_os("UPDATE_OPS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "OPS.md is stale: run UPDATE_OPS=1 cargo test -p onnx-grad --test ops");
}

fn coverage() -> String {
    let mut rules = check::rules();
    rules.sort_by_key(|rule| rule.op);
    let mut text = "\
# Operators with a derivative

Generated from the table in `src/vjp.rs` by `UPDATE_OPS=1 cargo test -p onnx-grad --test ops`.

A *stop-edge* is an input that never gets a gradient. A *lowered* operator is written in another form in the
training graph, which keeps what its derivative needs.

| operator | opsets | stop-edges | lowered |
| --- | --- | --- | --- |
"
    .to_owned();
    for rule in rules {
        let stop: Vec<String> = rule.stop.iter().map(ToString::to_string).collect();
        let lowered = if rule.lowered { "yes" } else { "" };
        let (first, last) = (rule.opsets.start(), rule.opsets.end());
        writeln!(text, "| {} | {first} to {last} | {} | {lowered} |", rule.op, stop.join(", ")).unwrap();
    }
    text
}
