//! What the program says of itself.

use dkt_tests::process::run;

use crate::dkt;

#[test]
fn help_names_every_command_and_every_exit_code() {
    let output = run(dkt(["--help"]));
    assert_eq!(output.code, Some(0));
    for text in [
        "Usage: dkt <COMMAND>",
        "run      Run one agent of a fleet",
        "testbed  Run a whole lab of agents on this machine and report on it",
        "broker   Run an MQTT broker",
        "eval     Evaluate a dual-head ONNX model on test data, without ONNX Runtime",
        "model    List, build, inspect and prepare networks",
        "Exit codes: 0 done;",
        "DKT_LOG",
    ] {
        assert!(output.stdout.contains(text), "expected `{text}` in:\n{}", output.stdout);
    }
}

#[test]
fn each_command_explains_its_arguments() {
    let table: [(&[&str], &[&str]); 9] = [
        (
            &["run"],
            &["<AGENT.toml>", "--progress", "bar", "plain", "json", "one event a line on standard output"],
        ),
        (&["testbed"], &["<LAB.toml>", "--out <FOLDER>", "runs/lab", "--progress"]),
        (&["broker"], &["--listen", "127.0.0.1:1883", "port 0 picks a free one"]),
        (&["eval"], &["<MODEL.onnx>", "--data <DATA>", "IDX files", "--json"]),
        (&["model"], &["list", "build", "inspect", "attach-heads", "derive"]),
        (&["model", "build"], &["<NETWORK>", "--output <MODEL.onnx>", "--seed", "--classes", "<CxHxW>"]),
        (&["model", "inspect"], &["<MODEL.onnx>", "--parameters", "whether the network can be trained"]),
        (&["model", "attach-heads"], &["<CLASSIFIER.onnx>", "PyTorch export", "--classes", "--seed"]),
        (
            &["model", "derive"],
            &["<TRAIN.onnx>", "--loss", "mse", "kl", "--optimizer", "adamw", "--clip-norm"],
        ),
    ];
    for (command, says) in table {
        let output = run(dkt(command.iter().chain(&["--help"])));
        assert_eq!(output.code, Some(0), "{command:?}");
        for text in says {
            assert!(output.stdout.contains(text), "{command:?}: expected `{text}` in:\n{}", output.stdout);
        }
    }
}

#[test]
fn wrong_command_lines_are_refused_with_the_usage() {
    let table: [(&[&str], &str); 8] = [
        (&[], "Usage: dkt <COMMAND>"),
        (&["--nonsense"], "unexpected argument '--nonsense'"),
        (&["train"], "unrecognized subcommand 'train'"),
        (&["run"], "<AGENT.toml>"),
        (&["run", "agent.toml", "--progress", "loud"], "[possible values: auto, bar, plain, json]"),
        (&["broker", "--listen", "here"], "--listen <ADDRESS:PORT>"),
        (&["model", "build", "digits-cnn"], "--output <MODEL.onnx>"),
        (&["model", "build", "digits-cnn", "-o", "x", "--input", "8x8"], "expected CHANNELSxHEIGHTxWIDTH"),
    ];
    for (arguments, says) in table {
        let output = run(dkt(arguments));
        assert_eq!(output.code, Some(2), "{arguments:?}: {output:?}");
        assert_eq!(output.stdout, "", "{arguments:?}");
        assert!(output.stderr.contains(says), "{arguments:?}: expected `{says}` in:\n{}", output.stderr);
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let output = run(dkt(["--version"]));
    assert_eq!(output.stdout.trim(), format!("dkt {}", env!("CARGO_PKG_VERSION")));
}
