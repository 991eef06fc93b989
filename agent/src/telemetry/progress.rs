//! How a run is shown while it goes on: bars on a terminal, plain lines elsewhere, JSON lines for programs.
//!
//! Bars and lines go to standard error, JSON to standard output.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::event::{Epoch, Event, Record, Started};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Style {
    /// Bars on a terminal, plain lines elsewhere
    Auto,
    /// One bar an agent
    Bar,
    /// A line for each experience
    Plain,
    /// One event a line on standard output
    Json,
}

/// One agent's line.
struct Agent {
    bar: ProgressBar,
    started: Option<Started>,
}

pub struct Progress {
    style: Style,
    agents: BTreeMap<String, Agent>,
}

impl Progress {
    pub fn new(style: Style, agents: &[String]) -> Self {
        let style = match style {
            Style::Auto if std::io::stderr().is_terminal() => Style::Bar,
            Style::Auto => Style::Plain,
            chosen => chosen,
        };
        let bars = MultiProgress::new();
        let width = agents.iter().map(String::len).max().unwrap_or(0);
        let template = ProgressStyle::with_template("{prefix} [{bar:30}] {percent:>3}% {msg} {eta:>4} left")
            .expect("invariant: the template is well formed");
        let agent = |name: &String| {
            let bar = if style == Style::Bar { bars.add(ProgressBar::new(1)) } else { ProgressBar::hidden() };
            bar.set_style(template.clone().progress_chars("=> "));
            bar.set_prefix(format!("{name:<width$}"));
            (name.clone(), Agent { bar, started: None })
        };
        Progress { style, agents: agents.iter().map(agent).collect() }
    }

    /// Shows one event of an agent.
    pub fn on(&mut self, name: &str, record: &Record) {
        if self.style == Style::Json {
            if let Ok(line) = serde_json::to_string(record) {
                // Whoever read the lines has gone; the run does not depend on it.
                let _ = writeln!(std::io::stdout().lock(), "{line}");
            }
            return;
        }
        let Some(agent) = self.agents.get_mut(name) else { return };
        if let Event::Started(started) = &record.event {
            agent.bar.set_length(started.n_steps);
            agent.bar.set_position(started.resumed_at_step);
            agent.bar.reset_eta();
            agent.started = Some(started.clone());
        }
        if let Event::Epoch(epoch) = &record.event {
            agent.bar.set_position(epoch.step);
            agent.bar.set_message(status(epoch, agent.started.as_ref()));
        }
        if let (Event::Finished(_), Style::Bar) = (&record.event, self.style) {
            agent.bar.abandon();
        }
        if self.style == Style::Plain
            && let Some(line) = plain_line(name, record, agent.started.as_ref())
        {
            eprintln!("{line}");
        }
    }

    /// Leaves the terminal as it should be.
    pub fn finish(&self) {
        for agent in self.agents.values().filter(|a| !a.bar.is_finished()) {
            agent.bar.abandon();
        }
        if self.style == Style::Bar {
            // Finished bars leave the cursor at the end of the last one.
            eprintln!();
        }
    }
}

fn status(epoch: &Epoch, started: Option<&Started>) -> String {
    let n_experiences = started.map_or(0, |s| s.experiences.len());
    format!(
        "exp {}/{n_experiences} ep {:>2} loss {:.3} taught {:>3.0}% peers {} {:>5.0} img/s",
        epoch.experience + 1,
        epoch.epoch + 1,
        epoch.loss,
        100.0 * epoch.teacher_share,
        epoch.n_peers,
        epoch.samples_per_second
    )
}

/// What is worth a line where lines stay: the start, each experience, warnings, the end.
fn plain_line(name: &str, record: &Record, started: Option<&Started>) -> Option<String> {
    let text = match &record.event {
        Event::Started(s) => {
            let resumed = match s.resumed_at_step {
                0 => String::new(),
                step => format!(", resumed at step {step}"),
            };
            format!(
                "{} ({} parameters) on {}, {} experiences of {} epochs, {} steps{resumed}",
                s.network,
                s.n_parameters,
                s.device,
                s.experiences.len(),
                s.n_epochs,
                s.n_steps
            )
        }
        Event::Evaluated(e) => {
            let heads: Vec<String> =
                e.heads.iter().map(|h| format!("{} {:.1} %", h.head, 100.0 * h.stream)).collect();
            let n_experiences = started.map_or(0, |s| s.experiences.len());
            format!(
                "experience {}/{n_experiences} trained; accuracy on all test images: {}",
                e.experience + 1,
                heads.join(", ")
            )
        }
        Event::Warning { message } => format!("warning: {message}"),
        Event::Finished(f) => format!("finished after {} steps", f.n_steps),
        Event::Epoch(_) | Event::Traffic(_) | Event::Checkpointed { .. } => return None,
    };
    Some(format!("{:>7.1} s  {name}: {text}", record.t_s))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::event::{Evaluated, HeadAccuracy};

    #[test]
    fn an_experience_is_one_plain_line() {
        let head =
            |head: &str, stream| HeadAccuracy { head: head.to_owned(), per_experience: vec![], stream };
        let evaluated = Evaluated { experience: 1, heads: vec![head("cl", 0.5), head("student", 0.25)] };
        let record = Record { t_s: 2.25, event: Event::Evaluated(evaluated) };
        assert_eq!(
            plain_line("alice", &record, None).unwrap(),
            "    2.2 s  alice: experience 2/0 trained; accuracy on all test images: cl 50.0 %, student 25.0 %"
        );
        let record = Record { t_s: 0.0, event: Event::Checkpointed { step: 1, size_bytes: 1 } };
        assert_eq!(plain_line("alice", &record, None), None);
    }
}
