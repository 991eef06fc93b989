//! Event files as TensorBoard's own reader sees them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dkt_agent::config::AgentConfig;
use dkt_agent::telemetry::event::Event;
use dkt_tests::process::run;
use dkt_tests::{config, repository};
use serde_json::Value;

use crate::python::python;
use crate::{dkt, start};

/// Step and value of every point of a scalar.
type Points = Vec<(u64, f32)>;

/// What TensorBoard reads in a folder.
struct Board {
    scalars: BTreeMap<String, Points>,
    /// Seconds since 1970 of every point.
    times: Vec<f64>,
    texts: Value,
}

fn read(folder: &Path) -> Board {
    let script = repository("tests/python/check_tensorboard.py");
    let output = run(python([script.as_os_str(), folder.as_os_str()]));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let read: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(read["file_version"], 2.0);
    let (mut scalars, mut times) = (BTreeMap::new(), Vec::new());
    for (tag, points) in read["scalars"].as_object().unwrap() {
        let points = points.as_array().unwrap();
        times.extend(points.iter().map(|point| point[2].as_f64().unwrap()));
        let points = points.iter().map(|p| (p[0].as_u64().unwrap(), p[1].as_f64().unwrap() as f32));
        scalars.insert(tag.clone(), points.collect());
    }
    Board { scalars, times, texts: read["texts"].clone() }
}

/// The scalars that `metrics.csv` of a run has too.
fn scalars_of_csv(path: &Path) -> BTreeMap<String, Points> {
    let mut reader = fs::read_to_string(path).unwrap();
    let header: Vec<String> = reader.lines().next().unwrap().split(',').map(ToOwned::to_owned).collect();
    reader = reader.split_once('\n').unwrap().1.to_owned();
    let mut scalars: BTreeMap<String, Points> = BTreeMap::new();
    // The step at the end of each experience: courses come after accuracies.
    let rows: Vec<BTreeMap<&str, &str>> =
        reader.lines().map(|line| header.iter().map(String::as_str).zip(line.split(',')).collect()).collect();
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for row in rows.iter().filter(|row| row["metric"] == "loss") {
        ends.insert(row["experience"], row["step"].parse().unwrap());
    }
    for row in &rows {
        let (metric, head) = (row["metric"], row["head"]);
        let value = row["value"].parse::<f64>().unwrap() as f32;
        let (tag, step) = match metric {
            "accuracy" => {
                (format!("accuracy_{head}/experience_{}", row["on_experience"]), ends[row["experience"]])
            }
            _ if !row["epoch"].is_empty() => (format!("train/{metric}"), row["step"].parse().unwrap()),
            // Those over the whole stream come later, and tables stay tables.
            _ if row["experience"].is_empty() || !row["on_experience"].is_empty() => continue,
            "confusion" => continue,
            _ if head.is_empty() => (format!("usage/{metric}"), ends[row["experience"]]),
            _ => (format!("{metric}/{head}"), ends[row["experience"]]),
        };
        scalars.entry(tag).or_default().push((step, value));
    }
    scalars
}

/// Both have the very same points, and the board those of the exchange besides.
fn check_against_csv(board: &Board, out: &Path) {
    let expected = scalars_of_csv(&out.join("metrics.csv"));
    assert!(expected.len() > 10, "{expected:?}");
    for (tag, points) in &expected {
        assert_eq!(board.scalars.get(tag), Some(points), "{tag}");
    }
    let others: Vec<&String> = board
        .scalars
        .keys()
        .filter(|tag| !expected.contains_key(*tag) && !tag.starts_with("exchange/") && *tag != "train/peers")
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

fn wants_tensorboard(root: &Path) -> AgentConfig {
    let mut config = config::alone(root, "alice");
    config.report.tensorboard = true;
    config.stream.experiences = 5;
    config.train.epochs = 3;
    config
}

#[test]
fn tensorboard_reads_the_numbers_of_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let config = wants_tensorboard(folder.path());
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let began = now();
    start(&config).end().finished();
    let out = folder.path().join("alice");
    let board = read(&out.join("tensorboard"));
    check_against_csv(&board, &out);
    assert!(board.times.iter().all(|t| (began..=now()).contains(t)), "{:?}", board.times);
    let text = board.texts["configuration"][0][1].as_str().unwrap();
    assert!(text.contains("    agent = \"alice\"\n"), "{text}");
    assert!(text.lines().all(|line| line.starts_with("    ")), "{text}");
}

#[test]
fn a_run_that_goes_on_adds_to_the_same_course() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = wants_tensorboard(folder.path());
    config.train.epochs = 8;
    config.checkpoint.every_steps = 7;
    let out = folder.path().join("alice");
    let mut agent = start(&config);
    agent.wait_for("the end of an experience", |event| matches!(event, Event::Evaluated(_)).then_some(()));
    agent.checkpointed(0);
    agent.wait_for("an epoch", |event| matches!(event, Event::Epoch(_)).then_some(()));
    agent.kill();
    agent.end();
    let before = read(&out.join("tensorboard"));
    // What has come too late for the newest checkpoint is trained again, and stopped again.
    let mut agent = start(&config);
    let resumed = agent.started().resumed_at_step;
    agent.wait_for("the next experience", |event| {
        matches!(event, Event::Evaluated(e) if e.experience == 1).then_some(())
    });
    agent.terminate();
    assert_eq!(agent.end().code, Some(0));
    start(&config).end().finished();
    assert_eq!(fs::read_dir(out.join("tensorboard")).unwrap().count(), 3, "a file for each process");
    let after = read(&out.join("tensorboard"));
    let metric = "train/samples_per_second";
    let told = |board: &Board| -> Points {
        board.scalars[metric].iter().filter(|(step, _)| *step <= resumed).copied().collect()
    };
    assert_eq!(told(&after), told(&before), "what was measured stays");
    check_against_csv(&after, &out);
    assert_eq!(after.texts["configuration"].as_array().unwrap().len(), 1);
}

#[test]
fn a_folder_that_cannot_be_written_costs_a_warning_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = config::alone(folder.path(), "alice");
    let file = config::write(folder.path(), &config);
    let board = format!("--tensorboard={}", file.join("below").display());
    let output = run(dkt(["run", file.to_str().unwrap(), &board, "--progress", "plain"]));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let warnings: Vec<&str> = output.stderr.lines().filter(|line| line.contains("warning: ")).collect();
    assert!(
        matches!(warnings[..], [one] if one.contains("below` for TensorBoard: ") && one.ends_with("written there")),
        "{}",
        output.stderr
    );
    assert!(output.stderr.contains("finished after"), "{}", output.stderr);
}

#[test]
fn a_lab_has_a_run_for_each_agent_and_arm() {
    const LAB: &str = r#"
        title = "side by side"
        control = true
        [defaults]
        fleet = "lab"
        data.views = 2
        stream.experiences = 2
        train.epochs = 3
        exchange = { refresh_epochs = 1, wait_for_peers = 1 }
        [[agents]]
        agent = "alice"
        [[agents]]
        agent = "bob"
        seed = 2
    "#;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    fs::write(path("lab.toml"), LAB).unwrap();
    let (file, out) = (path("lab.toml"), path("out"));
    let output = run(dkt([
        "testbed".as_ref(),
        file.as_os_str(),
        "--out".as_ref(),
        out.as_os_str(),
        "--tensorboard".as_ref(),
    ]));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    for (arm, agents) in [("exchange-on", out.clone()), ("exchange-off", out.join("exchange-off"))] {
        for agent in ["alice", "bob"] {
            let board = read(&out.join("tensorboard").join(arm).join(agent));
            assert_eq!(board.scalars["train/loss"].len(), 6, "{arm} {agent}");
            assert_eq!(board.scalars["average_accuracy/student"].len(), 2);
            let taught = board.scalars.get("exchange/targets_bytes_in").and_then(|points| points.last());
            assert_eq!(taught.is_some_and(|(_, bytes)| *bytes > 0.0), arm == "exchange-on");
            assert!(!agents.join(agent).join("tensorboard").exists());
        }
    }
}
