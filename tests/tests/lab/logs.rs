//! The log: its formats, and where it goes.

use std::fs;

use dkt_tests::config;
use dkt_tests::process::{Output, run};
use serde_json::Value;

use crate::dkt;

/// The lines, each an object.
fn objects(log: &str) -> Vec<Value> {
    let object = |line: &str| -> Value {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("`{line}` is no JSON: {e}"));
        assert!(value["timestamp"].is_string() && value["level"].is_string(), "{value}");
        value
    };
    log.lines().map(object).collect()
}

fn says_resuming(log: &str) -> bool {
    objects(log).iter().any(|line| {
        line["level"] == "INFO"
            && line["message"] == "resuming"
            && line["target"].as_str().unwrap().starts_with("dkt_agent::")
            && line["step"].as_u64() > Some(0)
    })
}

#[test]
fn a_log_in_json_is_an_object_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config::alone(folder.path(), "alice");
    config.train.epochs = 1;
    let file = config::write(folder.path(), &config);
    let log = folder.path().join("dkt.log");
    let agent = |arguments: &[&str], variables: &[(&str, &str)]| -> Output {
        let mut command = dkt(["run", file.to_str().unwrap(), "--progress", "json"]);
        command.args(arguments).env("DKT_LOG", "dkt_agent=info").envs(variables.iter().copied());
        let output = run(command);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        output
    };
    agent(&[], &[]);
    // From here on each goes on from the end of the first, and says so.
    let plain = agent(&[], &[]).stderr;
    assert!(plain.contains(": resuming path="), "{plain}");
    assert!(says_resuming(&agent(&["--log-format", "json"], &[]).stderr));
    assert!(says_resuming(&agent(&[], &[("DKT_LOG_FORMAT", "json")]).stderr));
    // Whatever is shown of the run beside it is an object a line, too.
    let output = run(dkt(["run", file.to_str().unwrap(), "--log-format", "json"]));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let told = objects(&output.stderr);
    let ends = |line: &Value| line["message"].as_str().unwrap().starts_with("finished after ");
    let last = told.iter().find(|line| ends(line)).unwrap_or_else(|| panic!("{told:?}"));
    assert!(
        last["agent"] == "alice" && last["level"] == "INFO" && last["t_s"].as_f64() > Some(0.0),
        "{last}"
    );
    let nothing = agent(&["--log-format", "json", "--log-file", log.to_str().unwrap()], &[]).stderr;
    assert_eq!(nothing, "", "it is in the file");
    let once = fs::read_to_string(&log).unwrap();
    assert!(says_resuming(&once));
    // The option counts for more than the variable, and a file is appended to.
    agent(&["--log-format", "plain", "--log-file", log.to_str().unwrap()], &[("DKT_LOG_FORMAT", "json")]);
    let twice = fs::read_to_string(&log).unwrap();
    let added = twice.strip_prefix(&once).unwrap();
    assert!(added.contains(": resuming path="), "{added}");
}

#[test]
fn why_the_program_ends_is_in_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("dkt.log");
    let missing = folder.path().join("missing.toml");
    let refused = |arguments: &[&str]| -> String {
        let output = run(dkt(["run", missing.to_str().unwrap()].iter().chain(arguments)));
        assert_eq!(output.code, Some(66), "{output:?}");
        output.stderr
    };
    let is_told = |log: &str| {
        let told = objects(log);
        assert!(
            matches!(&told[..], [one] if one["level"] == "ERROR" && one["exit_code"] == 66
                && one["message"].as_str().unwrap().contains("missing.toml")),
            "{told:?}"
        );
    };
    let plain = refused(&[]);
    assert!(plain.starts_with("dkt: cannot read ") && plain.lines().count() == 1, "{plain}");
    is_told(&refused(&["--log-format", "json"]));
    assert_eq!(refused(&["--log-format", "json", "--log-file", log.to_str().unwrap()]), plain);
    is_told(&fs::read_to_string(&log).unwrap());
}

#[test]
fn a_log_that_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(dkt(["model", "list", "--log-file", folder.path().to_str().unwrap()]));
    assert_eq!((output.code, output.stdout.as_str()), (Some(74), ""));
    assert!(output.stderr.starts_with("dkt: cannot open the log `"), "{}", output.stderr);
    let mut command = dkt(["model", "list"]);
    command.env("DKT_LOG_FORMAT", "xml");
    let output = run(command);
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("[possible values: plain, json]"), "{}", output.stderr);
}

#[test]
fn the_agents_of_a_lab_log_as_the_lab_does() {
    let folder = tempfile::tempdir().unwrap();
    let lab =
        "title = \"x\"\n[[agents]]\nagent = \"alice\"\nfleet = \"lab\"\ndata.source = \"no-such-data\"\n";
    let mut command = crate::testbed(folder.path(), lab);
    command.args(["--log-format", "json"]);
    let output = run(command);
    assert_eq!(output.code, Some(66), "{}", output.stderr);
    assert_eq!(objects(&output.stderr)[0]["message"], "exchange on: alice");
    let told = objects(&fs::read_to_string(folder.path().join("out/alice/agent.log")).unwrap());
    assert!(told.last().unwrap()["message"].as_str().unwrap().contains("no-such-data"), "{told:?}");
}
