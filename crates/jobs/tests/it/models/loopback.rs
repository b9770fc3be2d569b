//! A hub on the loopback interface: serves a folder as a repository, and misbehaves as told.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use sha2::Digest;

/// What the hub was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Path and query.
    pub(super) target: String,
    /// First byte of the range.
    pub(super) from: Option<usize>,
}

/// An answer, which may be cut.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub(super) cut_at: Option<usize>,
}

impl Answer {
    pub(super) fn status(status: u16) -> Answer {
        Answer { status, headers: vec![], body: b"no".to_vec(), cut_at: None }
    }

    pub(super) fn whole(body: Vec<u8>) -> Answer {
        let headers = vec![("Content-Length", body.len().to_string())];
        Answer { status: 200, headers, body, cut_at: None }
    }

    pub(super) fn redirect(to: &str) -> Answer {
        Answer {
            status: 302,
            headers: vec![("Location", to.into()), ("Content-Length", "0".into())],
            body: vec![],
            cut_at: None,
        }
    }

    /// The bytes from `from` on, as a server that knows ranges answers.
    pub(super) fn ranged(body: &[u8], from: Option<usize>) -> Answer {
        let Some(from) = from else {
            return Answer::whole(body.to_vec());
        };
        let mut answer = Answer::whole(body[from..].to_vec());
        answer.status = 206;
        answer.headers.push(("Content-Range", format!("bytes {from}-{}/{}", body.len() - 1, body.len())));
        answer
    }

    pub(super) fn cut_at(mut self, bytes: usize) -> Answer {
        self.cut_at = Some(bytes);
        self
    }
}

/// The files of a repository, and the listing of them.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

/// The weights are large files to the hub, everything else is in git.
const LARGE: &str = "model.safetensors";

impl Content {
    pub(super) fn listing(&self) -> Vec<serde_json::Value> {
        let directory =
            serde_json::json!({ "type": "directory", "path": "1_Pooling", "size": 0, "oid": "x" });
        let file = |(path, bytes): (&String, &Vec<u8>)| {
            let mut entry = serde_json::json!({
                "type": "file", "path": path, "size": bytes.len(), "oid": git_blob(bytes)
            });
            if path == LARGE {
                let sum: String = sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
                entry["lfs"] = serde_json::json!({ "oid": sum, "size": bytes.len(), "pointerSize": 134 });
            }
            entry
        };
        std::iter::once(directory).chain(self.files.iter().map(file)).collect()
    }

    /// What an honest hub answers to `asked` for `org/tiny` at `main`.
    pub(super) fn honest(&self, asked: &Asked) -> Answer {
        if asked.target == "/api/models/org/tiny/tree/main?recursive=true" {
            return Answer::whole(serde_json::to_vec(&self.listing()).unwrap());
        }
        match asked.target.strip_prefix("/org/tiny/resolve/main/").and_then(|path| self.files.get(path)) {
            Some(bytes) => Answer::ranged(bytes, asked.from),
            None => Answer::status(404),
        }
    }
}

pub(super) fn git_blob(bytes: &[u8]) -> String {
    let mut hash = sha1_smol::Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()).as_bytes());
    hash.update(bytes);
    hash.digest().to_string()
}

/// A running hub; stops when dropped.
pub(super) struct Loopback {
    pub(super) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Loopback {
    /// `answer` gets the request and how many requests for the same target came before it.
    pub(super) fn start(answer: impl Fn(&Asked, usize) -> Answer + Send + 'static) -> Loopback {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(vec![]));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopped) = (Arc::clone(&asked), Arc::clone(&stop));
        let server = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                serve(&stream.unwrap(), &log, &answer);
            }
        });
        Loopback { url, asked, stop, server: Some(server) }
    }

    /// All requests so far, in order.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The first bytes of the ranges asked of targets that end in `suffix`.
    pub(super) fn ranges_of(&self, suffix: &str) -> Vec<Option<usize>> {
        self.asked()
            .into_iter()
            .filter(|asked| asked.target.ends_with(suffix))
            .map(|asked| asked.from)
            .collect()
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the server out of `accept`.
        TcpStream::connect(self.url.trim_start_matches("http://")).unwrap();
        let served = self.server.take().unwrap().join();
        if !std::thread::panicking() {
            served.unwrap();
        }
    }
}

fn serve(stream: &TcpStream, log: &Mutex<Vec<Asked>>, answer: &impl Fn(&Asked, usize) -> Answer) {
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty());
    let Some(request) = lines.next() else { return };
    let target = request.split(' ').nth(1).unwrap().to_owned();
    let from = lines
        .filter_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned))
        .map(|range| range.trim_end_matches('-').parse().unwrap())
        .last();
    let asked = Asked { target, from };
    let before = {
        let mut log = log.lock().unwrap();
        let before = log.iter().filter(|other| other.target == asked.target).count();
        log.push(asked.clone());
        before
    };
    // The client hangs up on an answer that it refuses.
    let hung_up = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset, ErrorKind::NotConnected];
    match send(stream, &answer(&asked, before)) {
        Err(error) if hung_up.contains(&error.kind()) => {}
        sent => sent.unwrap(),
    }
}

fn send(mut stream: &TcpStream, answer: &Answer) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    stream.write_all(&answer.body[..answer.cut_at.unwrap_or(answer.body.len())])?;
    stream.shutdown(std::net::Shutdown::Write)
}
