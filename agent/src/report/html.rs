//! `report.html`: one file with everything in it, no script, nothing fetched.

use std::fmt::Write as _;
use std::path::Path;

use super::heat_map::{self, ClassOrder};
use super::measures::{AFTER_EXPERIENCE, OF_USAGE, OVER_STREAM};
use super::plots::{self, Axes, Line};
use super::record::{Arm, LabRecord, RunRecord};
use super::table;
use crate::durable::{self, WriteError};
use crate::telemetry::event::{Epoch, Traffic};

pub(super) const STYLE: &str = "
:root { color-scheme: light dark; }
body { font-family: system-ui, sans-serif; line-height: 1.5; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; }
pre { overflow-x: auto; padding: 1rem; border: 1px solid #8884; border-radius: 6px; }
figure { display: inline-block; margin: 0.5rem 1rem 0.5rem 0; vertical-align: top; }
figcaption { font-size: 0.9rem; }
svg { background: white; border-radius: 6px; max-width: 100%; height: auto; }
table { border-collapse: collapse; } td, th { padding: 0.15rem 0.8rem 0.15rem 0; text-align: left; }
td { white-space: nowrap; } td:last-child { white-space: normal; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
";

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
    let mut html = page(&record.title);
    let _ = writeln!(html, "<p>{}</p>", escape(&summary(record)));
    let _ = writeln!(html, "<pre>{}</pre>", escape(&table::render(record)));
    html.push_str(&measures(record));
    html.push_str("<h2>Accuracy over experiences</h2>\n");
    for (head, words) in [("cl", "continual-learning head"), ("student", "student head")] {
        let lines = accuracy_lines(record, head);
        let axes = Axes {
            x: "experiences trained",
            y: "average accuracy (%)",
            y_range: Some((0.0, 100.0)),
            x_counts: true,
        };
        curves(&mut html, &lines, &axes, &format!("Average accuracy so far, {words}"));
    }
    html.push_str("<h2>Accuracy matrices</h2>\n");
    for arm in &record.arms {
        for run in &arm.agents {
            for head in &run.heads {
                let caption = format!("{}, {}, {}", run.name(), head.head, arm.name);
                figure(&mut html, plots::matrix(head.matrix.rows()), &caption);
            }
        }
    }
    confusions(&mut html, record);
    html.push_str("<h2>Training</h2>\n");
    let steps = |y, y_range| Axes { x: "training steps", y, y_range, x_counts: false };
    let loss = course_lines(record, |e| Some(e.loss_cl.into()));
    curves(&mut html, &loss, &steps("cross-entropy", None), "Loss of the continual-learning head");
    let loss = course_lines(record, |e| Some(e.loss_st.into()));
    curves(&mut html, &loss, &steps("distance to the teacher", None), "Loss of the student head");
    let share = course_lines(record, |e| Some(100.0 * f64::from(e.teacher_share)));
    let axes = steps("rows with a teacher (%)", Some((0.0, 100.0)));
    curves(&mut html, &share, &axes, "Share of training rows that had soft targets");
    for (y, y_range, caption, value) in OPTIONAL_CURVES {
        let lines = course_lines(record, value);
        if !lines.is_empty() {
            curves(&mut html, &lines, &steps(y, y_range), caption);
        }
    }
    html.push_str(&costs(record));
    html.push_str("<h2>Exchange</h2>\n");
    let axes = Axes { x: "seconds", y: "bytes received", y_range: None, x_counts: false };
    curves(&mut html, &traffic_lines(record), &axes, "Bytes received from peers, all kinds");
    html.push_str(&settings(record));
    html.push_str("</body>\n</html>\n");
    html
}

/// A page as far as its heading.
pub(super) fn page(title: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    )
}

/// Two sentences from the numbers.
fn summary(record: &LabRecord) -> String {
    let final_mean = |arm: &Arm, head: &str| {
        let finals: Vec<f64> = arm
            .agents
            .iter()
            .flat_map(|run| run.heads.iter().filter(|h| h.head == head))
            .filter_map(|h| h.stream.last().copied())
            .collect();
        (!finals.is_empty()).then(|| 100.0 * finals.iter().sum::<f64>() / finals.len() as f64)
    };
    let mut text = String::new();
    for arm in &record.arms {
        let (Some(cl), Some(student)) = (final_mean(arm, "cl"), final_mean(arm, "student")) else { continue };
        let _ = write!(
            text,
            "With the {}, the agents end at {cl:.1} % (continual-learning head) and {student:.1} % (student head) \
             on all test images, on average. ",
            arm.name
        );
    }
    let unfinished = record.arms.iter().flat_map(|a| &a.agents).filter(|r| r.finished.is_none()).count();
    if unfinished > 0 {
        let _ = write!(
            text,
            "{unfinished} of the runs did not reach their end; they are shown as far as they came."
        );
    }
    text
}

/// A line plot, or a word where there is nothing to plot.
pub(super) fn curves(html: &mut String, lines: &[Line], axes: &Axes<'_>, caption: &str) {
    if lines.is_empty() {
        let _ = writeln!(html, "<p>{}: none.</p>", escape(caption));
    } else {
        figure(html, plots::lines(lines, axes), caption);
    }
}

pub(super) fn figure(html: &mut String, svg: Result<String, Box<dyn std::error::Error>>, caption: &str) {
    match svg {
        Ok(svg) => {
            let _ = writeln!(html, "<figure>{svg}<figcaption>{}</figcaption></figure>", escape(caption));
        }
        Err(error) => {
            let _ = writeln!(html, "<p>{}: not drawn ({})</p>", escape(caption), escape(&error.to_string()));
        }
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
        let Some(head) = run.heads.iter().find(|h| h.head == head) else { return Vec::new() };
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
    let names = after().map(|(name, _)| *name).chain(OVER_STREAM.map(|(name, _)| name));
    let mut html = "<h2>Metrics after the last experience</h2>\n".to_owned();
    html.push_str(&heading(["agent", "head", "arm"], names));
    for (arm, run) in runs(record) {
        let n_test = run.n_test();
        for head in &run.heads {
            let Some(last) = head.matrix.rows().len().checked_sub(1) else { continue };
            let values = after().map(|(_, value)| value(head, last, &n_test));
            let values = values.chain(OVER_STREAM.map(|(_, value)| value(head)));
            // Adding 0 makes -0 a plain 0.
            let numbers = numbers(values, |v| format!("{:.1} %", 100.0 * v + 0.0));
            let _ = writeln!(html, "<tr>{}{numbers}</tr>", cells([run.name(), &head.head, &arm.name]));
        }
    }
    html.push_str("</table>\n");
    html
}

/// What each experience took.
fn costs(record: &LabRecord) -> String {
    let mut html = "<h2>Time and energy</h2>\n".to_owned();
    html.push_str(&heading(["agent", "arm", "experience"], OF_USAGE.map(|(name, _)| name).into_iter()));
    for (arm, run) in runs(record) {
        for (i, usage) in run.usages.iter().enumerate() {
            let Some(usage) = usage else { continue };
            let numbers = numbers(OF_USAGE.iter().map(|(_, value)| value(usage)), |v| format!("{v:.1}"));
            let _ =
                writeln!(html, "<tr>{}{numbers}</tr>", cells([run.name(), &arm.name, &(i + 1).to_string()]));
        }
    }
    html.push_str("</table>\n");
    html
}

fn runs(record: &LabRecord) -> impl Iterator<Item = (&Arm, &RunRecord)> {
    record.arms.iter().flat_map(|arm| arm.agents.iter().map(move |run| (arm, run)))
}

/// The head of a table: columns of text, then columns of numbers.
fn heading<'a>(texts: [&str; 3], numbers: impl Iterator<Item = &'a str>) -> String {
    let texts: String = texts.iter().map(|text| format!("<th>{text}</th>")).collect();
    let number = |name: &str| format!("<th class=\"number\">{}</th>", name.replace('_', " "));
    format!("<table><tr>{texts}{}</tr>\n", numbers.map(number).collect::<String>())
}

fn cells<const N: usize>(texts: [&str; N]) -> String {
    texts.iter().map(|text| format!("<td>{}</td>", escape(text))).collect()
}

fn numbers(values: impl Iterator<Item = Option<f64>>, text: impl Fn(f64) -> String) -> String {
    values.map(|v| format!("<td class=\"number\">{}</td>", v.map_or("-".to_owned(), &text))).collect()
}

fn confusions(html: &mut String, record: &LabRecord) {
    let mut maps = String::new();
    for (arm, run) in runs(record) {
        let order = class_order(run);
        for head in &run.heads {
            if let Some(counts) = head.confusions.last() {
                let caption = format!("{}, {}, {}", run.name(), head.head, arm.name);
                figure(&mut maps, Ok(heat_map::confusion(counts, &order)), &caption);
            }
        }
    }
    if !maps.is_empty() {
        html.push_str(
            "<h2>Confusion after the last experience</h2>\n\
             <p>Rows are labels and columns predictions, in the order in which the classes come; lines part the \
             experiences. A cell is the darker, the larger its share of the row.</p>\n",
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

fn settings(record: &LabRecord) -> String {
    let mut html =
        "<h2>Settings</h2>\n<table><tr><th>agent</th><th>network</th><th>parameters</th><th>device</th>\
                    <th>epochs</th><th>classes of each experience</th></tr>\n"
            .to_owned();
    for started in record.arms.first().iter().flat_map(|a| &a.agents).filter_map(|r| r.started.as_ref()) {
        let classes: Vec<String> = started.experiences.iter().map(|e| e.join(" ")).collect();
        let cells = [
            &started.agent,
            &started.network,
            &started.n_parameters.to_string(),
            &started.device,
            &started.n_epochs.to_string(),
            &classes.join(" | "),
        ];
        let cells: String = cells.iter().map(|c| format!("<td>{}</td>", escape(c))).collect();
        let _ = writeln!(html, "<tr>{cells}</tr>");
    }
    html.push_str("</table>\n");
    html
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
