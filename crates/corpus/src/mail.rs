//! Mails as Outlook saves them (`.msg`): subject, sender, receivers, date and body. A mail that hangs on another is part
//! of it; files that hang on it are counted here, and unpacked by [`crate::container`]. Pictures that its text shows are
//! counted alone.

use std::fs::File;
use std::io::{Cursor, Read, Seek};

use cfb::CompoundFile;

use crate::chapters;
use crate::document::{BlockKind, Document};
use crate::encoding;
use crate::html::{self, one_line_title};
use crate::limits::{Limits, MAIL_ATTACHMENTS_MAX, MAIL_DEPTH_MAX};
use crate::parse::unreadable;
use crate::text;
use crate::verdict::{ParseFailure, Verdict};
use crate::workbook;

/// Properties by the numbers that MAPI gives them.
const SUBJECT: &str = "0037";
const SENDER_NAME: &str = "0C1A";
const SENDER_SMTP: &str = "5D01";
const SENDER_ADDRESS: &str = "0C1F";
const TO: &str = "0E04";
const CC: &str = "0E03";
const BODY: &str = "1000";
const HTML_BODY: &str = "1013";
const RTF_BODY: &str = "1009";
const ATTACHED_NAMES: [&str; 3] = ["3707", "3704", "3001"];
const CONTENT_ID: &str = "3712";
const ATTACHED_BYTES: &str = "__substg1.0_37010102";
const ATTACHED_MAIL: &str = "__substg1.0_3701000D";
const SENT: u32 = 0x0039_0040;
const DELIVERED: u32 = 0x0E06_0040;
const CODE_PAGE: u32 = 0x3FFD_0003;

/// A mail in its compound file.
pub(crate) struct Mail {
    file: CompoundFile<Cursor<Vec<u8>>>,
    limits: Limits,
}

/// A file that hangs on a mail.
pub(crate) struct Attachment {
    pub(crate) name: String,
    pub(crate) content: Result<Vec<u8>, ParseFailure>,
}

/// The files that hang on a mail and on the mails that hang on it.
#[derive(Default)]
pub(crate) struct Attachments {
    pub(crate) files: Vec<Attachment>,
    /// Files beyond [`MAIL_ATTACHMENTS_MAX`].
    beyond: usize,
    /// Mails deeper than [`MAIL_DEPTH_MAX`], which nobody looked into.
    too_deep: usize,
}

impl Attachments {
    /// What of them is not here, where that is anything.
    pub(crate) fn left_out(&self) -> Result<(), ParseFailure> {
        let beyond = (self.beyond > 0).then(|| {
            format!(
                "{} of {} files that hang on the mail were not read: {MAIL_ATTACHMENTS_MAX} are the most",
                self.beyond,
                self.beyond + self.files.len()
            )
        });
        let too_deep = (self.too_deep > 0).then(|| {
            format!("mails more than {MAIL_DEPTH_MAX} deep in the mail were not read: {}", self.too_deep)
        });
        let says: Vec<String> = beyond.into_iter().chain(too_deep).collect();
        if says.is_empty() { Ok(()) } else { Err(ParseFailure::new(Verdict::TooLarge, says.join("; "))) }
    }
}

/// One thing that hangs on a mail.
enum Hanging {
    File,
    /// A picture with an id is one that the body shows: a logo, a signature.
    ShownPicture,
    /// A mail, and the storage that it is in.
    Mail(String),
}

/// Reads a mail and the mails that hang on it.
pub(crate) fn read(file: File, limits: &Limits) -> Result<Document, ParseFailure> {
    let mut mail = Mail::open(file, limits)?;
    let mut document = Document::default();
    mail.append("/", 0, &mut document)?;
    chapters::from_headings(&mut document, one_line_title);
    Ok(document)
}

impl Mail {
    /// Opens a mail; a compound file that is none is named.
    pub(crate) fn open(mut file: File, limits: &Limits) -> Result<Mail, ParseFailure> {
        let mut bytes = Vec::new();
        file.by_ref().take(limits.entry_bytes + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > limits.entry_bytes {
            let why = format!("a mail of more than {} bytes", limits.entry_bytes);
            return Err(ParseFailure::new(Verdict::TooLarge, why));
        }
        let file = CompoundFile::open(Cursor::new(bytes)).map_err(|error| damaged(&error))?;
        if !file.exists("/__properties_version1.0") {
            let others = [("/WordDocument", "an old Word document"), ("/Workbook", "an old Excel workbook")];
            let is = others.iter().find(|(path, _)| file.exists(path)).map(|(_, is)| *is);
            return Err(match is {
                Some(is) => {
                    ParseFailure::new(Verdict::Unsupported, format!("named as msg, but its content is {is}"))
                }
                None => ParseFailure::new(Verdict::Corrupt, "a compound file without a mail in it"),
            });
        }
        Ok(Mail { file, limits: limits.clone() })
    }

    /// All files that hang on the mail and on the mails that hang on it. Pictures that a body shows are none of them.
    pub(crate) fn attachments(&mut self) -> Attachments {
        let mut found = Attachments::default();
        self.collect("/", "", 0, &mut found);
        found
    }

    fn collect(&mut self, folder: &str, prefix: &str, depth: usize, found: &mut Attachments) {
        for (number, attached) in self.attached(folder).into_iter().enumerate() {
            let name = self.attached_name(folder, &attached);
            let hanging = self.hanging(&attached, name.as_deref());
            let name = name.unwrap_or_else(|| format!("attachment {}", number + 1)).replace('/', "_");
            let name = format!("{prefix}{name}");
            match hanging {
                Hanging::Mail(mail) if depth < MAIL_DEPTH_MAX => {
                    self.collect(&mail, &format!("{name}/"), depth + 1, found);
                }
                Hanging::Mail(_) => found.too_deep += 1,
                Hanging::File if found.files.len() < MAIL_ATTACHMENTS_MAX => {
                    let content = self.bytes(&format!("{attached}{ATTACHED_BYTES}"));
                    let missing =
                        || ParseFailure::new(Verdict::Unsupported, "a link to a file, and not the file");
                    let content = content.and_then(|bytes| bytes.ok_or_else(missing));
                    found.files.push(Attachment { name, content });
                }
                Hanging::File => found.beyond += 1,
                Hanging::ShownPicture => {}
            }
        }
    }

    /// The storages of what hangs on a mail, in order.
    fn attached(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = self.file.read_storage(folder) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .filter(|entry| entry.is_storage() && entry.name().starts_with("__attach"))
            .map(|entry| format!("{folder}{}/", entry.name()))
            .collect();
        names.sort();
        names
    }

    fn attached_name(&mut self, folder: &str, attached: &str) -> Option<String> {
        let pages = self.code_page(folder);
        ATTACHED_NAMES.iter().find_map(|name| self.text(attached, name, pages))
    }

    fn hanging(&mut self, attached: &str, name: Option<&str>) -> Hanging {
        let mail = format!("{attached}{ATTACHED_MAIL}/");
        if self.file.is_storage(&mail) {
            return Hanging::Mail(mail);
        }
        // What has no name is no picture by its name.
        let name = name.unwrap_or_default().to_lowercase();
        let is_picture = [".png", ".jpg", ".jpeg", ".gif", ".bmp"].iter().any(|end| name.ends_with(end));
        match is_picture && self.text(attached, CONTENT_ID, None).is_some() {
            true => Hanging::ShownPicture,
            false => Hanging::File,
        }
    }

    fn append(&mut self, folder: &str, depth: usize, document: &mut Document) -> Result<(), ParseFailure> {
        let pages = self.code_page(folder);
        let subject = self.text(folder, SUBJECT, pages);
        if depth == 0 {
            document.title = subject.as_deref().map(one_line_title);
        }
        let heading = one_line_title(subject.as_deref().unwrap_or("Mail without a subject"));
        document.push(&heading, BlockKind::Heading(if depth == 0 { 1 } else { 2 }));
        for (label, value) in [
            ("From", self.sender(folder, pages)),
            ("To", self.text(folder, TO, pages)),
            ("Cc", self.text(folder, CC, pages)),
            ("Date", self.sent(folder)),
        ] {
            if let Some(value) = value.filter(|value| !value.trim().is_empty()) {
                document.push(&format!("{label}: {}", one_line_title(&value)), BlockKind::Paragraph);
            }
        }
        self.append_body(folder, pages, document)?;
        for attached in self.attached(folder) {
            let name = self.attached_name(folder, &attached);
            match self.hanging(&attached, name.as_deref()) {
                Hanging::Mail(mail) if depth < MAIL_DEPTH_MAX => self.append(&mail, depth + 1, document)?,
                Hanging::Mail(_) | Hanging::File => document.furniture.attachments += 1,
                Hanging::ShownPicture => document.furniture.shown_pictures += 1,
            }
        }
        if document.text.len() as u64 > self.limits.text_bytes {
            let why = format!("more than {} bytes of text", self.limits.text_bytes);
            return Err(ParseFailure::new(Verdict::TooLarge, why));
        }
        Ok(())
    }

    /// The plain body, or that in HTML.
    fn append_body(
        &mut self,
        folder: &str,
        pages: Option<u32>,
        document: &mut Document,
    ) -> Result<(), ParseFailure> {
        let plain = self.text(folder, BODY, pages).filter(|body| !body.trim().is_empty());
        if let Some(body) = plain {
            let body = text::document(encoding::decode(body.into_bytes()));
            append_blocks(document, &body);
            return Ok(());
        }
        let bytes = self.bytes(&format!("{folder}__substg1.0_{HTML_BODY}0102"))?;
        let source = match bytes {
            Some(bytes) => Some(encoding::decode_markup(bytes)),
            None => self.text(folder, HTML_BODY, pages).map(|text| encoding::decode(text.into_bytes())),
        };
        match source {
            Some(source) => append_blocks(document, &html::document(source, &self.limits)?),
            None if self.file.exists(format!("{folder}__substg1.0_{RTF_BODY}0102")) => {
                let why = "a mail whose body is in RTF alone; save it as HTML or text from Outlook";
                return Err(ParseFailure::new(Verdict::Unsupported, why));
            }
            None => {}
        }
        Ok(())
    }

    fn sender(&mut self, folder: &str, pages: Option<u32>) -> Option<String> {
        let name = self.text(folder, SENDER_NAME, pages);
        let address =
            self.text(folder, SENDER_SMTP, pages).or_else(|| self.text(folder, SENDER_ADDRESS, pages));
        match (name, address.filter(|address| address.contains('@'))) {
            (Some(name), Some(address)) if name != address => Some(format!("{name} <{address}>")),
            (name, address) => name.or(address),
        }
    }

    /// As `2047-09-14 09:30 UTC`.
    fn sent(&mut self, folder: &str) -> Option<String> {
        const PER_MINUTE: u64 = 600_000_000;
        const DAYS_BEFORE_1970: i64 = 134_774;
        let ticks = self
            .number(folder, SENT)
            .or_else(|| self.number(folder, DELIVERED))
            .filter(|ticks| *ticks > 0)?;
        let minutes = ticks / PER_MINUTE;
        let (days, minutes) = ((minutes / 1440) as i64, minutes % 1440);
        let (year, month, day) = workbook::civil(days - DAYS_BEFORE_1970);
        Some(format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60))
    }

    fn code_page(&mut self, folder: &str) -> Option<u32> {
        self.number(folder, CODE_PAGE).and_then(|page| u32::try_from(page).ok())
    }

    /// A property of fixed size, from the table of them.
    fn number(&mut self, folder: &str, tag: u32) -> Option<u64> {
        const OF_FILE: usize = 32;
        const OF_ATTACHED: usize = 24;
        const ROW: usize = 16;
        let table = self.bytes(&format!("{folder}__properties_version1.0")).ok()??;
        let rows = table.get(if folder == "/" { OF_FILE } else { OF_ATTACHED }..)?;
        let row = rows.chunks_exact(ROW).find(|row| row[..4] == tag.to_le_bytes())?;
        Some(u64::from_le_bytes(row[8..].try_into().ok()?))
    }

    /// A text property, in Unicode or in the mail's own code page.
    fn text(&mut self, folder: &str, id: &str, code_page: Option<u32>) -> Option<String> {
        if let Some(bytes) = self.bytes(&format!("{folder}__substg1.0_{id}001F")).ok().flatten() {
            let (text, _) = encoding_rs::UTF_16LE.decode_without_bom_handling(&bytes);
            return Some(text.replace('\0', ""));
        }
        let bytes = self.bytes(&format!("{folder}__substg1.0_{id}001E")).ok().flatten()?;
        let (text, _) = encoding_of(code_page).decode_without_bom_handling(&bytes);
        Some(text.replace('\0', ""))
    }

    /// The bytes of a stream; none where there is no such stream.
    fn bytes(&mut self, path: &str) -> Result<Option<Vec<u8>>, ParseFailure> {
        if !self.file.is_stream(path) {
            return Ok(None);
        }
        let stream = self.file.open_stream(path).map_err(|error| damaged(&error))?;
        bounded(stream, self.limits.entry_bytes).map(Some)
    }
}

fn bounded(stream: impl Read + Seek, bytes_max: u64) -> Result<Vec<u8>, ParseFailure> {
    let mut bytes = Vec::new();
    stream.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| damaged(&error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(ParseFailure::new(Verdict::TooLarge, format!("more than {bytes_max} bytes in a mail")));
    }
    Ok(bytes)
}

fn append_blocks(document: &mut Document, body: &Document) {
    for block in &body.blocks {
        // Headings of a body stand under that of the mail.
        let kind = match block.kind {
            BlockKind::Heading(level) => BlockKind::Heading((level + 2).min(6)),
            other => other,
        };
        document.push(&body.text[block.start..block.end], kind);
    }
    document.furniture.add(&body.furniture);
}

/// By Windows' number of a code page.
fn encoding_of(code_page: Option<u32>) -> &'static encoding_rs::Encoding {
    let label = match code_page {
        Some(65001) => "utf-8".to_owned(),
        Some(932) => "shift_jis".to_owned(),
        Some(936) => "gbk".to_owned(),
        Some(949) => "euc-kr".to_owned(),
        Some(950) => "big5".to_owned(),
        Some(page) => format!("windows-{page}"),
        None => "windows-1252".to_owned(),
    };
    encoding_rs::Encoding::for_label(label.as_bytes()).unwrap_or(encoding_rs::WINDOWS_1252)
}

fn damaged(error: &std::io::Error) -> ParseFailure {
    ParseFailure::new(Verdict::Corrupt, format!("the mail is damaged: {error}"))
}
