//! Vigie's engine: reads the command line, installs what is one per process, runs the command, and
//! turns its error into an exit code.

mod backtest;
mod channels;
mod cli;
mod config;
mod console;
mod demo;
mod doctor;
mod export;
mod http;
mod import;
mod incidents;
mod ledger;
mod logging;
mod node;
mod replay;
mod service;
mod simulate;
mod source;
mod stored;
mod test_alert;

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// Batches are made on one thread and freed on another, which glibc answers with ever more arenas.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use clap::Parser;

/// A dump of its memory would hold the secrets that it shows to others.
#[cfg(unix)]
fn leave_no_core() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // One may always have less.
    let _granted = setrlimit(Resource::Core, none);
}

/// Becomes this program anew, with the same arguments. Comes back only if that cannot be.
fn start_again() -> std::io::Error {
    let mut arguments = std::env::args_os();
    // By its path, which also gives the process its name; it is gone if another version was installed since.
    let path = std::env::current_exe().ok().filter(|path| path.exists());
    let mut program = Command::new(path.unwrap_or_else(|| "/proc/self/exe".into()));
    if let Some(name) = arguments.next() {
        program.arg0(name);
    }
    program.args(arguments).exec()
}

fn main() -> ExitCode {
    #[cfg(unix)]
    leave_no_core();
    // Several crates bring TLS; the process decides once which cryptography they use.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        console::error("another TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    let cli = cli::Cli::parse();
    let log = logging::start();
    let outcome = cli.run();
    drop(log);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<service::StartAgain>() => {
            console::error(&format!("{error:#}: {}", start_again()));
            ExitCode::FAILURE
        }
        Err(error) => {
            console::error(&format!("{error:#}"));
            // 2: what was asked for cannot be, as written. 1: it could, but went wrong.
            if error.is::<cli::Misuse>() {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
