//! `report.html` of an experiment: one file with everything in it, no script, nothing fetched.

use super::table::percent;
use super::{ArmRecord, ExperimentRecord, METRICS, Row};
use crate::experiment::result::{Metric, RunResult};
use crate::experiment::statistics;
use crate::report::heatmap;
use crate::report::page::{self, Table, curves, escape, figure, paragraph};
use crate::report::plots::{Axes, Line};

/// What is drawn over experiences: its name, and the curve of one run and head.
type Curve = (&'static str, fn(&RunResult, &str) -> Vec<f64>);

const CURVES: [Curve; 2] = [
    ("Accuracy on all test images", RunResult::stream_curve),
    ("Average accuracy on the experiences trained so far", RunResult::average_curve),
];

pub(super) fn render(record: &ExperimentRecord) -> String {
    let mut html = page::begin(&record.name);
    html += &format!("<p><strong>{}</strong></p>\n", escape(&record.question));
    for text in [record.description(), record.of_teacher().unwrap_or_default(), compared(record)] {
        paragraph(&mut html, &text);
    }
    figures(&mut html, record);
    if record.n_finished > 0 {
        html.push_str("<h2>Accuracy over experiences</h2>\n");
        paragraph(
            &mut html,
            "Thick lines are means over seeds, thin lines the seeds; dashed is what is compared with.",
        );
        for head in record.trained_heads() {
            for (name, curve) in CURVES {
                let lines = lines(record, head, curve);
                let axes = Axes {
                    x: "experiences trained",
                    y: "accuracy (%)",
                    y_range: Some((0.0, 100.0)),
                    x_counts: true,
                };
                curves(&mut html, &lines, &axes, &format!("{name}, {}", page::head(head)));
            }
        }
        matrices(&mut html, record);
    }
    record.analyses.iter().for_each(|section| html.push_str(section));
    settings(&mut html, record);
    page::end(&mut html);
    html
}

/// The figures at the end, and the differences from the baseline.
fn figures(html: &mut String, record: &ExperimentRecord) {
    let summaries = record.summaries();
    if summaries.is_empty() {
        paragraph(html, "Until now no run has finished.");
        return;
    }
    html.push_str("<h2>Figures at the end</h2>\n");
    paragraph(html, "Per cent; mean and standard deviation over seeds, of means over agents.");
    let label = |arm: usize| record.arms[arm].label.clone();
    html.push_str(&rows(record, &summaries, label, false, |row| record.mark(row)));
    let differences = record.differences();
    if let Some(baseline) = record.baseline.filter(|_| !differences.is_empty()) {
        html.push_str("<h2>Differences within each seed</h2>\n");
        paragraph(html, "Percentage points; mean and standard deviation over seeds.");
        let label = |arm: usize| format!("{} - {}", record.arms[arm].label, record.arms[baseline].label);
        html.push_str(&rows(record, &differences, label, true, |row| record.mark_of_difference(row)));
    }
    let notes = [record.of_shares(), record.of_untrained(), Some(METRICS.to_owned())];
    notes.iter().flatten().for_each(|note| paragraph(html, note));
}

/// A row for each head and arm, greyed where it has a mark.
fn rows(
    record: &ExperimentRecord,
    rows: &[Row<'_>],
    label: impl Fn(usize) -> String,
    is_difference: bool,
    mark: impl Fn(&Row<'_>) -> &'static str,
) -> String {
    let columns = ["seeds"].into_iter().chain(Metric::ALL.map(Metric::title));
    let mut table = Table::new(&["head", "arm"], columns);
    for head in record.trained_heads() {
        for arm in 0..record.arms.len() {
            let of = |metric| rows.iter().find(|r| r.arm == arm && r.head == head && r.metric == metric);
            let Some(first) = Metric::ALL.into_iter().find_map(of) else { continue };
            let cell = |metric| of(metric).map_or("-".to_owned(), |row| percent(&row.summary, is_difference));
            let cells = [first.summary.n.to_string()].into_iter().chain(Metric::ALL.map(cell));
            table.marked_row(&[head, &label(arm)], cells, mark(first));
        }
    }
    table.end()
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

/// Every arm has a colour, and the baseline is dashed; heads that were never trained are left out.
fn lines(record: &ExperimentRecord, head: &str, curve: fn(&RunResult, &str) -> Vec<f64>) -> Vec<Line> {
    let points = |values: Vec<f64>| -> Vec<(f64, f64)> {
        values.into_iter().enumerate().map(|(i, v)| ((i + 1) as f64, 100.0 * v)).collect()
    };
    let mut lines = Vec::new();
    for (color, arm) in record.arms.iter().enumerate().filter(|(_, arm)| !arm.is_untrained(head)) {
        let dashed = record.baseline == Some(color);
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

/// Of the teacher's own continual-learning head, and of the first seed, whose accuracies are as good an example as any.
fn matrices(html: &mut String, record: &ExperimentRecord) {
    html.push_str("<h2>Accuracy matrices of the first seed</h2>\n");
    let first = |arm: &ArmRecord| arm.runs.first().cloned();
    let teacher = record.teacher.iter().flat_map(|run| &run.agents);
    let teacher = teacher.flat_map(|a| a.heads.iter().filter(|h| h.head == "cl").map(move |h| (a, h)));
    for (agent, head) in teacher {
        let caption = format!("{}, {}, the teacher itself", agent.agent, page::head(&head.head));
        figure(html, &heatmap::accuracies(&head.matrix), &caption, "");
    }
    for (arm, (seed, run)) in record.arms.iter().filter_map(|arm| Some((arm, first(arm)?))) {
        for agent in &run.agents {
            for head in agent.heads.iter().filter(|head| !arm.is_untrained(&head.head)) {
                let words = page::head(&head.head);
                let caption = format!("{}, {words}, {}, seed {seed}", agent.agent, arm.label);
                figure(html, &heatmap::accuracies(&head.matrix), &caption, "");
            }
        }
    }
}

fn settings(html: &mut String, record: &ExperimentRecord) {
    html.push_str("<h2>Settings</h2>\n");
    paragraph(
        html,
        "What the experiment sets. Each agent's agent.toml, in the folder of its run, has all keys.",
    );
    let mut table = Table::new(&["key", "value"], [""; 0]);
    for (key, value) in &record.settings {
        table.row(&[key, value], []);
    }
    html.push_str(&table.end());
}
