//! Where a server is, which of its models is asked, and the key that it may want.

use std::fmt;
use std::ops::Range;

use ureq::http::Uri;

/// Where OpenAI's routes stand where an address has no path.
const PATH_USUAL: &str = "/v1";
/// What people copy along with an address.
const ROUTES: [&str; 3] = ["/chat/completions", "/completions", "/models"];
/// Browsers and servers take no longer address either.
const ADDRESS_BYTES_MAX: usize = 2048;
/// Tokens of identity providers have up to some thousand bytes.
const KEY_BYTES_MAX: usize = 8192;

/// `http(s)://host[:port][/path][#model]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    base: String,
    model: Option<String>,
}

/// No address of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Longer than any address is.
    #[error("an address of {bytes} bytes, of at most {ADDRESS_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It cannot be read as one.
    #[error("{address:?} is no address of a server: {why}")]
    Unreadable {
        /// As given.
        address: String,
        /// What is wrong.
        why: String,
    },
    /// A name or a password would be printed and kept with the address, so it is not shown here either.
    #[error("an address with a name or a password before its host")]
    Credentials,
}

impl AddressError {
    /// The user's next step.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Credentials => "give the key of the server as HAUL_API_KEY",
            Self::TooLong { .. } | Self::Unreadable { .. } => {
                "a server is http://HOST:PORT, or https://HOST/v1, and with #NAME behind it where it has several models"
            }
        }
    }
}

impl ServerAddress {
    /// Whether a model is named by the address of a server.
    #[must_use]
    pub fn is_one(name: &str) -> bool {
        let begins =
            |scheme: &str| name.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
        begins("http://") || begins("https://")
    }

    /// Reads an address. Without a path it is the usual `/v1`.
    ///
    /// # Errors
    /// It is none, or has parts that a base of routes has not.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(AddressError::TooLong { bytes: text.len() });
        }
        let (address, model) = match text.split_once('#') {
            Some((address, model)) => (address, Some(model)),
            None => (text, None),
        };
        let unreadable =
            |why: &str| AddressError::Unreadable { address: address.to_owned(), why: why.to_owned() };
        // Before anything that quotes the address.
        let authority = address.split_once("://").map_or("", |(_, rest)| rest);
        let authority = authority.split(['/', '?']).next().unwrap_or(authority);
        if authority.contains('@') {
            return Err(AddressError::Credentials);
        }
        let uri: Uri =
            address.parse().map_err(|error: ureq::http::uri::InvalidUri| unreadable(&error.to_string()))?;
        if !Self::is_one(address) || uri.host().is_none_or(str::is_empty) {
            return Err(unreadable("it has no host behind http:// or https://"));
        }
        if uri.host() != Some(authority) && uri.port_u16().is_none() {
            return Err(unreadable("its port is none"));
        }
        if uri.query().is_some() {
            return Err(unreadable("it has a question mark"));
        }
        if model.is_some_and(|model| model.is_empty() || model.chars().any(char::is_control)) {
            return Err(unreadable("no name of a model stands behind #"));
        }
        let mut path = uri.path().trim_end_matches('/');
        for route in ROUTES {
            path = path.strip_suffix(route).unwrap_or(path);
        }
        let path = if path.is_empty() { PATH_USUAL } else { path };
        let scheme = uri.scheme_str().unwrap_or("http").to_ascii_lowercase();
        Ok(Self { base: format!("{scheme}://{authority}{path}"), model: model.map(str::to_owned) })
    }

    /// The model that stands behind `#`.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Whether what is sent is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.base.starts_with("https://")
    }

    pub(super) fn url(&self, route: &str) -> String {
        format!("{}{route}", self.base)
    }
}

/// Without the model.
impl fmt::Display for ServerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.base)
    }
}

/// What a server knows its users by. It is sent, and never shown, logged or kept.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

/// A key that cannot be sent. It is not in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key of {bytes} bytes: one has 1 to {KEY_BYTES_MAX}, visible characters of ASCII alone")]
pub struct KeyError {
    bytes: usize,
}

impl ApiKey {
    /// A key that can stand in a header.
    ///
    /// # Errors
    /// It cannot.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        let is_sound =
            (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_sound { Ok(Self(text.to_owned())) } else { Err(KeyError { bytes: text.len() }) }
    }

    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// A text without the key: servers quote what they refuse. It is found also where it stands in JSON, in JSON inside
    /// of JSON, or as Rust quotes it.
    pub(super) fn masked(&self, text: &str) -> String {
        let key: Vec<char> = self.0.chars().filter(|c| *c != '\\').collect();
        let text = text.replace(&self.0, MASK);
        let plain = unescaped(&text);
        let (mut masked, mut from, mut at) = (String::with_capacity(text.len()), 0, 0);
        while let Some(window) = plain.get(at..at + key.len()).filter(|window| !window.is_empty()) {
            if window.iter().map(|found| found.char).eq(key.iter().copied()) {
                masked.push_str(&text[from..window[0].range.start]);
                masked.push_str(MASK);
                at += window.len();
                from = plain[at - 1].range.end;
            } else {
                at += 1;
            }
        }
        masked + &text[from..]
    }
}

/// What stands in place of a key.
const MASK: &str = "[key]";

/// A character, and where it stands with the backslashes before it.
struct Plain {
    char: char,
    range: Range<usize>,
}

/// The characters of a text that stand for themselves, without backslashes and with `\u0022` resolved.
fn unescaped(text: &str) -> Vec<Plain> {
    let mut plain = Vec::with_capacity(text.len());
    let (mut backslashes, mut at) = (None, 0);
    while let Some(c) = text[at..].chars().next() {
        let (start, mut end) = (backslashes.take().unwrap_or(at), at + c.len_utf8());
        let code = text.get(end..end + 4).filter(|_| c == 'u' && start < at);
        let resolved = code.and_then(|code| u32::from_str_radix(code, 16).ok()).and_then(char::from_u32);
        end += if resolved.is_some() { 4 } else { 0 };
        match resolved.unwrap_or(c) {
            '\\' => backslashes = Some(start),
            char => plain.push(Plain { char, range: start..end }),
        }
        at = end;
    }
    plain
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ApiKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, base, model) in [
            ("http://localhost:8000", "http://localhost:8000/v1", None),
            ("http://localhost:8000/", "http://localhost:8000/v1", None),
            ("HTTP://10.0.0.1:80/v1/", "http://10.0.0.1:80/v1", None),
            ("http://[::1]:8080/v1", "http://[::1]:8080/v1", None),
            ("https://example.org/llm/v1#qwen3:8b", "https://example.org/llm/v1", Some("qwen3:8b")),
            ("http://h/v1/chat/completions", "http://h/v1", None),
        ] {
            assert!(ServerAddress::is_one(text), "{text}");
            let address = ServerAddress::parse(text).unwrap();
            assert_eq!((address.to_string().as_str(), address.model()), (base, model), "{text}");
        }
        for name in ["model.gguf", "/http://x", "http:/x", "https", "ftp://h"] {
            assert!(!ServerAddress::is_one(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_and_passwords_are_not_shown() {
        for text in ["http://", "http://h y", "http://h?x=1", "http://h#", "http://:80", "http://h:99999999"]
        {
            assert!(matches!(ServerAddress::parse(text), Err(AddressError::Unreadable { .. })), "{text}");
        }
        let error = ServerAddress::parse("http://me:secret@h/v1").unwrap_err();
        assert_eq!(error, AddressError::Credentials);
        assert!(!error.to_string().contains("secret"));
        assert!(ServerAddress::parse(&format!("http://h/{}", "x".repeat(4096))).is_err());
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = ApiKey::new("sk-secret").unwrap();
        assert_eq!(format!("{key:?}"), "ApiKey(..)");
        assert_eq!(key.masked("Incorrect API key: sk-secret."), "Incorrect API key: [key].");
        let key = ApiKey::new(r#"sk-"k\e/y"#).unwrap();
        for text in [
            r#"sk-"k\e/y"#,
            r#"sk-\"k\\e/y"#,
            r#"sk-\\\"k\\\\e\/y"#,
            r"sk-\u0022k\u005ce\u002fy",
            r#""sk-\"k\\e/y""#,
        ] {
            let masked = key.masked(&format!("a\\b {text} c, {text}."));
            assert!(masked.starts_with(r"a\b ") && masked.matches("[key]").count() == 2, "{masked}");
            assert!(!masked.contains("sk-") && !masked.contains("/y"), "{masked}");
        }
        assert_eq!(key.masked("nothing of it: sk-"), "nothing of it: sk-");
        assert_eq!(ApiKey::new(r"\\").unwrap().masked(r"a\\b"), "a[key]b");
        for text in ["", "a b", "a\nb", "é"] {
            assert!(!ApiKey::new(text).unwrap_err().to_string().contains("a b"), "{text:?}");
        }
    }
}
