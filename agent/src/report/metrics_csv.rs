//! `metrics.csv`: one measurement a row, for pandas and R.
//!
//! Columns: `arm,agent,head,metric,experience,on_experience,epoch,step,t_s,label,prediction,value`; those that a metric
//! does not have are empty. Accuracies are 0 to 1, times in seconds, sizes in bytes, experiences and epochs from 1.

use std::path::Path;

use super::measures::{AFTER_EXPERIENCE, OF_EPOCH, OF_USAGE, OVER_STREAM};
use super::record::{HeadRecord, LabRecord, RunRecord};
use crate::durable::{self, WriteError};

const HEADER: [&str; 12] = [
    "arm",
    "agent",
    "head",
    "metric",
    "experience",
    "on_experience",
    "epoch",
    "step",
    "t_s",
    "label",
    "prediction",
    "value",
];

/// # Errors
/// [`WriteError`] if the file cannot be written.
pub fn write(record: &LabRecord, path: &Path) -> Result<(), WriteError> {
    durable::write(path, render(record).as_bytes())
}

/// A row: metric, and (column, text) for whatever else it has.
struct Rows<'a> {
    text: String,
    arm: &'a str,
    agent: &'a str,
}

impl Rows<'_> {
    fn row(&mut self, metric: &str, value: f64, columns: &[(&str, String)]) {
        let cell = |name: &&str| match *name {
            "arm" => quoted(self.arm),
            "agent" => quoted(self.agent),
            "metric" => metric.to_owned(),
            // Adding 0 makes -0 a plain 0.
            "value" => (value + 0.0).to_string(),
            other => columns.iter().find(|(c, _)| *c == other).map(|(_, v)| quoted(v)).unwrap_or_default(),
        };
        let line = HEADER.iter().map(cell).collect::<Vec<_>>().join(",");
        self.text.push_str(&line);
        self.text.push('\n');
    }
}

/// RFC 4180.
pub(super) fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn render(record: &LabRecord) -> String {
    let mut text = HEADER.join(",") + "\n";
    for arm in &record.arms {
        for run in &arm.agents {
            let mut rows = Rows { text, arm: &arm.name, agent: run.name() };
            accuracies(&mut rows, run);
            course(&mut rows, run);
            text = rows.text;
        }
    }
    text
}

fn accuracies(rows: &mut Rows<'_>, run: &RunRecord) {
    let n_test = run.n_test();
    let number = |name: &'static str, i: usize| (name, (i + 1).to_string());
    for head in &run.heads {
        let name = ("head", head.head.clone());
        for (j, accuracy) in head.initial.iter().enumerate() {
            rows.row("initial_accuracy", *accuracy, &[name.clone(), number("on_experience", j)]);
        }
        for (i, row) in head.matrix.rows().iter().enumerate() {
            let after = number("experience", i);
            let mut each = |metric: &str, values: &[f64], first: usize| {
                for (j, value) in values.iter().enumerate() {
                    let on = number("on_experience", first + j);
                    rows.row(metric, *value, &[name.clone(), after.clone(), on]);
                }
            };
            each("accuracy", row, 0);
            each("experience_forgetting", &head.matrix.forgetting_per_experience(i).unwrap_or_default(), 0);
            for (metric, value) in AFTER_EXPERIENCE {
                if let Some(value) = value(head, i, &n_test) {
                    rows.row(metric, value, &[name.clone(), after.clone()]);
                }
            }
        }
        // The first experience has nothing before it.
        for (j, transfer) in (1..).zip(head.forward_transfers()) {
            rows.row("experience_forward_transfer", transfer, &[name.clone(), number("on_experience", j)]);
        }
        for (metric, value) in OVER_STREAM {
            if let Some(value) = value(head) {
                rows.row(metric, value, std::slice::from_ref(&name));
            }
        }
        confusion(rows, head, &run.classes());
    }
}

/// Counts after the last experience, those that are not 0.
fn confusion(rows: &mut Rows<'_>, head: &HeadRecord, classes: &[String]) {
    let name_of = |class: usize| classes.get(class).cloned().unwrap_or_else(|| class.to_string());
    for (label, predictions) in head.confusions.last().into_iter().flatten().enumerate() {
        for (prediction, n) in predictions.iter().enumerate().filter(|(_, n)| **n > 0) {
            let of = [
                ("head", head.head.clone()),
                ("experience", head.confusions.len().to_string()),
                ("label", name_of(label)),
                ("prediction", name_of(prediction)),
            ];
            rows.row("confusion", *n as f64, &of);
        }
    }
}

fn course(rows: &mut Rows<'_>, run: &RunRecord) {
    for (i, usage) in run.usages.iter().enumerate() {
        for (metric, value) in OF_USAGE {
            if let Some(value) = usage.as_ref().and_then(value) {
                rows.row(metric, value, &[("experience", (i + 1).to_string())]);
            }
        }
    }
    for epoch in &run.epochs {
        let at = [
            ("experience", (epoch.experience + 1).to_string()),
            ("epoch", (epoch.epoch + 1).to_string()),
            ("step", epoch.step.to_string()),
        ];
        for (metric, value) in OF_EPOCH {
            if let Some(value) = value(epoch) {
                rows.row(metric, value, &at);
            }
        }
    }
    for (t_s, traffic) in &run.traffic {
        for kind in &traffic.kinds {
            let at = [("t_s", format!("{t_s:.3}"))];
            let mut row = |what: &str, value: u64| {
                rows.row(&format!("{}_{what}", kind.kind), value as f64, &at);
            };
            row("messages_out", kind.messages_out);
            row("bytes_out", kind.bytes_out);
            row("messages_in", kind.messages_in);
            row("bytes_in", kind.bytes_in);
        }
    }
}
