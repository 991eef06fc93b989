//! The only file that touches rumqttc: a connection to an MQTT 3.1.1 broker that comes back by itself.
//!
//! One thread polls, decodes and forwards, and does nothing else. Both queues between it and the training thread
//! are bounded; what does not fit is dropped and counted, and the exchange asks again for what it lacks.
//! rumqttc forgets what was queued when a connection breaks and never subscribes again, so here nothing is
//! queued while there is no connection, and all subscriptions are renewed on every ConnAck.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, LastWill, MqttOptions, NetworkOptions, Outgoing, Packet,
    QoS, SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use tracing::{debug, info, warn};

use super::counters::{Counters, Direction};
use super::error::ExchangeError;
pub use super::inbox::Incoming;
use super::inbox::{Inbox, Outlet, inbox};
use super::message::Message;
use super::reading::read;
use super::refusal::{Refusal, Refusals};
use super::rejection::rejection;
use super::signing::{self, Opener, Sealer, SigningError};
use super::topic::{Leaf, Topic};
use super::url::parse_url;
use super::{tls, wire};
use crate::config::AgentConfig;
use crate::draw::Draw;
use crate::ids::{AgentId, FleetId};
use crate::telemetry::event::Traffic;

/// Publications and subscriptions that wait for the network.
const OUTBOX_MESSAGES: usize = 1024;
/// Packets above this end a connection; messages of our own are smaller (`wire::MAX_MESSAGE_BYTES`).
pub(super) const MAX_PACKET_BYTES: usize = wire::MAX_MESSAGE_BYTES + 4096;
/// MQTT 3.1.1, section 3.1.3.3: its length is a 16-bit number.
const MAX_WILL_BYTES: usize = u16::MAX as usize;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// For a TCP and TLS handshake, and for flushing one packet on a slow link.
const NETWORK_TIMEOUT_S: u64 = 30;
/// First and longest wait between two attempts to connect; the wait is drawn between 0 and a bound that doubles.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LONGEST: Duration = Duration::from_secs(60);
/// After this many failures in a row the client is made anew, in case its state is what fails.
const FAILURES_BEFORE_RENEWAL: u32 = 5;
/// A connection that has held for so long is a good one: the wait after it begins anew.
const STEADY: Duration = Duration::from_secs(10);
/// After this many connections that broke at once a person is told what may be the reason.
const FAILURES_BEFORE_HINT: u32 = 3;
/// For sending what is queued when the agent ends.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether that is done, or whether the agent is asked to end.
const STOP_POLL: Duration = Duration::from_millis(20);
/// Signed messages that wait for their numbers to be written down: as many as are there at once, up to this.
const UNKEPT_MESSAGES: usize = 64;

/// Where and how to connect.
pub struct ConnectionConfig {
    agent: AgentId,
    fleet: FleetId,
    url: String,
    host: String,
    port: u16,
    tls: Option<TlsConfiguration>,
    connect_timeout: Duration,
    signing: Option<(Sealer, Opener)>,
}

impl ConnectionConfig {
    /// # Errors
    /// [`ExchangeError::Url`], [`ExchangeError::Signing`], and those of certificates and keys that cannot be read or
    /// are not this agent's.
    pub fn new(config: &AgentConfig) -> Result<Self, ExchangeError> {
        let exchange = &config.exchange;
        let (host, port) = parse_url(&exchange.broker)?;
        let tls = exchange
            .tls
            .as_ref()
            .map(|tls| tls::client_config(tls, &config.agent))
            .transpose()?
            .map(|c| TlsConfiguration::Rustls(Arc::new(c)));
        let signing = exchange
            .signing
            .as_ref()
            .map(|signing| signing::open(signing, &config.agent, &config.out_dir()))
            .transpose()?;
        Ok(ConnectionConfig {
            agent: config.agent.clone(),
            fleet: config.fleet.clone(),
            url: exchange.broker.clone(),
            host,
            port,
            tls,
            connect_timeout: Duration::from_secs_f64(exchange.connect_timeout_s),
            signing,
        })
    }

    fn options(&self, will: LastWill) -> MqttOptions {
        let mut options = MqttOptions::new(self.agent.as_str(), &self.host, self.port);
        options
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_session(true)
            .set_max_packet_size(MAX_PACKET_BYTES, MAX_PACKET_BYTES)
            .set_last_will(will);
        if let Some(tls) = &self.tls {
            options.set_transport(Transport::tls_with_config(tls.clone()));
        }
        options
    }
}

/// State that both threads see.
#[derive(Default)]
struct Shared {
    connected: AtomicBool,
    stopping: AtomicBool,
    /// Messages queued or sent that the broker has not acknowledged.
    unacked: AtomicU64,
    filters: Mutex<BTreeSet<String>>,
    counters: Counters,
    sealer: Option<Mutex<Sealer>>,
    /// Of the last attempt to connect.
    failure: Mutex<Option<ConnectionError>>,
}

impl Shared {
    /// What is published under `topic`: `message` itself, or signed; `None` if it cannot be.
    fn payload(&self, topic: &Topic, message: Vec<u8>) -> Option<Vec<u8>> {
        match &self.sealer {
            Some(sealer) => lock(sealer).seal(topic, &message),
            None => Some(message),
        }
    }

    /// One message less to wait for. Saturating: those of an earlier connection may still be acknowledged.
    fn acked(&self) {
        let less = |n: u64| Some(n.saturating_sub(1));
        let _ = self.unacked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// The training thread's end.
pub struct Connection {
    client: Arc<Mutex<AsyncClient>>,
    inbox: Inbox,
    /// Taken from the inbox while connecting, not yet handed on.
    first: Option<Incoming>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Connection {
    /// Connects; comes back when the broker has accepted, or `stop` is set.
    ///
    /// # Errors
    /// [`ExchangeError::BrokerUnreachable`] or [`ExchangeError::BrokerRejected`] if it has not within the configured
    /// time, [`ExchangeError::Stopped`], [`ExchangeError::Signing`].
    pub fn start(
        mut config: ConnectionConfig,
        will: (Topic, Message),
        stop: &AtomicBool,
    ) -> Result<Self, ExchangeError> {
        let (sealer, opener) = config.signing.take().unzip();
        let shared = Arc::new(Shared { sealer: sealer.map(Mutex::new), ..Shared::default() });
        let will = Will { topic: will.0, payload: wire::encode(&will.1) };
        let first_will = will.of_next_connection(&shared)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ExchangeError::Thread)?;
        let (client, event_loop) = AsyncClient::new(config.options(first_will), OUTBOX_MESSAGES);
        let client = Arc::new(Mutex::new(client));
        let (outlet, inbox) = inbox();
        let (url, timeout, with_tls) = (config.url.clone(), config.connect_timeout, config.tls.is_some());
        let poller = Poller {
            jitter: Draw::new(0, &format!("backoff {}", config.agent)),
            config,
            will,
            client: Arc::clone(&client),
            inbox: outlet,
            shared: Arc::clone(&shared),
            opener,
            unkept: Vec::new(),
            refusals: Refusals::default(),
            started: Instant::now(),
            was_connected: false,
        };
        let thread = std::thread::Builder::new()
            .name("mqtt".to_owned())
            .spawn(move || runtime.block_on(poller.run(event_loop)))
            .map_err(ExchangeError::Thread)?;
        let mut connection = Connection { client, inbox, first: None, shared, thread: Some(thread) };
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline && !stop.load(Ordering::Relaxed) {
            if let Ok(first) = connection.inbox.recv_timeout(STOP_POLL) {
                connection.first = Some(first);
                return Ok(connection);
            }
        }
        connection.shared.stopping.store(true, Ordering::Relaxed);
        // The thread may be waiting to try again: it is left to end by itself.
        connection.thread = None;
        if stop.load(Ordering::Relaxed) {
            return Err(ExchangeError::Stopped);
        }
        let failure = lock(&connection.shared.failure).take();
        let reason = failure.as_ref().and_then(|failure| rejection(failure, with_tls));
        Err(match (reason, failure) {
            (Some(reason), Some(failure)) => {
                ExchangeError::BrokerRejected { url, reason, source: failure.into() }
            }
            (_, failure) => {
                let (seconds, source) = (timeout.as_secs_f64(), failure.map(Into::into));
                ExchangeError::BrokerUnreachable { url, seconds, source }
            }
        })
    }

    /// The next message, if there is one.
    pub fn try_recv(&mut self) -> Option<Incoming> {
        if self.first.is_some() {
            return self.first.take();
        }
        self.inbox.try_recv()
    }

    /// The next message; waits for it no longer than `longest`.
    pub fn recv_timeout(&mut self, longest: Duration) -> Option<Incoming> {
        if self.first.is_some() {
            return self.first.take();
        }
        self.inbox.recv_timeout(longest).ok()
    }

    /// Whether the network keeps up: fewer than half of what may wait for it does.
    pub fn has_room(&self) -> bool {
        self.shared.unacked.load(Ordering::Relaxed) < OUTBOX_MESSAGES as u64 / 2
    }

    /// Subscribes now and after every reconnection.
    pub fn subscribe(&mut self, filters: Vec<String>) {
        let requests: Vec<SubscribeFilter> = filters.iter().map(|f| subscription(f)).collect();
        lock(&self.shared.filters).extend(filters);
        // Where this fails the connection is broken, and the next ConnAck renews all subscriptions.
        if lock(&self.client).try_subscribe_many(requests).is_err() {
            self.shared.counters.drop_one(Direction::Out);
        }
    }

    /// Queues a message, signed if that is configured. Without a connection, with a full queue or beyond the size limit
    /// it is dropped and counted.
    pub fn publish(&mut self, topic: Topic, message: Message, retain: bool) {
        let connected = self.shared.connected.load(Ordering::Relaxed);
        let payload = connected.then(|| self.shared.payload(&topic, wire::encode(&message))).flatten();
        let Some(payload) = payload else {
            self.shared.counters.drop_one(Direction::Out);
            return;
        };
        let (kind, n_bytes) = (topic.kind(), payload.len());
        if n_bytes > wire::MAX_MESSAGE_BYTES {
            // Only a status can be so long, with thousands of classes of long names; it is said again every minute.
            warn!(%topic, n_bytes, limit = wire::MAX_MESSAGE_BYTES, "a message is too long, and was not sent");
            return self.shared.counters.drop_one(Direction::Out);
        }
        // Before it is queued: the acknowledgement may be here before this thread goes on.
        self.shared.unacked.fetch_add(1, Ordering::Relaxed);
        let queued = lock(&self.client).try_publish(topic.to_string(), QoS::AtLeastOnce, retain, payload);
        if queued.is_ok() {
            self.shared.counters.count(kind, Direction::Out, n_bytes);
        } else {
            self.shared.acked();
            self.shared.counters.drop_one(Direction::Out);
        }
    }

    /// Totals since the start.
    pub fn traffic(&self) -> Traffic {
        self.shared.counters.traffic()
    }

    /// Sends what is queued and waits for the broker to acknowledge it, both for a bounded time, and disconnects.
    pub fn stop(mut self) {
        let Some(thread) = self.thread.take() else { return };
        let deadline = Instant::now() + STOP_TIMEOUT;
        let connected = |shared: &Shared| shared.connected.load(Ordering::Relaxed);
        while connected(&self.shared) && self.shared.unacked.load(Ordering::Relaxed) > 0 {
            if Instant::now() >= deadline || !self.drain_inbox() {
                break;
            }
        }
        self.shared.stopping.store(true, Ordering::Relaxed);
        if lock(&self.client).try_disconnect().is_err() {
            return;
        }
        while !thread.is_finished() && Instant::now() < deadline && self.drain_inbox() {}
    }

    /// Makes room for what arrives, for a short time. False once the polling thread has ended.
    fn drain_inbox(&mut self) -> bool {
        let received = self.inbox.recv_timeout(STOP_POLL);
        !matches!(received, Err(RecvTimeoutError::Disconnected))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn subscription(filter: &str) -> SubscribeFilter {
    SubscribeFilter::new(filter.to_owned(), QoS::AtLeastOnce)
}

/// What the broker is to say when an agent is gone.
struct Will {
    topic: Topic,
    payload: Vec<u8>,
}

impl Will {
    /// Signed anew for each connection, if it is signed: it must be newer than what was said in an earlier one.
    fn of_next_connection(&self, shared: &Shared) -> Result<LastWill, SigningError> {
        let payload = |message: &[u8]| match &shared.sealer {
            Some(sealer) => lock(sealer).connect(&self.topic, message),
            None => Ok(message.to_vec()),
        };
        // With very many classes a status is longer than MQTT allows a will to be; clearing it says the same.
        let mut will = payload(&self.payload)?;
        if will.len() > MAX_WILL_BYTES {
            will = payload(&[])?;
        }
        Ok(LastWill::new(self.topic.to_string(), will, QoS::AtLeastOnce, true))
    }
}

/// The polling thread's end.
struct Poller {
    config: ConnectionConfig,
    will: Will,
    client: Arc<Mutex<AsyncClient>>,
    inbox: Outlet,
    shared: Arc<Shared>,
    jitter: Draw,
    /// Where messages are signed.
    opener: Option<Opener>,
    /// Read, and kept back until their numbers are written down.
    unkept: Vec<Incoming>,
    refusals: Refusals,
    started: Instant,
    /// Since the last warning that it is not let in.
    was_connected: bool,
}

impl Poller {
    async fn run(mut self, event_loop: EventLoop) {
        self.poll(event_loop).await;
        self.hand_on();
        if let Some(Err(error)) = self.opener.as_mut().map(Opener::close) {
            // The file refuses more than it has to, and nothing less.
            debug!(%error, "numbers not written down");
        }
    }

    async fn poll(&mut self, mut event_loop: EventLoop) {
        set_network(&mut event_loop);
        let mut n_failures = 0;
        let mut connected_at = None;
        loop {
            match self.next(&mut event_loop).await {
                Ok(event) => {
                    if let Event::Incoming(Packet::ConnAck(_)) = event {
                        connected_at = Some(Instant::now());
                    }
                    if matches!(event, Event::Outgoing(Outgoing::Disconnect)) || !self.handle(event) {
                        return;
                    }
                }
                Err(error) => {
                    if self.shared.stopping.load(Ordering::Relaxed) {
                        return;
                    }
                    // One that breaks at once is no better than none: two agents of one name, of which the broker
                    // drops the other each time, must not keep it busy.
                    if connected_at.take().is_some_and(|at| at.elapsed() >= STEADY) {
                        n_failures = 0;
                    }
                    n_failures += 1;
                    self.disconnected(error, n_failures);
                    tokio::time::sleep(self.backoff(n_failures)).await;
                    let will = loop {
                        match self.will.of_next_connection(&self.shared) {
                            Ok(will) => break will,
                            Err(error) => warn!(%error, "cannot sign; trying again"),
                        }
                        n_failures = n_failures.saturating_add(1);
                        tokio::time::sleep(self.backoff(n_failures)).await;
                        if self.shared.stopping.load(Ordering::Relaxed) {
                            return;
                        }
                    };
                    if n_failures % FAILURES_BEFORE_RENEWAL == 0 {
                        let (client, renewed) = AsyncClient::new(self.config.options(will), OUTBOX_MESSAGES);
                        *lock(&self.client) = client;
                        event_loop = renewed;
                        set_network(&mut event_loop);
                    } else {
                        event_loop.mqtt_options.set_last_will(will);
                    }
                }
            }
        }
    }

    /// The next event. Before it waits for one, what was kept back is handed on: as many messages as have come at once
    /// cost one write.
    async fn next(&mut self, event_loop: &mut EventLoop) -> Result<Event, ConnectionError> {
        let mut next = pin!(event_loop.poll());
        if !self.unkept.is_empty() {
            if let Poll::Ready(event) = poll_fn(|context| Poll::Ready(next.as_mut().poll(context))).await {
                return event;
            }
            self.hand_on();
        }
        next.await
    }

    /// Full jitter: uniform between 0 and a bound that doubles with each failure.
    fn backoff(&self, n_failures: u32) -> Duration {
        let bound = BACKOFF_FIRST.saturating_mul(1 << (n_failures - 1).min(16)).min(BACKOFF_LONGEST);
        let millis = self.jitter.below(bound.as_millis() as u64, &[n_failures.into(), now_millis()]);
        Duration::from_millis(millis)
    }

    fn disconnected(&mut self, error: ConnectionError, n_failures: u32) {
        self.shared.unacked.store(0, Ordering::Relaxed);
        self.hand_on();
        if self.shared.connected.swap(false, Ordering::Relaxed) {
            warn!(broker = self.config.url, %error, "connection lost; trying again");
            if n_failures == FAILURES_BEFORE_HINT {
                let agent = self.config.agent.as_str();
                warn!(
                    agent,
                    "it was lost soon after each connection; is another agent of this name connected?"
                );
            }
            self.forward(Incoming::Disconnected);
        } else {
            debug!(broker = self.config.url, %error, "no connection");
            // Once, as when the certificate of an agent that trains is revoked: nothing but a person ends it.
            if let Some(reason) = rejection(&error, self.config.tls.is_some()).filter(|_| self.was_connected)
            {
                self.was_connected = false;
                warn!(broker = self.config.url, reason, "no connection");
            }
        }
        *lock(&self.shared.failure) = Some(error);
    }

    /// False when nobody listens any more.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                info!(broker = self.config.url, "connected");
                self.was_connected = true;
                let filters: Vec<SubscribeFilter> =
                    lock(&self.shared.filters).iter().map(|f| subscription(f)).collect();
                if !filters.is_empty() && lock(&self.client).try_subscribe_many(filters).is_err() {
                    self.shared.counters.drop_one(Direction::Out);
                }
                self.shared.connected.store(true, Ordering::Relaxed);
                // Waits for room: without this the agent would not announce itself anew.
                self.inbox.send_connected()
            }
            Event::Incoming(Packet::Publish(publish)) => {
                self.publish(&publish.topic, &publish.payload);
                true
            }
            Event::Incoming(Packet::PubAck(_)) => {
                self.shared.acked();
                true
            }
            Event::Incoming(Packet::SubAck(ack)) => {
                if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                    warn!(
                        broker = self.config.url,
                        "the broker refused a subscription; check its access list"
                    );
                }
                true
            }
            _ => true,
        }
    }

    fn publish(&mut self, topic: &str, payload: &[u8]) {
        let topic: Topic = match topic.parse() {
            Ok(topic) => topic,
            Err(error) => return self.refuse(None, &Refusal::Topic(error)),
        };
        // The broker sends an agent's own status and demand back to it.
        if topic.agent != self.config.agent {
            self.shared.counters.count(topic.kind(), Direction::In, payload.len());
        } else if topic.leaf != Leaf::Status {
            return;
        }
        let verifier = self.opener.as_mut().map(|opener| &mut opener.verifier);
        match read(&self.config.fleet, &self.config.agent, verifier, &topic, payload) {
            Ok(message) => {
                let n_bytes = payload.len();
                let message = Incoming::Message { topic, message: Box::new(message), n_bytes };
                if self.opener.is_none() {
                    return self.forward(message);
                }
                self.unkept.push(message);
                if self.unkept.len() >= UNKEPT_MESSAGES {
                    self.hand_on();
                }
            }
            Err(refusal) => self.refuse(Some(&topic.agent), &refusal),
        }
    }

    /// Hands on what was kept back, once the marks of it are written down; where they cannot be it is refused, as it
    /// could be replayed after a crash.
    fn hand_on(&mut self) {
        let Some(opener) = &mut self.opener else { return };
        let kept = opener.keep();
        for message in std::mem::take(&mut self.unkept) {
            match (&kept, message) {
                (Err(error), Incoming::Message { topic, .. }) => {
                    debug!(%error, "numbers not written down");
                    self.refuse(Some(&topic.agent), &Refusal::NotKept);
                }
                (_, message) => self.forward(message),
            }
        }
    }

    fn refuse(&mut self, peer: Option<&AgentId>, refusal: &Refusal) {
        self.shared.counters.refuse(refusal);
        if let Some(warning) = self.refusals.add(peer, refusal, self.started.elapsed()) {
            let peer = warning.peer.as_ref().map_or("others", AgentId::as_str);
            let error = refusal as &(dyn std::error::Error + 'static);
            warn!(peer, refused = warning.counts, error, "messages refused");
        }
    }

    fn forward(&self, incoming: Incoming) {
        if !self.inbox.offer(incoming) {
            self.shared.counters.drop_one(Direction::In);
        }
    }
}

fn set_network(event_loop: &mut EventLoop) {
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(NETWORK_TIMEOUT_S);
    event_loop.set_network_options(network);
}

/// Differs from agent to agent and from time to time, which is all that jitter needs.
fn now_millis() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_millis() as u64)
}
