//! `report.html` of an experiment: one file with everything in it, no script, nothing fetched.

use std::fmt::Write as _;

use super::{ArmRecord, ExperimentRecord, table};
use crate::experiment::result::RunResult;
use crate::experiment::statistics;
use crate::report::html::{curves, escape, figure, page};
use crate::report::plots::{self, Axes, Line};

/// What is drawn over experiences: its name, and the curve of one run and head.
type Curve = (&'static str, fn(&RunResult, &str) -> Vec<f64>);

const CURVES: [Curve; 2] = [
    ("Accuracy on all test images", RunResult::stream_curve),
    ("Average accuracy on the experiences trained so far", RunResult::average_curve),
];

pub(super) fn render(record: &ExperimentRecord) -> String {
    let mut html = page(&record.name);
    let _ = writeln!(html, "<p><strong>{}</strong></p>", escape(&record.question));
    let _ = writeln!(html, "<p>{}</p>", escape(&record.description()));
    let _ = writeln!(html, "<p>{}</p>", escape(&compared(record)));
    let _ = writeln!(html, "<pre>{}</pre>", escape(&table(record)));
    if record.n_finished > 0 {
        html.push_str("<h2>Accuracy over experiences</h2>\n");
        html.push_str("<p>Thick lines are means over seeds, thin lines the seeds.</p>\n");
        for head in record.heads() {
            for (name, curve) in CURVES {
                let lines = lines(record, head, curve);
                let axes = Axes {
                    x: "experiences trained",
                    y: "accuracy (%)",
                    y_range: Some((0.0, 100.0)),
                    x_counts: true,
                };
                curves(&mut html, &lines, &axes, &format!("{name}, {}", words(head)));
            }
        }
        matrices(&mut html, record);
    }
    record.analyses.iter().for_each(|section| html.push_str(section));
    settings(&mut html, record);
    html.push_str("</body>\n</html>\n");
    html
}

fn words(head: &str) -> String {
    match head {
        "cl" => "continual-learning head".to_owned(),
        other => format!("{other} head"),
    }
}

/// What the arms are.
fn compared(record: &ExperimentRecord) -> String {
    let labels: Vec<&str> = record.arms.iter().map(|arm| arm.label.as_str()).collect();
    match record.baseline {
        Some(baseline) => format!(
            "Compared are: {}. Arms share their seeds, and with them classes, mini-batches and initial weights; a \
             difference is that of the same seed, less {}.",
            labels.join(", "),
            labels[baseline]
        ),
        None => format!("Run was: {}, with nothing to compare it with.", labels.join(", ")),
    }
}

/// Every arm has a colour; the baseline is dashed, or where there are more arms than colours, those that have none of
/// their own.
fn lines(record: &ExperimentRecord, head: &str, curve: fn(&RunResult, &str) -> Vec<f64>) -> Vec<Line> {
    let points = |values: Vec<f64>| -> Vec<(f64, f64)> {
        values.into_iter().enumerate().map(|(i, v)| ((i + 1) as f64, 100.0 * v)).collect()
    };
    let mut lines = Vec::new();
    for (color, arm) in record.arms.iter().enumerate() {
        let dashed = if record.arms.len() > plots::N_COLORS {
            color >= plots::N_COLORS
        } else {
            record.baseline == Some(color)
        };
        let runs: Vec<Vec<f64>> = arm.runs.iter().map(|(_, run)| curve(run, head)).collect();
        let mean = mean_curve(&runs);
        if mean.is_empty() {
            continue;
        }
        lines.push(Line { name: arm.label.clone(), points: points(mean), color, dashed, thin: false });
        if runs.len() > 1 {
            let thin = |run| Line { name: String::new(), points: points(run), color, dashed, thin: true };
            lines.extend(runs.into_iter().map(thin));
        }
    }
    lines
}

/// As far as every run goes.
fn mean_curve(runs: &[Vec<f64>]) -> Vec<f64> {
    let n = runs.iter().map(Vec::len).min().unwrap_or(0);
    (0..n).filter_map(|i| statistics::mean(&runs.iter().map(|run| run[i]).collect::<Vec<_>>())).collect()
}

/// Of the first seed, whose accuracies are as good an example as any.
fn matrices(html: &mut String, record: &ExperimentRecord) {
    html.push_str("<h2>Accuracy matrices of the first seed</h2>\n");
    let first = |arm: &ArmRecord| arm.runs.first().cloned();
    for (arm, (seed, run)) in record.arms.iter().filter_map(|arm| Some((arm, first(arm)?))) {
        for agent in &run.agents {
            for head in &agent.heads {
                let caption = format!("{}, {}, {}, seed {seed}", agent.agent, head.head, arm.label);
                figure(html, plots::matrix(&head.matrix), &caption);
            }
        }
    }
}

fn settings(html: &mut String, record: &ExperimentRecord) {
    html.push_str("<h2>Settings</h2>\n<table><tr><th>key</th><th>value</th></tr>\n");
    for (key, value) in &record.settings {
        let _ = writeln!(html, "<tr><td>{}</td><td>{}</td></tr>", escape(key), escape(value));
    }
    html.push_str("</table>\n");
}
