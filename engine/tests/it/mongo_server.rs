//! Two servers that speak MongoDB's protocol: `FerretDB`, which keeps its data over a kill, and
//! mongo-java-server, which knows more commands. `./test.sh` builds both.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};

use super::harness::{PATIENCE, Process, package_file, wait_until};
use super::mosquitto::free;

/// The database that the connection string names.
pub(crate) const DATABASE: &str = "vigie-test";

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brand {
    Ferret,
    Java,
}

/// A running server.
pub(crate) struct MongoServer {
    brand: Brand,
    dir: PathBuf,
    child: Option<Child>,
    pub(crate) addr: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

/// Where `./test.sh` puts what it builds.
fn built(name: &str, needs: &str) -> Option<PathBuf> {
    let path = package_file("../target/servers").join(name);
    let there = path.exists();
    assert!(
        there || std::env::var("CI").as_deref() != Ok("true"),
        "{} is missing; ./test.sh makes it, with {needs}",
        path.display()
    );
    if !there {
        eprintln!("skipped: needs {needs}; ./test.sh builds the server with it");
    }
    there.then_some(path)
}

impl MongoServer {
    /// Its files are in `dir`/mongodb. `None`: it is not built here.
    pub(crate) fn start(dir: &Path, brand: Brand) -> Option<Self> {
        match brand {
            Brand::Ferret => built("ferretdb", "Go")?,
            Brand::Java => built("mongo-java", "a JDK and Maven")?,
        };
        let dir = dir.join("mongodb");
        std::fs::create_dir(&dir).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut server = Self {
            brand,
            dir,
            child: None,
            addr: free(),
            runtime,
        };
        server.up();
        Some(server)
    }

    /// Starts it where it was, with what it kept.
    pub(crate) fn up(&mut self) {
        let mut command = match self.brand {
            Brand::Ferret => {
                let mut command = Command::new(package_file("../target/servers/ferretdb"));
                command.args(["--listen", &self.addr.to_string()]);
                command.arg("--dir").arg(&self.dir);
                command
            }
            Brand::Java => {
                let classes = package_file("../target/servers/mongo-java");
                let mut command = Command::new("java");
                command
                    .arg("-cp")
                    .arg(format!("{0}/*:{0}", classes.display()));
                command.args(["MongoJava", &self.addr.port().to_string()]);
                command
            }
        };
        let log = File::create(self.dir.join("log")).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        wait_until("the database", PATIENCE, || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            TcpStream::connect(self.addr).map(drop).map_err(|error| {
                let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                format!("{error}; ended: {ended:?}; {log}")
            })
        });
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// `STOP` freezes it, `CONT` lets it go on.
    pub(crate) fn signal(&self, signal: &str) {
        Process::signal_to(self.child.as_ref().unwrap().id(), signal);
    }

    /// For the engine's config; `addr` may be that of a proxy.
    pub(crate) fn uri(addr: SocketAddr) -> String {
        format!("mongodb://{addr}/{DATABASE}")
    }

    /// What `ask` finds in the database.
    pub(crate) fn ask<T>(&self, ask: impl AsyncFnOnce(Database) -> mongodb::error::Result<T>) -> T {
        self.runtime.block_on(async {
            let client = Client::with_uri_str(Self::uri(self.addr)).await.unwrap();
            let database = client.default_database().unwrap();
            let answer = tokio::time::timeout(Duration::from_mins(2), ask(database)).await;
            client.shutdown().immediate(true).await;
            answer.unwrap().unwrap()
        })
    }

    /// All documents of a collection.
    pub(crate) fn documents(&self, collection: &str) -> Vec<Document> {
        self.documents_of(DATABASE, collection)
    }

    /// The same of any database.
    pub(crate) fn documents_of(&self, database: &str, collection: &str) -> Vec<Document> {
        self.ask(async |ours| {
            let mut documents = Vec::new();
            let mut cursor = ours
                .client()
                .database(database)
                .collection::<Document>(collection)
                .find(doc! {})
                // mongo-java-server would answer with more than the driver takes.
                .batch_size(10_000)
                .await?;
            while cursor.advance().await? {
                documents.push(cursor.deserialize_current()?);
            }
            Ok(documents)
        })
    }
}

impl Drop for MongoServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ended_already = child.kill();
            let _status = child.wait();
        }
    }
}
