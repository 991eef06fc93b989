//! The teacher's side: what peers want labelled, in which order.

use std::collections::{BTreeMap, VecDeque};

use super::{Action, Engine, Peer};
use crate::exchange::message::{AgentState, Demand, Message, SampleSet, TargetChunk};
use crate::exchange::topic::Leaf;
use crate::exchange::wire::rows_per_chunk;
use crate::ids::{AgentId, SampleId, View};

/// What is known of one row of one view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Idle,
    Queued,
    /// In this round.
    Labelled,
}

/// Work of one view. Both are bounded by the number of samples of the data set.
#[derive(Debug)]
struct ViewWork {
    queue: VecDeque<SampleId>,
    rows: Vec<Row>,
}

/// The union of all demands, as a queue for each view; rows labelled go to the end of the next round.
#[derive(Debug)]
pub(super) struct Teaching {
    n_samples: u32,
    demands: BTreeMap<AgentId, Demand>,
    views: Vec<ViewWork>,
    /// The view whose turn it is.
    turn: usize,
}

impl Teaching {
    pub fn new(n_samples: u32) -> Self {
        Teaching { n_samples, demands: BTreeMap::new(), views: Vec::new(), turn: 0 }
    }

    /// Everything that those who are there demand is to be labelled anew; what is queued keeps its place.
    pub fn start_round(&mut self, peers: &BTreeMap<AgentId, Peer>) {
        for work in &mut self.views {
            for row in &mut work.rows {
                if *row == Row::Labelled {
                    *row = Row::Idle;
                }
            }
        }
        let here = |id: &AgentId| {
            peers.get(id).is_none_or(|p| p.fits && p.status.state == AgentState::Online)
        };
        let students: Vec<AgentId> = self.demands.keys().filter(|id| here(id)).cloned().collect();
        for id in students {
            self.enqueue_demand(&id);
        }
    }

    pub fn demand(&mut self, student: AgentId, demand: Demand) {
        self.demands.insert(student.clone(), demand);
        self.enqueue_demand(&student);
    }

    pub fn forget(&mut self, student: &AgentId) {
        self.demands.remove(student);
    }

    /// Queues what the student demands and this round has not labelled yet.
    pub fn enqueue_demand(&mut self, student: &AgentId) {
        let Some(demand) = self.demands.get(student) else { return };
        let (n_views, ids) = (demand.n_views, demand.samples.iter().collect::<Vec<_>>());
        for view in 0..n_views {
            let work = self.work(View(view));
            for id in &ids {
                if work.rows[id.0 as usize] == Row::Idle {
                    work.rows[id.0 as usize] = Row::Queued;
                    work.queue.push_back(*id);
                }
            }
        }
    }

    /// Queues what a student has not got, labelled or not.
    pub fn relabel(&mut self, missing: &[SampleSet]) {
        for (view, ids) in (0..=u8::MAX).zip(missing) {
            if ids.n_samples() != self.n_samples {
                continue;
            }
            let work = self.work(View(view));
            for id in ids.iter() {
                let row = &mut work.rows[id.0 as usize];
                if *row != Row::Queued {
                    *row = Row::Queued;
                    work.queue.push_back(id);
                }
            }
        }
    }

    /// The next samples of one view; views take turns.
    pub fn next(&mut self, max: usize) -> Option<(View, Vec<SampleId>)> {
        for i in 0..self.views.len() {
            let view = (self.turn + i) % self.views.len();
            let work = &mut self.views[view];
            if work.queue.is_empty() {
                continue;
            }
            let ids: Vec<SampleId> = work.queue.drain(..max.min(work.queue.len())).collect();
            for id in &ids {
                work.rows[id.0 as usize] = Row::Labelled;
            }
            self.turn = (view + 1) % self.views.len();
            return Some((View(view as u8), ids));
        }
        None
    }

    fn work(&mut self, view: View) -> &mut ViewWork {
        let n_samples = self.n_samples as usize;
        let n_views = usize::from(view.0) + 1;
        while self.views.len() < n_views {
            self.views.push(ViewWork { queue: VecDeque::new(), rows: vec![Row::Idle; n_samples] });
        }
        &mut self.views[usize::from(view.0)]
    }
}

impl Engine {
    pub(super) fn peer_demand(&mut self, student: AgentId, demand: Demand) {
        if demand.data != self.config.data || demand.samples.n_samples() != self.config.n_samples {
            return self.stats.refuse("other data");
        }
        if self.peers.len() >= super::MAX_PEERS && !self.peers.contains_key(&student) {
            return self.stats.refuse("too many peers");
        }
        self.teaching.demand(student, demand);
    }

    /// Publishes labelled rows, as few messages as the bound allows.
    pub(super) fn labelled(&mut self, view: View, ids: &[SampleId], logits: &[f32], actions: &mut Vec<Action>) {
        let n_classes = self.config.classes.len();
        let n_rows = rows_per_chunk(n_classes, self.config.chunk_bytes);
        for (ids, logits) in ids.chunks(n_rows).zip(logits.chunks(n_rows * n_classes)) {
            self.stats.chunks_out += 1;
            let message = Message::Targets(TargetChunk {
                data: self.config.data,
                model: self.config.model,
                round: self.round,
                temperature: self.config.temperature,
                view,
                ids: ids.to_vec(),
                logits: logits.to_vec(),
            });
            let topic = self.topic(Leaf::Targets { data: self.config.data.short() });
            actions.push(Action::Publish { topic, message, retain: false });
        }
    }
}
