//! What the program says of itself.

use dkt_tests::process::run;

use crate::dkt;

#[test]
fn help_names_every_command_and_every_exit_code() {
    let output = run(dkt(["--help"]));
    assert_eq!(output.code, Some(0));
    for text in [
        "Usage: dkt [OPTIONS] <COMMAND>",
        "run         Run one agent of a fleet",
        "testbed     Run a whole lab of agents on this machine and report on it",
        "experiment  Run a study: several seeds, treatment and control, one report",
        "broker      Run an MQTT broker",
        "eval        Evaluate a dual-head ONNX model on test data, without ONNX Runtime",
        "data        Inspect data sets",
        "analyse     Compare the layers of networks, or draw their features",
        "keys        Make and keep the certificates and keys of a lab",
        "model       List, build, inspect and prepare networks",
        "Exit codes: 0 done;",
        "DKT_LOG",
        "--log-format <FORMAT>",
        "[env: DKT_LOG_FORMAT]",
        "--log-file <FILE>",
    ] {
        assert!(output.stdout.contains(text), "expected `{text}` in:\n{}", output.stdout);
    }
}

#[test]
fn each_command_explains_its_arguments() {
    let table: [(&[&str], &[&str]); 18] = [
        (
            &["run"],
            &[
                "<AGENT.toml>",
                "--progress",
                "bar",
                "plain",
                "json",
                "one event a line on standard output",
                "--tensorboard[=<FOLDER>]",
            ],
        ),
        (
            &["testbed"],
            &[
                "<LAB.toml>",
                "--out <FOLDER>",
                "runs/lab",
                "--resume",
                "--progress",
                "--tensorboard[=<FOLDER>]",
            ],
        ),
        (&["broker"], &["--listen", "127.0.0.1:1883", "port 0 picks a free one"]),
        (&["eval"], &["<MODEL.onnx>", "--data <DATA>", "docs/data.md", "--json"]),
        (&["data"], &["inspect", "Read a data set and describe it"]),
        (&["data", "inspect"], &["<DATA>", "--json", "Exit code 65 if files are damaged"]),
        (
            &["analyse", "cka"],
            &[
                "[MODEL_A.onnx]",
                "--teacher <MODEL.onnx>...",
                "--student <MODEL.onnx>...",
                "--samples",
                "512",
                "runs/analysis",
            ],
        ),
        (
            &["analyse", "tsne"],
            &["<MODEL.onnx>...", "--head <HEAD>", "--perplexity", "30", "--iterations", "--seed"],
        ),
        (&["keys"], &["init", "add", "renew", "revoke", "list"]),
        (&["keys", "init"], &["--out <DIR>", "--broker <NAME-OR-ADDRESS>...", "825", "3650"]),
        (&["keys", "add"], &["<AGENT>...", "bridge.SITE", "--days <DAYS>"]),
        (&["keys", "renew"], &["[AGENT]...", "--broker", "within 30 days"]),
        (&["model"], &["list", "build", "inspect", "attach-heads", "derive", "check"]),
        (&["model", "build"], &["<NETWORK>", "--output <MODEL.onnx>", "--seed", "--classes", "<CxHxW>"]),
        (&["model", "inspect"], &["<MODEL.onnx>", "--parameters", "whether the network can be trained"]),
        (&["model", "attach-heads"], &["<CLASSIFIER.onnx>", "PyTorch export", "--classes", "--seed"]),
        (
            &["model", "derive"],
            &[
                "<FORWARD.onnx>",
                "<TRAIN.onnx>",
                "<STATE.safetensors>",
                "cross-entropy",
                "rmsprop",
                "--decay-matrices-only",
                "No weight decay on biases and the scales of norms",
                "PATTERN:lr=0.1,weight_decay=0",
                "--freeze <PATTERN>",
                "--clip-norm",
                "--clip-value",
                "--accumulate",
                "--dropout",
                "bf16",
                "--recompute-parts <N>",
            ],
        ),
        (&["model", "check"], &["<FORWARD.onnx>", "--logits", "--seed", "--batch", "Exit code 1 if"]),
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
    let table: [(&[&str], &str); 13] = [
        (&[], "Usage: dkt [OPTIONS] <COMMAND>"),
        (&["--nonsense"], "unexpected argument '--nonsense'"),
        (&["train"], "unrecognized subcommand 'train'"),
        (&["run"], "<AGENT.toml>"),
        (&["run", "agent.toml", "--progress", "loud"], "[possible values: auto, bar, plain, json]"),
        (&["broker", "--listen", "here"], "--listen <ADDRESS:PORT>"),
        (&["model", "build", "digits-cnn"], "--output <MODEL.onnx>"),
        (&["model", "build", "digits-cnn", "-o", "x", "--input", "8x8"], "expected CHANNELSxHEIGHTxWIDTH"),
        (&["model", "derive", "x", "-o", "y", "--group", "conv1"], "expected PATTERN:lr=FACTOR"),
        (&["model", "derive", "x", "-o", "y", "--freeze", "a["], "expected a glob pattern of names"),
        (
            &["model", "derive", "x", "-o", "y", "--clip-norm", "1", "--clip-value", "1"],
            "cannot be used with '--clip-value <BOUND>'",
        ),
        (&["model", "derive", "x", "-o", "y", "--recompute-parts", "1"], "1 is not in 2.."),
        (&["model", "derive", "x", "-o", "y", "--weight-decay", "-1"], "expected 0 or a positive number"),
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
