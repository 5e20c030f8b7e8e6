//! The programs under attack.

use std::{fs, process::Command};

use tempfile::TempDir;

use super::BUDGET;
use crate::{process::Process, process::program, repository};

/// How the programs are started.
pub(super) struct Setup {
    pub encoders: usize,
    pub diffusion: usize,
    /// Of services that the attacker runs, before the true ones.
    pub false_encoders: Vec<String>,
    pub false_diffusion: Vec<String>,
    pub gateway_args: Vec<String>,
    /// Shell commands before the gateway, or a diffusion service, takes the shell's place.
    pub gateway_shell: Option<String>,
    pub diffusion_shell: Option<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            encoders: 1,
            diffusion: 1,
            false_encoders: Vec::new(),
            false_diffusion: Vec::new(),
            gateway_args: Vec::new(),
            gateway_shell: None,
            diffusion_shell: None,
        }
    }
}

pub(super) struct Stack {
    pub encoders: Vec<Process>,
    pub diffusion: Vec<Process>,
    pub gateway: Process,
    before: Vec<f64>,
    _history: TempDir,
}

/// Memory of a program, in MiB.
#[derive(Debug)]
pub(super) struct Use {
    pub name: &'static str,
    pub before: f64,
    pub peak: f64,
}

impl Stack {
    /// # Panics
    ///
    /// When a program does not start.
    pub fn start(setup: &Setup) -> Self {
        let history = tempfile::tempdir().expect("a folder");
        let model = text("models/demo");
        let loras = text("models/loras");
        let service = ["--model-path", &model, "--max-memory", BUDGET];
        let encoders: Vec<_> =
            (0..setup.encoders).map(|_| Process::start("encoder-service", &service)).collect();
        let with_loras = [&service[..], &["--loras-dir", &loras]].concat();
        let diffusion: Vec<_> = (0..setup.diffusion)
            .map(|_| begin("diffusion-service", setup.diffusion_shell.as_deref(), &with_loras))
            .collect();
        let urls = |lying: &[String], own: &[Process]| {
            let own = own.iter().map(|process| process.url.clone());
            lying.iter().cloned().chain(own).collect::<Vec<_>>().join(",")
        };
        let encoder_urls = urls(&setup.false_encoders, &encoders);
        let diffusion_urls = urls(&setup.false_diffusion, &diffusion);
        let folder = history.path().to_str().expect("a path of text");
        let mut args = vec!["--encoder", &encoder_urls, "--diffusion", &diffusion_urls];
        args.extend(["--history", folder, "--max-memory", BUDGET]);
        args.extend(setup.gateway_args.iter().map(String::as_str));
        let gateway = begin("gateway", setup.gateway_shell.as_deref(), &args);
        Self { encoders, diffusion, gateway, before: Vec::new(), _history: history }
    }

    fn programs(&self) -> impl Iterator<Item = (&'static str, &Process)> {
        let encoders = self.encoders.iter().map(|process| ("encoder", process));
        let diffusion = self.diffusion.iter().map(|process| ("diffusion", process));
        encoders.chain(diffusion).chain([("gateway", &self.gateway)])
    }

    /// From now on the peaks of memory count.
    pub fn watch_memory(&mut self) {
        self.before = self.programs().map(|(_, process)| mebibytes(process.memory())).collect();
        for (_, process) in self.programs() {
            // Only the owner may, which we are; elsewhere than on Linux there is no such file.
            let _ = fs::write(format!("/proc/{}/clear_refs", process.id()), "5");
        }
    }

    /// The peaks since [`Self::watch_memory`].
    pub fn memory(&self) -> Vec<Use> {
        self.programs()
            .zip(&self.before)
            .map(|((name, process), &before)| Use {
                name,
                before,
                peak: mebibytes(process.peak_memory()),
            })
            .collect()
    }
}

/// Starts a program, perhaps after commands of a shell that bind it.
fn begin(name: &str, shell: Option<&str>, args: &[&str]) -> Process {
    let Some(shell) = shell else { return Process::start(name, args) };
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell}; exec \"$0\" \"$@\"")]);
    command.arg(program(name)).args(["--port", "0"]).args(args);
    Process::run(command)
}

/// Sends a signal to a program that the attack has started.
pub(super) fn signal(process: &Process, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &process.id()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill -{name} works");
}

/// Whether a program still runs.
pub(super) fn is_alive(process: &Process) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap_or_default();
    // The state is the letter after the name; Z is one that has ended and was not waited for.
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// 0 where the system does not say.
fn mebibytes(kibibytes: Option<u64>) -> f64 {
    kibibytes.unwrap_or_default() as f64 / 1024.0
}

fn text(path: &str) -> String {
    repository(path).to_str().expect("a path of text").to_owned()
}
