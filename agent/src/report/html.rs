//! `report.html` of a run or a lab: one file with everything in it.

use std::path::Path;

use super::heatmap::{self, ClassOrder};
use super::measures::{AFTER_EXPERIENCE, OF_USAGE, OVER_STREAM};
use super::number::{fixed, percent, sensible};
use super::page::{self, Table, curves, figure, paragraph};
use super::plots::{Axes, Line};
use super::record::{Arm, HeadRecord, LabRecord, Row, RunRecord};
use super::{settings, table};
use crate::durable::{self, WriteError};
use crate::telemetry::event::{Epoch, Traffic, Usage};

/// (y axis, its range, caption, value): curves of what not every run has.
type OptionalCurve = (&'static str, Option<(f64, f64)>, &'static str, fn(&Epoch) -> Option<f64>);

const OPTIONAL_CURVES: [OptionalCurve; 5] = [
    (
        "accuracy (%)",
        Some((0.0, 100.0)),
        "Accuracy of the continual-learning head on validation images",
        |e| e.validation_accuracy.map(|accuracy| 100.0 * accuracy),
    ),
    ("learning rate", None, "Learning rate", |e| e.learning_rate.map(f64::from)),
    ("weight", None, "Weight of the student head's loss", |e| e.distill_weight.map(f64::from)),
    ("distance to earlier answers", None, "Loss of retention", |e| e.loss_retention.map(f64::from)),
    ("penalty", None, "Penalty for moving parameters", |e| e.loss_penalty.map(f64::from)),
];

/// # Errors
/// [`WriteError`] if the file cannot be written.
pub fn write(record: &LabRecord, path: &Path) -> Result<(), WriteError> {
    durable::write(path, render(record).as_bytes())
}

fn render(record: &LabRecord) -> String {
    let mut html = page::begin(&record.title);
    paragraph(&mut html, &summary(record));
    paragraph(&mut html, &untrained(record));
    html.push_str(&accuracies(record));
    for head in ["cl", "student"] {
        let axes = Axes {
            x: "experiences trained",
            y: "average accuracy (%)",
            y_range: Some((0.0, 100.0)),
            x_counts: true,
        };
        let caption = format!("Average accuracy on the experiences trained so far, {}", page::head(head));
        curves(&mut html, &accuracy_lines(record, head), &axes, &caption);
    }
    html.push_str(&measures(record));
    html.push_str("<h2>Accuracy on each experience</h2>\n");
    for (name, row) in trained(record) {
        figure(&mut html, &heatmap::accuracies(row.head.matrix.rows()), &name, "");
    }
    confusions(&mut html, record);
    training(&mut html, record);
    html.push_str(&costs(record));
    exchange(&mut html, record);
    html.push_str(&networks(record));
    let settings = settings::tables(record);
    if !settings.is_empty() {
        html.push_str("<h2>Configuration</h2>\n");
        html.push_str(&settings);
    }
    page::end(&mut html);
    html
}

/// What the agents came to, in a sentence for each arm.
fn summary(record: &LabRecord) -> String {
    let mut text = String::new();
    for arm in &record.arms {
        let mean = |name: &str| {
            let heads = arm.agents.iter().flat_map(|run| run.heads.iter().map(move |head| (run, head)));
            let heads = heads.filter(|(run, head)| head.head == name && !run.is_untrained(head));
            let finals: Vec<f64> = heads.filter_map(|(_, head)| head.stream.last().copied()).collect();
            let mean = finals.iter().sum::<f64>() / finals.len() as f64;
            (!finals.is_empty()).then(|| format!("{} % ({})", fixed(100.0 * mean, 1), page::head(name)))
        };
        let ends: Vec<String> = ["cl", "student"].into_iter().filter_map(mean).collect();
        let subject = if arm.agents.len() > 1 { "agents end" } else { "agent ends" };
        let on_average = if arm.agents.len() > 1 { ", on average" } else { "" };
        if !ends.is_empty() {
            text += &format!(
                "With the {}, the {subject} at {} on all test images{on_average}. ",
                arm.name,
                ends.join(" and ")
            );
        }
    }
    let unfinished = record.arms.iter().flat_map(|a| &a.agents).filter(|r| r.finished.is_none()).count();
    if unfinished > 0 {
        text +=
            &format!("{unfinished} of the runs did not reach their end; they are shown as far as they came.");
    }
    text
}

/// Which heads have learned nothing, where any has.
fn untrained(record: &LabRecord) -> String {
    let rows = record.rows();
    let names: Vec<String> = rows
        .iter()
        .filter(|row| row.is_untrained())
        .map(|row| format!("{} ({})", row.run.name(), row.arm.name))
        .collect();
    if names.is_empty() {
        return String::new();
    }
    format!(
        "No row ever had a teacher, so the student head has learned nothing, of {}: it is grey in the tables, and left \
         out of plots and means.",
        names.join(", ")
    )
}

/// Heads that were trained, and what they are called below a picture.
fn trained(record: &LabRecord) -> impl Iterator<Item = (String, Row<'_>)> {
    record
        .rows()
        .into_iter()
        .filter(|row| !row.is_untrained())
        .map(|row| (format!("{}, {}, {}", row.run.name(), page::head(&row.head.head), row.arm.name), row))
}

/// Average accuracies after each experience, where there is more than one.
fn accuracies(record: &LabRecord) -> String {
    let mut html = "<h2>Accuracy on the experiences trained so far</h2>\n".to_owned();
    let n = record.rows().iter().map(|row| row.head.matrix.rows().len()).max().unwrap_or(0);
    if n > 1 {
        paragraph(&mut html, "Average accuracy after each experience, in per cent.");
        let mut table = Table::new(&["agent", "head", "arm"], (1..=n).map(|i| format!("exp {i}")));
        for row in record.rows() {
            let numbers = (0..n).map(|i| percent(row.head.matrix.average_accuracy(i)));
            table.marked_row(&names(&row), numbers, mark(&row));
        }
        html += &table.end();
    }
    html
}

fn mark(row: &Row<'_>) -> &'static str {
    if row.is_untrained() { "untrained" } else { "" }
}

fn names<'a>(row: &Row<'a>) -> [&'a str; 3] {
    [row.run.name(), &row.head.head, &row.arm.name]
}

fn training(html: &mut String, record: &LabRecord) {
    html.push_str("<h2>Training</h2>\n");
    let steps = |y, y_range| Axes { x: "training steps", y, y_range, x_counts: false };
    let loss = course_lines(record, |e| Some(e.loss_cl.into()));
    curves(html, &loss, &steps("cross-entropy", None), "Loss of the continual-learning head");
    // What no teacher was there for has no distance to it.
    let loss = course_lines(record, |e| (e.teacher_share > 0.0).then(|| e.loss_st.into()));
    curves(html, &loss, &steps("distance to the teacher", None), "Loss of the student head");
    let share = course_lines(record, |e| Some(100.0 * f64::from(e.teacher_share)));
    let axes = steps("rows with a teacher (%)", Some((0.0, 100.0)));
    curves(html, &share, &axes, "Share of training rows that had soft targets");
    for (y, y_range, caption, value) in OPTIONAL_CURVES {
        let lines = course_lines(record, value);
        if lines.is_empty() {
            continue;
        }
        // What is the same throughout stands in the configuration.
        let first = lines.first().and_then(|line| line.points.first()).map(|point| point.1);
        let mut values = lines.iter().flat_map(|line| &line.points);
        if y_range.is_some() || values.any(|point| Some(point.1) != first) {
            curves(html, &lines, &steps(y, y_range), caption);
        }
    }
}

/// Volume, and who came and went.
fn exchange(html: &mut String, record: &LabRecord) {
    html.push_str("<h2>Exchange</h2>\n");
    let columns = ["messages out", "bytes out", "messages in", "bytes in"];
    let mut table = Table::new(&["agent", "arm", "kind"], columns);
    let mut is_empty = true;
    for (arm, run) in runs(record) {
        for kind in run.last_traffic().iter().flat_map(|traffic| &traffic.kinds) {
            let numbers = [kind.messages_out, kind.bytes_out, kind.messages_in, kind.bytes_in];
            table.row(&[run.name(), &arm.name, &kind.kind], numbers.map(|n| n.to_string()));
            is_empty = false;
        }
    }
    if is_empty {
        paragraph(html, "Nothing was exchanged.");
    } else {
        html.push_str(&table.end());
        for (arm, run) in runs(record) {
            let refused = run.last_traffic().map(Traffic::refused_in_words).unwrap_or_default();
            if !refused.is_empty() {
                paragraph(html, &format!("{}, {}: messages refused: {refused}.", run.name(), arm.name));
            }
        }
        let x = "seconds since the process started";
        let axes = Axes { x, y: "bytes received", y_range: None, x_counts: false };
        curves(html, &traffic_lines(record), &axes, "Bytes received from peers, of all kinds of messages");
    }
    let membership = table::membership(record);
    if !membership.is_empty() {
        *html += &format!("<pre>{}</pre>\n", page::escape(membership.trim_start()));
    }
}

/// Every agent has a colour; every arm after the first is dashed.
fn agent_lines(record: &LabRecord, points: impl Fn(&RunRecord) -> Vec<(f64, f64)>) -> Vec<Line> {
    let mut lines = Vec::new();
    for (a, arm) in record.arms.iter().enumerate() {
        for (color, run) in arm.agents.iter().enumerate() {
            let points = points(run);
            if !points.is_empty() {
                let name = format!("{}, {}", run.name(), arm.name);
                lines.push(Line { name, points, color, dashed: a > 0, thin: false });
            }
        }
    }
    lines
}

fn accuracy_lines(record: &LabRecord, head: &str) -> Vec<Line> {
    agent_lines(record, |run| {
        let trained = |h: &&HeadRecord| h.head == head && !run.is_untrained(h);
        let Some(head) = run.heads.iter().find(trained) else { return Vec::new() };
        let average = |i: usize| Some(((i + 1) as f64, 100.0 * head.matrix.average_accuracy(i)?));
        (0..head.matrix.rows().len()).filter_map(average).collect()
    })
}

fn course_lines(record: &LabRecord, value: fn(&Epoch) -> Option<f64>) -> Vec<Line> {
    agent_lines(record, |run| run.epochs.iter().filter_map(|e| Some((e.step as f64, value(e)?))).collect())
}

fn traffic_lines(record: &LabRecord) -> Vec<Line> {
    agent_lines(record, |run| {
        let bytes = |t: &Traffic| t.kinds.iter().map(|k| k.bytes_in).sum::<u64>() as f64;
        run.traffic.iter().map(|(t_s, traffic)| (*t_s, bytes(traffic))).collect()
    })
}

/// What every head came to after the last experience, by the names of `metrics.csv`.
fn measures(record: &LabRecord) -> String {
    let after = || AFTER_EXPERIENCE.iter().filter(|(name, _)| !name.ends_with("_so_far"));
    let columns = after().map(|(name, _)| *name).chain(OVER_STREAM.map(|(name, _)| name));
    let mut table = Table::new(&["agent", "head", "arm"], columns.map(words));
    for row in record.rows() {
        let Some(last) = row.head.matrix.rows().len().checked_sub(1) else { continue };
        let n_test = row.run.n_test();
        let values = after().map(|(_, value)| value(row.head, last, &n_test));
        let values = values.chain(OVER_STREAM.map(|(_, value)| value(row.head)));
        table.marked_row(&names(&row), values.map(percent), mark(&row));
    }
    let mut html = "<h2>Metrics after the last experience</h2>\n".to_owned();
    paragraph(
        &mut html,
        "Accuracies in per cent, forgetting and transfer in percentage points. Average accuracy: mean over the \
         experiences trained. Trained accuracy: on all their test images. Stream accuracy: on all test images. \
         Forgetting: accuracy right after an experience less that at the end, mean over the earlier ones; negative where \
         the head got better. Maximum forgetting: the same from the best accuracy before. Backward transfer: forgetting \
         with the other sign. Forward transfer: accuracy on an experience just before it was trained, less that of the \
         initial network.",
    );
    html + &table.end()
}

/// A metric's name for a person.
fn words(name: &str) -> String {
    let unit = match name {
        "experience_seconds" | "training_seconds" | "cpu_seconds" => " (s)",
        "energy_joules" => " (J)",
        _ => "",
    };
    let name =
        name.trim_end_matches("_joules").trim_end_matches("_seconds").trim_start_matches("experience_");
    match name {
        "experience" => "wall time (s)".to_owned(),
        "training" | "cpu" => format!("{name} time{unit}"),
        "samples_per_second" => "samples/s".to_owned(),
        name => format!("{}{unit}", name.replace('_', " ")),
    }
}

/// What each experience took, where that is known.
fn costs(record: &LabRecord) -> String {
    let is_known = |value: fn(&Usage) -> Option<f64>| {
        runs(record).any(|(_, run)| run.usages.iter().flatten().any(|usage| value(usage).is_some()))
    };
    let columns = || OF_USAGE.into_iter().filter(|(_, value)| is_known(*value));
    let mut table = Table::new(&["agent", "arm", "experience"], columns().map(|(name, _)| words(name)));
    if columns().next().is_none() {
        return String::new();
    }
    for (arm, run) in runs(record) {
        let each = run.usages.iter().enumerate().map(|(i, usage)| ((i + 1).to_string(), *usage));
        for (name, usage) in each.chain([("all".to_owned(), run.total_usage())]) {
            let Some(usage) = usage else { continue };
            let numbers = columns().map(|(_, value)| value(&usage).map_or("-".to_owned(), sensible));
            table.row(&[run.name(), &arm.name, &name], numbers);
        }
    }
    format!("<h2>Time and energy</h2>\n{}", table.end())
}

fn runs(record: &LabRecord) -> impl Iterator<Item = (&Arm, &RunRecord)> {
    record.arms.iter().flat_map(|arm| arm.agents.iter().map(move |run| (arm, run)))
}

fn confusions(html: &mut String, record: &LabRecord) {
    let mut maps = String::new();
    for (name, row) in trained(record) {
        if let Some(counts) = row.head.confusions.last() {
            figure(&mut maps, &heatmap::confusion(counts, &class_order(row.run)), &name, "");
        }
    }
    if !maps.is_empty() {
        html.push_str("<h2>Confusion after the last experience</h2>\n");
        paragraph(
            html,
            "Test images by label and prediction; classes in the order in which they come, lines part the experiences. A \
             cell is the darker, the larger its share of the row.",
        );
        html.push_str(&maps);
    }
}

/// Classes in the order of the stream, each once, and then those that are in no experience.
fn class_order(run: &RunRecord) -> ClassOrder {
    let names = run.classes();
    let (mut classes, mut borders) = (Vec::new(), Vec::new());
    let experiences = run.started.iter().flat_map(|started| &started.experiences);
    for experience in experiences.chain([&names]) {
        for (index, name) in names.iter().enumerate().filter(|(_, name)| experience.contains(name)) {
            if classes.iter().all(|(known, _)| *known != index) {
                classes.push((index, name.clone()));
            }
        }
        borders.push(classes.len());
    }
    ClassOrder { classes, borders }
}

/// The agents' networks and streams.
fn networks(record: &LabRecord) -> String {
    let texts = ["agent", "network", "device", "classes of each experience"];
    let mut table = Table::new(&texts, ["parameters", "training steps"]);
    for started in record.arms.first().iter().flat_map(|a| &a.agents).filter_map(|r| r.started.as_ref()) {
        let classes: Vec<String> = started.experiences.iter().map(|e| e.join(" ")).collect();
        let texts = [&started.agent, &started.network, &started.device, &classes.join(" | ")];
        let numbers = [started.n_parameters, started.n_steps].map(|n| n.to_string());
        table.row(&texts.map(String::as_str), numbers);
    }
    format!("<h2>Networks and streams</h2>\n{}", table.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::tests::lab;

    #[test]
    fn a_head_without_a_teacher_is_greyed_and_not_drawn() {
        let html = render(&lab());
        assert!(
            html.contains(
                "<tr class=\"untrained\"><td>alice</td><td>student</td><td>exchange off (untrained)</td>"
            ),
            "{html}"
        );
        assert!(html.contains("of alice (exchange off), bob (exchange off)"), "{html}");
        assert!(
            html.contains("With the exchange off, the agents end at 50.0 % (continual-learning head) on"),
            "{html}"
        );
        for title in ["alice, student head, exchange on", "alice, continual-learning head, exchange off"] {
            assert_eq!(html.matches(&format!("<title>{title}</title>")).count(), 2, "{title}");
        }
        assert!(!html.contains("<title>alice, student head, exchange off"), "{html}");
        assert_eq!(lines_of(&lab(), "student"), ["alice, exchange on", "bob, exchange on"]);
        let text = table::render(&lab());
        assert_eq!(text.matches("  untrained\n").count(), 2, "{text}");
        assert!(text.contains("\nuntrained: no row had a teacher"), "{text}");
    }

    fn lines_of(record: &LabRecord, head: &str) -> Vec<String> {
        accuracy_lines(record, head).into_iter().map(|line| line.name).collect()
    }

    #[test]
    fn columns_have_units() {
        let columns = OF_USAGE.map(|(name, _)| words(name));
        assert_eq!(
            columns,
            [
                "wall time (s)",
                "training time (s)",
                "cpu time (s)",
                "trained samples",
                "samples/s",
                "energy (J)"
            ]
        );
    }
}
