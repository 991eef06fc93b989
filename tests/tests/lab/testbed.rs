//! `dkt testbed`: a whole lab on one machine, and what it leaves behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use dkt_models::DualHead;
use dkt_tests::deadline::Deadline;
use dkt_tests::process::{Output, Process, run};
use onnx_grad::graph::Graph;

use crate::refusals::check;

const LAB: &str = r#"
title = "A <small> lab, \"quoted\""
control = true

[defaults]
fleet = "lab"
data.views = 2
stream.experiences = 2
train.epochs = 4
replay = { capacity = 64, batch_size = 8 }
exchange = { refresh_epochs = 1, wait_for_peers = 1 }

[[agents]]
agent = "alice"
stream.class_order = 1

[[agents]]
agent = "bob"
seed = 2
stream.class_order = 2
"#;

/// Runs the lab of that text in `folder`, into `folder/out`.
fn testbed(folder: &Path, lab: &str) -> (Output, PathBuf) {
    (run(crate::testbed(folder, lab)), folder.join("out"))
}

#[test]
fn a_lab_with_its_control_is_run_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (output, out) = testbed(folder.path(), LAB);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    table_compares_both_arms(&output.stdout);
    metrics_have_both_arms(&fs::read_to_string(out.join("metrics.csv")).unwrap());
    report_stands_alone(&fs::read_to_string(out.join("report.html")).unwrap());
    for folder in [out.clone(), out.join("exchange-off")] {
        for agent in ["alice", "bob"] {
            let model =
                DualHead::from_graph(Graph::read(&folder.join(agent).join("model.onnx")).unwrap()).unwrap();
            assert_eq!((model.n_classes(), model.input_dims()), (10, [1, 8, 8]));
            assert_eq!(model.graph().metadata["dkt.classes"], r#"["0","1","2","3","4","5","6","7","8","9"]"#);
        }
    }
    // A lab replaces what an earlier one left.
    fs::write(out.join("alice/stale"), "").unwrap();
    let alone = LAB
        .replace("control = true", "")
        .replace("exchange = {", "#")
        .replace("[[agents]]\nagent = \"bob\"", "#");
    let alone = alone.split("\n#\nseed").next().unwrap().to_owned();
    let (output, out) = testbed(folder.path(), &alone);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(
        !out.join("alice/stale").exists() && !out.join("bob").exists() && !out.join("exchange-off").exists()
    );
}

fn table_compares_both_arms(stdout: &str) {
    assert!(stdout.contains("A <small> lab, \"quoted\""), "{stdout}");
    for agent in ["alice", "bob"] {
        for head in ["cl", "student"] {
            for arm in ["exchange on", "exchange off"] {
                let row = stdout
                    .lines()
                    .find(|line| line.split_whitespace().take(2).eq([agent, head]) && line.contains(arm));
                let row = row.unwrap_or_else(|| panic!("no row of {agent}, {head}, {arm} in:\n{stdout}"));
                let numbers = row.split_whitespace().filter(|word| word.parse::<f64>().is_ok()).count();
                // After each of two experiences, in the end, forgotten, and known before.
                assert_eq!(numbers, 5, "{row}");
            }
        }
        let sent = stdout.lines().any(|line| line.starts_with(agent) && line.contains("targets"));
        assert!(sent, "no soft targets of {agent} in:\n{stdout}");
    }
}

/// Fields by column name. No value of this lab holds a comma.
fn metrics_have_both_arms(csv: &str) {
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert_eq!(header[..4], ["arm", "agent", "head", "metric"]);
    let mut seen = BTreeSet::new();
    for line in lines {
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields.len(), header.len(), "{line}");
        let field = |name| fields[header.iter().position(|column| *column == name).unwrap()];
        let value: f64 = field("value").parse().unwrap();
        assert!(value.is_finite(), "{line}");
        if field("metric").ends_with("accuracy") {
            assert!((0.0..=1.0).contains(&value), "{line}");
        }
        seen.insert((field("arm"), field("agent"), field("metric")));
    }
    for arm in ["exchange on", "exchange off"] {
        for agent in ["alice", "bob"] {
            for metric in
                ["accuracy", "average_accuracy", "stream_accuracy", "forgetting", "loss_cl", "teacher_share"]
            {
                assert!(seen.contains(&(arm, agent, metric)), "no {metric} of {agent} with {arm}");
            }
        }
    }
    assert!(seen.contains(&("exchange on", "alice", "targets_bytes_in")));
    assert!(!seen.contains(&("exchange off", "alice", "targets_bytes_in")));
}

/// Nothing is fetched and nothing is run: the page can be sent by mail.
fn report_stands_alone(html: &str) {
    assert!(html.starts_with("<!doctype html>"));
    assert!(html.contains("<title>A &lt;small&gt; lab, &quot;quoted&quot;</title>"));
    assert!(html.matches("<svg").count() >= 8, "it has plots");
    let without_namespaces =
        html.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "");
    for foreign in ["http://", "https://", "<script", "<link", "<img", "<iframe", " src=", "@import", "url("]
    {
        assert!(!without_namespaces.contains(foreign), "the report holds `{foreign}`");
    }
    assert!(!html.contains("not drawn"), "a plot could not be drawn");
    for agent in ["alice", "bob"] {
        assert!(html.contains(agent));
    }
}

#[test]
fn a_folder_that_is_somebody_elses_is_not_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.tex"), "years of work").unwrap();
    let (output, _) = testbed(folder.path(), LAB);
    assert_eq!(output.code, Some(74), "{output:?}");
    assert!(
        output.stderr.contains("it is not empty") && output.stderr.contains("--out"),
        "{}",
        output.stderr
    );
    assert_eq!(fs::read_to_string(out.join("thesis.tex")).unwrap(), "years of work");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn an_agent_that_fails_ends_the_lab_with_its_code_and_message() {
    let folder = tempfile::tempdir().unwrap();
    let lab = LAB.replace("control = true", "").replace("seed = 2", "data.source = \"no-such-data\"");
    let (output, out) = testbed(folder.path(), &lab);
    assert_eq!(output.code, Some(66), "{output:?}");
    assert!(output.stderr.contains("no data at `no-such-data`"), "{}", output.stderr);
    let log = out.join("bob/agent.log");
    let last = format!("dkt: agent `bob` ended with exit code 66; its messages are in `{}`", log.display());
    assert_eq!(output.stderr.lines().last(), Some(last.as_str()));
    assert!(fs::read_to_string(log).unwrap().contains("no-such-data"));
}

#[test]
fn a_lab_that_is_asked_to_stop_has_its_agents_save_and_reports() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut command =
        crate::testbed(folder.path(), &LAB.replace("train.epochs = 4", "train.epochs = 100000"));
    command.args(["--progress", "json"]);
    let mut lab = Process::start(command);
    let deadline = Deadline::default();
    loop {
        let line = lab.stdout.next(deadline).unwrap().expect("an epoch ends");
        if line.contains("\"event\":\"epoch\"") {
            break;
        }
    }
    lab.terminate();
    assert_eq!(lab.wait().code(), Some(0), "{}", lab.stderr.text());
    assert!(lab.stdout.text().contains("Stopped: the agents are shown as far as they came."));
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("did not reach their end"));
    for agent in ["alice", "bob"] {
        let saved = fs::read_dir(out.join(agent).join("checkpoints")).unwrap().count();
        assert!(saved > 0, "{agent} has saved nothing");
    }
    assert!(!out.join("exchange-off").exists(), "the control is not begun");
}

#[test]
fn labs_are_refused_with_the_file_and_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let lab = |text: &str, says: &[&str]| {
        let (output, out) = testbed(folder.path(), text);
        check(text, &output, 78, &[&["lab.toml"], says].concat());
        assert!(!out.exists(), "nothing is made before the lab is read");
    };
    lab("title = \"x\"\nagents = []", &["`agents` must be at least one [[agents]] table, found none"]);
    lab("title = \"x\"\nagents = 3", &["`agents` must be at least one [[agents]] table, found integer"]);
    lab("title = \"x\"\ndefaults = 3\nagents = [{}]", &["`defaults` must be a table, found integer"]);
    lab(
        "title = \"x\"\n[defaults]\nfleet = \"f\"\n[[agents]]\nagent = \"a\"\n[[agents]]\nagent = \"a\"",
        &["`a`"],
    );
    let agents = |text: &str| {
        format!("title = \"x\"\n[[agents]]\nagent = \"a\"\nfleet = \"f\"\n[[agents]]\nfleet = \"f\"\n{text}")
    };
    lab(&agents("agent = \"b\"\n[agents.train]\nepoch = 1"), &["agent `b`: ", "line 9", "`epoch`"]);
    lab(
        &agents("agent = \"b\"\n[defaults.train]\nepochs = \"all\""),
        &["agent `a`: ", "line 9", "expected u32"],
    );
    lab(&agents("agent = \"b\"\nleave = { after = 2 }"), &["agent `b`: ", "line 8", "`after`"]);
    lab(&agents("train.epochs = 1"), &["agent 2: ", "line 5", "missing field `agent`"]);
    lab(
        &agents("agent = \"b\"\ntrain.epochs = 0"),
        &["agent `b`: ", "`train.epochs` must be between 1 and 1000000, found 0"],
    );
    lab(
        "title = \"x\"\n[[agents]]\nagent = \"a\"\nfleet = \"f\"\njoin = { after = \"a\", experience = 1 }",
        &["would wait for ever", "`a` joins after experience 1 of `a`"],
    );
    lab("title = \"x\"\nbrokers = 1\n[[agents]]\nagent = \"a\"\nfleet = \"f\"", &["`brokers`"]);
}
