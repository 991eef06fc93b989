//! What an agent does for and with its peers beside its training.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::link::Link;
use super::{Agent, AgentError, setup};
use crate::config::Sharing;
use crate::exchange::ExchangeError;
use crate::exchange::connection::ConnectionConfig;
use crate::exchange::engine::{EngineConfig, Event as ExchangeEvent, Limits};
use crate::exchange::message::Inputs;
use crate::ids::{Digest, Round, SampleId};
use crate::telemetry::event::Event;

/// How often the totals of the exchange are reported.
const TRAFFIC_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for a message while there is nothing else to do.
const IDLE_WAIT: Duration = Duration::from_millis(50);
/// How long after connecting an agent listens before it takes itself to be alone.
const GREETING_TIME: Duration = Duration::from_secs(1);
impl Agent<'_> {
    pub(super) fn connect(&self, connection: ConnectionConfig, model: Digest) -> Result<Link, ExchangeError> {
        let config = self.config;
        let exchange = &config.exchange;
        let (data, n_samples) = self.learner.taught_data();
        let shape = self.learner.source.train.shape;
        let engine = EngineConfig {
            agent: config.agent.clone(),
            fleet: config.fleet.clone(),
            data,
            model,
            classes: self.learner.source.train.classes.clone(),
            n_samples: n_samples as u32,
            session: setup::session(),
            temperature: config.train.distill.temperature,
            teachers: exchange.teachers.clone(),
            chunk_bytes: exchange.chunk_bytes,
            encoding: exchange.encoding.encoding(),
            delta: exchange.delta,
            accepts: exchange.label_inputs.then_some(shape),
            sends: (exchange.sharing == Sharing::Inputs).then_some(shape),
            inputs_in_flight: exchange.inputs_in_flight,
            limits: Limits { max_target_bytes: exchange.max_target_mib * 1024 * 1024, ..Limits::default() },
        };
        Link::start(engine, connection, self.stop)
    }

    /// Takes in what has arrived after a training step of `trained` seconds, and labels a batch for peers if the
    /// budget allows it.
    pub(super) fn teach_beside_training(&mut self, trained: f64) -> Result<(), AgentError> {
        self.budget.trained(trained);
        if self.budget.allows() {
            let began = Instant::now();
            if self.teach()? {
                self.budget.labelled(began.elapsed().as_secs_f64());
            }
        } else {
            self.exchange();
        }
        Ok(())
    }

    /// Takes in what has arrived, and labels a bounded number of rows for peers. False if none was wanted.
    fn teach(&mut self) -> Result<bool, AgentError> {
        self.exchange();
        // What the network does not take would be lost, and labelled again.
        if self.link.as_ref().is_none_or(|link| !link.has_room()) {
            return Ok(false);
        }
        // Samples that this agent has and images that were sent to it take turns.
        let sent_first = std::mem::take(&mut self.sent_first);
        if sent_first && self.label_sent()? {
            return Ok(true);
        }
        self.sent_first = !sent_first;
        Ok(self.label_own()? || (!sent_first && self.label_sent()?))
    }

    /// Labels samples that peers name by their numbers.
    fn label_own(&mut self) -> Result<bool, AgentError> {
        let Some(link) = &mut self.link else { return Ok(false) };
        let Some((view, ids)) = link.engine.next_label_batch(self.config.exchange.rows_per_step) else {
            return Ok(false);
        };
        let logits = self.learner.label(&ids, view)?;
        link.step(ExchangeEvent::Labelled { view, ids, logits });
        Ok(true)
    }

    /// Labels images that a peer has sent.
    fn label_sent(&mut self) -> Result<bool, AgentError> {
        let Some(link) = &mut self.link else { return Ok(false) };
        let Some(inputs) = link.engine.next_received_inputs(self.config.exchange.rows_per_step) else {
            return Ok(false);
        };
        let Inputs { data, view, ids, pixels, .. } = inputs;
        let logits = self.learner.label_images(&pixels)?;
        link.step(ExchangeEvent::LabelledInputs { data, view, ids, logits });
        Ok(true)
    }

    /// Takes in what has arrived, sends images that are to be labelled, and tells what there is to tell.
    fn exchange(&mut self) {
        let Some(link) = &mut self.link else { return };
        link.pump();
        while let Some((view, ids)) = link.engine.next_inputs() {
            let pixels = self.learner.pixels(&ids, view);
            link.step(ExchangeEvent::Inputs { view, ids, pixels });
        }
        for message in link.take_warnings() {
            self.emit(Event::Warning { message });
        }
        if self.traffic_reported.elapsed() >= TRAFFIC_INTERVAL {
            self.report_traffic();
        }
    }

    pub(super) fn report_traffic(&mut self) {
        if let Some(link) = &self.link {
            self.traffic_reported = Instant::now();
            let traffic = link.traffic();
            self.emit(Event::Traffic(traffic));
        }
    }

    /// Public samples: of the public set, or set aside from the training data.
    pub(super) fn public_samples(&self) -> Vec<SampleId> {
        match &self.learner.proxy {
            Some(proxy) => (0..proxy.images.len() as u32).map(SampleId).collect(),
            None => self.stream.proxy().to_vec(),
        }
    }

    /// Views that soft targets are wanted for; images of later ones take those of these in turn.
    pub(super) fn taught_views(&self) -> u8 {
        let all = self.learner.proxy.as_ref().map_or(self.config.data.views, |proxy| proxy.n_views);
        if self.config.exchange.views == 0 { all } else { self.config.exchange.views.min(all) }
    }

    /// Tells peers which samples and views the agent trains on from now.
    pub(super) fn demand(&mut self, experience: usize) {
        let mut samples = self.public_samples();
        if self.config.exchange.sharing != Sharing::Proxy {
            samples.extend(self.new_samples(experience));
            samples.extend_from_slice(self.memory.ids());
            samples.sort_unstable();
            samples.dedup();
        }
        // Views are used in turn, one an epoch: with few epochs the last are never used.
        let n_views = u32::from(self.taught_views()).min(self.epochs_of(experience).all()) as u8;
        if let Some(link) = &mut self.link {
            link.step(ExchangeEvent::Demand { samples, n_views });
        }
    }

    /// The network has changed enough for peers to want its soft targets anew.
    pub(super) fn start_round(&mut self) {
        self.round = Round(self.round.0 + 1);
        if let Some(link) = &mut self.link {
            link.step(ExchangeEvent::RoundStarted(self.round));
        }
    }

    /// Waits until as many peers are there as `exchange.wait_for_peers` says; of its teachers, where those are listed.
    pub(super) fn wait_for_peers(&mut self) {
        let exchange = &self.config.exchange;
        let (at_most_s, n_listed) = (exchange.wait_at_most_s, exchange.teachers.len());
        let (wanted, kind) = match n_listed {
            0 => (exchange.wait_for_peers, "other agent"),
            _ => (exchange.wait_for_peers.min(n_listed), "teacher"),
        };
        let kind = if wanted == 1 { kind.to_owned() } else { format!("{kind}s") };
        let deadline = Instant::now() + Duration::from_secs_f64(at_most_s);
        if self.link.is_some() && wanted > 0 {
            self.waiting(format!("waiting for {wanted} {kind}, {at_most_s:.0} s at most"));
        }
        while let Some(link) = &mut self.link {
            let found = link.engine.n_teachers();
            if found >= wanted || self.stop.load(Ordering::Relaxed) {
                return;
            }
            if Instant::now() >= deadline {
                let message = format!(
                    "waited {at_most_s:.0} s for {wanted} {kind}, found {found}; training begins without them"
                );
                self.emit(Event::Warning { message });
                return;
            }
            link.pump_or_wait(IDLE_WAIT);
        }
    }

    pub(super) fn linger(&mut self) -> Result<(), AgentError> {
        let at_most_s = self.config.exchange.linger_s;
        let deadline = Instant::now() + Duration::from_secs_f64(at_most_s);
        if self.link.as_ref().is_some_and(|link| !link.engine.all_peers_finished()) {
            self.waiting(format!("trained; teaching those who still train, {at_most_s:.0} s at most"));
        }
        if let Some(link) = &mut self.link {
            link.step(ExchangeEvent::Finished);
        }
        while let Some(link) = &mut self.link {
            // Who is there is known only some time after the connection.
            let alone = link.engine.all_peers_finished() && link.age() >= GREETING_TIME;
            if alone || self.stop.load(Ordering::Relaxed) || Instant::now() >= deadline {
                break;
            }
            let began = Instant::now();
            if self.teach()? {
                self.budget.labelled_idly(began.elapsed().as_secs_f64());
            } else if let Some(link) = &mut self.link {
                link.pump_or_wait(IDLE_WAIT);
            }
        }
        Ok(())
    }
}
