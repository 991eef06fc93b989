//! `OPS.md` says what the table of rules holds. `UPDATE_OPS=1 cargo test -p onnx-grad --test graph` rewrites it.

use std::fmt::Write;
use std::path::Path;

use onnx_grad::check::{self, Derivative, Rule};

#[test]
fn ops_md_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("OPS.md");
    let expected = coverage();
    if std::env::var_os("UPDATE_OPS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "OPS.md is stale: run UPDATE_OPS=1 cargo test -p onnx-grad --test graph");
}

fn coverage() -> String {
    let mut rules = check::rules();
    rules.sort_by_key(|rule| rule.op);
    let mut text = "\
# Operators with a derivative

Generated from the table in `src/vjp.rs` by `UPDATE_OPS=1 cargo test -p onnx-grad --test graph`.

A *stop-edge* is an input that never gets a gradient. *How*: by a **rule**; **lowered**, that is, written in another
form in the training graph which keeps what its rule needs; **decomposed** into operators that have rules. *Undefined*:
where the derivative does not exist, and what is taken there.

| operator | opsets | how | stop-edges | undefined |
| --- | --- | --- | --- | --- |
"
    .to_owned();
    let (constant, differentiated): (Vec<Rule>, Vec<Rule>) =
        rules.into_iter().partition(|rule| rule.how == Derivative::Constant);
    for rule in differentiated {
        let stop: Vec<String> = rule.stop.iter().map(ToString::to_string).collect();
        let how = match rule.how {
            Derivative::Lowered => "lowered",
            Derivative::Decomposed => "decomposed",
            Derivative::Rule | Derivative::Constant => "rule",
        };
        let (first, last) = (rule.opsets.start(), rule.opsets.end());
        let (op, stop, undefined) = (rule.op, stop.join(", "), rule.undefined);
        writeln!(text, "| {op} | {first} to {last} | {how} | {stop} | {undefined} |").unwrap();
    }
    let constant: Vec<String> = constant.iter().map(|rule| format!("`{}`", rule.op)).collect();
    write!(
        text,
        "
## Operators without a derivative

Constant wherever they are smooth, or no floating numbers; nothing behind them learns, and a network may contain them:
{}.

Any other operator between a trained parameter and the loss is an error that names its nodes.
",
        constant.join(", ")
    )
    .unwrap();
    text
}
