//! Bytes from a hub to the disk: resumed, checked, and tried again a bounded number of times.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, LINK, RANGE};
use ureq::http::{HeaderName, Response};
use ureq::{Agent, Body};

use super::hub::{Hub, HubError, HubFile};

/// For name, TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// From the request to the end of the answer's headers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// For a whole page of a listing, so that a trickle does not go on for ever.
const PAGE_TIMEOUT: Duration = Duration::from_secs(120);
/// Without a byte for so long, a stream counts as cut.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The hub sends large files from another host: one redirect, two with a renamed repository.
const REDIRECTS_MAX: u32 = 5;
/// Attempts in a row that bring less than [`PROGRESS_BYTES_MIN`].
const ATTEMPTS_MAX: u32 = 5;
/// An attempt that brought so much more of a file starts the count of attempts anew.
const PROGRESS_BYTES_MIN: u64 = 8 << 20;
/// Before the second attempt; doubles with each.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);

const READ_BYTES: usize = 1 << 18;
const STOP_POLL: Duration = Duration::from_millis(50);

/// A connection to one hub.
pub(super) struct Client<'a> {
    agent: Agent,
    hub: String,
    stop: &'a dyn Fn() -> bool,
}

/// A whole answer, and its `Link` header.
pub(super) struct Page {
    pub(super) body: Vec<u8>,
    pub(super) link: Option<String>,
}

/// Why an attempt failed, and whether another one may go better.
enum Fault {
    /// `reached_bytes` of the file are on disk.
    Passing {
        error: HubError,
        reached_bytes: u64,
    },
    Lasting(HubError),
}

impl Fault {
    fn reached(self, reached_bytes: u64) -> Fault {
        match self {
            Fault::Passing { error, .. } => Fault::Passing { error, reached_bytes },
            lasting => lasting,
        }
    }
}

/// One file on its way.
struct Transfer<'t> {
    url: &'t str,
    /// Its length, as the listing says.
    bytes: u64,
    partial: &'t Path,
}

impl Transfer<'_> {
    fn cut(&self, bytes_done: u64, why: String) -> Fault {
        let error = HubError::Cut { url: self.url.into(), bytes_done, bytes: self.bytes, why };
        Fault::Passing { error, reached_bytes: bytes_done }
    }

    fn length(&self, found: u64) -> HubError {
        HubError::Length { url: self.url.into(), expected: self.bytes, found }
    }
}

impl<'a> Client<'a> {
    pub(super) fn new(hub: &Hub, stop: &'a dyn Fn() -> bool) -> Client<'a> {
        let agent = Agent::config_builder()
            // Settings are passed in: without this the environment would choose a proxy.
            .proxy(None)
            .https_only(hub.url.starts_with("https:"))
            .http_status_as_error(false)
            .max_redirects(REDIRECTS_MAX)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(STALL_TIMEOUT))
            .user_agent(concat!("haul/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Client { agent, hub: hub.url.trim_end_matches('/').into(), stop }
    }

    /// The hub's address, without a slash at its end.
    pub(super) fn hub(&self) -> &str {
        &self.hub
    }

    /// A small answer, whole.
    pub(super) fn text(&self, url: &str, bytes_max: u64) -> Result<Page, HubError> {
        self.persist(|| {
            let mut response = self.request(url, 0, Some(PAGE_TIMEOUT))?;
            let link = header(&response, &LINK).map(str::to_owned);
            let mut body = vec![];
            response
                .body_mut()
                .as_reader()
                .take(bytes_max + 1)
                .read_to_end(&mut body)
                .map_err(|source| passing(request_error(url, source.into())))?;
            if body.len() as u64 > bytes_max {
                return Err(Fault::Lasting(HubError::TooLarge { url: url.into(), bytes_max }));
            }
            Ok(Page { body, link })
        })
    }

    /// Brings `file` to `target`, by way of a partial file in `incoming` that is named by the file's checksum, so
    /// that a partial file never goes on with the bytes of another release. `progress` gets the bytes on disk.
    pub(super) fn file(
        &self,
        url: &str,
        file: &HubFile,
        incoming: &Path,
        target: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), HubError> {
        if target.is_file() && file.checksum.of_same_kind(target).map_err(failed_at(target))? == file.checksum
        {
            progress(file.bytes);
            return Ok(());
        }
        let partial = &incoming.join(file.checksum.hex());
        let transfer = Transfer { url, bytes: file.bytes, partial };
        self.persist(|| self.go_on(&transfer, progress))?;
        let found = file.checksum.of_same_kind(partial).map_err(failed_at(partial))?;
        if found != file.checksum {
            fs::remove_file(partial).map_err(failed_at(partial))?;
            return Err(HubError::Damaged { url: url.into(), expected: file.checksum.clone(), found });
        }
        move_into_place(partial, target).map_err(failed_at(target))
    }

    /// Until it works, the fault is a lasting one, or [`ATTEMPTS_MAX`] attempts in a row brought next to nothing.
    fn persist<T>(&self, mut attempt: impl FnMut() -> Result<T, Fault>) -> Result<T, HubError> {
        let (mut failures, mut best_bytes) = (0, 0);
        loop {
            let (error, reached_bytes) = match attempt() {
                Ok(done) => return Ok(done),
                Err(Fault::Lasting(error)) => return Err(error),
                Err(Fault::Passing { error, reached_bytes }) => (error, reached_bytes),
            };
            // Against the best of all attempts: a server that starts from 0 each time makes no progress.
            if reached_bytes >= best_bytes + PROGRESS_BYTES_MIN {
                (failures, best_bytes) = (0, reached_bytes);
            }
            failures += 1;
            if failures == ATTEMPTS_MAX {
                return Err(error);
            }
            tracing::warn!(%error, failures, "trying again");
            self.pause(BACKOFF_FIRST * 2_u32.pow(failures - 1))?;
        }
    }

    fn pause(&self, duration: Duration) -> Result<(), HubError> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            if (self.stop)() {
                return Err(HubError::Stopped);
            }
            std::thread::sleep(STOP_POLL);
        }
        Ok(())
    }

    /// One request for what the partial file lacks.
    fn go_on(&self, transfer: &Transfer<'_>, progress: &mut dyn FnMut(u64)) -> Result<(), Fault> {
        let failed = |source| Fault::Lasting(failed_at(transfer.partial)(source));
        let mut out = OpenOptions::new().create(true).append(true).open(transfer.partial).map_err(failed)?;
        let mut have = out.metadata().map_err(failed)?.len();
        if have > transfer.bytes {
            out.set_len(0).map_err(failed)?;
            have = 0;
        }
        progress(have);
        if have == transfer.bytes {
            return Ok(());
        }
        let mut response = self.request(transfer.url, have, None).map_err(|fault| fault.reached(have))?;
        let start = answer_start(transfer, &response, have).map_err(Fault::Lasting)?;
        if start < have {
            tracing::warn!(url = transfer.url, have, "the server does not go on where the download stopped");
            out.set_len(start).map_err(failed)?;
        }
        self.receive(transfer, &mut response, start, &mut out, progress)
    }

    /// Appends the body of the answer, which starts at byte `have` of the file.
    fn receive(
        &self,
        transfer: &Transfer<'_>,
        response: &mut Response<Body>,
        mut have: u64,
        out: &mut File,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Fault> {
        // One byte more than expected is enough to know.
        let mut body = response.body_mut().as_reader().take(transfer.bytes - have + 1);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if (self.stop)() {
                return Err(Fault::Lasting(HubError::Stopped));
            }
            let read = body.read(&mut buffer).map_err(|error| transfer.cut(have, error.to_string()))?;
            if read == 0 {
                break;
            }
            have += read as u64;
            if have > transfer.bytes {
                return Err(Fault::Lasting(transfer.length(have)));
            }
            out.write_all(&buffer[..read])
                .map_err(|source| Fault::Lasting(failed_at(transfer.partial)(source)))?;
            progress(have);
        }
        if have < transfer.bytes {
            return Err(transfer.cut(have, "end of stream".into()));
        }
        Ok(())
    }

    /// An answer of 200 or 206.
    fn request(&self, url: &str, from_byte: u64, timeout: Option<Duration>) -> Result<Response<Body>, Fault> {
        if (self.stop)() {
            return Err(Fault::Lasting(HubError::Stopped));
        }
        let mut request = self.agent.get(url).config().timeout_global(timeout).build();
        if from_byte > 0 {
            request = request.header(RANGE, format!("bytes={from_byte}-"));
        }
        let response = request.call().map_err(|error| {
            let passes = may_pass(&error);
            let error = request_error(url, error);
            if passes { passing(error) } else { Fault::Lasting(error) }
        })?;
        let status = response.status().as_u16();
        let error = || HubError::Status { url: url.into(), status };
        match status {
            200 | 206 => Ok(response),
            408 | 429 | 500..=599 => Err(passing(error())),
            _ => Err(Fault::Lasting(error())),
        }
    }
}

/// The byte of the file at which the answer starts: `asked`, or 0 from a server that knows no ranges.
fn answer_start(transfer: &Transfer<'_>, response: &Response<Body>, asked: u64) -> Result<u64, HubError> {
    if response.status().as_u16() != 206 {
        let length = header(response, &CONTENT_LENGTH).and_then(|length| length.parse().ok());
        return match length {
            Some(found) if found != transfer.bytes => Err(transfer.length(found)),
            _ => Ok(0),
        };
    }
    let range = header(response, &CONTENT_RANGE).unwrap_or("");
    let (start, of) = parse_content_range(range).unwrap_or((None, None));
    match (start, of) {
        (_, Some(found)) if found != transfer.bytes => Err(transfer.length(found)),
        (Some(start), _) if start == asked => Ok(asked),
        _ => Err(HubError::Range { url: transfer.url.into(), asked, got: range.into() }),
    }
}

/// First byte and whole length of `bytes 5-9/10` (RFC 9110, 14.4); the length may be `*`.
fn parse_content_range(range: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (positions, of) = range.strip_prefix("bytes ")?.split_once('/')?;
    Some((positions.split_once('-')?.0.parse().ok(), of.parse().ok()))
}

fn header<'r>(response: &'r Response<Body>, name: &HeaderName) -> Option<&'r str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Weather of the network, as opposed to a wrong address or a wrong certificate.
fn may_pass(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => error.kind() != io::ErrorKind::InvalidData,
        ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) => true,
        _ => false,
    }
}

fn passing(error: HubError) -> Fault {
    Fault::Passing { error, reached_bytes: 0 }
}

fn request_error(url: &str, source: ureq::Error) -> HubError {
    HubError::Request { url: url.into(), source: Box::new(source) }
}

fn failed_at(path: &Path) -> impl Fn(io::Error) -> HubError {
    move |source| HubError::Write { path: path.into(), source }
}

fn move_into_place(partial: &Path, target: &Path) -> io::Result<()> {
    File::open(partial)?.sync_all()?;
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::rename(partial, target)
}
