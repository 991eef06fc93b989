//! Power by the INA3221 monitors of Jetson boards (Texas Instruments; three rails a chip).
//!
//! JetPack 5 and later show them as hwmon, with `in<n>_input` in millivolts and `curr<n>_input` in milliamperes, n
//! from 1 (kernel documentation, `hwmon/ina3221`); JetPack 4 as iio, with `in_power<n>_input` in milliwatts, n from
//! 0. The names of rails are NVIDIA's (Jetson Linux Developer Guide; the kernel's device trees).

use std::io;
use std::path::{Path, PathBuf};

use super::{line, matching, number};

/// Rails that feed the whole module, in whose place no others are counted: of Orin Nano and NX, Xavier NX, TX2 and
/// TX1; of the Nano; of Xavier NX by its guide. AGX Xavier and AGX Orin have none: there all rails are added up.
const INPUT_RAILS: [&str; 3] = ["VDD_IN", "POM_5V_IN", "5V_IN"];
/// The name of a channel to which no rail is connected.
const NOT_CONNECTED: &str = "NC";
/// Channels of a chip.
const N_CHANNELS: u32 = 3;

/// How a driver shows a chip. `#` stands for the number of a channel.
struct Layout {
    /// Its folders, below the root.
    folders: &'static str,
    first_channel: u32,
    label: &'static str,
    /// The files whose product is the power, and the unit of that product in watts.
    factors: &'static [&'static str],
    watts: f64,
}

const LAYOUTS: [Layout; 3] = [
    Layout {
        folders: "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*",
        first_channel: 1,
        label: "in#_label",
        factors: &["in#_input", "curr#_input"],
        watts: 1e-6,
    },
    Layout {
        folders: "sys/bus/i2c/drivers/ina3221x/*/iio:device*",
        first_channel: 0,
        label: "rail_name_#",
        factors: &["in_power#_input"],
        watts: 1e-3,
    },
    // TX2 with its first releases.
    Layout {
        folders: "sys/bus/i2c/drivers/ina3221x/*/iio_device",
        first_channel: 0,
        label: "rail_name_#",
        factors: &["in_power#_input"],
        watts: 1e-3,
    },
];

/// The rails that are counted.
pub(super) struct Rails {
    rails: Vec<Rail>,
    /// Watts at the last reading.
    watts: f64,
}

struct Rail {
    name: String,
    factors: Vec<PathBuf>,
    watts: f64,
}

impl Rails {
    /// `None` without such a chip. An error if a rail that counts cannot be read: the others would be too little.
    pub fn find(root: &Path) -> io::Result<Option<Self>> {
        let rails = LAYOUTS.iter().map(|layout| layout.rails(root)).find(|rails| !rails.is_empty());
        let Some(mut rails) = rails else { return Ok(None) };
        let input = INPUT_RAILS.iter().find_map(|name| rails.iter().position(|rail| rail.name == *name));
        if let Some(input) = input {
            rails = vec![rails.swap_remove(input)];
        }
        let mut found = Rails { rails, watts: 0.0 };
        found.watts = found.power()?;
        Ok(Some(found))
    }

    /// Joules since the last reading, `seconds` ago: between two readings power is taken to be on a straight line.
    pub fn advance(&mut self, seconds: f64) -> io::Result<f64> {
        let watts = self.power()?;
        let joules = 0.5 * (self.watts + watts) * seconds;
        self.watts = watts;
        Ok(joules)
    }

    /// Watts of all rails that count.
    fn power(&self) -> io::Result<f64> {
        self.rails.iter().map(Rail::power).sum()
    }
}

impl Rail {
    fn power(&self) -> io::Result<f64> {
        self.factors.iter().try_fold(self.watts, |product, file| Ok(product * number::<f64>(file)?))
    }
}

impl Layout {
    /// All rails that have a name and are switched on.
    fn rails(&self, root: &Path) -> Vec<Rail> {
        let mut rails = Vec::new();
        for folder in matching(root, self.folders) {
            for channel in self.first_channel..self.first_channel + N_CHANNELS {
                let file = |name: &str| folder.join(name.replace('#', &channel.to_string()));
                let name = line(&file(self.label)).unwrap_or_default();
                let is_off = line(&file("in#_enable")).is_ok_and(|enabled| enabled == "0");
                if !name.is_empty() && name != NOT_CONNECTED && !is_off {
                    let factors = self.factors.iter().map(|factor| file(factor)).collect();
                    rails.push(Rail { name, factors, watts: self.watts });
                }
            }
        }
        rails
    }
}
