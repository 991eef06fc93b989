//! A lab that trains in a second or two: handwritten digits, the smallest network, two experiences.

use std::fs;
use std::path::{Path, PathBuf};

use dkt_agent::config::{
    AgentConfig, CheckpointConfig, DataConfig, ExchangeConfig, ModelConfig, ReplayConfig, ReportConfig,
    StrategyConfig, StreamConfig, TeacherConfig, TlsConfig, TrainConfig,
};
use dkt_agent::stream::ClassOrder;

/// An agent without exchange, whose folder is `root/<agent>`.
///
/// # Panics
/// If the name is none.
pub fn alone(root: &Path, agent: &str) -> AgentConfig {
    AgentConfig {
        agent: agent.parse().expect("it is a name"),
        fleet: "lab".parse().expect("it is a name"),
        seed: 1,
        out: Some(root.join(agent)),
        model: ModelConfig::default(),
        data: DataConfig { views: 2, ..DataConfig::default() },
        proxy: None,
        stream: StreamConfig { experiences: 2, class_order: ClassOrder::Seed(1), ..StreamConfig::default() },
        train: TrainConfig { epochs: 2, ..TrainConfig::default() },
        strategy: StrategyConfig::default(),
        replay: ReplayConfig { capacity: Some(64), batch_size: 8, selection: None },
        teacher: TeacherConfig::default(),
        exchange: ExchangeConfig { enabled: false, ..ExchangeConfig::default() },
        checkpoint: CheckpointConfig::default(),
        report: ReportConfig::default(),
    }
}

/// An agent that waits for one peer at `broker`, teaches after every epoch, and trains for long enough to be taught.
pub fn exchanging(root: &Path, agent: &str, broker: &str, tls: Option<TlsConfig>) -> AgentConfig {
    let mut config = alone(root, agent);
    // Peers see the same classes at different times.
    let seed = agent.bytes().map(u64::from).sum();
    config.seed = seed;
    config.stream.class_order = ClassOrder::Seed(seed);
    config.train.epochs = 8;
    config.exchange = ExchangeConfig {
        enabled: true,
        broker: broker.to_owned(),
        refresh_epochs: 1,
        wait_for_peers: 1,
        tls,
        ..ExchangeConfig::default()
    };
    config
}

/// Writes `config` into a file of its own under `root`.
///
/// # Panics
/// If it cannot be written.
pub fn write(root: &Path, config: &AgentConfig) -> PathBuf {
    let path = root.join(format!("{}.toml", config.agent));
    let text = toml::to_string(config).expect("a configuration is TOML");
    fs::write(&path, text).expect("the configuration is written");
    path
}
