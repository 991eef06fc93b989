//! `metrics.csv`: one measurement a row, for pandas and R.
//!
//! Columns: `arm,agent,head,metric,experience,on_experience,epoch,step,t_s,value`; those that a metric does not
//! have are empty. Accuracies are 0 to 1, times in seconds, sizes in bytes, experiences and epochs from 1.

use std::path::Path;

use super::record::{LabRecord, RunRecord};
use crate::durable::{self, WriteError};

const HEADER: [&str; 10] =
    ["arm", "agent", "head", "metric", "experience", "on_experience", "epoch", "step", "t_s", "value"];

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
            "value" => value.to_string(),
            other => columns.iter().find(|(c, _)| *c == other).map(|(_, v)| v.clone()).unwrap_or_default(),
        };
        let line = HEADER.iter().map(cell).collect::<Vec<_>>().join(",");
        self.text.push_str(&line);
        self.text.push('\n');
    }
}

/// RFC 4180.
fn quoted(text: &str) -> String {
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
    for head in &run.heads {
        let name = ("head", head.head.clone());
        for (i, row) in head.matrix.rows().iter().enumerate() {
            let after = ("experience", (i + 1).to_string());
            for (j, accuracy) in row.iter().enumerate() {
                let on = ("on_experience", (j + 1).to_string());
                rows.row("accuracy", *accuracy, &[name.clone(), after.clone(), on]);
            }
            if let Some(average) = head.matrix.average_accuracy(i) {
                rows.row("average_accuracy", average, &[name.clone(), after.clone()]);
            }
            if let Some(stream) = head.stream.get(i) {
                rows.row("stream_accuracy", *stream, &[name.clone(), after]);
            }
        }
        if let Some(forgetting) = head.matrix.forgetting() {
            rows.row("forgetting", forgetting, &[name]);
        }
    }
}

fn course(rows: &mut Rows<'_>, run: &RunRecord) {
    for epoch in &run.epochs {
        let at = [
            ("experience", (epoch.experience + 1).to_string()),
            ("epoch", (epoch.epoch + 1).to_string()),
            ("step", epoch.step.to_string()),
        ];
        rows.row("loss", epoch.loss.into(), &at);
        rows.row("loss_cl", epoch.loss_cl.into(), &at);
        rows.row("loss_st", epoch.loss_st.into(), &at);
        rows.row("teacher_share", epoch.teacher_share.into(), &at);
        rows.row("samples_per_second", epoch.samples_per_second.into(), &at);
        if epoch.n_skipped > 0 {
            rows.row("skipped_steps", epoch.n_skipped.into(), &at);
        }
        let optional = [
            ("learning_rate", epoch.learning_rate.map(f64::from)),
            ("distill_weight", epoch.distill_weight.map(f64::from)),
            ("validation_accuracy", epoch.validation_accuracy),
            ("loss_retention", epoch.loss_retention.map(f64::from)),
            ("loss_penalty", epoch.loss_penalty.map(f64::from)),
        ];
        for (metric, value) in optional {
            if let Some(value) = value {
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
