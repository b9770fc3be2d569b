//! `qdrant://host:port/collection`: where a collection is.

use std::fmt;
use std::str::FromStr;

/// Port of a server's gRPC interface. Its HTTP interface has another, 6333, which this program does not speak.
pub const GRPC_PORT: u16 = 6334;
const HTTP_PORT: u16 = 6333;

/// What an address begins with, without and with TLS.
const SCHEMES: [(&str, &str); 2] = [("qdrant://", "http://"), ("qdrants://", "https://")];

/// A collection of a server. Two spellings of one address are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    tls: bool,
    host: String,
    port: u16,
    collection: String,
    /// A collection that is made has a dense vector without a name.
    unnamed: bool,
}

impl Address {
    /// Whether a text is meant as an address.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        SCHEMES.iter().any(|(scheme, _)| text.starts_with(scheme))
    }

    /// Name of the collection, or of an alias of one.
    #[must_use]
    pub fn collection(&self) -> &str {
        &self.collection
    }

    /// Whether a new collection gets a dense vector without a name, as Alexandria's tools look for.
    #[must_use]
    pub fn unnamed(&self) -> bool {
        self.unnamed
    }

    /// The same server, another collection.
    ///
    /// # Errors
    /// Not a name.
    pub fn with_collection(&self, collection: &str) -> Result<Address, AddressError> {
        if let Some(what) = fault_of_name(collection) {
            return Err(AddressError { text: collection.to_owned(), what, hint: FORM });
        }
        Ok(Address { collection: collection.to_owned(), ..self.clone() })
    }

    /// What the gRPC client connects to.
    pub(crate) fn uri(&self) -> String {
        let (_, scheme) = SCHEMES[usize::from(self.tls)];
        format!("{scheme}{}:{}", self.host, self.port)
    }

    /// A name for files that belong to this collection: letters, digits, `-`, `_` and `.` alone, with a hash where that
    /// is not the whole name.
    #[must_use]
    pub fn file_stem(&self) -> String {
        let name = format!("{}_{}_{}", self.host, self.port, self.collection);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.chars().all(is_plain) {
            return name;
        }
        let shown: String = name.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
        format!("{shown}_{}", &blake3::hash(name.as_bytes()).to_hex()[..8])
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, _) = SCHEMES[usize::from(self.tls)];
        write!(f, "{scheme}{}:{}/{}", self.host, self.port, self.collection)
    }
}

/// What is wrong with the name of a collection. Servers make folders of these names.
fn fault_of_name(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.contains('/') {
        Some("it names no collection")
    } else if name.chars().all(|c| c == '.')
        || name.chars().any(char::is_control)
        || name.len() > NAME_BYTES_MAX
    {
        Some("its collection has no usable name")
    } else {
        None
    }
}

/// As servers take it.
const NAME_BYTES_MAX: usize = 255;

/// Not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}: {what}")]
pub struct AddressError {
    text: String,
    what: &'static str,
    hint: &'static str,
}

impl AddressError {
    /// The user's next step.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.hint
    }
}

const FORM: &str = "write qdrant://HOST:6334/COLLECTION, or qdrants:// for TLS";

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |what, hint| AddressError { text: text.to_owned(), what, hint };
        let (tls, rest) = SCHEMES
            .iter()
            .zip([false, true])
            .find_map(|((scheme, _), tls)| Some((tls, text.strip_prefix(scheme)?)))
            .ok_or_else(|| wrong("not the address of a Qdrant collection", FORM))?;
        let (rest, unnamed) = match rest.split_once('?') {
            None => (rest, false),
            Some((rest, "unnamed")) => (rest, true),
            Some(_) => return Err(wrong("after `?` only `unnamed` is known", FORM)),
        };
        let (server, collection) =
            rest.split_once('/').ok_or_else(|| wrong("it names no collection", FORM))?;
        if let Some(what) = fault_of_name(collection) {
            return Err(wrong(what, FORM));
        }
        let (host, port) = match server.rsplit_once(':') {
            // An IPv6 address has colons of its own, inside brackets.
            Some((host, port)) if !port.contains(']') => {
                (host, port.parse().map_err(|_| wrong("its port is no number up to 65535", FORM))?)
            }
            _ => (server, GRPC_PORT),
        };
        if host.is_empty() {
            return Err(wrong("it names no host", FORM));
        }
        if host.contains('@') {
            let hint = "set HAUL_QDRANT_API_KEY to the server's key";
            return Err(AddressError {
                text: "the address".to_owned(),
                what: "it has no place for a password",
                hint,
            });
        }
        if port == HTTP_PORT {
            return Err(wrong("port 6333 is Qdrant's HTTP interface", "the gRPC interface is on 6334"));
        }
        Ok(Self { tls, host: host.to_owned(), port, collection: collection.to_owned(), unnamed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let whole: Address = "qdrant://localhost:7000/books".parse().unwrap();
        assert_eq!(whole.to_string(), "qdrant://localhost:7000/books");
        assert_eq!(whole.uri(), "http://localhost:7000");
        let short: Address = "qdrants://[::1]/books?unnamed".parse().unwrap();
        assert_eq!((short.uri().as_str(), short.unnamed()), ("https://[::1]:6334", true));
        assert!(short.file_stem().starts_with("---1-_6334_books_"));
        assert_eq!(whole.file_stem(), "localhost_7000_books");
        let named = |name: &str| whole.with_collection(name).map(|address| address.file_stem());
        assert_ne!(named("ä").unwrap(), named("ü").unwrap());
        assert!(named("..").is_err() && named("").is_err());
        for wrong in [
            "qdrant://localhost",
            "qdrant://localhost/",
            "qdrant:///books",
            "qdrant://localhost:99999/books",
            "qdrant://localhost:6333/books",
            "qdrant://localhost/a/b",
            "qdrant://localhost/a?named",
            "qdrant://localhost/..",
            "http://localhost/books",
        ] {
            let error = wrong.parse::<Address>().unwrap_err();
            assert!(error.to_string().starts_with(wrong), "{error}");
        }
    }
}
