//! Tokens of HTML, XHTML and XML, by a browser engine's tokenizer without its tree.
//!
//! A flat stream of tokens cannot overflow a stack or go quadratic on 100,000 nested tags, and it reads the
//! XML that books really have: unclosed elements, HTML entities, bare ampersands. Names of elements and
//! attributes come in lower case. Entities of a DTD are not defined, and nothing is fetched.

use std::cell::RefCell;

use html5ever::TokenizerResult;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token as HtmlToken, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};

/// Bytes handed to the tokenizer at a time, so that it holds no second copy of a large file.
const PIECE_BYTES: usize = 64 << 10;
/// Where a document type declaration starts, if there is one.
const PROLOG_BYTES: usize = 4 << 10;

/// Which rules the source follows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `<script>`, `<style>` and the like hold raw text.
    Html,
    /// As HTML, and `<![CDATA[...]]>` is text.
    Xhtml,
    /// No element holds raw text.
    Xml,
}

/// One token.
#[derive(Clone, Copy)]
pub(crate) enum Token<'a> {
    Start(Element<'a>),
    End(&'a str),
    Text(&'a str),
}

/// A start tag.
#[derive(Clone, Copy)]
pub(crate) struct Element<'a> {
    tag: &'a Tag,
}

impl<'a> Element<'a> {
    /// The name without its prefix.
    pub(crate) fn name(self) -> &'a str {
        local(&self.tag.name)
    }

    /// Written as `<name/>`; such an element has no content in any dialect, as its author meant it.
    pub(crate) fn is_self_closing(self) -> bool {
        self.tag.self_closing
    }

    /// The value of an attribute by its name in lower case, prefix included where it has one.
    pub(crate) fn attribute(self, name: &str) -> Option<&'a str> {
        self.tag.attrs.iter().find(|attribute| &*attribute.name.local == name).map(|a| &*a.value)
    }
}

/// Hands the tokens of `source` to `on_token`, in order.
pub(crate) fn tokens(source: &str, dialect: Dialect, on_token: impl FnMut(Token<'_>)) {
    let sink = Sink { dialect, on_token: RefCell::new(on_token) };
    let tokenizer = Tokenizer::new(sink, TokenizerOpts::default());
    let queue = BufferQueue::default();
    for mut rest in without_internal_subset(source) {
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES));
            queue.push_back(StrTendril::from_slice(piece));
            while !matches!(tokenizer.feed(&queue), TokenizerResult::Done) {}
            rest = after;
        }
    }
    tokenizer.end();
}

/// The source in two parts without what stands between them: the declarations inside `<!DOCTYPE x [...]>`, which
/// HTML does not know and would take for text.
fn without_internal_subset(source: &str) -> [&str; 2] {
    let parts = || {
        let prolog = &source[..source.floor_char_boundary(PROLOG_BYTES)];
        let doctype = prolog.to_ascii_lowercase().find("<!doctype")?;
        let open = doctype + prolog[doctype..].find(['[', '>'])?;
        let subset = source[open..].strip_prefix('[')?;
        let close =
            subset.match_indices(']').find(|(at, _)| subset[at + 1..].trim_start().starts_with('>'))?;
        Some([&source[..open], &subset[close.0 + 1..]])
    };
    parts().unwrap_or([source, ""])
}

/// `m:math` is `math`.
fn local(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

struct Sink<F> {
    dialect: Dialect,
    on_token: RefCell<F>,
}

impl<F: FnMut(Token<'_>)> TokenSink for Sink<F> {
    type Handle = ();

    fn process_token(&self, token: HtmlToken, _line: u64) -> TokenSinkResult<()> {
        let mut on_token = self.on_token.borrow_mut();
        match token {
            HtmlToken::TagToken(tag) if tag.kind == TagKind::StartTag => {
                on_token(Token::Start(Element { tag: &tag }));
                return self.content_of(&tag);
            }
            HtmlToken::TagToken(tag) => on_token(Token::End(local(&tag.name))),
            HtmlToken::CharacterTokens(text) => on_token(Token::Text(&text)),
            _ => {}
        }
        TokenSinkResult::Continue
    }

    fn adjusted_current_node_present_but_not_in_html_namespace(&self) -> bool {
        self.dialect != Dialect::Html
    }
}

impl<F> Sink<F> {
    /// Tells the tokenizer which elements hold text that is not markup.
    fn content_of(&self, tag: &Tag) -> TokenSinkResult<()> {
        if self.dialect == Dialect::Xml || tag.self_closing {
            return TokenSinkResult::Continue;
        }
        match &*tag.name {
            "title" | "textarea" => TokenSinkResult::RawData(RawKind::Rcdata),
            "style" | "iframe" | "noembed" | "noframes" | "xmp" => TokenSinkResult::RawData(RawKind::Rawtext),
            "script" => TokenSinkResult::RawData(RawKind::ScriptData),
            _ => TokenSinkResult::Continue,
        }
    }
}
