//! What is told of a run as an object of a log in JSON, so that standard error is lines of one kind.

use serde_json::json;
use tracing::Level;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Tells these objects from those of the log's own.
const TARGET: &str = "dkt_agent::progress";

/// One line; `of` is the agent and the time in seconds that it is about, if it is about one.
pub fn object(level: Level, message: &str, of: Option<(&str, f64)>) -> String {
    let mut timestamp = String::new();
    // A string has room for it.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let mut object = json!({
        "timestamp": timestamp,
        "level": level.as_str(),
        "message": message,
        "target": TARGET,
    });
    if let Some((agent, t_s)) = of {
        object["agent"] = agent.into();
        object["t_s"] = t_s.into();
    }
    object.to_string()
}
