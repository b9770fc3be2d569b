//! A server with OpenAI's routes whose answers a test decides, those of a broken or hostile one too.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// A server on loopback, gone when it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    is_down: AtomicBool,
    asked: Mutex<Vec<Asked>>,
    live: AtomicUsize,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `/v1/chat/completions`, ...
    pub(crate) route: String,
    /// The header `Authorization`.
    pub(crate) key: Option<String>,
    pub(crate) body: Value,
    /// Requests that were being answered when it came, itself among them.
    pub(crate) live: usize,
    /// How many came before it on the same route.
    pub(crate) before: usize,
    /// How many of them with the same text.
    pub(crate) before_text: usize,
}

impl Asked {
    /// The content of the last turn, or the prompt.
    pub(crate) fn text(&self) -> &str {
        let last = self.body["messages"].as_array().and_then(|messages| messages.last());
        last.map_or(&self.body["prompt"], |message| &message["content"]).as_str().unwrap_or("")
    }
}

/// What comes back.
pub(crate) enum Reply {
    /// A sound answer with this text.
    Says(String),
    /// A status and a JSON document.
    Json(u16, Value),
    /// A status, headers and a body.
    Full(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// An answer whose connection ends in its middle.
    Cut,
    /// A document without end.
    Endless,
    /// Nothing, for so long.
    Silent(Duration),
    /// These bytes and the end.
    Raw(Vec<u8>),
}

/// The body of a sound answer.
pub(crate) fn answer(text: &str, finish: &str) -> Value {
    json!({
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "text": text, "finish_reason": finish}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
    })
}

impl Server {
    /// Offers the model `tiny` and answers calls by a rule.
    pub(crate) fn start(rule: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
        Server::with_models(json!({"data": [{"id": "tiny", "max_model_len": 512}]}), rule)
    }

    /// Answers `/v1/models` with `models`, and calls by a rule.
    pub(crate) fn with_models(
        models: Value,
        rule: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Server {
        Server::of_all(move |asked| {
            if asked.route == "/v1/models" { Reply::Json(200, models.clone()) } else { rule(asked) }
        })
    }

    /// Answers everything by a rule.
    pub(crate) fn of_all(rule: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            is_down: AtomicBool::new(false),
            asked: Mutex::new(vec![]),
            live: AtomicUsize::new(0),
        });
        let (state, rule) = (Arc::clone(&shared), Arc::new(rule));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if state.is_down.load(Ordering::SeqCst) {
                    return;
                }
                let (state, rule) = (Arc::clone(&state), Arc::clone(&rule));
                thread::spawn(move || serve(&stream.unwrap(), &state, rule.as_ref()));
            }
        });
        Server { address, shared }
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The calls that came, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let asked = self.shared.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.route != "/v1/models").cloned().collect()
    }

    /// Whether its list of models was asked for.
    pub(crate) fn is_asked_for_models(&self) -> bool {
        self.shared.asked.lock().unwrap().iter().any(|asked| asked.route == "/v1/models")
    }

    /// Refuses connections from now on.
    pub(crate) fn go_down(&self) {
        self.shared.is_down.store(true, Ordering::SeqCst);
        // The listener wakes up, sees it, and is gone.
        drop(TcpStream::connect(self.address));
        while TcpStream::connect(self.address).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.go_down();
    }
}

/// One request, one answer, the end. What goes wrong here is the client's doing, and its own matter.
fn serve(stream: &TcpStream, state: &Shared, rule: &dyn Fn(&Asked) -> Reply) {
    let Some((route, key, body)) = request(stream) else { return };
    let live = state.live.fetch_add(1, Ordering::SeqCst) + 1;
    let asked = {
        let mut all = state.asked.lock().unwrap();
        let before = all.iter().filter(|asked| asked.route == route).count();
        let mut asked = Asked { route, key, body, live, before, before_text: 0 };
        let is_same = |other: &&Asked| other.route == asked.route && other.text() == asked.text();
        asked.before_text = all.iter().filter(is_same).count();
        all.push(asked.clone());
        asked
    };
    let reply = rule(&asked);
    state.live.fetch_sub(1, Ordering::SeqCst);
    drop(write(stream, reply));
}

fn request(stream: &TcpStream) -> Option<(String, Option<String>, Value)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let route = line.split(' ').nth(1)?.to_owned();
    let (mut bytes, mut key) = (0, None);
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => bytes = value.parse().ok()?,
            "authorization" => key = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; bytes];
    reader.read_exact(&mut body).ok()?;
    Some((route, key, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

fn write(mut stream: &TcpStream, reply: Reply) -> std::io::Result<()> {
    const JSON: (&str, &str) = ("content-type", "application/json");
    let json_header = || vec![(JSON.0, JSON.1.to_owned())];
    let (status, headers, body) = match reply {
        Reply::Says(text) => (200, json_header(), answer(&text, "stop").to_string().into_bytes()),
        Reply::Json(status, value) => (status, json_header(), value.to_string().into_bytes()),
        Reply::Full(status, headers, body) => (status, headers, body),
        Reply::Cut => {
            return stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"choices\": [",
            );
        }
        Reply::Endless => {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"a\": \"",
            )?;
            let block = [b'x'; 1 << 16];
            loop {
                stream.write_all(&block)?;
            }
        }
        Reply::Silent(duration) => {
            thread::sleep(duration);
            return Ok(());
        }
        Reply::Raw(bytes) => return stream.write_all(&bytes),
    };
    let mut head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    stream.write_all(&body)
}
