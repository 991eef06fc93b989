//! What a run tells in its events, `metrics.csv` and `metrics.json`: the same numbers, and those that definitions give.

use std::fs;
use std::path::Path;

use dkt_agent::config::AgentConfig;
use dkt_agent::telemetry::event::{Evaluated, Event, Initial};
use dkt_tests::config;
use dkt_tests::process::{Ended, run};
use serde_json::Value;

use crate::{dkt, start};

const N_EXPERIENCES: usize = 5;

/// The numbers of one head, as the events tell them.
struct Told {
    /// Before the first step.
    initial: Vec<f64>,
    /// Row i after experience i, column j on experience j.
    accuracy: Vec<Vec<f64>>,
    stream: Vec<f64>,
    confusions: Vec<Vec<Vec<u64>>>,
}

fn initial(ended: &Ended) -> Option<&Initial> {
    ended.events.iter().find_map(|event| match event {
        Event::Initial(initial) => Some(initial),
        _ => None,
    })
}

fn told(ended: &Ended, head: usize) -> Told {
    let evaluated: Vec<&Evaluated> = ended.evaluated();
    Told {
        initial: initial(ended).expect("the initial network is evaluated").heads[head].per_experience.clone(),
        accuracy: evaluated.iter().map(|e| e.heads[head].per_experience.clone()).collect(),
        stream: evaluated.iter().map(|e| e.heads[head].stream).collect(),
        confusions: evaluated.iter().map(|e| e.heads[head].confusion.clone().unwrap()).collect(),
    }
}

/// Rows of `metrics.csv` by column name. No value of these runs holds a comma.
struct Csv {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Csv {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines().map(|line| line.split(',').map(ToOwned::to_owned).collect::<Vec<_>>());
        let header = lines.next().unwrap();
        let rows: Vec<_> = lines.collect();
        assert!(rows.iter().all(|row| row.len() == header.len()), "{text}");
        Csv { header, rows }
    }

    /// Values of those rows in which every column given has that value, and `metric` is the metric.
    fn values(&self, metric: &str, columns: &[(&str, &str)]) -> Vec<f64> {
        let at = |name: &str| self.header.iter().position(|column| column == name).unwrap();
        let wanted = |row: &&Vec<String>| {
            row[at("metric")] == metric && columns.iter().all(|(name, value)| row[at(name)] == *value)
        };
        self.rows.iter().filter(wanted).map(|row| row[at("value")].parse().unwrap()).collect()
    }

    fn value(&self, metric: &str, columns: &[(&str, &str)]) -> f64 {
        let values = self.values(metric, columns);
        assert_eq!(values.len(), 1, "{metric} {columns:?}");
        values[0]
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

#[track_caller]
fn same(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "found {found}, expected {expected}");
}

#[test]
fn the_numbers_of_a_run_agree_wherever_they_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config::alone(folder.path(), "alice");
    config.stream.experiences = N_EXPERIENCES;
    let ended = start(&config).end();
    ended.finished();
    let csv = Csv::read(&folder.path().join("alice/metrics.csv"));
    let text = fs::read_to_string(folder.path().join("alice/metrics.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let run = &json["arms"][0]["agents"][0];
    assert_eq!((&json["arms"][0]["name"], &run["agent"]), (&"exchange off".into(), &"alice".into()));
    for (i, head) in ["cl", "student"].into_iter().enumerate() {
        let told = told(&ended, i);
        assert_eq!(run["heads"][i]["head"], head);
        // Nobody has taught it.
        assert_eq!(run["heads"][i]["trained"], head == "cl");
        accuracies_agree(&told, &ended.started().n_test, &csv, head, &run["heads"][i]);
        transfers_follow_from_accuracies(&told, &csv, head, &run["heads"][i]);
        confusions_agree(&told, &ended, &csv, head, &run["heads"][i]);
    }
    let accuracy = |head: usize| told(&ended, head).stream[N_EXPERIENCES - 1];
    assert!(accuracy(0) > 0.5, "it has learned nothing: {}", accuracy(0));
    usage_agrees(&config, &ended, &csv, run);
    let told: AgentConfig = serde_json::from_value(run["started"]["configuration"].clone()).unwrap();
    assert_eq!(told, config.effective());
    let report = fs::read_to_string(folder.path().join("alice/report.html")).unwrap();
    let strategy = format!("<td>strategy.name</td><td>\"{}\"</td>", config.strategy.name);
    assert!(report.contains(&strategy.replace('"', "&quot;")), "no `{strategy}`");
    assert!(report.contains("<td>student</td><td>exchange off (untrained)</td>"), "{report}");
}

fn accuracies_agree(told: &Told, n_test: &[u64], csv: &Csv, head: &str, json: &Value) {
    assert_eq!((told.accuracy.len(), n_test.len()), (N_EXPERIENCES, N_EXPERIENCES));
    assert_eq!(json["accuracy"], serde_json::json!(told.accuracy));
    assert_eq!(json["initial_accuracy"], serde_json::json!(told.initial));
    assert_eq!(csv.values("accuracy", &[("head", head)]), told.accuracy.concat());
    assert_eq!(csv.values("initial_accuracy", &[("head", head)]), told.initial);
    assert_eq!(csv.values("stream_accuracy", &[("head", head)]), told.stream);
    for (i, row) in told.accuracy.iter().enumerate() {
        let after = (i + 1).to_string();
        let at = [("head", head), ("experience", after.as_str())];
        let weighed = |n: usize| {
            let correct: f64 = row[..n].iter().zip(n_test).map(|(a, n)| a * *n as f64).sum();
            correct / n_test[..n].iter().sum::<u64>() as f64
        };
        for (metric, expected) in [
            ("stream_accuracy", weighed(N_EXPERIENCES)),
            ("trained_accuracy", weighed(i + 1)),
            ("average_accuracy", mean(row[..=i].iter().copied())),
        ] {
            same(csv.value(metric, &at), expected);
            same(json[metric][i].as_f64().unwrap(), expected);
        }
    }
}

/// Forgetting and transfer, from their definitions in the papers that docs/outputs.md names.
fn transfers_follow_from_accuracies(told: &Told, csv: &Csv, head: &str, json: &Value) {
    let r = &told.accuracy;
    let name = ("head", head);
    for i in 1..N_EXPERIENCES {
        let after = (i + 1).to_string();
        let at = [name, ("experience", after.as_str())];
        let forgotten: Vec<f64> = (0..i).map(|j| r[j][j] - r[i][j]).collect();
        let from_best = |j: usize| (0..i).map(|l| r[l][j]).fold(f64::NEG_INFINITY, f64::max) - r[i][j];
        for (j, expected) in forgotten.iter().enumerate() {
            let on = (j + 1).to_string();
            same(csv.value("experience_forgetting", &[at[0], at[1], ("on_experience", &on)]), *expected);
            same(json["experience_forgetting"][i][j].as_f64().unwrap(), *expected);
        }
        for (metric, expected) in [
            ("forgetting_so_far", mean(forgotten.into_iter())),
            ("maximum_forgetting", mean((0..i).map(from_best))),
        ] {
            same(csv.value(metric, &at), expected);
            same(json[metric][i].as_f64().unwrap(), expected);
        }
    }
    let last = N_EXPERIENCES - 1;
    let backward = mean((0..last).map(|j| r[last][j] - r[j][j]));
    let forward = |j: usize| r[j - 1][j] - told.initial[j];
    for (metric, expected) in [
        ("backward_transfer", backward),
        ("forgetting", -backward),
        ("forward_transfer", mean((0..last).map(|j| forward(j + 1)))),
    ] {
        same(csv.value(metric, &[name, ("experience", "")]), expected);
        same(json[metric].as_f64().unwrap(), expected);
    }
    for j in 1..N_EXPERIENCES {
        let on = (j + 1).to_string();
        same(csv.value("experience_forward_transfer", &[name, ("on_experience", &on)]), forward(j));
        same(json["experience_forward_transfer"][j - 1].as_f64().unwrap(), forward(j));
    }
}

fn confusions_agree(told: &Told, ended: &Ended, csv: &Csv, head: &str, json: &Value) {
    assert_eq!(json["confusion"], serde_json::json!(told.confusions));
    let started = ended.started();
    for (i, confusion) in told.confusions.iter().enumerate() {
        let total: u64 = confusion.iter().flatten().sum();
        assert_eq!(total, started.n_test.iter().sum::<u64>());
        let diagonal: u64 = (0..confusion.len()).map(|class| confusion[class][class]).sum();
        same(told.stream[i], diagonal as f64 / total as f64);
        for (j, classes) in started.experiences.iter().enumerate() {
            let index = |name: &String| started.classes.iter().position(|known| known == name).unwrap();
            let rows: Vec<usize> = classes.iter().map(index).collect();
            let n: u64 = rows.iter().flat_map(|class| &confusion[*class]).sum();
            assert_eq!(n, started.n_test[j]);
            let n_correct: u64 = rows.iter().map(|class| confusion[*class][*class]).sum();
            same(told.accuracy[i][j], n_correct as f64 / n as f64);
        }
    }
    let last = told.confusions.last().unwrap();
    for (label, row) in started.classes.iter().zip(last) {
        for (prediction, n) in started.classes.iter().zip(row) {
            let of = [("head", head), ("experience", "5"), ("label", label), ("prediction", prediction)];
            let expected = if *n == 0 { vec![] } else { vec![*n as f64] };
            assert_eq!(csv.values("confusion", &of), expected, "{of:?}");
        }
    }
}

/// Every experience was trained in some time, and has trained each of its samples in each epoch.
fn usage_agrees(config: &AgentConfig, ended: &Ended, csv: &Csv, run: &Value) {
    assert_eq!(run["usage"].as_array().unwrap().len(), N_EXPERIENCES);
    for (i, evaluated) in ended.evaluated().into_iter().enumerate() {
        let usage = evaluated.usage.expect("an experience tells what it took");
        assert_eq!(run["usage"][i], serde_json::to_value(usage).unwrap());
        assert!(usage.training_seconds > 0.0 && usage.cpu_seconds > 0.0, "{usage:?}");
        assert!(usage.seconds >= usage.training_seconds, "{usage:?}");
        // The digits have between 278 and 291 training images in two classes, and none is replayed at first.
        let replayed = if i == 0 { 0 } else { 8 * 291_u64.div_ceil(config.train.batch_size as u64) };
        let epochs = u64::from(config.train.epochs);
        let expected = epochs * 278..=epochs * (291 + replayed);
        assert!(expected.contains(&usage.n_samples), "{usage:?}, expected {expected:?}");
        // There is energy where the start has told of a source, and else none.
        assert_eq!(usage.energy_joules.is_some(), ended.started().energy.is_some(), "{usage:?}");
        let after = (i + 1).to_string();
        let at = [("experience", after.as_str())];
        for (metric, expected) in [
            ("experience_seconds", usage.seconds),
            ("training_seconds", usage.training_seconds),
            ("cpu_seconds", usage.cpu_seconds),
            ("trained_samples", usage.n_samples as f64),
            ("experience_samples_per_second", usage.n_samples as f64 / usage.training_seconds),
        ] {
            same(csv.value(metric, &at), expected);
        }
        assert_eq!(csv.values("energy_joules", &at), Vec::from_iter(usage.energy_joules));
    }
}

#[test]
fn a_stream_of_one_experience_has_nothing_to_forget() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config::alone(folder.path(), "alice");
    config.stream.experiences = 1;
    config.train.epochs = 1;
    let file = config::write(folder.path(), &config);
    let output = run(dkt(["run".as_ref(), file.as_os_str()]));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(output.stdout.contains("Accuracy on all test images (per cent)"), "{}", output.stdout);
    for word in ["forgetting", "fwt", "exp 1", "NaN"] {
        assert!(!output.stdout.contains(word), "`{word}` in:\n{}", output.stdout);
    }
    let heads = output.stdout.lines().filter(|line| line.contains("exchange off") && line.contains("cl "));
    let numbers: Vec<f64> = heads.flat_map(|line| line.split_whitespace().last().unwrap().parse()).collect();
    assert_eq!(numbers.len(), 1, "{}", output.stdout);
    let csv = Csv::read(&folder.path().join("alice/metrics.csv"));
    let cl = [("head", "cl")];
    let accuracy = csv.value("accuracy", &cl);
    assert_eq!(csv.value("stream_accuracy", &cl), accuracy);
    assert!((numbers[0] - 100.0 * accuracy).abs() < 0.051, "{numbers:?} and {accuracy}");
    for metric in
        ["initial_accuracy", "forgetting", "forgetting_so_far", "backward_transfer", "forward_transfer"]
    {
        assert!(csv.values(metric, &[]).is_empty(), "{metric}");
    }
    let report = fs::read_to_string(folder.path().join("alice/report.html")).unwrap();
    assert!(!report.contains("NaN") && report.contains("Confusion after the last experience"));
}
