//! Lines for a reader that may be slow, or gone, while the run must go on: a thread of their own writes them,
//! and a bounded queue lies between.

use std::io::Write;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

/// Lines that wait for their reader.
const QUEUE_LINES: usize = 4096;
/// Longest wait for room in a full queue.
const ROOM_WAIT: Duration = Duration::from_secs(1);
/// How often such a wait looks for room.
const ROOM_POLL: Duration = Duration::from_millis(5);
/// Longest wait at the end for what is in the queue.
const FLUSH_WAIT: Duration = Duration::from_secs(5);

pub struct Lines {
    queue: SyncSender<String>,
    /// Closed by the thread when it has written everything.
    written: Receiver<()>,
    /// The last wait for room was in vain; until there is room again, no other is begun.
    stalled: bool,
}

impl Lines {
    pub fn start(mut out: impl Write + Send + 'static) -> Self {
        let (queue, lines) = mpsc::sync_channel::<String>(QUEUE_LINES);
        let (writing, written) = mpsc::channel();
        thread::spawn(move || {
            // Held until the thread ends.
            let _writing: mpsc::Sender<()> = writing;
            let mut is_open = true;
            for mut line in lines {
                line.push('\n');
                // Where the reader has gone, lines lead nowhere; the run does not depend on them.
                is_open = is_open && out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_ok();
            }
        });
        Lines { queue, written, stalled: false }
    }

    /// Puts a line in the queue if there is room, and else drops it and says false.
    #[must_use]
    pub fn offer(&mut self, line: String) -> bool {
        self.send(line, Instant::now())
    }

    /// As [`offer`](Self::offer), but waits up to a second for room.
    #[must_use]
    pub fn push(&mut self, line: String) -> bool {
        let wait = if self.stalled { Duration::ZERO } else { ROOM_WAIT };
        let has_room = self.send(line, Instant::now() + wait);
        self.stalled = !has_room;
        has_room
    }

    /// Waits a few seconds at most until `last` and what is in the queue are written.
    pub fn finish(mut self, last: Option<String>) {
        let deadline = Instant::now() + FLUSH_WAIT;
        if let Some(last) = last {
            self.send(last, deadline);
        }
        drop(self.queue);
        // Closed or out of time: the run is at its end either way.
        let _ = self.written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    fn send(&mut self, mut line: String, deadline: Instant) -> bool {
        loop {
            match self.queue.try_send(line) {
                Err(TrySendError::Full(back)) if Instant::now() < deadline => line = back,
                Err(_) => return false,
                Ok(()) => {
                    self.stalled = false;
                    return true;
                }
            }
            thread::sleep(ROOM_POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A reader that says when it is asked to read, and reads nothing until its gate is opened by being closed.
    struct Gated {
        asked: mpsc::Sender<()>,
        gate: Receiver<()>,
        read: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.asked.send(());
            let _ = self.gate.recv();
            self.read.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_reader_costs_lines_and_at_most_one_wait() {
        let (open, gate) = mpsc::channel();
        let (asked, was_asked) = mpsc::channel();
        let read = Arc::new(Mutex::new(Vec::new()));
        let mut lines = Lines::start(Gated { asked, gate, read: Arc::clone(&read) });
        assert!(lines.offer("first".to_owned()));
        was_asked.recv().unwrap();
        assert_eq!((0..2 * QUEUE_LINES).filter(|i| lines.offer(i.to_string())).count(), QUEUE_LINES);
        assert!(!lines.push("waits".to_owned()));
        let began = Instant::now();
        assert!((0..100).all(|_| !lines.push("does not wait".to_owned())));
        assert!(began.elapsed() < ROOM_WAIT);
        drop(open);
        lines.finish(Some("last".to_owned()));
        let expected: String = (0..QUEUE_LINES).map(|i| format!("{i}\n")).collect();
        assert_eq!(*read.lock().unwrap(), format!("first\n{expected}last\n").into_bytes());
    }

    #[test]
    fn a_reader_that_has_gone_costs_nothing() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut lines = Lines::start(Gone);
        assert!((0..3 * QUEUE_LINES).all(|_| lines.push(String::new())));
        lines.finish(None);
    }
}
