//! A real mosquitto as a child process, with the configuration files that the repository ships.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::certs::Certificates;
use crate::deadline::Deadline;
use crate::process::Process;
use crate::repository;

/// Where a lab's broker has its files, in the shipped configuration.
const INSTALLED: &str = "/etc/dkt/broker";
/// Longest wait for a line of the broker's log before the port is tried again.
const NEXT_LOOK: Duration = Duration::from_millis(20);
/// Longest wait for a broker to start: RabbitMQ alone takes five seconds of a processor, and tests share a machine.
const START: Duration = Duration::from_secs(180);

/// A port that nobody listens on.
///
/// Not the kernel's choice: it takes outgoing connections from the same range, and an agent that looks for a broker
/// which is down would now and then be connected to itself.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const NUMBER: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Another run of these tests on the same machine begins elsewhere.
    let offset = (std::process::id() % u32::from(NUMBER)) as u16;
    let port = (0..NUMBER)
        .map(|_| FIRST + (offset + NEXT.fetch_add(1, Ordering::Relaxed) % NUMBER) % NUMBER)
        .find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok());
    port.expect("there is a free port")
}

/// A broker; ended when this is dropped.
pub struct Mosquitto {
    pub port: u16,
    config: PathBuf,
    process: Option<Process>,
    /// Of a lab: its certificates.
    certificates: Option<Certificates>,
    _folder: Option<TempDir>,
}

impl Mosquitto {
    /// A broker for one machine: `dev.conf`, as it is.
    ///
    /// # Panics
    /// If it does not start.
    pub fn dev() -> Self {
        Mosquitto::start(repository("broker-config/dev.conf"), free_port(), None, None)
    }

    /// The broker of a lab with TLS and access control: `lab.conf` and `lab.acl`, installed in a folder of its own,
    /// with certificates for `agents` as `dkt keys` makes them.
    ///
    /// # Panics
    /// If it does not start.
    pub fn lab(agents: &[&str]) -> Self {
        Mosquitto::lab_with(agents, |_, _| ())
    }

    /// As [`Mosquitto::lab`], at a site that `bridge.conf` joins to `hub`.
    ///
    /// # Panics
    /// If it does not start.
    pub fn bridged(agents: &[&str], hub: &Mosquitto) -> Self {
        Mosquitto::lab_with(agents, |installed, _| {
            let shipped =
                fs::read_to_string(repository("broker-config/bridge.conf")).expect("bridge.conf is text");
            let config = replaced(&shipped, INSTALLED, &installed.display().to_string());
            let address = format!("\naddress 127.0.0.1:{}\n", hub.port);
            let config = replaced(&config, "\naddress hub.example:8883\n", &address);
            fs::write(installed.join("conf.d/bridge.conf"), config).expect("bridge.conf is written");
            let certs = installed.join("certs/bridge");
            fs::create_dir(&certs).expect("a folder is made");
            hub.certificates().give_bridge(&certs);
        })
    }

    /// As [`Mosquitto::lab`], after `change` has changed what is installed in a folder, or the lab's certificates.
    ///
    /// # Panics
    /// If it does not start.
    pub fn lab_with(agents: &[&str], change: impl FnOnce(&Path, &Certificates)) -> Self {
        let folder = tempfile::tempdir().expect("a folder is made");
        let installed = folder.path().join("broker");
        let port = free_port();
        let shipped = fs::read_to_string(repository("broker-config/lab.conf")).expect("lab.conf is text");
        let config = replaced(&shipped, INSTALLED, &installed.display().to_string());
        let config = replaced(&config, "\nlistener 8883\n", &format!("\nlistener {port} 127.0.0.1\n"));
        let file = installed.join("lab.conf");
        for folder in ["state", "conf.d", "certs"] {
            fs::create_dir_all(installed.join(folder)).expect("a folder is made");
        }
        fs::write(&file, config).expect("lab.conf is written");
        fs::copy(repository("broker-config/lab.acl"), installed.join("lab.acl")).expect("lab.acl is copied");
        let certificates = Certificates::make(&folder.path().join("keys"), agents);
        change(&installed, &certificates);
        certificates.give_broker(&installed.join("certs"));
        set_mode(folder.path(), 0o755);
        open_to_all(&installed);
        Mosquitto::start(file, port, Some(certificates), Some(folder))
    }

    /// Gives a lab's broker the list of revoked certificates as it is now, and has it read its files again.
    ///
    /// # Panics
    /// If it is none, or does not run.
    pub fn reload(&self) {
        let installed = self.config.parent().expect("the configuration is in a folder");
        self.certificates().give_broker(&installed.join("certs"));
        open_to_all(&installed.join("certs"));
        self.process.as_ref().expect("the broker runs").hang_up();
        self.wait_for_log("Reloading config");
    }

    /// Waits for the next line of its log that has `text` in it; those before it are passed over.
    ///
    /// # Panics
    /// If none comes.
    pub fn wait_for_log(&self, text: &str) {
        let process = self.process.as_ref().expect("the broker runs");
        let deadline = Deadline::default();
        while let Ok(Some(line)) = process.stderr.next(deadline) {
            if line.contains(text) {
                return;
            }
        }
        panic!("waited for `{text}` in the broker's log:\n{}", self.log());
    }

    fn start(
        config: PathBuf,
        port: u16,
        certificates: Option<Certificates>,
        folder: Option<TempDir>,
    ) -> Self {
        let mut broker = Mosquitto { port, config, process: None, certificates, _folder: folder };
        broker.restart();
        broker
    }

    /// Ends the broker as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it on the same port and waits until it accepts connections.
    ///
    /// # Panics
    /// If it does not.
    pub fn restart(&mut self) {
        let mut command = Command::new(find("mosquitto"));
        command.arg("-c").arg(&self.config);
        if self.certificates.is_none() {
            command.arg("-p").arg(self.port.to_string());
        }
        wait_until_listening(self.process.insert(Process::start(command)), self.port);
    }

    /// Where agents reach it.
    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "mqtts" } else { "mqtt" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The certificates of a lab.
    ///
    /// # Panics
    /// If the broker has none.
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("a broker of a lab has certificates")
    }

    /// Its log until now.
    pub fn log(&self) -> String {
        self.process.as_ref().map(|p| p.stderr.text()).unwrap_or_default()
    }
}

/// `text` with `from` replaced, which must be there: a configuration that has changed must not slip through.
pub(crate) fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "the shipped configuration no longer has `{}`", from.trim());
    text.replace(from, to)
}

/// Started by root, mosquitto goes on as a user of its own, who must read its files and write its state.
fn open_to_all(path: &Path) {
    let is_folder = path.is_dir();
    let mode = if is_folder { 0o777 } else { 0o666 };
    set_mode(path, mode);
    if is_folder {
        for entry in fs::read_dir(path).expect("the folder is ours") {
            open_to_all(&entry.expect("the folder is ours").path());
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the folder is ours");
}

/// Waits until somebody listens on that port.
///
/// # Panics
/// If the process ends before, or nobody does in time.
pub(crate) fn wait_until_listening(process: &mut Process, port: u16) {
    wait_until(process, &format!("somebody to listen on port {port}"), || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    });
}

/// Waits until the broker of that process is `ready`.
///
/// # Panics
/// If it ends before, or is not in time.
pub(crate) fn wait_until(process: &mut Process, what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Deadline::after(START);
    while !ready() {
        let in_vain = process.has_ended() || deadline.is_over();
        assert!(!in_vain, "waited for {what}");
        // Something in its log is a reason to look again at once.
        let _ = process.stderr.next(Deadline::after(NEXT_LOOK));
    }
}

/// A program on the `PATH`, or where Debian puts brokers.
///
/// # Panics
/// If it is not installed.
pub(crate) fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file()).unwrap_or_else(|| {
        panic!(
            "these tests need `{program}`; `make brokers` installs all of them, or your package manager does"
        )
    })
}
