//! Every rule against finite differences once more, at the points that ONNX itself tests its operators at.
//!
//!     python models/export/node_tests.py FOLDER
//!     cargo run -p onnx-grad --release --example node_tests -- FOLDER [NAME]
//!
//! `models/export/node_tests.sh` does both. Prints the table that `NODE_TESTS.md` holds; with NAME only the tests
//! whose name contains it. Exit code 1: a gradient or a value is wrong.

mod case;
mod compare;
mod report;
#[allow(clippy::unwrap_used)]
#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use onnx_grad::check;
use onnx_grad::graph::Graph;

/// What came of one node test.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The forward values are those expected, and the gradient is that of finite differences.
    Passed { in_f64: bool, off_kink: bool },
    /// Nothing that could be checked, or not with these values.
    NotApplicable(String),
    /// A wrong gradient, a wrong forward value, or a graph that ONNX Runtime refuses.
    Failed(String),
}

/// One node test and what came of it.
#[derive(Debug)]
pub struct Record {
    pub name: String,
    pub operator: String,
    pub verdict: Verdict,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(folder) = arguments.first().map(Path::new) else {
        eprintln!("expected the folder that models/export/node_tests.py wrote");
        return ExitCode::from(2);
    };
    let part = arguments.get(1).map_or("", String::as_str);
    let (tests, onnx_version) = match find(folder) {
        Ok(found) => found,
        Err(error) => {
            eprintln!("cannot read `{}`: {error}", folder.display());
            return ExitCode::from(2);
        }
    };
    let table: BTreeSet<&str> = check::rules().iter().map(|rule| rule.op).collect();
    let mut records = Vec::new();
    for (operator, name) in
        tests.into_iter().filter(|(op, name)| table.contains(op.as_str()) && name.contains(part))
    {
        let verdict = examine(&folder.join(&operator).join(&name));
        if !part.is_empty() || matches!(verdict, Verdict::Failed(_)) {
            eprintln!("{name}: {verdict:?}");
        }
        records.push(Record { name: name.trim_start_matches("test_").to_owned(), operator, verdict });
    }
    print!("{}", report::table(&records, &onnx_version));
    let failed = records.iter().any(|r| matches!(r.verdict, Verdict::Failed(_)));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// (operator, test) for every test, sorted, and the version of ONNX that they come from.
fn find(folder: &Path) -> std::io::Result<(Vec<(String, String)>, String)> {
    let version = std::fs::read_to_string(folder.join("version.txt"))?;
    let mut tests = Vec::new();
    for operator in std::fs::read_dir(folder)? {
        let operator = operator?;
        if operator.file_type()?.is_dir() {
            for test in std::fs::read_dir(operator.path())? {
                let name = |n: OsString| n.to_string_lossy().into_owned();
                tests.push((name(operator.file_name()), name(test?.file_name())));
            }
        }
    }
    tests.sort();
    Ok((tests, version))
}

fn examine(folder: &Path) -> Verdict {
    let read = |name: &str| Graph::read(&folder.join(name)).map_err(|e| report::unreadable(&e));
    let verdict = || {
        let model = read("model.onnx")?;
        let (inputs, expected) = (read("inputs.onnx")?, read("expected.onnx")?);
        Ok(case::check(model, inputs.initializers, &expected.initializers))
    };
    verdict().unwrap_or_else(Verdict::NotApplicable)
}
