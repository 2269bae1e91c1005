//! The command line: what can be asked for, and which module does it.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use vigie_actors::config::Span;
use vigie_wire::SensorId;

use crate::backtest::Backtest;
use crate::config::{self, Loaded, Overrides};
use crate::console::say;
use crate::export::Export;
use crate::import::Import;
use crate::incidents::Action;
use crate::replay::Replay;
use crate::simulate::command::Simulate;
use crate::{
    backtest, demo, doctor, export, import, incidents, ledger, node, replay, service, test_alert,
};

/// What was asked for cannot be, as it is written: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misuse(pub(crate) String);

/// Vigie watches over sensors: it takes readings in over MQTT, scores each as it arrives, stores
/// it, and tells a person when something is wrong and why.
#[derive(Debug, Parser)]
#[command(name = "engine", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The real job: listen for devices, watch over them
    Run(Job),
    /// The whole engine with three simulated sensors that go wrong now and then
    Demo {
        #[command(flatten)]
        job: Job,
        /// Run on a real recording instead: four motes, one hour, two labelled events
        #[arg(long)]
        recording: bool,
        /// With --recording: how much faster than it was recorded, or `max`
        #[arg(
            long,
            value_name = "X|max",
            default_value = "60",
            requires = "recording"
        )]
        speed: Speed,
    },
    /// Feed a recorded CSV file (time column plus quantity columns) through the stream
    Replay {
        /// The file; the sensor is a column `sensor`, or the file's name
        file: PathBuf,
        /// How much faster than it was recorded, or `max`
        #[arg(long, value_name = "X|max", default_value = "max")]
        speed: Speed,
        /// Write mails too (as files)
        #[arg(long)]
        mail: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Recorded data through the live detection: what it would have said, and how good that is
    Backtest {
        /// CSV files, or directories of them
        #[arg(required_unless_present = "since", conflicts_with = "since")]
        paths: Vec<PathBuf>,
        /// In place of files, what is stored of this time, such as 30d (no engine may have it open)
        #[arg(long, value_name = "SPAN")]
        since: Option<Span>,
        /// JSON file that says what was wrong when
        #[arg(long, value_name = "FILE")]
        labels: Option<PathBuf>,
        /// Write scores here, one CSV file per input file
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Another config file: which mails would appear or vanish
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Publish a fleet of simulated sensors to any MQTT broker
    Simulate(Box<Simulate>),
    /// Check the config; exit 0 if it is good, 2 with key, value and fix if not
    Check(Place),
    /// Show or explain the config
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// The config of a node: from node.toml to the partition that is flashed
    Node {
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Send a sample incident to people and programs, and say step by step what came of it
    TestAlert {
        /// Only this way: mail, webhook-NAME or alertmanager-NAME
        #[arg(long, value_name = "NAME")]
        channel: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Write stored readings, or their copies in MongoDB, as a table or as JSON lines
    Export {
        #[command(flatten)]
        export: Export,
        #[command(flatten)]
        place: Place,
    },
    /// Read the readings that another program stored (no engine may have the store open)
    Import {
        #[command(subcommand)]
        source: Source,
    },
    /// What became of every message, sensor by sensor (no engine may have the store open)
    Ledger {
        /// How it is written
        #[arg(long, value_enum, default_value = "text")]
        format: ledger::Format,
        /// Only this sensor
        #[arg(long, value_name = "ID")]
        sensor: Option<SensorId>,
        #[command(flatten)]
        place: Place,
    },
    /// What is wrong, and what people do about it (of a running engine, or in its store)
    Incidents {
        #[command(subcommand)]
        action: Action,
        #[command(flatten)]
        place: Place,
    },
    /// Look at a store that no engine has open, and say whether it adds up
    Doctor {
        #[command(flatten)]
        place: Place,
        /// Leave out what cannot be read of a damaged journal, and say how many readings are lost
        #[arg(long)]
        repair: bool,
    },
    /// Read a password from standard input, print the hash for listener.users
    HashPassword,
}

#[derive(Debug, Subcommand)]
enum Source {
    /// A collection in MongoDB, for instance the Python system's
    Mongo {
        #[command(flatten)]
        import: Import,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// The effective config, each value with its origin, secrets redacted
    Show(Place),
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// Check node.toml and write it as the partition `config`
    Config {
        /// What the node is told; firmware/node.toml has every key
        file: PathBuf,
        /// The partition; it holds passwords
        #[arg(short, long, value_name = "FILE", default_value = "node.bin")]
        out: PathBuf,
    },
    /// What is in such a partition, without its secrets
    Show {
        /// The partition
        file: PathBuf,
    },
}

/// Which config, which data.
#[derive(Debug, Args)]
struct Place {
    /// Config file; without one the embedded defaults apply
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Where the store and the mails are
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Job {
    #[command(flatten)]
    place: Place,
    /// Where devices connect; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    mqtt: Option<SocketAddr>,
    /// Where the page, the API and the metrics are; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    http: Option<SocketAddr>,
}

/// A factor, or as fast as possible.
#[derive(Debug, Clone, Copy)]
struct Speed(Option<f64>);

impl std::str::FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self(None));
        }
        match text.parse::<f64>() {
            Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(Self(Some(factor))),
            _ => Err("write a factor such as 60, or max".to_owned()),
        }
    }
}

impl Cli {
    #[allow(clippy::too_many_lines, reason = "one arm for each command")]
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Run(job) => service::run(&job.load()?.config),
            Command::Demo {
                job,
                recording,
                speed,
            } => {
                let given = job.place.data_dir.is_some();
                let mut config = job.load()?.config;
                if !given {
                    // Play must not mix with what the engine watches over.
                    config
                        .data_dir
                        .push(if recording { "demo-recording" } else { "demo" });
                }
                if recording {
                    demo::recording(config, speed.0)
                } else {
                    demo::run(config)
                }
            }
            Command::Replay {
                file,
                speed,
                mail,
                place,
            } => {
                let data_dir_given = place.data_dir.is_some();
                let config = place.load(None, None)?.config;
                replay::run(
                    config,
                    &Replay {
                        file,
                        speed: speed.0,
                        mail,
                        data_dir_given,
                    },
                )
            }
            Command::Backtest {
                paths,
                since,
                labels,
                out,
                against,
                place,
            } => {
                let other = |file| Place {
                    config: Some(file),
                    data_dir: place.data_dir.clone(),
                };
                let against = against.map(|file| other(file).load(None, None));
                let against = against.transpose()?.map(|loaded| loaded.config);
                let config = place.load(None, None)?.config;
                backtest::run(
                    &config,
                    &Backtest {
                        paths,
                        since,
                        labels,
                        out,
                        against,
                    },
                )
            }
            Command::Simulate(simulate) => simulate.run(),
            Command::Check(place) => {
                place.load(None, None)?;
                say("ok");
                Ok(())
            }
            Command::Config {
                command: ConfigCommand::Show(place),
            } => {
                say(place.load(None, None)?.render().trim_end());
                Ok(())
            }
            Command::Node { command } => match command {
                NodeCommand::Config { file, out } => node::config(&file, &out),
                NodeCommand::Show { file } => node::show(&file),
            },
            Command::TestAlert { channel, place } => {
                test_alert::run(&place.load(None, None)?.config, channel.as_deref())
            }
            Command::Export { export, place } => {
                export::run(&place.load(None, None)?.config, &export)
            }
            Command::Import {
                source: Source::Mongo { import, place },
            } => import::run(&place.load(None, None)?.config, import),
            Command::Ledger {
                format,
                sensor,
                place,
            } => ledger::run(&place.load(None, None)?.config, format, sensor),
            Command::Incidents { action, place } => {
                incidents::run(&place.load(None, None)?.config, action)
            }
            Command::Doctor { place, repair } => {
                doctor::run(&place.load(None, None)?.config, repair)
            }
            Command::HashPassword => hash_password(),
        }
    }
}

impl Job {
    fn load(&self) -> anyhow::Result<Loaded> {
        self.place.load(self.mqtt, self.http)
    }
}

impl Place {
    fn load(&self, mqtt: Option<SocketAddr>, http: Option<SocketAddr>) -> anyhow::Result<Loaded> {
        let overrides = Overrides {
            data_dir: self.data_dir.clone(),
            mqtt,
            http,
        };
        let dotenv = std::path::Path::new(".env");
        let loaded = config::load(
            self.config.as_deref(),
            &overrides,
            config::process_env(),
            dotenv.exists().then_some(dotenv),
        )
        .map_err(|error| Misuse(error.to_string()))?;
        for sentence in loaded.config.remarks() {
            tracing::warn!("{sentence}");
        }
        Ok(loaded)
    }
}

fn hash_password() -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        say("Type the password, then Enter (it will be visible):");
    }
    let mut password = String::new();
    stdin
        .read_line(&mut password)
        .context("cannot read the password")?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Misuse("the password is empty; type one, or pipe it in".to_owned()).into());
    }
    let hash =
        vigie_actors::ingest::auth::hash_password(password).context("cannot hash the password")?;
    say(&hash);
    Ok(())
}
