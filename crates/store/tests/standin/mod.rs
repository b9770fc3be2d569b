//! A stand-in for a Qdrant server: a process of its own that speaks the real gRPC and keeps what it confirmed across
//! `kill -9`. It is no Qdrant: it holds everything in memory, ranks by plain loops, and knows the few calls this
//! program makes. What it can do and a real server cannot is fail on demand, at the n-th call of a kind.
//!
//! A test binary starts itself again as the server ([`Server::start`]); `serve` is that process's whole life.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a program of its own: it has an environment, and says on stdout what it does"
)]

mod faults;
mod memory;
mod service;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use qdrant_client::Qdrant;

/// Where the process finds its folder, port and faults.
const FOLDER: &str = "STANDIN_FOLDER";
const PORT: &str = "STANDIN_PORT";
const FAULTS: &str = "STANDIN_FAULTS";

/// Lines of the server that are not read yet: it says one at a fault.
const LINES_MAX: usize = 1 << 16;
/// Longest wait for a line of the server.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves until it is killed, if this process was started as the server; else does nothing.
pub(crate) fn serve() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let port: u16 = std::env::var(PORT).unwrap().parse().unwrap();
    let faults = faults::Faults::parse(&std::env::var(FAULTS).unwrap_or_default());
    service::run(Path::new(&folder), port, faults);
}

/// A running stand-in, killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    lines: Receiver<String>,
    folder: PathBuf,
    pub(crate) port: u16,
}

impl Server {
    /// Starts `this_test`, the test that calls [`serve`], as a process of its own. `faults` is a list such as
    /// `upsert:3:refuse,upsert:5:half,count:2:delay=300,delete:1:die`; port 0 takes a free one.
    pub(crate) fn start(folder: &Path, port: u16, faults: &str, this_test: &str) -> Server {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([this_test, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder)
            .env(PORT, port.to_string())
            .env(FAULTS, faults)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, lines) = sync_channel(LINES_MAX);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut server = Server { child, lines, folder: folder.to_owned(), port };
        let serving = server.wait_for("serving ");
        server.port = serving.rsplit_once(' ').unwrap().1.parse().unwrap();
        server
    }

    /// The address of a collection on it.
    pub(crate) fn address(&self, collection: &str) -> String {
        format!("qdrant://127.0.0.1:{}/{collection}", self.port)
    }

    /// Waits for a line that begins so, and gives it.
    pub(crate) fn wait_for(&self, begin: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(begin) => return line,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("the stand-in never said {begin:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the stand-in ended before it said {begin:?}"),
            }
        }
    }

    /// Faults that hit so far.
    pub(crate) fn faults_hit(&self) -> usize {
        self.lines.try_iter().filter(|line| line.contains("fault ")).count()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its own end.
    pub(crate) fn wait(&mut self) {
        self.child.wait().unwrap();
    }

    /// Another life of the same server, with what it had confirmed.
    pub(crate) fn restarted(mut self, faults: &str, this_test: &str) -> Server {
        if self.child.try_wait().unwrap().is_none() {
            self.kill();
        }
        Server::start(&self.folder.clone(), self.port, faults, this_test)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// Asks a collection as any other program would, by a client of its own.
pub(crate) fn ask<T>(address: &str, work: impl AsyncFnOnce(&Qdrant, &str) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (server, collection) = address.strip_prefix("qdrant://").unwrap().split_once('/').unwrap();
    let client = Qdrant::from_url(&format!("http://{server}")).skip_compatibility_check().build().unwrap();
    runtime.block_on(work(&client, collection))
}
