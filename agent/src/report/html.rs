//! `report.html`: one file with everything in it, no script, nothing fetched.

use std::fmt::Write as _;
use std::path::Path;

use super::plots::{self, Axes, Line};
use super::record::{Arm, LabRecord, RunRecord};
use super::table;
use crate::durable::{self, WriteError};

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font-family: system-ui, sans-serif; line-height: 1.5; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; }
pre { overflow-x: auto; padding: 1rem; border: 1px solid #8884; border-radius: 6px; }
figure { display: inline-block; margin: 0.5rem 1rem 0.5rem 0; vertical-align: top; }
figcaption { font-size: 0.9rem; }
svg { background: white; border-radius: 6px; max-width: 100%; height: auto; }
table { border-collapse: collapse; } td, th { padding: 0.15rem 0.8rem 0.15rem 0; text-align: left; }
";

/// # Errors
/// [`WriteError`] if the file cannot be written.
pub fn write(record: &LabRecord, path: &Path) -> Result<(), WriteError> {
    durable::write(path, render(record).as_bytes())
}

fn render(record: &LabRecord) -> String {
    let title = escape(&record.title);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p>{}</p>\n",
        escape(&summary(record))
    );
    let _ = writeln!(html, "<pre>{}</pre>", escape(&table::render(record)));
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
    html.push_str("<h2>Training</h2>\n");
    let steps = |y, y_range| Axes { x: "training steps", y, y_range, x_counts: false };
    let loss = course_lines(record, |e| f64::from(e.loss_cl));
    curves(&mut html, &loss, &steps("cross-entropy", None), "Loss of the continual-learning head");
    let loss = course_lines(record, |e| f64::from(e.loss_st));
    curves(&mut html, &loss, &steps("distance to the teacher", None), "Loss of the student head");
    let share = course_lines(record, |e| 100.0 * f64::from(e.teacher_share));
    let axes = steps("rows with a teacher (%)", Some((0.0, 100.0)));
    curves(&mut html, &share, &axes, "Share of training rows that had soft targets");
    html.push_str("<h2>Exchange</h2>\n");
    let axes = Axes { x: "seconds", y: "bytes received", y_range: None, x_counts: false };
    curves(&mut html, &traffic_lines(record), &axes, "Bytes received from peers, all kinds");
    html.push_str(&settings(record));
    html.push_str("</body>\n</html>\n");
    html
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
fn curves(html: &mut String, lines: &[Line], axes: &Axes<'_>, caption: &str) {
    if lines.is_empty() {
        let _ = writeln!(html, "<p>{}: none.</p>", escape(caption));
    } else {
        figure(html, plots::lines(lines, axes), caption);
    }
}

fn figure(html: &mut String, svg: Result<String, Box<dyn std::error::Error>>, caption: &str) {
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
                lines.push(Line { name, points, color, dashed: a > 0 });
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

fn course_lines(record: &LabRecord, value: fn(&crate::telemetry::event::Epoch) -> f64) -> Vec<Line> {
    agent_lines(record, |run| run.epochs.iter().map(|e| (e.step as f64, value(e))).collect())
}

fn traffic_lines(record: &LabRecord) -> Vec<Line> {
    agent_lines(record, |run| {
        let bytes =
            |t: &crate::telemetry::event::Traffic| t.kinds.iter().map(|k| k.bytes_in).sum::<u64>() as f64;
        run.traffic.iter().map(|(t_s, traffic)| (*t_s, bytes(traffic))).collect()
    })
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
