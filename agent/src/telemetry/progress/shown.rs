//! What is shown of one agent, as text.

use super::pace::{Pace, duration};
use crate::telemetry::event::{Epoch, Evaluated, Event, Record, Started};

/// Where lines stay, a long experience has one at least this often, in seconds, as far as its epochs allow.
const HEARTBEAT_S: f64 = 30.0;

/// One agent as it was last heard of.
#[derive(Default)]
pub struct Shown {
    started: Option<(Started, Pace)>,
    epoch: Option<Epoch>,
    evaluated: Option<Evaluated>,
    /// Time of the last line.
    line_s: f64,
}

impl Shown {
    /// Takes in an event of the agent.
    pub fn on(&mut self, record: &Record) {
        match &record.event {
            Event::Started(started) => {
                let pace = Pace::starting(record.t_s, started.resumed_at_step);
                *self = Shown { started: Some((started.clone(), pace)), ..Shown::default() };
            }
            Event::Epoch(epoch) => {
                self.epoch = Some(epoch.clone());
                if let Some((_, pace)) = &mut self.started {
                    pace.epoch(record.t_s, epoch.step);
                }
            }
            Event::Evaluated(evaluated) => self.evaluated = Some(evaluated.clone()),
            _ => {}
        }
    }

    /// Training steps done, and those of the whole run.
    pub fn steps(&self) -> Option<(u64, u64)> {
        let (started, pace) = self.started.as_ref()?;
        Some((pace.step(), started.n_steps))
    }

    /// How far the agent is and how it does, the most important first: a narrow terminal cuts the rest.
    pub fn status(&self) -> Option<String> {
        let (epoch, (started, pace)) = (self.epoch.as_ref()?, self.started.as_ref()?);
        let mut text = format!(
            "exp {}/{} ep {:>2}/{}, ",
            epoch.experience + 1,
            started.experiences.len(),
            epoch.epoch + 1,
            if epoch.n_epochs > 0 { epoch.n_epochs } else { started.n_epochs }
        );
        if let Some(left_s) = pace.left_s(started.n_steps) {
            text += &format!("{} left, ", duration(left_s));
        }
        text += &format!("loss cl {:.3} student {:.3}, ", epoch.loss_cl, epoch.loss_st);
        if let Some(evaluated) = &self.evaluated {
            text += &format!("accuracy {}, ", accuracies(evaluated));
        }
        // A teacher of its own is no peer.
        let by = match epoch.n_peers {
            0 => String::new(),
            1 => " by 1 peer".to_owned(),
            n => format!(" by {n} peers"),
        };
        let (share, speed) = (100.0 * epoch.teacher_share, epoch.samples_per_second);
        text += &format!("taught {share:.0} %{by}, {speed:.0} samples/s");
        Some(text)
    }

    /// What of an event is worth a line where lines stay: the start, each experience, warnings, the end; and in
    /// between, when the last line is old, an epoch. The event must have been taken in.
    pub fn text(&mut self, record: &Record) -> Option<String> {
        let n_experiences = self.started.as_ref().map_or(0, |(started, _)| started.experiences.len());
        let text = match &record.event {
            Event::Started(started) => start(started),
            Event::Evaluated(e) => format!(
                "experience {}/{n_experiences} trained; accuracy on all test images: {}",
                e.experience + 1,
                accuracies(e)
            ),
            Event::Warning { message } => format!("warning: {message}"),
            Event::Waiting { message } => message.clone(),
            Event::Finished(f) => format!("finished after {} steps", f.n_steps),
            Event::Epoch(_) if record.t_s - self.line_s >= HEARTBEAT_S => self.status()?,
            Event::Initial(_)
            | Event::Epoch(_)
            | Event::Traffic(_)
            | Event::Checkpointed { .. }
            | Event::Stopped { .. } => {
                return None;
            }
        };
        self.line_s = record.t_s;
        Some(text)
    }
}

fn start(started: &Started) -> String {
    let resumed = match started.resumed_at_step {
        0 => String::new(),
        step => format!(", resumed at step {step}"),
    };
    let energy = match &started.energy {
        Some(source) => format!(", energy measured by {source}"),
        None => String::new(),
    };
    format!(
        "{} ({} parameters) on {}, {} experiences of {} epochs, {} steps{resumed}{energy}",
        started.network,
        started.n_parameters,
        started.device,
        started.experiences.len(),
        started.n_epochs,
        started.n_steps
    )
}

/// On all test images.
fn accuracies(evaluated: &Evaluated) -> String {
    let heads = evaluated.heads.iter().map(|h| format!("{} {:.1} %", h.head, 100.0 * h.stream));
    heads.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::plain;
    use super::*;
    use crate::telemetry::event::HeadAccuracy;

    fn started(resumed_at_step: u64) -> Event {
        Event::Started(Started {
            agent: "alice".to_owned(),
            fleet: "lab".to_owned(),
            network: "digits-cnn".to_owned(),
            n_parameters: 1234,
            device: "cpu".to_owned(),
            exchange: true,
            experiences: vec![vec!["0".to_owned()]; 5],
            n_epochs: 20,
            n_steps: 1000,
            resumed_at_step,
            classes: vec!["0".to_owned(), "1".to_owned()],
            n_test: vec![],
            energy: None,
            configuration: serde_json::Value::Null,
        })
    }

    fn evaluated() -> Event {
        let head =
            |head: &str, stream| HeadAccuracy { head: head.to_owned(), stream, ..HeadAccuracy::default() };
        Event::Evaluated(Evaluated {
            experience: 1,
            heads: vec![head("cl", 0.5), head("student", 0.25)],
            usage: None,
        })
    }

    /// The epoch that ends at `step`, ten steps each.
    fn epoch(step: u64) -> Event {
        let line = format!(
            r#"{{"event":"epoch","experience":{},"epoch":{},"step":{step},"loss":0.75,"loss_cl":0.5,"loss_st":0.25,
            "teacher_share":0.5,"samples_per_second":640.0,"n_peers":2}}"#,
            (step - 1) / 200,
            (step - 1) % 200 / 10,
        );
        serde_json::from_str(&line).unwrap()
    }

    /// Takes in the event; the line that it is worth.
    fn line(shown: &mut Shown, t_s: f64, event: Event) -> Option<String> {
        let record = Record { t_s, event };
        shown.on(&record);
        Some(plain(t_s, "alice", &shown.text(&record)?))
    }

    #[test]
    fn a_start_and_an_experience_are_a_line_each() {
        let shown = &mut Shown::default();
        assert_eq!(
            line(shown, 1.0, started(7)).unwrap(),
            "    1.0 s  alice: digits-cnn (1234 parameters) on cpu, 5 experiences of 20 epochs, 1000 steps, \
             resumed at step 7"
        );
        assert_eq!(
            line(shown, 2.25, evaluated()).unwrap(),
            "    2.2 s  alice: experience 2/5 trained; accuracy on all test images: cl 50.0 %, student 25.0 %"
        );
        assert_eq!(line(shown, 99.0, Event::Checkpointed { step: 1, size_bytes: 1 }), None);
    }

    #[test]
    fn a_long_experience_has_a_line_each_half_a_minute() {
        let shown = &mut Shown::default();
        line(shown, 0.0, started(0)).unwrap();
        // An epoch every seven seconds, for an experience's length.
        let lines: Vec<(u64, String)> =
            (1..20).filter_map(|i| Some((i, line(shown, 7.0 * i as f64, epoch(10 * i))?))).collect();
        let at: Vec<u64> = lines.iter().map(|(i, _)| *i).collect();
        assert_eq!(at, [5, 10, 15]);
        assert_eq!(
            lines[0].1,
            "   35.0 s  alice: exp 1/5 ep  5/20, 11 min left, loss cl 0.500 student 0.250, taught 50 % by 2 peers, \
             640 samples/s"
        );
        // Any other line counts too.
        line(shown, 130.0, evaluated()).unwrap();
        assert_eq!(line(shown, 159.0, epoch(210)), None);
        let with_accuracy = line(shown, 160.0, epoch(220)).unwrap();
        assert!(with_accuracy.contains("exp 2/5 ep  2/20, "), "{with_accuracy}");
        assert!(with_accuracy.contains(", accuracy cl 50.0 %, student 25.0 %, taught"), "{with_accuracy}");
    }

    #[test]
    fn a_run_that_goes_on_is_shown_where_it_is() {
        let mut shown = Shown::default();
        assert_eq!((shown.steps(), shown.status()), (None, None));
        line(&mut shown, 3.0, started(405));
        for told_again in 1..=40 {
            assert_eq!(line(&mut shown, 3.0, epoch(10 * told_again)), None);
            assert_eq!(shown.steps(), Some((405, 1000)));
        }
        line(&mut shown, 4.0, epoch(410));
        assert_eq!(shown.steps(), Some((410, 1000)));
        let status = shown.status().unwrap();
        assert!(status.starts_with("exp 3/5 ep  1/20, 118 s left, "), "{status}");
    }
}
