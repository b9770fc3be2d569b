//! Markup as a flat row of tokens with their byte ranges, which a browser's tokenizer does not tell.

use std::ops::Range;

use super::part::PartKind;

/// Elements of HTML with text in them that is not markup.
const RAW: [&str; 8] = ["script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"];

/// One token; comments, declarations and what is not closed are none.
pub(super) enum Token<'a> {
    Start(Tag<'a>),
    End(&'a str),
    Text(Range<usize>),
}

/// A start tag.
#[derive(Clone, Copy)]
pub(super) struct Tag<'a> {
    pub(super) name: &'a str,
    attributes: &'a str,
    pub(super) is_closed: bool,
}

impl<'a> Tag<'a> {
    /// The value of an attribute, as written.
    pub(super) fn attribute(self, name: &str) -> Option<&'a str> {
        let mut rest = self.attributes;
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
            let end =
                rest.find(|c: char| c.is_ascii_whitespace() || matches!(c, '=' | '/')).unwrap_or(rest.len());
            let (key, after) = rest.split_at(end);
            let value_at = after.trim_start().strip_prefix('=').map(str::trim_start);
            let (value, after) = match value_at {
                None => ("", after),
                Some(quoted) if quoted.starts_with(['"', '\'']) => {
                    let (quote, inner) = quoted.split_at(1);
                    inner.split_once(quote).unwrap_or((inner, ""))
                }
                Some(bare) => {
                    bare.split_at(bare.find(|c: char| c.is_ascii_whitespace()).unwrap_or(bare.len()))
                }
            };
            if key.eq_ignore_ascii_case(name) {
                return Some(value);
            }
            if after.is_empty() || after.len() == rest.len() {
                return None;
            }
            rest = after;
        }
    }
}

/// Reads tokens one after the other, each byte a bounded number of times.
pub(super) struct Scanner<'a> {
    source: &'a str,
    at: usize,
    is_html: bool,
    raw: Option<&'a str>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(source: &'a str, kind: PartKind) -> Scanner<'a> {
        Scanner { source, at: 0, is_html: kind == PartKind::Html, raw: None }
    }

    /// Where the next token starts.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    fn skip_raw(&mut self, name: &str) {
        let rest = &self.source.as_bytes()[self.at..];
        let is_end =
            |window: &[u8]| window.starts_with(b"</") && window[2..].eq_ignore_ascii_case(name.as_bytes());
        let end = rest.windows(name.len() + 2).position(is_end);
        self.at = end.map_or(self.source.len(), |end| self.at + end);
    }

    /// What follows `<`: a tag, or nothing that is read.
    fn markup(&mut self) -> Option<Token<'a>> {
        let rest = &self.source[self.at..];
        let ends = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", if self.is_html { ">" } else { "?>" })];
        if let Some((open, close)) = ends.iter().find(|(open, _)| rest.starts_with(open)) {
            let end = rest[open.len()..].find(close).map_or(rest.len(), |end| open.len() + end + close.len());
            self.at += end;
            return None;
        }
        if rest.starts_with("<!") {
            self.at += declaration_bytes(rest);
            return None;
        }
        let Some(end) = tag_bytes(rest) else {
            self.at = self.source.len();
            return None;
        };
        self.at += end;
        let inner = &rest[1..end - 1];
        let is_name_end = |c: char| c.is_ascii_whitespace() || c == '/';
        if let Some(name) = inner.strip_prefix('/') {
            return Some(Token::End(&name[..name.find(is_name_end).unwrap_or(name.len())]));
        }
        let (name, attributes) = inner.split_at(inner.find(is_name_end).unwrap_or(inner.len()));
        let is_closed = !self.is_html && attributes.ends_with('/');
        if self.is_html && RAW.iter().any(|raw| name.eq_ignore_ascii_case(raw)) {
            self.raw = Some(name);
        }
        Some(Token::Start(Tag { name, attributes, is_closed }))
    }
}

impl<'a> Iterator for Scanner<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        if let Some(name) = self.raw.take() {
            self.skip_raw(name);
        }
        while self.at < self.source.len() {
            let rest = &self.source[self.at..];
            if is_markup(rest.as_bytes()) {
                if let Some(token) = self.markup() {
                    return Some(token);
                }
                continue;
            }
            let starts = rest.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'<');
            let end =
                starts.map(|(at, _)| at).find(|&at| is_markup(&rest.as_bytes()[at..])).unwrap_or(rest.len());
            let start = self.at;
            self.at += end;
            return Some(Token::Text(start..self.at));
        }
        None
    }
}

fn is_markup(bytes: &[u8]) -> bool {
    match bytes {
        [b'<', b'/', next, ..] => next.is_ascii_alphabetic() || *next == b'_',
        [b'<', next, ..] => next.is_ascii_alphabetic() || matches!(next, b'!' | b'?' | b'_'),
        _ => false,
    }
}

/// Bytes of a tag with its `>`, which may stand in a quoted value; none where it does not end.
fn tag_bytes(rest: &str) -> Option<usize> {
    let mut quote = None;
    let mut may_quote = false;
    for (at, byte) in rest.bytes().enumerate() {
        match (quote, byte) {
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') if may_quote => quote = Some(byte),
            _ => {}
        }
        may_quote = byte == b'=' || may_quote && byte.is_ascii_whitespace();
    }
    None
}

/// Bytes of a declaration, with the declarations in brackets inside of it.
fn declaration_bytes(rest: &str) -> usize {
    let open = rest.find(['[', '>']).unwrap_or(rest.len());
    if !rest[open..].starts_with('[') {
        return (open + 1).min(rest.len());
    }
    let close = rest[open..].find(']').map_or(rest.len(), |close| open + close);
    rest[close..].find('>').map_or(rest.len(), |end| close + end + 1)
}
