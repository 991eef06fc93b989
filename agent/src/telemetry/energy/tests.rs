//! Trees of files as boards show them, read at times that the tests choose.

use std::fs;

use super::*;

/// Files below a root, by their paths.
struct Board {
    root: tempfile::TempDir,
}

impl Board {
    fn new(files: &[(&str, &str)]) -> Self {
        let board = Board { root: tempfile::tempdir().unwrap() };
        files.iter().for_each(|(path, text)| board.write(path, text));
        board
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    /// Nobody can read a folder as a file: so this stands for a missing permission, which root would pass over.
    fn make_unreadable(&self, path: &str) {
        let path = self.root.path().join(path);
        fs::remove_file(&path).unwrap();
        fs::create_dir(path).unwrap();
    }

    fn find(&self) -> Option<(&'static str, Reader)> {
        first(self.root.path())
    }

    fn meter(&self, now: Instant) -> Meter {
        let (_, reader) = self.find().expect("it has a source");
        Meter { reader, read_at: now, joules: 0.0, is_whole: true }
    }
}

fn close(found: Option<f64>, expected: f64) -> bool {
    found.is_some_and(|found| (found - expected).abs() < 1e-9 * expected.abs().max(1.0))
}

fn after(start: Instant, seconds: f64) -> Instant {
    start + Duration::from_secs_f64(seconds)
}

const ORIN: &str = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3";

/// An Orin Nano, JetPack 5 and later.
fn orin_nano() -> Board {
    Board::new(&[
        (&format!("{ORIN}/in1_label"), "VDD_IN"),
        (&format!("{ORIN}/in1_enable"), "1"),
        (&format!("{ORIN}/in1_input"), "5000"),
        (&format!("{ORIN}/curr1_input"), "1000"),
        (&format!("{ORIN}/in2_label"), "VDD_CPU_GPU_CV"),
        (&format!("{ORIN}/in2_input"), "5000"),
        (&format!("{ORIN}/curr2_input"), "400"),
        (&format!("{ORIN}/in3_label"), "VDD_SOC"),
        (&format!("{ORIN}/in3_input"), "5000"),
        (&format!("{ORIN}/curr3_input"), "300"),
        (&format!("{ORIN}/in7_label"), "sum of shunt voltages"),
        (&format!("{ORIN}/in7_input"), "760"),
    ])
}

#[test]
fn power_is_integrated_by_trapezoids() {
    let board = orin_nano();
    assert_eq!(board.find().unwrap().0, "ina3221");
    let start = Instant::now();
    let mut meter = board.meter(start);
    // From 5 W to 10 W in 2 s, then 10 W for another 1 s; the module's other rails are parts of its input.
    board.write(&format!("{ORIN}/curr1_input"), "2000");
    meter.read(after(start, 2.0));
    assert!(close(meter.take(after(start, 3.0)), 7.5 * 2.0 + 10.0));
    board.write(&format!("{ORIN}/in1_input"), "4000");
    assert!(close(meter.take(after(start, 4.0)), 9.0), "what was taken is not in it");
}

#[test]
fn rails_are_added_up_where_none_feeds_the_module() {
    let folders = ["1-0040/hwmon/hwmon3", "1-0041/hwmon/hwmon4"];
    let [first, second] = folders.map(|folder| format!("sys/bus/i2c/drivers/ina3221/{folder}"));
    let board = Board::new(&[
        (&format!("{first}/in1_label"), "VDD_GPU_SOC"),
        (&format!("{first}/in1_input"), "20000"),
        (&format!("{first}/curr1_input"), "150"),
        (&format!("{first}/in2_label"), "VDD_CPU_CV"),
        (&format!("{first}/in2_input"), "20000"),
        (&format!("{first}/curr2_input"), "50"),
        (&format!("{second}/in1_label"), "NC"),
        (&format!("{second}/in1_input"), "20000"),
        (&format!("{second}/curr1_input"), "1000"),
        (&format!("{second}/in2_label"), "VDDQ_VDD2_1V8AO"),
        (&format!("{second}/in2_input"), "5000"),
        (&format!("{second}/curr2_input"), "100"),
        // Switched off: there is nothing to read.
        (&format!("{second}/in3_label"), "SPARE"),
        (&format!("{second}/in3_enable"), "0"),
    ]);
    let start = Instant::now();
    assert!(close(board.meter(start).take(after(start, 2.0)), 2.0 * (3.0 + 1.0 + 0.5)));
}

#[test]
fn the_drivers_of_older_releases_are_read() {
    for device in ["iio:device0", "iio_device"] {
        let chip = format!("sys/bus/i2c/drivers/ina3221x/6-0040/{device}");
        let board = Board::new(&[
            (&format!("{chip}/rail_name_0"), "POM_5V_IN"),
            (&format!("{chip}/in_power0_input"), "2500"),
            (&format!("{chip}/rail_name_1"), "POM_5V_GPU"),
            (&format!("{chip}/in_power1_input"), "700"),
        ]);
        let (source, _) = board.find().unwrap();
        assert_eq!(source, "ina3221");
        let start = Instant::now();
        assert!(close(board.meter(start).take(after(start, 4.0)), 10.0), "{device}");
    }
}

const PACKAGE: &str = "sys/class/powercap/intel-rapl:0";

/// A server with one socket, and what else powercap can show of it.
fn server() -> Board {
    let zone = |path: &str, name: &str, energy: &str| {
        [("name", name), ("energy_uj", energy), ("max_energy_range_uj", "1000000000")]
            .map(|(file, text)| (format!("sys/class/powercap/{path}/{file}"), text.to_owned()))
    };
    let files = [
        zone("intel-rapl:0", "package-0", "900000000"),
        zone("intel-rapl:0:0", "core", "1000"),
        zone("intel-rapl:0:1", "dram", "5000000"),
        // The same again, as a folder in its zone and by another way.
        zone("intel-rapl:0/intel-rapl:0:1", "dram", "5000000"),
        zone("intel-rapl-mmio:0", "package-0", "900000000"),
        zone("intel-rapl:1", "psys", "7000"),
    ]
    .concat();
    Board::new(&files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect::<Vec<_>>())
}

#[test]
fn counters_are_subtracted_and_begin_again() {
    let board = server();
    assert_eq!(board.find().unwrap().0, "rapl");
    let start = Instant::now();
    let mut meter = board.meter(start);
    board.write(&format!("{PACKAGE}/energy_uj"), "950000000");
    board.write("sys/class/powercap/intel-rapl:0:1/energy_uj", "6000000");
    for part in ["intel-rapl:0:0", "intel-rapl:0/intel-rapl:0:1", "intel-rapl-mmio:0", "intel-rapl:1"] {
        board.write(&format!("sys/class/powercap/{part}/energy_uj"), "999999999");
    }
    assert!(close(meter.take(after(start, 1.0)), 50.0 + 1.0));
    board.write(&format!("{PACKAGE}/energy_uj"), "20000000");
    assert!(close(meter.take(after(start, 2.0)), 50.0 + 20.0));
}

#[test]
fn what_cannot_be_read_is_no_source() {
    assert!(Board::new(&[]).find().is_none());
    let board = server();
    board.make_unreadable(&format!("{PACKAGE}/energy_uj"));
    assert!(board.find().is_none(), "memory alone is too little");
    let board = orin_nano();
    board.make_unreadable(&format!("{ORIN}/curr1_input"));
    assert!(board.find().is_none(), "the other rails alone are too little");
    // The next source of the table is used in its place.
    board.write(&format!("{PACKAGE}/name"), "package-0");
    board.write(&format!("{PACKAGE}/energy_uj"), "1");
    board.write(&format!("{PACKAGE}/max_energy_range_uj"), "1000");
    assert_eq!(board.find().unwrap().0, "rapl");
    // A source that is there and says no number.
    board.write(&format!("{PACKAGE}/energy_uj"), "unknown");
    assert!(board.find().is_none());
    let reason = rapl::Zones::find(board.root.path()).err().unwrap().to_string();
    assert!(reason.contains("energy_uj`: expected a number, found `unknown`"), "{reason}");
}

#[test]
fn a_short_hole_is_bridged_and_a_long_one_is_not() {
    let board = server();
    let start = Instant::now();
    let mut meter = board.meter(start);
    let counter = format!("{PACKAGE}/energy_uj");
    board.make_unreadable(&counter);
    meter.read(after(start, 1.0));
    fs::remove_dir(board.root.path().join(&counter)).unwrap();
    board.write(&counter, "902000000");
    assert!(close(meter.take(after(start, 2.0)), 2.0), "nothing of it is lost");
    board.write(&counter, "903000000");
    meter.read(after(start, 13.0));
    board.write(&counter, "904000000");
    assert_eq!(meter.take(after(start, 13.5)), None, "11 seconds were not seen");
    board.write(&counter, "905000000");
    assert!(close(meter.take(after(start, 14.0)), 1.0), "what comes after is whole");
    board.make_unreadable(&counter);
    assert_eq!(meter.take(after(start, 30.0)), None, "it cannot be read any more");
    assert_eq!(meter.take(after(start, 31.0)), None);
}

#[test]
fn a_thread_reads_on_and_ends_with_the_meter() {
    let board = server();
    let meter = EnergyMeter::find(board.root.path()).unwrap();
    assert_eq!(meter.source(), "rapl");
    // The counter begins again and passes the place where it began: end less begin would be 50 J.
    let seen = |energy_uj: u64| {
        board.write(&format!("{PACKAGE}/energy_uj"), &energy_uj.to_string());
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Reader::Counters(zones) = &lock(&meter.meter).reader
                && zones.has_seen(energy_uj)
            {
                return;
            }
            assert!(Instant::now() < deadline, "waited for a reading of {energy_uj}");
            thread::yield_now();
        }
    };
    seen(200_000_000);
    seen(950_000_000);
    assert!(close(meter.take(), 100.0 + 200.0 + 750.0));
    let shared = Arc::downgrade(&meter.meter);
    drop(meter);
    assert_eq!(shared.strong_count(), 0, "the thread has let go of it");
}
