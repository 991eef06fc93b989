//! No message has an effect twice or out of order, and honest ones are taken in, with crashes at every point of each
//! side's writes.

use std::collections::{BTreeMap, BTreeSet};

use dkt_agent::exchange::replay::{
    Freshness, MARK_AHEAD, MAX_TOPICS, Marks, MarksState, Numbers, NumbersState, Retained, STATE_VERSION,
};
use dkt_agent::ids::Digest;
use proptest::prelude::*;

use crate::messages::seeded;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// The sender connects: its clock says so much, and it crashes before or after the write.
    Connect { now_s: u64, crash: Option<bool> },
    /// It says so many things under a topic: what it said last, or something new each time.
    Say { topic: usize, n: usize, is_news: bool },
    /// It says something new under all topics.
    SayAll,
    /// The network delivers what was sent at some time: so far back, and so many from there on, for which the receiver
    /// writes once. It crashes: before its file is written, after that and before they have an effect, or after that.
    Deliver { back: usize, n: usize, crash: Option<u8> },
    /// The receiver ends in good order and begins again.
    Restart,
}

/// Most is said under two topics.
const N_TOPICS: usize = MAX_TOPICS + 4;

fn is_retained(topic: usize) -> bool {
    topic.is_multiple_of(2)
}

fn step() -> impl Strategy<Value = Step> {
    let connect = (0_u64..100, proptest::option::of(any::<bool>()));
    let topic = || prop_oneof![4 => 0..2_usize, 1 => 0..N_TOPICS];
    let crash = || proptest::option::weighted(0.3, 0..3_u8);
    prop_oneof![
        1 => connect.prop_map(|(now_s, crash)| Step::Connect { now_s, crash }),
        12 => (topic(), any::<bool>()).prop_map(|(topic, is_news)| Step::Say { topic, n: 1, is_news }),
        2 => (0..2_usize, 30..100_usize, any::<bool>()).prop_map(|(topic, n, is_news)| Step::Say { topic, n, is_news }),
        12 => crash().prop_map(|crash| Step::Deliver { back: 0, n: 1, crash }),
        8 => (0..200_usize, 1..60_usize, crash()).prop_map(|(back, n, crash)| Step::Deliver { back, n, crash }),
        1 => Just(Step::SayAll),
        1 => Just(Step::Restart),
    ]
}

#[derive(Clone, Copy)]
struct Sent {
    topic: usize,
    number: u64,
    said: u64,
}

/// By topic and what is said.
type Words = BTreeMap<(usize, u64), BTreeSet<u64>>;

/// The sender and its file.
#[derive(Default)]
struct Sender {
    file: Option<NumbersState>,
    numbers: Option<Numbers>,
    sent: Vec<Sent>,
    used: BTreeSet<u64>,
    /// The numbers under which each thing was said.
    numbers_of: Words,
    /// What was said last under each topic.
    last: [u64; N_TOPICS],
    n_said: u64,
}

impl Sender {
    fn connect(&mut self, now_s: u64, crash: Option<bool>) {
        self.numbers = None;
        let next = Numbers::after(self.file.as_ref().map(|file| file.epoch), now_s).unwrap();
        if crash == Some(false) {
            return;
        }
        self.file = Some(NumbersState { version: STATE_VERSION, key: signer(), epoch: next.epoch() });
        if crash.is_none() {
            // The broker has the will from now on, and may say it at any time.
            self.send(0, next.of_last_will(), true);
            self.numbers = Some(next);
        }
    }

    /// Nothing while there is no connection.
    fn say(&mut self, topic: usize, is_news: bool) {
        if let Some(number) = self.numbers.as_mut().and_then(Numbers::take) {
            self.send(topic, number, is_news);
        }
    }

    fn send(&mut self, topic: usize, number: u64, is_news: bool) {
        assert!(self.used.insert(number), "{number} twice");
        if is_news {
            self.n_said += 1;
            self.last[topic] = self.n_said;
        }
        let said = self.last[topic];
        self.numbers_of.entry((topic, said)).or_default().insert(number);
        self.sent.push(Sent { topic, number, said });
    }
}

/// The receiver and its file, and what has had an effect.
#[derive(Default)]
struct Receiver {
    file: MarksState,
    marks: Marks,
    /// The highest number under each topic that was let in, whether or not a crash came before its effect.
    taken: [Option<u64>; N_TOPICS],
    /// The lowest number of a message, not before that of the effect before it, that says what had an effect last.
    effect: [Option<u64>; N_TOPICS],
}

fn signer() -> Digest {
    Digest::of(b"alice's key")
}

impl Receiver {
    fn deliver(&mut self, messages: &[Sent], words: &Words, crash: Option<u8>) -> Result<(), TestCaseError> {
        let mut unkept = Vec::new();
        for message in messages {
            if self.is_let_in(*message)? {
                unkept.push(*message);
            }
        }
        if crash != Some(0) && !self.marks.are_kept() {
            self.file = self.marks.state(MARK_AHEAD);
            self.marks.kept(&self.file);
            prop_assert!(self.marks.are_kept());
        }
        if matches!(crash, None | Some(2)) {
            unkept.into_iter().try_for_each(|message| self.has_effect(message, words))?;
        }
        if crash.is_some() {
            self.marks = Marks::of_state(self.file.clone());
        }
        Ok(())
    }

    fn is_let_in(&mut self, message: Sent) -> Result<bool, TestCaseError> {
        let Sent { topic, number, said } = message;
        let (name, payload) = (format!("topic {topic}"), [number.to_le_bytes(), said.to_le_bytes()].concat());
        match self.marks.check(&signer(), &name, number, &payload) {
            Err(refusal) => {
                self.refused(message, &refusal.to_string())?;
                return Ok(false);
            }
            Ok(Freshness::Again) => prop_assert!(is_retained(topic)),
            Ok(Freshness::New) => {
                let retained = is_retained(topic).then(|| Retained::of(&payload, &said.to_le_bytes()));
                self.marks.take(&signer(), &name, number, retained);
            }
        }
        self.taken[topic] = self.taken[topic].max(Some(number));
        Ok(true)
    }

    /// What is far enough ahead is never refused.
    fn refused(&self, message: Sent, refusal: &str) -> Result<(), TestCaseError> {
        let is_below = |taken: Option<u64>| taken.is_some_and(|taken| message.number <= taken + MARK_AHEAD);
        let n_taken = self.taken.iter().flatten().count();
        let is_forgotten = n_taken > MAX_TOPICS && self.taken.iter().any(|taken| is_below(*taken));
        prop_assert!(is_below(self.taken[message.topic]) || is_forgotten, "{}: {refusal}", message.number);
        Ok(())
    }

    /// Soft targets never again. What is retained is said in the order in which the sender said it, and one thing
    /// perhaps several times: whatever the numbers, no more than a broker can do that says what is retained again.
    fn has_effect(&mut self, message: Sent, words: &Words) -> Result<(), TestCaseError> {
        let Sent { topic, number, said } = message;
        let last = self.effect[topic];
        if !is_retained(topic) {
            prop_assert!(last < Some(number), "topic {topic}: {number} after {last:?}");
            self.effect[topic] = Some(number);
            return Ok(());
        }
        let numbers = &words[&(topic, said)];
        let lowest = numbers.range(last.unwrap_or(0)..).next().copied();
        prop_assert!(lowest.is_some_and(|n| n <= number), "topic {topic}: {number} after {last:?}");
        self.effect[topic] = lowest;
        Ok(())
    }
}

proptest! {
    #![proptest_config(seeded(3000))]

    /// After a crash a file holds what it held before or all that was written (`durable`).
    #[test]
    fn nothing_has_an_effect_twice_whatever_crashes(steps in proptest::collection::vec(step(), 1..200)) {
        let (mut sender, mut receiver) = (Sender::default(), Receiver::default());
        sender.connect(50, None);
        for step in steps {
            match step {
                Step::Connect { now_s, crash } => sender.connect(now_s, crash),
                Step::Say { topic, n, is_news } => (0..n).for_each(|_| sender.say(topic, is_news)),
                Step::SayAll => (0..N_TOPICS).for_each(|topic| sender.say(topic, true)),
                Step::Deliver { back, n, crash } => {
                    let Some(from) = sender.sent.len().checked_sub(1 + back) else { continue };
                    let until = (from + n).min(sender.sent.len());
                    receiver.deliver(&sender.sent[from..until], &sender.numbers_of, crash)?;
                }
                Step::Restart => {
                    receiver.file = receiver.marks.state(0);
                    receiver.marks = Marks::of_state(receiver.file.clone());
                }
            }
        }
    }
}
