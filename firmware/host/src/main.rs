//! The node on a PC: what runs on a chip, over the PC's network, with its flash in a file and a
//! made-up or recorded sensor.
//!
//! `node-host --config node.toml` is one node. `--nodes 200` are two hundred in one process, each
//! with an id, a flash and a connection of its own. What it says goes to standard error; `show`,
//! `set` and `reboot` are typed on standard input, as at a chip's console.

mod board;
mod flash;
mod network;
mod sensor;
mod tls;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use clap::Parser;
use node_core::{AnySensor, Counts, Ended, Node, Parts, Start, Timing};
use tokio::task::LocalSet;
use vigie_wire::SensorId;
use vigie_wire::node::{Config, Kind, file};

use board::{PcBoard, Typed};
use flash::FileFlash;
use network::PcNetwork;
use sensor::{Generated, Recorded};

/// Pages of the flash for the queue: 256 KiB.
const QUEUE_PAGES: usize = 64;
/// Pages of the flash for facts.
const FACTS_PAGES: usize = 2;

/// A software node: the firmware's core on a PC
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// `node.toml`, or what `engine node config` made of it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Directory for the emulated flash; in memory only if not given
    #[arg(long, value_name = "DIR")]
    flash: Option<PathBuf>,
    /// How many nodes; more than one get the ids ID-0000, ID-0001, …
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    nodes: u32,
    /// Ends when each node has had so many readings acknowledged
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Stops taking readings after so many, and goes on sending
    #[arg(long, value_name = "N")]
    take: Option<u64>,
    /// Asks the time servers of the config instead of the PC's clock
    #[arg(long)]
    sntp: bool,
    /// Seed of the made-up sensors
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Gives up sooner: time-outs of 2 s, pauses of at most 1 s. For tests on one machine
    #[arg(long)]
    hasty: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match read_config(&args.config) {
        Ok(config) => run(&args, &config),
        Err(why) => {
            say(&why);
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::print_stderr, reason = "a program's words to its user")]
fn say(line: &str) {
    eprintln!("{line}");
}

fn read_config(path: &Path) -> Result<Config, String> {
    let name = path.display();
    let bytes = std::fs::read(path).map_err(|error| format!("{name}: {error}"))?;
    match Config::decode(&bytes) {
        Ok(config) => return Ok(config),
        Err(vigie_wire::node::Error::NoConfig) => {}
        Err(error) => return Err(format!("{name}: {error}")),
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{name}: not a text"))?;
    // Files that it names lie beside it.
    let beside = path.parent().unwrap_or(Path::new("")).to_owned();
    let read =
        |file: &str| std::fs::read_to_string(beside.join(file)).map_err(|error| error.to_string());
    let mut config = file::parse(&text, &read).map_err(|problems| {
        let lines = problems.iter().map(|problem| format!("{name}: {problem}"));
        lines.collect::<Vec<_>>().join("\n")
    })?;
    for sensor in &mut config.sensors {
        if let Some(file) = &mut sensor.file {
            *file = beside.join(&*file).display().to_string();
        }
    }
    Ok(config)
}

fn run(args: &Args, config: &Config) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    tls::install();
    let nodes = LocalSet::new();
    let ended = runtime.block_on(nodes.run_until(all(args, config)));
    match ended {
        Ok(total) => {
            say(&format!(
                "acknowledged {} of {} readings, dropped {}, refused {}, waiting {}, connects {}",
                total.acknowledged,
                total.readings,
                total.dropped,
                total.refused,
                total.waiting,
                total.connects
            ));
            ExitCode::SUCCESS
        }
        Err(why) => {
            say(&why);
            ExitCode::FAILURE
        }
    }
}

/// Runs all nodes until they have done what was asked, or somebody interrupts.
async fn all(args: &Args, config: &Config) -> Result<Counts, String> {
    let typed = Typed::standard_input();
    let mut tasks = Vec::new();
    for nth in 0..args.nodes {
        let config = numbered(config, nth, args.nodes)?;
        let one = OneNode {
            flash: args.flash.clone(),
            count: args.count,
            take: args.take,
            sntp: args.sntp,
            seed: args.seed.wrapping_mul(0x9e37_79b9).wrapping_add(nth.into()),
            timing: if args.hasty {
                hasty()
            } else {
                Timing::default()
            },
            named: args.nodes > 1,
            typed: Rc::clone(&typed),
        };
        tasks.push(tokio::task::spawn_local(one.run(config)));
    }
    let mut total = Counts::default();
    for task in tasks {
        let counts = task.await.map_err(|error| error.to_string())??;
        total.readings += counts.readings;
        total.acknowledged += counts.acknowledged;
        total.dropped += counts.dropped;
        total.refused += counts.refused;
        total.waiting += counts.waiting;
        total.connects += counts.connects;
    }
    Ok(total)
}

fn hasty() -> Timing {
    Timing {
        keep_alive_ms: 4_000,
        answer_ms: 2_000,
        dial_ms: 2_000,
        pause_ms: 50,
        longest_pause_ms: 1_000,
    }
}

/// The config of the nth of several nodes.
fn numbered(config: &Config, nth: u32, nodes: u32) -> Result<Config, String> {
    let mut config = config.clone();
    if nodes > 1 {
        let named = |id: SensorId| {
            SensorId::try_from(format!("{id}-{nth:04}").as_str()).map_err(|error| error.to_string())
        };
        config.id = named(config.id)?;
        for sensor in &mut config.sensors {
            sensor.id = sensor.id.map(named).transpose()?;
        }
    }
    Ok(config)
}

/// Sensors, each with its index in the config.
type Sensors = Vec<(usize, Box<dyn AnySensor>)>;

/// What one node needs to know of the command line.
struct OneNode {
    flash: Option<PathBuf>,
    count: Option<u64>,
    take: Option<u64>,
    sntp: bool,
    seed: u64,
    timing: Timing,
    named: bool,
    typed: Rc<Typed>,
}

impl OneNode {
    /// Runs until the count is reached or the process is told to end; `reboot` starts it again.
    async fn run(self, mut config: Config) -> Result<Counts, String> {
        if !self.sntp {
            config.ntp = vec![network::SYSTEM_CLOCK.to_owned()];
        }
        let mut retained = None;
        let mut reset = "power-on";
        let mut total = Counts::default();
        let name = if self.named {
            config.id.to_string()
        } else {
            String::new()
        };
        let board = PcBoard::new(name);
        loop {
            let sensors = self.sensors(&config)?;
            let parts = Parts {
                board: board.clone(),
                network: PcNetwork,
                keys: self.typed.keys(),
                queue_flash: self.open_flash(&config.id, "queue", QUEUE_PAGES)?,
                facts_flash: self.open_flash(&config.id, "facts", FACTS_PAGES)?,
                config: config.clone(),
                sensors,
                start: Start {
                    firmware: concat!("host-", env!("CARGO_PKG_VERSION")).to_owned(),
                    reset: reset.to_owned(),
                    crash: None,
                },
                retained: retained.take(),
                timing: self.timing,
            };
            let mut node = Node::open(parts).await.map_err(|error| error.to_string())?;
            let ended = tokio::select! {
                biased;
                () = board.until_acknowledged(self.count) => None,
                _ = tokio::signal::ctrl_c() => None,
                ended = node.run() => Some(ended),
            };
            add(&mut total, node.counts().await);
            match ended {
                None => return Ok(total),
                Some(Ended::Reboot) => reset = "software",
                Some(Ended::Sleep {
                    for_ms,
                    retained: kept,
                }) => {
                    retained = Some(kept);
                    if self.count.is_some_and(|count| total.acknowledged >= count) {
                        return Ok(total);
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(for_ms)).await;
                }
            }
        }
    }

    fn open_flash(&self, id: &SensorId, what: &str, pages: usize) -> Result<FileFlash, String> {
        let Some(dir) = &self.flash else {
            return Ok(FileFlash::in_memory(pages));
        };
        // A colon is not for every file system.
        let path = dir.join(format!("{}-{what}.flash", id.as_str().replace(':', "+")));
        FileFlash::open(&path, pages).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn sensors(&self, config: &Config) -> Result<Sensors, String> {
        let mut sensors = Sensors::new();
        for (index, sensor) in config.sensors.iter().enumerate() {
            let seed = self.seed ^ ((index as u64) << 32);
            let one: Box<dyn AnySensor> = match sensor.kind {
                // A chip's sensors are made up on a PC.
                Kind::Generated | Kind::Sht3x | Kind::Sht4x | Kind::Dht22 => {
                    Box::new(Generated::new(seed, false, self.take))
                }
                Kind::Bme280 => Box::new(Generated::new(seed, true, self.take)),
                Kind::Recorded => {
                    let path = sensor.file.as_deref().unwrap_or_default();
                    let recorded = Recorded::open(Path::new(path), self.take);
                    Box::new(recorded.map_err(|why| format!("{path}: {why}"))?)
                }
            };
            sensors.push((index, one));
        }
        Ok(sensors)
    }
}

fn add(total: &mut Counts, counts: Counts) {
    total.readings += counts.readings;
    total.acknowledged += counts.acknowledged;
    total.dropped += counts.dropped;
    total.refused += counts.refused;
    total.waiting = counts.waiting;
    total.connects += counts.connects;
}
