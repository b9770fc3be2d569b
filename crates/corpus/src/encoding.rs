//! Bytes to text: UTF-8, UTF-16 by its mark, a declared encoding, or windows-1252.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// Where an HTML or XML file must declare its encoding, by the HTML standard.
const DECLARATION_BYTES: usize = 1024;

/// Text with what decoding it took.
pub(crate) struct Decoded {
    pub(crate) text: String,
    /// U+FFFD put in the place of bytes without meaning, and of NUL.
    pub(crate) replaced_characters: usize,
    /// Neither a mark nor a declaration nor valid UTF-8: read as windows-1252.
    pub(crate) guessed: bool,
}

/// Decodes plain text.
pub(crate) fn decode(bytes: Vec<u8>) -> Decoded {
    decode_as(bytes, None)
}

/// Decodes HTML or XML, which may declare its encoding near its start.
pub(crate) fn decode_markup(bytes: Vec<u8>) -> Decoded {
    let declared = declared_encoding(&bytes);
    decode_as(bytes, declared)
}

fn decode_as(bytes: Vec<u8>, declared: Option<&'static Encoding>) -> Decoded {
    if let Some((encoding, mark_bytes)) = Encoding::for_bom(&bytes) {
        return replacing(encoding, &bytes[mark_bytes..], false);
    }
    let bytes = match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => {
            return Decoded { text, replaced_characters: 0, guessed: false };
        }
        Ok(text) => text.into_bytes(),
        Err(error) => error.into_bytes(),
    };
    match declared {
        // UTF-16 without its mark cannot have been read as far as this declaration.
        Some(encoding) if encoding.is_ascii_compatible() && encoding != UTF_8 => {
            replacing(encoding, &bytes, false)
        }
        _ if is_mostly_utf_8(&bytes) => replacing(UTF_8, &bytes, false),
        _ => replacing(WINDOWS_1252, &bytes, true),
    }
}

/// The encoding of bytes without a mark, as decoding them takes it.
pub(crate) fn of_unmarked(bytes: &[u8], may_declare: bool) -> &'static Encoding {
    let declared = if may_declare { declared_encoding(bytes) } else { None };
    match declared {
        _ if std::str::from_utf8(bytes).is_ok() => UTF_8,
        Some(encoding) if encoding.is_ascii_compatible() && encoding != UTF_8 => encoding,
        _ if is_mostly_utf_8(bytes) => UTF_8,
        _ => WINDOWS_1252,
    }
}

fn replacing(encoding: &'static Encoding, bytes: &[u8], guessed: bool) -> Decoded {
    let (text, _) = encoding.decode_without_bom_handling(bytes);
    let text = if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text.into_owned() };
    let replaced_characters = text.matches('\u{fffd}').count();
    Decoded { text, replaced_characters, guessed }
}

/// One damaged byte must not turn every accent of a UTF-8 book into two wrong letters.
fn is_mostly_utf_8(bytes: &[u8]) -> bool {
    let mut valid = 0;
    let mut invalid = 0;
    for chunk in bytes.utf8_chunks() {
        valid += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        invalid += usize::from(!chunk.invalid().is_empty());
    }
    valid >= invalid
}

/// The encoding named by `<?xml encoding="...">` or `<meta charset=...>`.
fn declared_encoding(bytes: &[u8]) -> Option<&'static Encoding> {
    let start = &bytes[..bytes.len().min(DECLARATION_BYTES)];
    let start = String::from_utf8_lossy(start).to_ascii_lowercase();
    ["encoding", "charset"].iter().find_map(|key| {
        let (_, after) = start.split_once(key)?;
        let value = after.trim_start().strip_prefix('=')?.trim_start();
        let label = value.trim_start_matches(['"', '\'']);
        let end = label.find(|c: char| !c.is_ascii_alphanumeric() && !"-_:.".contains(c));
        Encoding::for_label(&label.as_bytes()[..end.unwrap_or(label.len())])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_declarations_and_guesses() {
        let utf_16: Vec<u8> = "\u{feff}Ünï".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(decode(utf_16).text, "Ünï");
        assert_eq!(decode(b"\xef\xbb\xbfmarked".to_vec()).text, "marked");

        let guessed = decode(b"caf\xe9 \x93quoted\x94".to_vec());
        assert_eq!((guessed.text.as_str(), guessed.guessed), ("café “quoted”", true));

        let declared = b"<?xml version='1.0' encoding='iso-8859-2'?>\xb3".to_vec();
        let declared = decode_markup(declared);
        assert!(declared.text.ends_with('ł') && !declared.guessed);
        let declared = decode_markup(b"<meta charset=windows-1251>\xcf".to_vec());
        assert!(declared.text.ends_with('П'));
    }

    #[test]
    fn a_damaged_byte_is_one_replaced_character() {
        let damaged = decode("żółw".bytes().chain([0xff]).chain("ść".bytes()).collect());
        assert_eq!(damaged.text, "żółw\u{fffd}ść");
        assert_eq!((damaged.replaced_characters, damaged.guessed), (1, false));
    }

    #[test]
    fn nul_never_reaches_the_text() {
        let decoded = decode(b"a\0b".to_vec());
        assert_eq!((decoded.text.as_str(), decoded.replaced_characters), ("a\u{fffd}b", 1));
    }
}
