//! Hashes of what a library holds. They name content only: no time stamp, no row number, no absolute path.

use serde_json::Value;

/// A document's fields as the table holds them.
pub(crate) struct DocumentPayload<'a> {
    pub(crate) doc_id: &'a [u8; 16],
    pub(crate) collection: &'a str,
    pub(crate) relative_path: &'a str,
    pub(crate) part: Option<&'a str>,
    pub(crate) format: &'a str,
    pub(crate) size_bytes: u64,
    pub(crate) content_hash: &'a [u8; 32],
    pub(crate) revision: &'a [u8; 32],
    pub(crate) source: &'a str,
    pub(crate) source_id: Option<&'a str>,
    pub(crate) title: &'a str,
    /// JSON list.
    pub(crate) authors: &'a str,
    pub(crate) language: Option<&'a str>,
    pub(crate) detected_language: Option<&'a str>,
    /// JSON, as [`canonical`] writes it.
    pub(crate) metadata: &'a str,
    /// JSON list.
    pub(crate) chapters: &'a str,
    pub(crate) truncated_tokens: u64,
}

impl DocumentPayload<'_> {
    pub(crate) fn hash(&self) -> [u8; 32] {
        let mut fields = Fields::default();
        fields.bytes(self.doc_id).bytes(self.content_hash).bytes(self.revision);
        fields.text(self.collection).text(self.relative_path).optional(self.part).text(self.format);
        fields.number(self.size_bytes).text(self.source).optional(self.source_id);
        fields.text(self.title).text(self.authors);
        fields.optional(self.language).optional(self.detected_language);
        fields.text(self.metadata).text(self.chapters).number(self.truncated_tokens);
        fields.finish()
    }
}

/// A chunk's fields as the table holds them; its document's fields are hashed apart.
pub(crate) struct ChunkPayload<'a> {
    pub(crate) chunk_no: u32,
    pub(crate) chapter: u32,
    pub(crate) page: Option<u32>,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) overlap_bytes: u32,
    pub(crate) tokens: u32,
    pub(crate) text: &'a str,
    pub(crate) section_no: Option<u32>,
}

impl ChunkPayload<'_> {
    pub(crate) fn hash(&self) -> [u8; 32] {
        let mut fields = Fields::default();
        fields.number(self.chunk_no.into()).number(self.chapter.into());
        // Pages count from 1, so 0 stands for none.
        fields.number(self.page.unwrap_or(0).into());
        fields.number(self.start).number(self.end).number(self.overlap_bytes.into());
        fields.number(self.tokens.into()).text(self.text);
        // Chunks without a section hash as they did before there were any.
        if let Some(section_no) = self.section_no {
            fields.number(section_no.into());
        }
        fields.finish()
    }
}

/// A section's fields as the table holds them; its document's fields are hashed apart.
pub(crate) struct SectionPayload<'a> {
    pub(crate) section_no: u32,
    pub(crate) name: &'a str,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) tokens: u32,
    pub(crate) text: &'a str,
    pub(crate) embedded: Option<&'a str>,
}

impl SectionPayload<'_> {
    pub(crate) fn hash(&self) -> [u8; 32] {
        let mut fields = Fields::default();
        fields.text("section").number(self.section_no.into()).text(self.name);
        fields.number(self.start).number(self.end).number(self.tokens.into());
        fields.text(self.text).optional(self.embedded);
        fields.finish()
    }
}

/// First 64 bits of a hash: what a table keeps of it, enough to notice damage.
pub(crate) fn check_of(hash: &[u8; 32]) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// JSON with the keys of every object in order, so that equal metadata are equal bytes.
pub(crate) fn canonical(value: &Value) -> String {
    sorted(value).to_string()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            Value::Object(fields.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
        }
        _ => value.clone(),
    }
}

/// A list of fields under one hash; lengths keep neighbours apart.
#[derive(Default)]
struct Fields(blake3::Hasher);

impl Fields {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn optional(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.number(1).text(text),
            None => self.number(0),
        }
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_order_does_not_matter() {
        let one: Value = serde_json::from_str(r#"{"b":[{"y":1,"x":2}],"a":null}"#).unwrap();
        assert_eq!(canonical(&one), r#"{"a":null,"b":[{"x":2,"y":1}]}"#);
    }
}
