//! How a run is shown while it goes on: bars on a terminal, plain lines elsewhere, JSON lines for programs.
//!
//! Bars and lines go to standard error, events in JSON to standard output. A slow reader of lines does not stop the run:
//! it is told later how many were dropped.

mod lines;
mod object;
mod pace;
mod shown;
mod whole;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing::Level;

use self::lines::Lines;
pub use self::object::object;
use self::shown::Shown;
pub use self::whole::Whole;
use super::event::{Event, Record};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Style {
    /// Bars on a terminal, plain lines elsewhere, lines in JSON beside a log in JSON
    Auto,
    /// One bar an agent
    Bar,
    /// A line for each experience, and every half a minute or so within a long one
    Plain,
    /// One event a line on standard output
    Json,
    /// Plain lines as objects like those of a log in JSON, on standard error
    #[value(skip)]
    Log,
}

impl Style {
    /// As on a command line, with a space before; empty for the default.
    pub fn as_given(self) -> String {
        let value = self.to_possible_value().filter(|_| self != Style::Auto);
        value.map_or_else(String::new, |value| format!(" --progress {}", value.get_name()))
    }
}

/// Steps of the bar for the whole in each of its runs.
const PARTS: u64 = 1000;

/// One agent's line.
struct Agent {
    bar: ProgressBar,
    shown: Shown,
}

pub struct Progress {
    style: Style,
    bars: MultiProgress,
    agents: BTreeMap<String, Agent>,
    /// A bar above the agents' for what their run is a part of.
    whole: Option<(Whole, ProgressBar)>,
    /// Where lines go; none with bars, and none after the end.
    lines: Option<Lines>,
    /// Lines dropped since that was last told.
    n_dropped: u64,
    /// Time of the last record.
    t_s: f64,
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
        let template = ProgressStyle::with_template("{prefix} [{bar:20}] {percent:>3}% {wide_msg}")
            .expect("invariant: the template is well formed");
        let agent = |name: &String| {
            let bar = if style == Style::Bar { bars.add(ProgressBar::new(1)) } else { ProgressBar::hidden() };
            bar.set_style(template.clone().progress_chars("=> "));
            bar.set_prefix(format!("{name:<width$}"));
            (name.clone(), Agent { bar, shown: Shown::default() })
        };
        let agents = agents.iter().map(agent).collect();
        let lines = match style {
            Style::Json => Some(Lines::start(std::io::stdout())),
            Style::Plain | Style::Log => Some(Lines::start(std::io::stderr())),
            Style::Bar | Style::Auto => None,
        };
        Progress { style, bars, agents, whole: None, lines, n_dropped: 0, t_s: 0.0 }
    }

    /// As [`Progress::new`], for a run that is a part of `whole`.
    pub fn of_part(style: Style, agents: &[String], whole: Whole) -> Self {
        let mut progress = Progress::new(style, agents);
        if progress.style == Style::Bar {
            let bar = progress.bars.insert(0, ProgressBar::new(PARTS * whole.n_runs() as u64));
            let template = ProgressStyle::with_template("[{bar:30}] {percent:>3}% {msg}")
                .expect("invariant: the template is well formed");
            bar.set_style(template.progress_chars("=> "));
            progress.whole = Some((whole, bar));
            progress.show_whole();
        }
        progress
    }

    fn show_whole(&self) {
        let Some((whole, bar)) = &self.whole else { return };
        let share = |a: &Agent| a.bar.position() as f64 / a.bar.length().unwrap_or(1).max(1) as f64;
        let share = self.agents.values().map(share).sum::<f64>() / self.agents.len().max(1) as f64;
        bar.set_position((PARTS as f64 * (whole.n_done() as f64 + share)) as u64);
        bar.set_message(whole.text(share));
    }

    /// Shows one event of an agent. Waits a second at most for whoever reads lines.
    pub fn on(&mut self, name: &str, record: &Record) {
        self.t_s = record.t_s;
        if self.style == Style::Json {
            if let Ok(line) = serde_json::to_string(record) {
                self.line(line, is_worth_a_wait(&record.event));
            }
            return;
        }
        let Some(agent) = self.agents.get_mut(name) else { return };
        agent.shown.on(record);
        match &record.event {
            Event::Started(_) | Event::Epoch(_) | Event::Evaluated(_) => {
                if let Some((step, n_steps)) = agent.shown.steps() {
                    agent.bar.set_length(n_steps);
                    agent.bar.set_position(step);
                }
                agent.bar.set_message(agent.shown.status().unwrap_or_default());
            }
            Event::Waiting { message } => agent.bar.set_message(message.clone()),
            Event::Finished(_) if self.style == Style::Bar => agent.bar.abandon(),
            _ => {}
        }
        let text = agent.shown.text(record);
        self.show_whole();
        let Some(text) = text else { return };
        match (self.style, &record.event) {
            (Style::Plain, event) => self.line(plain(record.t_s, name, &text), is_worth_a_wait(event)),
            (Style::Log, event) => {
                let is_warning = matches!(event, Event::Warning { .. });
                let level = if is_warning { Level::WARN } else { Level::INFO };
                self.line(object(level, &text, Some((name, record.t_s))), is_worth_a_wait(event));
            }
            (_, Event::Warning { .. }) => self.line_above_bars(&plain(record.t_s, name, &text)),
            _ => {}
        }
    }

    fn line(&mut self, line: String, is_worth_a_wait: bool) {
        let Some(lines) = &mut self.lines else { return };
        if is_worth_a_wait && self.n_dropped > 0 && lines.offer(dropped(self.style, self.n_dropped, self.t_s))
        {
            self.n_dropped = 0;
        }
        let is_queued = if is_worth_a_wait { lines.push(line) } else { lines.offer(line) };
        self.n_dropped += u64::from(!is_queued);
    }

    fn line_above_bars(&self, line: &str) {
        // A terminal that has gone shows nothing; the run does not depend on it.
        let _ = if self.bars.is_hidden() {
            writeln!(std::io::stderr().lock(), "{line}")
        } else {
            self.bars.println(line)
        };
    }

    /// Leaves the terminal as it should be, and waits a few seconds at most for what is not yet written.
    pub fn finish(&mut self) {
        if let Some(lines) = self.lines.take() {
            lines.finish((self.n_dropped > 0).then(|| dropped(self.style, self.n_dropped, self.t_s)));
        }
        for agent in self.agents.values().filter(|a| !a.bar.is_finished()) {
            agent.bar.abandon();
        }
        if let Some((_, bar)) = self.whole.take() {
            bar.abandon();
        }
        if self.style == Style::Bar && !self.agents.is_empty() {
            // Finished bars leave the cursor at the end of the last one.
            let _ = writeln!(std::io::stderr().lock());
        }
        self.agents.clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Whether an event may keep the run waiting for a moment: those that come seldom, and that nothing replaces.
fn is_worth_a_wait(event: &Event) -> bool {
    match event {
        Event::Started(_)
        | Event::Initial(_)
        | Event::Evaluated(_)
        | Event::Warning { .. }
        | Event::Finished(_)
        | Event::Stopped { .. } => true,
        Event::Epoch(_) | Event::Traffic(_) | Event::Checkpointed { .. } | Event::Waiting { .. } => false,
    }
}

/// The line that tells of `n` others which are missing.
fn dropped(style: Style, n: u64, t_s: f64) -> String {
    let message = format!("{n} lines of progress were dropped: their reader was too slow");
    match style {
        Style::Json => {
            let record = Record { t_s, event: Event::Warning { message } };
            serde_json::to_string(&record).expect("invariant: a warning is JSON")
        }
        Style::Log => object(Level::WARN, &message, None),
        _ => format!("{t_s:>7.1} s  warning: {message}"),
    }
}

/// A line for people.
fn plain(t_s: f64, name: &str, text: &str) -> String {
    format!("{t_s:>7.1} s  {name}: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_is_told_as_a_warning() {
        let record: Record = serde_json::from_str(&dropped(Style::Json, 3, 1.5)).unwrap();
        assert!(matches!(record.event, Event::Warning { message } if message.starts_with("3 lines ")));
        let line: serde_json::Value = serde_json::from_str(&dropped(Style::Log, 3, 1.5)).unwrap();
        assert!(
            line["level"] == "WARN" && line["message"].as_str().unwrap().starts_with("3 lines "),
            "{line}"
        );
        let line = dropped(Style::Plain, 3, 1.5);
        assert!(line.starts_with("    1.5 s  warning: 3 lines of progress were dropped"), "{line}");
    }
}
