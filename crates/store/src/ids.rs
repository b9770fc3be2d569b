//! Ids made from content alone, so that two machines, or one machine twice, name the same thing alike.

use std::fmt;

use uuid::Uuid;

/// Namespace of every UUIDv5 Haul makes. Changing it would orphan every library ever written.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_3c52_7be4_4d0a_9c2e_48a1_75d0_b3e6);

/// What a library's vectors depend on beside the text: [`LibrarySettings::fingerprint`].
///
/// [`LibrarySettings::fingerprint`]: crate::library::LibrarySettings::fingerprint
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// Address of a vector: the text it was made from and the fingerprint of the pipeline that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VectorKey(pub [u8; 32]);

impl VectorKey {
    /// blake3 of the text, keyed with the fingerprint.
    #[must_use]
    pub fn of(text: &str, fingerprint: &Fingerprint) -> Self {
        Self(*blake3::keyed_hash(&fingerprint.0, text.as_bytes()).as_bytes())
    }
}

impl fmt::Display for VectorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// Id of a plain file, or of one part of it (a line's `id` in a JSONL): where it stands below its root, not
/// where the root stands.
#[must_use]
pub fn doc_id_for_file(collection: &str, relative_path: &str, part: Option<&str>) -> Uuid {
    let mut name = Vec::new();
    for field in [Some(collection), Some(relative_path), part].into_iter().flatten() {
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        name.extend_from_slice(&(field.len() as u64).to_le_bytes());
        name.extend_from_slice(field.as_bytes());
    }
    Uuid::new_v5(&NAMESPACE, &name)
}

/// Id of a book's file in a Calibre library: neither a new title nor another folder changes it. `format` is Calibre's,
/// in lower case.
#[must_use]
pub fn doc_id_for_book(library_uuid: &str, book_uuid: &str, format: &str) -> Uuid {
    let mut name = b"calibre|".to_vec();
    for field in [library_uuid, book_uuid, format] {
        name.extend_from_slice(&(field.len() as u64).to_le_bytes());
        name.extend_from_slice(field.as_bytes());
    }
    Uuid::new_v5(&NAMESPACE, &name)
}

/// Revision of a document: blake3 of its content hash and the fingerprint it was read and embedded with.
#[must_use]
pub fn revision(content_hash: &[u8; 32], fingerprint: &Fingerprint) -> [u8; 32] {
    *blake3::keyed_hash(&fingerprint.0, content_hash).as_bytes()
}

/// Id of a chunk: UUIDv5 of (document, revision, number, blake3 of the text).
#[must_use]
pub fn point_id(doc_id: &Uuid, revision: &[u8; 32], chunk_no: u32, text: &str) -> Uuid {
    let mut name = [0; 16 + 32 + 4 + 32];
    name[..16].copy_from_slice(doc_id.as_bytes());
    name[16..48].copy_from_slice(revision);
    name[48..52].copy_from_slice(&chunk_no.to_le_bytes());
    name[52..].copy_from_slice(blake3::hash(text.as_bytes()).as_bytes());
    Uuid::new_v5(&NAMESPACE, &name)
}

/// Sections count from here, so that the first section and the first chunk of a document differ even where their texts
/// do not.
const FIRST_SECTION: u32 = 1 << 31;

/// Id of a section: [`point_id`] with a number that no chunk has.
#[must_use]
pub fn section_point_id(doc_id: &Uuid, revision: &[u8; 32], section_no: u32, text: &str) -> Uuid {
    point_id(doc_id, revision, FIRST_SECTION | section_no, text)
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Libraries hold these ids: a change here is a change of the format on disk.
    #[test]
    fn ids_are_pinned() {
        let doc = doc_id_for_file("default", "novels/emma.epub", None);
        assert_eq!(doc.to_string(), "6da6f0df-2f9c-5d09-819b-f1281e0e2733");
        let book = doc_id_for_book("eafa892d-9652-45ad-989e-64b8980a49da", "34c8f500", "epub");
        assert_eq!(book.to_string(), "37b1e65d-d2f5-55aa-bd8a-85a858a3c435");
        let fingerprint = Fingerprint([7; 32]);
        let revision = revision(&[1; 32], &fingerprint);
        assert_eq!(point_id(&doc, &revision, 3, "text").to_string(), "5796d2f4-454e-5e9f-9557-6acfa4c9cf6d");
        assert_eq!(&VectorKey::of("text", &fingerprint).to_string()[..16], "87a381a446cd64d4");
    }

    #[test]
    fn neighbouring_names_differ() {
        let ids = [
            doc_id_for_file("a", "bc", None),
            doc_id_for_file("ab", "c", None),
            doc_id_for_file("a", "b", Some("c")),
            doc_id_for_file("a", "bc", Some("")),
        ];
        for (i, id) in ids.iter().enumerate() {
            assert!(!ids[..i].contains(id));
        }
    }
}
