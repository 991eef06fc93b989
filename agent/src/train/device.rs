//! Where a network is computed, as a configuration names it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where the network is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    #[default]
    Cpu,
    /// CUDA device of that index.
    Cuda(i32),
}

#[derive(Debug, thiserror::Error)]
#[error("expected a device of the form cpu, cuda or cuda:<index>, found `{found}`")]
pub struct ParseDeviceError {
    found: String,
}

impl FromStr for Device {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let index = |digits: &str| digits.parse().ok().filter(|i| *i >= 0).map(Device::Cuda);
        match text {
            "cpu" => Some(Device::Cpu),
            "cuda" => Some(Device::Cuda(0)),
            other => other.strip_prefix("cuda:").and_then(index),
        }
        .ok_or_else(|| ParseDeviceError { found: text.to_owned() })
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = ParseDeviceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}
