//! Images instead of numbers: a student whose data nobody else has sends what it wants labelled, and its teachers
//! keep it until they come to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Action, Engine, EngineConfig, Peer};
use crate::exchange::message::{AgentState, Inputs, Message, SampleSet, TargetChunk};
use crate::exchange::target_store::TargetStore;
use crate::exchange::topic::{Leaf, inputs_filter};
use crate::exchange::wire::{MAX_NAMED_TEACHERS, images_per_message};
use crate::ids::{AgentId, Digest, Round, SampleId, View};

/// What a message takes in memory beside its pixels, for each image and as such, rounded up.
const IMAGE_OVERHEAD_BYTES: usize = 32;
const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// The student's side: what it lacked when it last looked, and what of that is on its way.
pub(super) struct Outgoing {
    per_message: usize,
    max_in_flight: usize,
    /// Teachers of which rows are lacking, of their rounds or later ones.
    teachers: Vec<(AgentId, Round)>,
    lacking: BTreeMap<View, SampleSet>,
    /// Up to where `lacking` has been handed out.
    cursor: (View, u32),
    /// Sent since, and answered by nobody.
    in_flight: BTreeSet<(View, SampleId)>,
    /// When to look what is lacking; `None` while nothing new is expected.
    look_at: Option<Duration>,
    /// When something was lacking last.
    looked: Option<Duration>,
    /// Something has happened since the last look that made more lacking: answers do not put off the next.
    has_news: bool,
    wait: Duration,
}

impl Outgoing {
    pub fn new(config: &EngineConfig) -> Self {
        Outgoing {
            per_message: config.sends.map_or(0, |shape| images_per_message(shape, config.chunk_bytes)),
            max_in_flight: config.inputs_in_flight,
            teachers: Vec::new(),
            lacking: BTreeMap::new(),
            cursor: (View(0), 0),
            in_flight: BTreeSet::new(),
            look_at: None,
            looked: None,
            has_news: false,
            wait: config.limits.repair_after,
        }
    }

    /// Whether not even one image fits into a message.
    pub fn is_impossible(&self) -> bool {
        self.per_message == 0
    }

    /// Something is to be had that is not there: look at once, but while images are on their way, which are then sent
    /// again, no more often than one waits before a repair.
    pub fn expect(&mut self, now: Duration, repair_after: Duration) {
        let looked = self.looked.filter(|_| !self.in_flight.is_empty());
        let soon = looked.map_or(now, |looked| now.max(looked + repair_after));
        self.look_at = Some(self.look_at.map_or(soon, |at| at.min(soon)));
        self.has_news = true;
        self.wait = repair_after;
    }

    pub fn forget(&mut self) {
        self.teachers.clear();
        self.lacking.clear();
        self.in_flight.clear();
        self.look_at = None;
    }

    /// The next of the rows that are lacking, of one view, from the cursor on; without what `store` has got since.
    fn take(&mut self, n: usize, store: &TargetStore) -> Option<(View, Vec<SampleId>)> {
        let is_lacking =
            |id, view| self.teachers.iter().any(|(of, round)| !store.holds(of, id, view, *round));
        for (view, set) in self.lacking.range(self.cursor.0..) {
            let from = if *view == self.cursor.0 { self.cursor.1 } else { 0 };
            let ids = (from..set.n_samples()).map(SampleId).filter(|id| set.contains(*id));
            let ids: Vec<SampleId> = ids.filter(|id| is_lacking(*id, *view)).take(n).collect();
            if let Some(last) = ids.last() {
                self.cursor = (*view, last.0 + 1);
                self.in_flight.extend(ids.iter().map(|id| (*view, *id)));
                return Some((*view, ids));
            }
        }
        self.lacking.clear();
        None
    }
}

/// Of one student, not labelled yet.
#[derive(Default)]
struct Queue {
    messages: VecDeque<Inputs>,
    n_bytes: usize,
    /// Of all messages.
    rows: BTreeSet<(View, SampleId)>,
}

impl Queue {
    /// What is not waiting already: who is impatient sends again what a slow teacher has not come to. Images of which
    /// nothing is left are none.
    fn without_queued(&self, mut inputs: Inputs) -> Option<Inputs> {
        let view = inputs.view;
        if inputs.ids.iter().any(|id| self.rows.contains(&(view, *id))) {
            let rows = inputs.ids.iter().zip(inputs.pixels.chunks_exact(inputs.shape.n_pixels()));
            let (ids, pixels): (Vec<SampleId>, Vec<&[u8]>) = rows
                .filter(|(id, _)| !self.rows.contains(&(view, **id)))
                .map(|(id, image)| (*id, image))
                .unzip();
            (inputs.pixels, inputs.ids) = (pixels.concat(), ids);
        }
        (!inputs.ids.is_empty()).then_some(inputs)
    }

    fn add(&mut self, inputs: Inputs) {
        self.n_bytes += n_bytes(&inputs);
        self.rows.extend(inputs.ids.iter().map(|id| (inputs.view, *id)));
        self.messages.push_back(inputs);
    }

    fn remove(&mut self, inputs: &Inputs) {
        self.n_bytes -= n_bytes(inputs);
        inputs.ids.iter().for_each(|id| _ = self.rows.remove(&(inputs.view, *id)));
    }
}

/// The teacher's side: images that have come and wait to be labelled, within a bound.
pub(super) struct Received {
    max_bytes: usize,
    n_bytes: usize,
    students: BTreeMap<AgentId, Queue>,
    /// Whose images were labelled last.
    last: Option<AgentId>,
}

fn n_bytes(inputs: &Inputs) -> usize {
    inputs.pixels.len() + inputs.ids.len() * IMAGE_OVERHEAD_BYTES + MESSAGE_OVERHEAD_BYTES
}

impl Received {
    pub fn new(config: &EngineConfig) -> Self {
        Received {
            max_bytes: config.limits.max_inputs_bytes,
            n_bytes: 0,
            students: BTreeMap::new(),
            last: None,
        }
    }

    pub fn forget(&mut self, student: &AgentId) {
        if let Some(queue) = self.students.remove(student) {
            self.n_bytes -= queue.n_bytes;
        }
    }

    /// Queues what a student sent. Where there is no room, whoever takes most of it gives way (longest queue drop,
    /// Suter et al. 1998), so that no student can keep out others. Returns how many images were dropped.
    fn push(&mut self, student: &AgentId, inputs: Inputs) -> u64 {
        let inputs = match self.students.get(student) {
            Some(queue) => queue.without_queued(inputs),
            None => Some(inputs),
        };
        let Some(inputs) = inputs else { return 0 };
        let size = n_bytes(&inputs);
        let mut n_dropped = 0;
        while self.n_bytes + size > self.max_bytes {
            let own = self.students.get(student).map_or(0, |queue| queue.n_bytes) + size;
            let longest = self.students.iter().max_by_key(|(_, queue)| queue.n_bytes);
            let Some(other) = longest.filter(|(_, queue)| queue.n_bytes > own).map(|(id, _)| id.clone())
            else {
                return n_dropped + inputs.ids.len() as u64;
            };
            n_dropped += self.drop_newest(&other);
        }
        self.n_bytes += size;
        self.students.entry(student.clone()).or_default().add(inputs);
        n_dropped
    }

    fn drop_newest(&mut self, student: &AgentId) -> u64 {
        let Some(queue) = self.students.get_mut(student) else { return 0 };
        let Some(dropped) = queue.messages.pop_back() else { return 0 };
        queue.remove(&dropped);
        self.n_bytes -= n_bytes(&dropped);
        if queue.messages.is_empty() {
            self.students.remove(student);
        }
        dropped.ids.len() as u64
    }

    /// Up to `max` images of one message, the oldest of a student; students take turns.
    fn next(&mut self, max: usize) -> Option<Inputs> {
        let after = |last: &AgentId| self.students.keys().find(|id| *id > last);
        let student = self.last.as_ref().and_then(after).or_else(|| self.students.keys().next())?.clone();
        let queue = self.students.get_mut(&student)?;
        let before = queue.n_bytes;
        let mut inputs = queue.messages.pop_front()?;
        let n = max.max(1).min(inputs.ids.len());
        queue.n_bytes -= n_bytes(&inputs);
        let pixels = inputs.pixels.split_off(n * inputs.shape.n_pixels());
        let ids = inputs.ids.split_off(n);
        inputs.ids.iter().for_each(|id| _ = queue.rows.remove(&(inputs.view, *id)));
        if !ids.is_empty() {
            let rest = Inputs { ids, pixels, teachers: Vec::new(), ..inputs };
            queue.n_bytes += n_bytes(&rest);
            queue.messages.push_front(rest);
        }
        self.n_bytes -= before - queue.n_bytes;
        if queue.messages.is_empty() {
            self.students.remove(&student);
        }
        self.last = Some(student);
        Some(inputs)
    }
}

impl Engine {
    /// The next images to be sent, of one view; the caller answers with [`super::Event::Inputs`]. `None` while
    /// nothing is lacking or as many are on their way as may be.
    pub fn next_inputs(&mut self) -> Option<(View, Vec<SampleId>)> {
        if !self.connected || self.outgoing.teachers.is_empty() {
            return None;
        }
        let room = self.outgoing.max_in_flight.saturating_sub(self.outgoing.in_flight.len());
        let n = self.outgoing.per_message.min(room);
        if n == 0 {
            return None;
        }
        self.outgoing.take(n, &self.learning.store)
    }

    /// Up to `max` images that students have sent and that the present network is to label; the caller answers with
    /// [`super::Event::LabelledInputs`].
    pub fn next_received_inputs(&mut self, max: usize) -> Option<Inputs> {
        if self.round == Round(0) || !self.connected { None } else { self.received.next(max) }
    }

    /// Looks what is lacking, of all teachers at once, when it is time.
    pub(super) fn look_for_lacking(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.config.sends.is_none() || self.outgoing.look_at.is_none_or(|at| at > now) {
            return;
        }
        let mut teachers = Vec::new();
        let mut lacking: BTreeMap<View, SampleSet> = BTreeMap::new();
        for (id, peer) in &self.peers {
            let missing = self.missing(id);
            if !missing.is_empty() {
                teachers.push((id.clone(), peer.round));
            }
            for (view, set) in missing {
                lacking.entry(view).and_modify(|all| all.add(&set)).or_insert(set);
            }
        }
        let repair_after = self.config.limits.repair_after;
        let asks_again = self.outgoing.wait > repair_after;
        if asks_again && !teachers.is_empty() {
            // Sending has not helped: perhaps the subscription was lost.
            let filters = teachers.iter().map(|(id, _)| self.targets_filter(id)).collect();
            actions.push(Action::Subscribe(filters));
        }
        let outgoing = &mut self.outgoing;
        outgoing.has_news = false;
        if !teachers.is_empty() {
            outgoing.looked = Some(now);
        }
        outgoing.look_at = (!teachers.is_empty()).then_some(now + outgoing.wait);
        outgoing.wait = (outgoing.wait * 2).min(self.config.limits.repair_at_most);
        (outgoing.teachers, outgoing.lacking) = (teachers, lacking);
        outgoing.cursor = (View(0), 0);
        outgoing.in_flight.clear();
    }

    /// Soft targets have come: there is room for more on the way.
    pub(super) fn inputs_answered(&mut self, chunk: &TargetChunk, now: Duration) {
        if self.config.sends.is_none() {
            return;
        }
        let repair_after = self.config.limits.repair_after;
        let outgoing = &mut self.outgoing;
        chunk.ids.iter().for_each(|id| _ = outgoing.in_flight.remove(&(chunk.view, id)));
        if outgoing.has_news && outgoing.in_flight.is_empty() {
            outgoing.look_at = Some(now);
        } else if outgoing.look_at.is_some() && !outgoing.has_news {
            (outgoing.look_at, outgoing.wait) = (Some(now + repair_after), repair_after);
        }
    }

    pub(super) fn publish_inputs(
        &mut self,
        view: View,
        ids: Vec<SampleId>,
        pixels: Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        let Some(shape) = self.config.sends else { return };
        self.stats.inputs_out += ids.len() as u64;
        let named = self.outgoing.teachers.len() <= MAX_NAMED_TEACHERS;
        let teachers = self.outgoing.teachers.iter().filter(|_| named).map(|(id, _)| id.clone()).collect();
        let (session, data) = (self.config.session, self.config.data);
        let message = Message::Inputs(Inputs { session, data, view, shape, ids, pixels, teachers });
        let topic = self.topic(Leaf::Inputs { data: data.short() });
        actions.push(Action::Publish { topic, message, retain: false });
    }

    pub(super) fn peer_inputs(&mut self, student: &AgentId, inputs: Inputs, actions: &mut Vec<Action>) {
        if self.config.accepts.is_none_or(|shape| shape != inputs.shape) {
            return self.stats.refuse("images of another shape, or of any");
        }
        let announced = |peer: &Peer| {
            peer.is_student() && peer.sends && peer.session == inputs.session && peer.data == inputs.data
        };
        if !self.peers.get(student).is_some_and(announced) {
            return self.stats.refuse("images that no status announces");
        }
        if !inputs.teachers.is_empty() && !inputs.teachers.contains(&self.config.agent) {
            // For others.
            return;
        }
        let n = inputs.ids.len() as u64;
        let n_dropped = self.received.push(student, inputs);
        if n_dropped > 0 && self.stats.inputs_over_bound == 0 {
            let bytes = self.config.limits.max_inputs_bytes;
            let text =
                format!("no room for more than {bytes} bytes of images to be labelled; they are sent again");
            actions.push(Action::Warn(text));
        }
        self.stats.inputs_in += n;
        self.stats.inputs_over_bound += n_dropped;
    }

    /// Listens to the images of each student that sends them: again from time to time, as a subscription may get
    /// lost and nothing tells.
    pub(super) fn listen_to_inputs(&self, actions: &mut Vec<Action>) {
        let senders = self.peers.iter().filter(|(_, peer)| peer.is_student() && peer.sends);
        let filters: Vec<String> = senders.map(|(id, peer)| self.inputs_filter(id, &peer.data)).collect();
        if !filters.is_empty() {
            actions.push(Action::Subscribe(filters));
        }
    }

    pub(super) fn inputs_filter(&self, student: &AgentId, data: &Digest) -> String {
        inputs_filter(&self.config.fleet, student, data)
    }

    /// Lets go of the images of a student that is gone, or wants nothing more.
    pub(super) fn forget_inputs_of(&mut self, student: &AgentId) {
        if self.peers.get(student).is_none_or(|peer| peer.state != AgentState::Online) {
            self.received.forget(student);
        }
    }
}
