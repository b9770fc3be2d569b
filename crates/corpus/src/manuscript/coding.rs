//! The text of a part, and its bytes again.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use super::part::PartKind;
use super::{ManuscriptError, RefusedEdit};
use crate::encoding;

/// Text in the encoding it came in.
pub(super) struct Source {
    pub(super) text: String,
    encoding: &'static Encoding,
    mark: Vec<u8>,
    /// Markup has a spelling for characters that its encoding lacks.
    has_references: bool,
}

impl Source {
    /// Decodes bytes, and checks that encoding gives them again.
    pub(super) fn decode(bytes: &[u8], kind: PartKind, place: &str) -> Result<Source, ManuscriptError> {
        let (encoding, mark_bytes) = match Encoding::for_bom(bytes) {
            Some(marked) => marked,
            None => (encoding::of_unmarked(bytes, kind.is_markup()), 0),
        };
        let (mark, content) = bytes.split_at(mark_bytes);
        let text = encoding.decode_without_bom_handling(content).0.into_owned();
        let source = Source { text, encoding, mark: mark.to_vec(), has_references: kind.is_markup() };
        if source.encode(&source.text) == bytes {
            return Ok(source);
        }
        Err(ManuscriptError::Encoding { place: place.to_owned(), encoding: encoding.name() })
    }

    /// The bytes of a text in this encoding, the byte order mark included.
    pub(super) fn encode(&self, text: &str) -> Vec<u8> {
        let mut bytes = self.mark.clone();
        if self.encoding == UTF_16LE {
            bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
        } else if self.encoding == UTF_16BE {
            bytes.extend(text.encode_utf16().flat_map(u16::to_be_bytes));
        } else {
            // What cannot be encoded becomes a numeric reference; plain text with such characters was refused.
            bytes.extend_from_slice(&self.encoding.encode(text).0);
        }
        bytes
    }

    /// Refuses text that the encoding cannot say.
    pub(super) fn check(&self, text: &str) -> Result<(), RefusedEdit> {
        if self.has_references || self.encoding.output_encoding() == UTF_8 {
            return Ok(());
        }
        let lacks = |character: &char| self.encoding.encode(character.encode_utf8(&mut [0; 4])).2;
        match text.chars().find(lacks) {
            Some(character) => Err(RefusedEdit::Encoding { encoding: self.encoding.name(), character }),
            None => Ok(()),
        }
    }
}
