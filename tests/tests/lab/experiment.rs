//! `dkt experiment`: a study on a tiny part of the digits, begun, stopped, gone on with, and reported.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dkt_tests::deadline::Deadline;
use dkt_tests::process::{Output, Process, run};
use serde_json::Value;

use crate::dkt;

/// Arguments of a study that trains for seconds.
fn tiny<'a>(name: &'a [&'a str], out: &'a Path, more: &'a [&'a str]) -> Vec<&'a str> {
    let out = out.to_str().unwrap();
    let common =
        ["--data", "digits", "--network", "digits-cnn", "--scale", "0.01", "--seeds", "2", "--out", out];
    [&["experiment"], name, &common, more].concat()
}

fn results(out: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(out.join("results.json")).unwrap()).unwrap()
}

/// Rows of `results.csv` as fields: arm, seed, agent, head, metric, experience, on_experience, value.
fn rows(out: &Path) -> Vec<Vec<String>> {
    let csv = fs::read_to_string(out.join("results.csv")).unwrap();
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("arm,seed,agent,head,metric,experience,on_experience,value"));
    lines.map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

/// Files below the folder and when they were written.
fn files(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push((path.clone(), modified(&path))) }
        }
    }
    found.sort();
    found
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

fn succeeded(output: &Output) {
    assert_eq!(output.code, Some(0), "{}", output.stderr);
}

#[test]
fn learners_teach_each_other_and_are_compared_with_the_control() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let arguments = tiny(
        &["step-training"],
        &out,
        &["--set", "train.epochs=20", "--set", "data.test_samples_per_class=12"],
    );
    let output = run(dkt(&arguments));
    succeeded(&output);
    for says in [
        "At scale 0.01",
        "20 of 139 training and 12 of 35 test samples",
        "exchange on - exchange off",
        "Differences within each seed",
        "2 seeds (0, 1)",
    ] {
        assert!(output.stdout.contains(says), "no `{says}` in:\n{}", output.stdout);
    }
    assert!(output.stderr.contains("student.train.epochs = 20"), "{}", output.stderr);
    each_agent_has_its_figures(&rows(&out));
    figures_are_of_all_seeds(&results(&out));
    let html = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(html.contains("Can continual learners") && html.matches("<svg").count() >= 4, "{html}");
    assert!(!html.contains("not drawn") && !html.contains("<script"));
    // The same command has nothing left to run.
    let (before, seed_0) = (files(&out.join("exchange-on")), files(&out.join("exchange-on/seed-0")));
    let again = run(dkt(&arguments));
    succeeded(&again);
    assert_eq!(again.stdout, output.stdout);
    assert_eq!(files(&out.join("exchange-on")), before);
    // Another seed is one more run.
    let more: Vec<&str> = arguments.iter().map(|a| if *a == "2" { "1,7" } else { a }).collect();
    succeeded(&run(dkt([&more[..], &["--no-control"]].concat())));
    assert_eq!(
        (results(&out)["finished"].as_u64(), out.join("exchange-off/seed-7").exists()),
        (Some(2), false)
    );
    assert_eq!(files(&out.join("exchange-on/seed-0")), seed_0);
    // Another experiment has no place in the folder.
    let other = tiny(
        &["step-training"],
        &out,
        &["--set", "train.epochs=21", "--set", "data.test_samples_per_class=12"],
    );
    let refused = run(dkt(&other));
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    let says = "expected student.train.epochs = 21, found 20";
    assert!(
        refused.stderr.contains(says) && refused.stderr.contains("choose another --out"),
        "{}",
        refused.stderr
    );
}

fn each_agent_has_its_figures(rows: &[Vec<String>]) {
    for arm in ["exchange-on", "exchange-off"] {
        // How fast a peer's soft targets come is the machine's affair; that some do, and none without exchange, is not.
        let is_taught = |row: &Vec<String>| row[0] == arm && row[4] == "teacher_share" && row[7] != "0";
        assert_eq!(rows.iter().any(is_taught), arm == "exchange-on", "{arm}");
        for (seed, agent, head) in
            ["0", "1"].iter().flat_map(|s| [(s, "agent-1", "cl"), (s, "agent-2", "student")])
        {
            let of = |metric: &str| {
                let wanted = [arm, *seed, agent, head, metric];
                rows.iter().filter(|row| row[..5] == wanted).collect::<Vec<_>>()
            };
            assert_eq!(of("accuracy").len(), 25, "{arm} {seed} {agent}: after 5 experiences, on 5");
            assert_eq!(of("stream_accuracy").len(), 5);
            for metric in ["average_accuracy", "forgetting", "backward_transfer"] {
                assert_eq!(of(metric).len(), 1, "{metric} of {arm} {seed} {agent}");
            }
        }
    }
}

fn figures_are_of_all_seeds(results: &Value) {
    assert_eq!((results["runs"].as_u64(), results["finished"].as_u64()), (Some(4), Some(4)));
    assert_eq!(results["settings"]["student.data.samples_per_class"], "20");
    // The summary is the mean over seeds of means over agents, computed here from the runs.
    let finals = |arm: usize| {
        let runs = results["arms"][arm]["runs"].as_array().unwrap();
        let of_run = |run: &Value| {
            let agents = run["agents"].as_array().unwrap();
            let last =
                |a: &Value| a["heads"][0]["stream"].as_array().unwrap().last().unwrap().as_f64().unwrap();
            agents.iter().map(last).sum::<f64>() / agents.len() as f64
        };
        runs.iter().map(of_run).collect::<Vec<f64>>()
    };
    let (on, off) = (finals(0), finals(1));
    let find = |table: &str| {
        let is_it = |row: &&Value| {
            row["arm"] == "exchange-on" && row["head"] == "cl" && row["metric"] == "stream_accuracy"
        };
        results[table].as_array().unwrap().iter().find(is_it).unwrap().clone()
    };
    let close = |found: &Value, expected: f64| (found.as_f64().unwrap() - expected).abs() < 1e-12;
    assert!(close(&find("summary")["mean"], (on[0] + on[1]) / 2.0));
    let differences = [on[0] - off[0], on[1] - off[1]];
    assert!(close(&find("differences")["mean"], (differences[0] + differences[1]) / 2.0));
    assert!(close(&find("differences")["sd"], (differences[0] - differences[1]).abs() / 2.0_f64.sqrt()));
}

#[test]
fn a_study_that_was_stopped_goes_on_with_the_same_command() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let more = ["--set", "train.epochs=30", "--strategies", "naive,replay"];
    let arguments = tiny(&["strategies"], &out, &more);
    let mut study = Process::start(dkt([&arguments[..], &["--progress", "json"]].concat()));
    let deadline = Deadline::default();
    loop {
        let line = study.stdout.next(deadline).unwrap().expect("an epoch ends");
        if line.contains("\"event\":\"epoch\"") {
            break;
        }
    }
    study.terminate();
    assert_eq!(study.wait().code(), Some(0), "{}", study.stderr.text());
    let stdout = study.stdout.text();
    assert!(stdout.contains("Stopped and saved; the same command goes on from here."), "{stdout}");
    assert!(!out.join("naive/seed-0/result.json").exists());
    let output = run(dkt(&arguments));
    succeeded(&output);
    assert!(output.stderr.contains("resumed at step"), "{}", output.stderr);
    assert_eq!(results(&out)["finished"].as_u64(), Some(4));
    assert!(output.stdout.contains("replay - naive"), "{}", output.stdout);
}

#[test]
fn a_teacher_is_trained_once_and_guides_every_seed() {
    let folder = tempfile::tempdir().unwrap();
    for (name, more) in [
        ("cifar100-training", vec!["--teacher-set", "train.epochs=3"]),
        ("splitcifar100-pretrained", vec!["--teacher-set", "train.epochs=3", "--keep-order"]),
    ] {
        let out = folder.path().join(name);
        let common = ["--teacher-network", "digits-cnn", "--set", "train.epochs=3", "--tensorboard"];
        let more = [&common, more.as_slice()].concat();
        let output = run(dkt(tiny(&[name], &out, &more)));
        succeeded(&output);
        for says in ["The teacher (", "Only 6 training steps in an experience"] {
            assert!(output.stdout.contains(says), "no `{says}` in:\n{}", output.stdout);
        }
        assert!(!output.stdout.contains("may not know"), "{}", output.stdout);
        let html = fs::read_to_string(out.join("report.html")).unwrap();
        assert!(html.contains("<h2>Similarity of layers</h2>") && !html.contains("not drawn"));
        assert!(html.contains(", continual-learning head, the teacher itself</figcaption>"), "{html}");
        let boards = files(&out.join("tensorboard"));
        for run in ["teacher/seed-1000", "guided/seed-0/student", "alone/seed-1/student"] {
            let folder = out.join("tensorboard").join(run);
            assert!(boards.iter().any(|(path, _)| path.starts_with(&folder)), "{name}: {run}: {boards:?}");
        }
        let results = results(&out);
        assert_eq!((results["runs"].as_u64(), results["finished"].as_u64()), (Some(5), Some(5)), "{name}");
        for row in rows(&out).iter().filter(|row| row[4] == "teacher_share") {
            let expected = if row[0] == "guided" { 1.0 } else { 0.0 };
            assert_eq!(row[7].parse::<f64>().unwrap(), expected, "{row:?}");
        }
    }
    // A teacher that is trained already is used as it is.
    let teacher = folder.path().join("splitcifar100-pretrained");
    let before = files(&teacher);
    let out = folder.path().join("again");
    let from = ["--teacher-from", teacher.to_str().unwrap(), "--no-control", "--set", "train.epochs=3"];
    let output = run(dkt(tiny(&["splitcifar100-pretrained"], &out, &from)));
    succeeded(&output);
    assert!(output.stdout.contains("may not know the student's classes"), "{}", output.stdout);
    assert_eq!(results(&out)["runs"].as_u64(), Some(2));
    assert_eq!(files(&teacher), before);
}

#[test]
fn a_run_that_diverges_does_not_keep_the_others_from_being_run() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let more = ["--strategies", "naive,replay", "--set", "train.learning_rate=1e30"];
    let output = run(dkt(tiny(&["strategies"], &out, &more)));
    assert_eq!(output.code, Some(78), "{}", output.stderr);
    for strategy in ["naive", "replay"] {
        let line = format!("{strategy}, seed 0 has failed");
        assert!(output.stderr.contains(&line), "expected `{line}` in {}", output.stderr);
    }
    assert!(output.stdout.contains("4 runs have failed"), "{}", output.stdout);
    assert!(out.join("report.html").exists());
}

#[test]
fn what_cannot_be_run_is_refused_before_anything_is() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for (name, more, code, says) in [
        (&["step-training"][..], &["--set", "train.epochz=3"][..], 78, "unknown field `epochz`"),
        (&["step-training"], &["--set", "seed=3"], 2, "use --seeds"),
        (&["step-training"], &["--agents", "1"], 2, "1 is not in 2..=64"),
        (&["step-training"], &["--set", "stream.experiences=3"], 78, "do not divide into 3"),
        (&["cifar100-training"], &["--teacher-network", "resnet7"], 65, "resnet7"),
        (&["cifar100-training"], &["--teacher-from", "nowhere"], 66, "no teacher in `nowhere`"),
        (
            &["splitcifar100-pretrained"],
            &["--teacher-set", "stream.experiences=2"],
            78,
            "with 5 experiences, as the student has, found 2",
        ),
        (&["strategies"], &["--set", "strategy.name=replay"], 2, "use --strategies"),
        (&["strategies"], &["--strategies", "icarl"], 2, "expected one of naive"),
    ] {
        let output = run(dkt(tiny(name, &out, more)));
        assert_eq!(output.code, Some(code), "{name:?} {more:?}: {}", output.stderr);
        assert!(output.stderr.contains(says), "{name:?} {more:?}: {}", output.stderr);
        assert!(!out.exists(), "{name:?} {more:?}");
    }
    for scale in ["0", "1.5"] {
        let arguments = [
            "experiment",
            "step-training",
            "--data",
            "digits",
            "--scale",
            scale,
            "--out",
            out.to_str().unwrap(),
        ];
        let output = run(dkt(arguments));
        assert_eq!(output.code, Some(2), "{}", output.stderr);
        assert!(output.stderr.contains("above 0 and at most 1") && !out.exists(), "{}", output.stderr);
    }
}
