//! The embedded broker (rumqttd): for a demonstration, a laptop, a test. It has no access control and keeps
//! everything in memory; a lab uses mosquitto with the files of `broker-config/`.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use tracing::warn;

use super::ExchangeError;
use super::connection::MAX_PACKET_BYTES;

/// Longest wait for the listener.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages of one filter kept for slow subscribers: two segments of 10 MiB.
const SEGMENT_BYTES: usize = 10 * 1024 * 1024;
const SEGMENTS: usize = 2;
const MAX_CONNECTIONS: usize = 1000;
const MAX_INFLIGHT: usize = 500;

/// A broker that runs until the process ends: rumqttd has no way to stop.
pub struct EmbeddedBroker {
    addr: SocketAddr,
}

impl EmbeddedBroker {
    /// Starts a broker; port 0 picks a free one.
    ///
    /// # Errors
    /// [`ExchangeError::Listen`] if the address is taken or nothing answers there in time.
    pub fn start(listen: SocketAddr) -> Result<Self, ExchangeError> {
        let failed = |source| ExchangeError::Listen { listen, source };
        if !listen.ip().is_loopback() {
            warn!(%listen, "the embedded broker has no access control: anyone who can reach it can use it");
        }
        // rumqttd cannot say which port it got, so a free one is found first. Also tells whether it is taken.
        let probe = TcpListener::bind(listen).map_err(failed)?;
        let addr = probe.local_addr().map_err(failed)?;
        drop(probe);
        let mut broker = Broker::new(config(addr));
        std::thread::Builder::new()
            .name("broker".to_owned())
            .spawn(move || {
                if let Err(error) = broker.start() {
                    warn!(%error, "the embedded broker ended");
                }
            })
            .map_err(failed)?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match TcpStream::connect_timeout(&addr, START_TIMEOUT) {
                Ok(_) => return Ok(EmbeddedBroker { addr }),
                Err(source) if Instant::now() >= deadline => return Err(failed(source)),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

fn config(listen: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 5000,
        // rumqttd counts the topic and the header, too.
        max_payload_size: MAX_PACKET_BYTES,
        max_inflight_count: MAX_INFLIGHT,
        auth: None,
        external_auth: None,
        // Without it a message that nobody subscribes to ends its publisher's connection.
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "mqtt".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    Config {
        id: 0,
        router: RouterConfig {
            max_connections: MAX_CONNECTIONS,
            max_outgoing_packet_count: 200,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("mqtt".to_owned(), server)])),
        ..Config::default()
    }
}
