//! Programs in processes of their own, which can be killed.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
};

use serde_json::Value;

/// A running service, killed when it is dropped, however that comes.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pub url: String,
    /// What it logs once it serves.
    log: Option<JoinHandle<Vec<Value>>>,
}

/// One of the programs. `cargo test --workspace` has built them before any test runs, since each
/// package has a test of its own program.
///
/// # Panics
/// When it is not there.
pub fn program(name: &str) -> PathBuf {
    let here = env::current_exe().expect("a path");
    let folder = here.parent().and_then(|folder| folder.parent()).expect("target/PROFILE/deps");
    let program = folder.join(name);
    assert!(program.is_file(), "no {}; build with --workspace", program.display());
    program
}

impl Process {
    /// Starts a program on a free port and waits until its log says that it serves.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(name: &str, args: &[&str]) -> Self {
        Self::start_at(name, "0", args)
    }

    /// Likewise, on a given port.
    pub fn start_at(name: &str, port: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program(name));
        command.args(["--port", port]).args(args);
        Self::run(command)
    }

    /// Starts what ends up as one of the programs.
    ///
    /// # Panics
    /// When it does not say that it serves.
    pub fn run(mut command: Command) -> Self {
        command.env("LLM_DIT_LOG_FORMAT", "json").env("LLM_DIT_LOG", "info").stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let mut said = String::new();
        let url = loop {
            let mut line = String::new();
            let read = log.read_line(&mut line).expect("a log of text");
            assert!(read > 0, "{command:?} ended before it served: {said}");
            said.push_str(&line);
            let entry: Value = serde_json::from_str(&line).expect("a JSON log line");
            if let Some(address) = entry["address"].as_str() {
                break format!("http://{address}");
            }
        };
        // Keep reading, so that the program never waits for us.
        let entries = |line: Result<String, _>| serde_json::from_str(&line.ok()?).ok();
        let log = thread::spawn(move || log.lines().filter_map(entries).collect());
        Self { child, url, log: Some(log) }
    }

    pub fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// Resident memory in KiB, after `/proc`; `None` where there is none.
    pub fn memory(&self) -> Option<u64> {
        self.kibibytes("VmRSS:")
    }

    /// The most that it was, likewise.
    pub fn peak_memory(&self) -> Option<u64> {
        self.kibibytes("VmHWM:")
    }

    fn kibibytes(&self, field: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let rest = status.lines().find_map(|line| line.strip_prefix(field))?;
        rest.split_whitespace().next()?.parse().ok()
    }

    /// Seconds of processor time that it has used; 0 where the system does not tell.
    pub fn processor_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        // The name before may hold spaces. User and system time are fields 14 and 15, in ticks of
        // 10 ms.
        let rest = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks =
            |at: usize| fields.get(at).and_then(|n| n.parse::<f64>().ok()).unwrap_or_default();
        (ticks(11) + ticks(12)) / 100.0
    }

    /// The port, for one that takes its place.
    pub fn port(&self) -> &str {
        self.url.rsplit(':').next().unwrap_or_default()
    }

    /// SIGKILL, which leaves it no time for anything.
    pub fn kill(mut self) {
        // Has ended already at worst.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end.
    ///
    /// # Panics
    /// Without the program `kill`.
    pub fn terminate(&self) {
        let kill = Command::new("kill").args(["-TERM", &self.id()]).status();
        assert!(kill.expect("kill is here").success());
    }

    /// Asks it to end, and returns its status and what it had logged.
    ///
    /// # Panics
    /// When its log cannot be read.
    pub fn end(mut self) -> (Option<i32>, Vec<Value>) {
        self.terminate();
        let code = self.child.wait().expect("ended").code();
        let log = self.log.take().expect("not read yet").join().expect("no panic");
        (code, log)
    }

    /// Waits for the end, and returns its status.
    ///
    /// # Panics
    /// When nobody can wait for it.
    pub fn ended(mut self) -> Option<i32> {
        self.child.wait().expect("ended").code()
    }

    /// Asks it to end, and returns its status.
    pub fn stop(self) -> Option<i32> {
        self.terminate();
        self.ended()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
