//! Images that are sent to be labelled: what holds with faults on the way, and with hostile peers.

use std::time::Duration;

use dkt_agent::data::ImageShape;
use dkt_agent::exchange::engine::{Action, EngineConfig, Event};
use dkt_agent::exchange::message::{AgentState, Inputs, Message, Status};
use dkt_agent::exchange::topic::Leaf;
use dkt_agent::exchange::wire::{MAX_MESSAGE_BYTES, WireError, decode, encode, images_per_message};
use dkt_agent::ids::{Digest, Round, SampleId, View};
use serde_cbor::Value;

use crate::fleet::{Fleet, N_SAMPLES, SHAPE, config, name, pixels, sender};
use crate::messages::{one_of_each, with};
use crate::simulation::{demand, next_round, run_until_served, troubled};
use crate::victim::{Victim, chunk, status};

/// Longer than in a fleet that names samples: a subscription to images may have got lost, and is renewed with the next
/// announcement; and one teacher is served after the other.
const RECOVERY: Duration = Duration::from_secs(300);

/// Two to four agents, most of which send images; the others have data that one or two of them share.
fn some_fleet(seed: u64) -> Fleet {
    let mut fleet = Fleet::new(seed, Vec::new());
    let n = 2 + fleet.below(3) as usize;
    let configs = (0..n).map(|agent| {
        let mut config = match fleet.below(3) {
            0 if agent > 0 => EngineConfig { accepts: Some(SHAPE), ..config(agent) },
            _ => sender(agent),
        };
        if fleet.chance(300) {
            let other = (agent + 1 + fleet.below(n as u64 - 1) as usize) % n;
            config.teachers = vec![name(other)];
        }
        config
    });
    let configs = configs.collect();
    let mut fleet = Fleet::new(seed, configs);
    (0..n).for_each(|agent| demand(&mut fleet, agent));
    fleet
}

#[test]
fn once_the_faults_stop_every_image_is_labelled_by_every_teacher_in_its_last_round() {
    for seed in 0..1500 {
        let (mut fleet, _) = troubled(some_fleet(seed), 12);
        let end = fleet.now + RECOVERY;
        run_until_served(&mut fleet, end);
        // Whatever is on its way still.
        fleet.run_until(end);
        let before = fleet.published;
        fleet.run_until(end + Duration::from_secs(600));
        let sent = [2, 3, 4].map(|kind| fleet.published[kind] - before[kind]);
        assert_eq!(sent, [0; 3], "seed {seed}: repairs, soft targets, images");
    }
}

#[test]
fn without_faults_each_image_is_sent_once_a_round_for_all_teachers() {
    let mut fleet = Fleet::new(1, (0..4).map(sender).collect());
    fleet.demand(0, (0..N_SAMPLES).map(SampleId).collect(), 2);
    fleet.run_until(Duration::from_secs(5));
    for round in 1..4 {
        (1..4).for_each(|agent| next_round(&mut fleet, agent));
        let end = fleet.now + Duration::from_secs(60);
        run_until_served(&mut fleet, end);
        assert_eq!(fleet.agents[0].engine.stats().inputs_out, round * 80, "round {round}");
    }
    for teacher in 1..4 {
        assert_eq!(fleet.agents[teacher].engine.stats().inputs_in, 240);
    }
}

#[test]
fn teachers_that_are_not_listed_are_not_sent_anything_to_label() {
    let mut student = sender(0);
    student.teachers = vec![name(1)];
    let mut fleet = Fleet::new(2, vec![student, sender(1), sender(2)]);
    demand(&mut fleet, 0);
    fleet.run_until(Duration::from_secs(5));
    (1..3).for_each(|agent| next_round(&mut fleet, agent));
    let end = fleet.now + Duration::from_secs(30);
    run_until_served(&mut fleet, end);
    assert!(fleet.agents[1].engine.stats().inputs_in > 0);
    assert_eq!(fleet.agents[2].engine.stats().inputs_in, 0);
    assert_eq!(fleet.agents[2].engine.stats().chunks_out, 0);
}

#[test]
fn a_teacher_that_never_answers_is_sent_images_ever_less_often() {
    let mut fleet = Fleet::new(3, vec![sender(0), sender(1)]);
    fleet.run_until(Duration::from_secs(5));
    fleet.demand(0, (0..N_SAMPLES).map(SampleId).collect(), 2);
    fleet.step(1, Event::RoundStarted(Round(1)));
    fleet.mute(1);
    fleet.run_until(Duration::from_secs(3600));
    let n = fleet.agents[0].engine.stats().inputs_out;
    let looks = 60..=67;
    assert!((looks.start() * 12..=looks.end() * 12).contains(&n), "{n} images in an hour");
}

fn sends(session: u64, round: u64) -> Status {
    Status { data: Digest::of(b"theirs"), sends: Some(SHAPE), ..status(session, round) }
}

fn inputs(session: u64, ids: &[u32]) -> Inputs {
    let ids: Vec<SampleId> = ids.iter().copied().map(SampleId).collect();
    let (data, view) = (Digest::of(b"theirs"), View(0));
    Inputs { session, data, view, shape: SHAPE, pixels: pixels(1, view, &ids), ids, teachers: Vec::new() }
}

fn teacher() -> EngineConfig {
    EngineConfig { accepts: Some(SHAPE), ..config(0) }
}

fn send(victim: &mut Victim, peer: &str, inputs: Inputs) -> Vec<Action> {
    victim.hear(peer, Leaf::Inputs { data: inputs.data.short() }, Message::Inputs(inputs))
}

/// Numbers of the images that there are to label.
fn received(victim: &mut Victim) -> Vec<u32> {
    let mut all = Vec::new();
    while let Some(inputs) = victim.engine.next_received_inputs(5) {
        assert!((1..=5).contains(&inputs.ids.len()));
        assert_eq!(inputs.pixels, pixels(1, inputs.view, &inputs.ids), "each image with its number");
        all.extend(inputs.ids.iter().map(|id| id.0));
    }
    all
}

#[test]
fn images_are_labelled_for_those_alone_whose_status_announces_them() {
    let mut victim = Victim::at_work(teacher());
    let reason = "images that no status announces";
    send(&mut victim, "peer", inputs(1, &[0]));
    assert_eq!(victim.refused(reason), 1, "before any status");
    let listens = victim.hear_status("peer", sends(1, 0));
    assert!(matches!(&listens[..], [Action::Subscribe(filters)] if filters[0].contains("/peer/inputs/")));
    assert_eq!(victim.hear_status("peer", sends(1, 1)), [], "it listens already");
    send(&mut victim, "peer", inputs(2, &[0]));
    send(&mut victim, "peer", Inputs { data: config(0).data, ..inputs(1, &[0]) });
    assert_eq!(victim.refused(reason), 3, "of another session, of other data");
    victim.hear_status("names", status(1, 0));
    send(&mut victim, "names", Inputs { data: config(0).data, ..inputs(1, &[0]) });
    assert_eq!(victim.refused(reason), 4, "of one that names its samples");
    let wide = ImageShape { width: 6, height: 1, ..SHAPE };
    send(&mut victim, "peer", Inputs { shape: wide, ..inputs(1, &[0]) });
    assert_eq!(victim.refused("images of another shape, or of any"), 1);
    send(&mut victim, "peer", Inputs { teachers: vec![name(9)], ..inputs(1, &[0]) });
    assert_eq!(received(&mut victim), [0; 0], "for another");

    send(&mut victim, "peer", inputs(1, &[0, 7, u32::MAX]));
    send(
        &mut victim,
        "peer",
        Inputs { teachers: vec![name(9), name(0)], ..inputs(1, &[7, 8, 9, 10, 11, 12]) },
    );
    assert_eq!(received(&mut victim), [0, 7, u32::MAX, 8, 9, 10, 11, 12], "what waits is not queued again");
    send(&mut victim, "peer", inputs(1, &[7]));
    assert_eq!(received(&mut victim), [7], "but labelled again where it got lost");
    assert_eq!(received(&mut Victim::at_work(teacher())), [0; 0]);

    let mut unwilling = Victim::at_work(config(0));
    let told = unwilling.hear_status("peer", sends(1, 0));
    assert!(matches!(&told[..], [Action::Warn(_)]), "{told:?}");
    send(&mut unwilling, "peer", inputs(1, &[0]));
    assert_eq!(received(&mut unwilling), [0; 0]);
}

#[test]
fn images_of_those_that_are_gone_are_let_go() {
    let leave: [fn(&mut Victim); 4] = [
        |v| _ = v.hear_status("peer", Status { state: AgentState::Offline, ..sends(1, 0) }),
        |v| _ = v.hear_status("peer", Status { state: AgentState::Finished, ..sends(1, 0) }),
        |v| _ = v.hear_status("peer", sends(2, 0)),
        |v| _ = v.hear("peer", Leaf::Status, Message::Cleared),
    ];
    for leave in leave {
        let mut victim = Victim::at_work(teacher());
        victim.hear_status("peer", sends(1, 0));
        send(&mut victim, "peer", inputs(1, &[0, 1]));
        leave(&mut victim);
        assert_eq!(received(&mut victim), [0; 0]);
    }
}

#[test]
fn a_flood_of_images_stays_within_its_bound_and_keeps_nobody_out() {
    let mut small = teacher();
    small.limits.max_inputs_bytes = 20_000;
    let mut victim = Victim::at_work(small);
    (0..3).for_each(|peer| _ = victim.hear_status(&format!("peer-{peer}"), sends(1, 0)));
    let mut warnings = 0;
    for i in 0..10_000 {
        let actions = send(&mut victim, "peer-0", inputs(1, &[i]));
        warnings += actions.iter().filter(|a| matches!(a, Action::Warn(_))).count();
    }
    let dropped = victim.engine.stats().inputs_over_bound;
    assert!((9900..10_000).contains(&dropped), "{dropped} of 10000");
    for i in 0..10 {
        send(&mut victim, "peer-1", inputs(1, &[20_000 + i]));
        send(&mut victim, "peer-2", inputs(1, &[30_000 + i]));
    }
    assert_eq!(warnings, 1);
    let all = received(&mut victim);
    assert!(all.len() * (6 + 32 + 256) <= 20_000, "{} images", all.len());
    let of = |range: std::ops::Range<u32>| all.iter().filter(|id| range.contains(id)).count();
    assert_eq!((of(20_000..30_000), of(30_000..40_000)), (10, 10));
    assert_eq!(all[..6].iter().map(|id| id / 10_000).collect::<std::collections::BTreeSet<_>>().len(), 3);
    // One message that is too long by itself finds no room, and nobody gives way to it.
    send(&mut victim, "peer-1", inputs(1, &[20_000]));
    send(&mut victim, "peer-0", inputs(1, &(0..1000).collect::<Vec<_>>()));
    assert_eq!(received(&mut victim), [20_000]);
}

#[test]
fn as_many_images_are_on_their_way_as_may_be() {
    let mut victim = Victim::new(EngineConfig { inputs_in_flight: 5, ..sender(0) });
    let data = sender(0).data;
    victim.step(Event::Demand { samples: (0..20).map(SampleId).collect(), n_views: 2 });
    let teaches = |session, round| Status { accepts: Some(SHAPE), ..status(session, round) };
    victim.hear_status("peer", teaches(1, 0));
    victim.run_until(Duration::from_secs(1));
    assert_eq!(victim.engine.next_inputs(), None, "it has begun no round");
    victim.hear_status("peer", teaches(1, 1));
    let send_all = |victim: &mut Victim| {
        let mut rows = Vec::new();
        while let Some((view, ids)) = victim.engine.next_inputs() {
            let pixels = pixels(0, view, &ids);
            let actions = victim.step(Event::Inputs { view, ids: ids.clone(), pixels });
            assert!(matches!(
                &actions[..],
                [Action::Publish { retain: false, message: Message::Inputs(_), .. }]
            ));
            rows.extend(ids.iter().map(|id| (view.0, id.0)));
        }
        rows
    };
    victim.run_until(Duration::from_secs(3));
    assert_eq!(send_all(&mut victim), [0, 1, 2, 3, 4].map(|id| (0, id)));
    assert_eq!(send_all(&mut victim), []);
    let answer = dkt_agent::exchange::message::TargetChunk { data, ..chunk(1, 1, &[0, 1, 2], 1.0) };
    victim.hear_chunk("peer", answer);
    assert_eq!(send_all(&mut victim), [5, 6, 7].map(|id| (0, id)), "as many as were answered");
    victim.run_until(victim.now + Duration::from_secs(3));
    assert_eq!(send_all(&mut victim), [3, 4, 5, 6, 7].map(|id| (0, id)), "again what nobody answered");
    victim.hear_status("peer", Status { state: AgentState::Offline, ..teaches(1, 1) });
    victim.run_until(victim.now + Duration::from_secs(100));
    assert_eq!(send_all(&mut victim), []);
}

#[test]
fn images_of_lengths_that_do_not_fit_are_refused() {
    let [.., (leaf, message)] = one_of_each();
    let bytes = encode(&message);
    assert!(decode(&leaf, &bytes).is_ok());
    let shape = |sizes: [i128; 3]| Value::Array(sizes.map(Value::Integer).to_vec());
    for (name, value) in [
        ("pixels", Value::Bytes(vec![0; 11])),
        ("pixels", Value::Bytes(vec![0; 13])),
        ("pixels", Value::Bytes(Vec::new())),
        ("ids", Value::Tag(70, Box::new(Value::Bytes(vec![0; 7])))),
        ("ids", Value::Tag(70, Box::new(Value::Bytes(Vec::new())))),
        ("ids", Value::Tag(70, Box::new(Value::Bytes(vec![0; 4])))),
        ("shape", shape([1, 2, 4])),
        ("shape", shape([65_535, 65_535, 65_535])),
        ("teachers", Value::Array(vec![Value::Text("Bob".to_owned())])),
    ] {
        let refused = decode(&leaf, &with(&bytes, name, value.clone()));
        assert!(matches!(refused, Err(WireError::Field { .. })), "{name} {value:?}: {refused:?}");
    }
}

#[test]
fn as_many_images_as_fit_make_a_message() {
    for (shape, max_bytes) in
        [((1, 8, 8), 65_536), ((3, 32, 32), 65_536), ((3, 224, 224), 1024), ((3, 32, 32), 1 << 20)]
    {
        let shape = ImageShape { channels: shape.0, height: shape.1, width: shape.2 };
        let n = images_per_message(shape, max_bytes);
        let name = "x".repeat(64).parse::<dkt_agent::ids::AgentId>().unwrap();
        let message = |n: usize, teachers: usize| {
            encode(&Message::Inputs(Inputs {
                session: u64::MAX,
                data: Digest([255; 32]),
                view: View(255),
                shape,
                ids: vec![SampleId(u32::MAX); n],
                pixels: vec![255; n * shape.n_pixels()],
                teachers: vec![name.clone(); teachers],
            }))
        };
        assert!(n == 1 || message(n, 0).len() <= max_bytes, "{shape}");
        assert!(message(n, 64).len() <= MAX_MESSAGE_BYTES, "{shape}");
    }
    let huge = ImageShape { channels: 3, height: 600, width: 600 };
    assert_eq!(images_per_message(huge, 65_536), 0);
    let mut victim = Victim::new(EngineConfig { sends: Some(huge), ..sender(0) });
    victim.step(Event::Demand { samples: vec![SampleId(0)], n_views: 1 });
    victim.hear_status("peer", Status { accepts: Some(huge), ..status(1, 1) });
    victim.run_until(Duration::from_secs(9));
    assert_eq!(victim.engine.next_inputs(), None);
}

#[test]
fn a_listed_teacher_that_nobody_hears_of_is_told_of_once() {
    let names = ["known", "gone", "mispelt"].map(|name| name.parse().unwrap());
    let mut victim = Victim::new(EngineConfig { teachers: names.to_vec(), ..config(0) });
    victim.hear_status("known", status(1, 0));
    victim.hear_status("gone", Status { state: AgentState::Offline, ..status(1, 0) });
    let warnings = |actions: Vec<Action>| -> Vec<String> {
        let text = |action| if let Action::Warn(text) = action { Some(text) } else { None };
        actions.into_iter().filter_map(text).collect()
    };
    assert_eq!(warnings(victim.run_until(Duration::from_secs(14))), [""; 0]);
    let told = warnings(victim.run_until(Duration::from_secs(300)));
    let says = "names `mispelt`, of whom nothing has been heard in fleet `fleet`, only of `known`";
    assert!(matches!(&told[..], [text] if text.contains(says)), "{told:?}");
}
