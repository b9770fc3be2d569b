//! What stands before the values of an array: a Python dictionary of three keys, and how values follow from it.

use std::io::Read;

use super::{Data, PIECE_BYTES};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Bytes of a description; numpy's are 118.
const DESCRIPTION_BYTES_MAX: usize = 16 << 10;
/// numpy has no more axes.
const AXES_MAX: usize = 32;
/// Letters of a word; paths are the longest words.
const WORD_LETTERS_MAX: usize = 64 << 10;
/// numpy aligns values to this many bytes.
const ALIGNMENT: usize = 64;

/// Why the beginning of an array is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It ends before its values begin.
    #[error("it ends within its header")]
    Short,
    /// Another kind of file.
    #[error("not a numpy array")]
    Magic,
    /// A version of the format that is not known.
    #[error("version {0} of the format is not known")]
    Version(u8),
    /// A description longer than any array's.
    #[error("its description of {0} bytes is longer than {DESCRIPTION_BYTES_MAX}")]
    Long(usize),
    /// A description that numpy does not write.
    #[error("its description is not understood at byte {0}")]
    Description(usize),
    /// Values that are neither numbers nor words; Python objects are never read.
    #[error("values of type {0} are not read; f4, f8, integers, truth values and words are")]
    Kind(String),
    /// The order of Fortran.
    #[error("its values are in Fortran's order; save it with numpy.ascontiguousarray")]
    Fortran,
}

/// What an array is.
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) shape: Vec<usize>,
}

/// The type of its values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    F32,
    F64,
    /// Bytes, and whether there is a sign.
    Int(usize, bool),
    /// Letters of each word.
    Text(usize),
}

impl Header {
    /// Bytes of all values; none where they cannot be counted.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.shape.iter().try_fold(self.kind.bytes() as u64, |bytes, &axis| bytes.checked_mul(axis as u64))
    }
}

pub(super) fn read(entry: &mut impl Read) -> Result<Header, HeaderError> {
    let mut start = [0; 8];
    entry.read_exact(&mut start).map_err(|_| HeaderError::Short)?;
    if &start[..6] != MAGIC {
        return Err(HeaderError::Magic);
    }
    let mut length = [0; 4];
    let length_bytes = match start[6] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(HeaderError::Version(version)),
    };
    entry.read_exact(&mut length[..length_bytes]).map_err(|_| HeaderError::Short)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > DESCRIPTION_BYTES_MAX {
        return Err(HeaderError::Long(length));
    }
    let mut description = vec![0; length];
    entry.read_exact(&mut description).map_err(|_| HeaderError::Short)?;
    Description { bytes: &description, at: 0 }.header()
}

/// A reader of the one Python dictionary that numpy writes.
struct Description<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Description<'_> {
    fn header(mut self) -> Result<Header, HeaderError> {
        let (mut kind, mut fortran, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.skip(b'}') {
            let key = self.word()?;
            self.expect(b':')?;
            match key.as_str() {
                "descr" if kind.is_none() => kind = Some(Kind::named(&self.descr()?)?),
                "fortran_order" if fortran.is_none() => fortran = Some(self.truth()?),
                "shape" if shape.is_none() => shape = Some(self.tuple()?),
                _ => return Err(HeaderError::Description(self.at)),
            }
            self.skip(b',');
        }
        let (Some(kind), Some(fortran), Some(shape)) = (kind, fortran, shape) else {
            return Err(HeaderError::Description(self.at));
        };
        if fortran && shape.len() > 1 {
            return Err(HeaderError::Fortran);
        }
        Ok(Header { kind, shape })
    }

    fn skip(&mut self, byte: u8) -> bool {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        let is_there = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn expect(&mut self, byte: u8) -> Result<(), HeaderError> {
        if self.skip(byte) { Ok(()) } else { Err(HeaderError::Description(self.at)) }
    }

    fn word(&mut self) -> Result<String, HeaderError> {
        self.expect(b'\'')?;
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|b| *b == b'\'').ok_or(HeaderError::Description(self.at))?;
        self.at += length + 1;
        Ok(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    /// A list in place of a word describes records of several values.
    fn descr(&mut self) -> Result<String, HeaderError> {
        if self.skip(b'[') { Err(HeaderError::Kind("record".to_owned())) } else { self.word() }
    }

    fn truth(&mut self) -> Result<bool, HeaderError> {
        self.skip(0);
        for (name, value) in [("True", true), ("False", false)] {
            if self.bytes[self.at..].starts_with(name.as_bytes()) {
                self.at += name.len();
                return Ok(value);
            }
        }
        Err(HeaderError::Description(self.at))
    }

    fn tuple(&mut self) -> Result<Vec<usize>, HeaderError> {
        self.expect(b'(')?;
        let mut axes = Vec::new();
        while !self.skip(b')') {
            let rest = &self.bytes[self.at..];
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            let axis = std::str::from_utf8(&rest[..digits]).ok().and_then(|digits| digits.parse().ok());
            axes.push(axis.ok_or(HeaderError::Description(self.at))?);
            self.at += digits;
            self.skip(b',');
            if axes.len() > AXES_MAX {
                return Err(HeaderError::Description(self.at));
            }
        }
        Ok(axes)
    }
}

impl Kind {
    fn named(descr: &str) -> Result<Kind, HeaderError> {
        let unknown = || HeaderError::Kind(descr.to_owned());
        let plain = descr.trim_start_matches(['<', '|', '=']);
        Ok(match plain {
            "f4" => Kind::F32,
            "f8" => Kind::F64,
            "b1" => Kind::Int(1, false),
            "u1" | "u2" | "u4" | "i1" | "i2" | "i4" | "i8" => {
                let bytes = plain[1..].parse().map_err(|_| unknown())?;
                Kind::Int(bytes, plain.starts_with('i'))
            }
            _ => {
                let letters = plain.strip_prefix('U').and_then(|letters| letters.parse().ok());
                Kind::Text(letters.filter(|l| (1..=WORD_LETTERS_MAX).contains(l)).ok_or_else(unknown)?)
            }
        })
    }

    fn bytes(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::F64 => 8,
            Kind::Int(bytes, _) => bytes,
            Kind::Text(letters) => 4 * letters,
        }
    }

    /// Reads so many bytes of values; an error says how many there are, or what a value is.
    pub(super) fn values(self, entry: &mut impl Read, bytes: u64) -> Result<Data, String> {
        let mut data = match self {
            Kind::F32 => Data::F32(Vec::new()),
            Kind::F64 => Data::F64(Vec::new()),
            Kind::Int(..) => Data::Int(Vec::new()),
            Kind::Text(_) => Data::Text(Vec::new()),
        };
        let each = self.bytes();
        let mut piece = vec![0; (PIECE_BYTES / each).max(1) * each];
        let mut left = bytes;
        while left > 0 {
            let take = left.min(piece.len() as u64) as usize;
            entry.read_exact(&mut piece[..take]).map_err(|error| {
                format!("{error}; its header says {bytes} bytes, and {left} of them are not there")
            })?;
            self.append(&piece[..take], &mut data)?;
            left -= take as u64;
        }
        match entry.read(&mut [0]) {
            Ok(0) => Ok(data),
            Ok(_) => Err(format!("more than the {bytes} bytes that its header says")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn append(self, piece: &[u8], data: &mut Data) -> Result<(), String> {
        let values = piece.chunks_exact(self.bytes());
        match data {
            Data::F32(numbers) => {
                numbers.extend(values.map(|v| f32::from_le_bytes([v[0], v[1], v[2], v[3]])));
            }
            Data::F64(numbers) => numbers.extend(values.map(|v| f64::from_bits(word(v, false) as u64))),
            Data::Int(numbers) => numbers.extend(values.map(|v| word(v, self.is_signed()))),
            Data::Text(words) => {
                for value in values {
                    words.push(letters(value)?);
                }
            }
        }
        Ok(())
    }

    fn is_signed(self) -> bool {
        matches!(self, Kind::Int(_, true))
    }
}

/// Up to eight little-endian bytes.
fn word(bytes: &[u8], is_signed: bool) -> i64 {
    let fill = if is_signed && bytes.last().is_some_and(|last| *last >= 0x80) { 0xff } else { 0 };
    let mut whole = [fill; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(whole)
}

fn letters(value: &[u8]) -> Result<String, String> {
    let codes = value.chunks_exact(4).map(|v| u32::from_le_bytes([v[0], v[1], v[2], v[3]]));
    let word: Option<String> = codes.map(char::from_u32).collect();
    word.map(|word| word.trim_end_matches('\0').to_owned()).ok_or_else(|| "a word has no letter".to_owned())
}

/// As numpy writes it, version 1.0; `longest` is for words.
pub(super) fn written(data: &Data, shape: &[usize], longest: usize) -> Vec<u8> {
    let descr = match data {
        Data::F32(_) => "<f4".to_owned(),
        Data::F64(_) => "<f8".to_owned(),
        Data::Int(_) => "<i8".to_owned(),
        Data::Text(_) => format!("<U{longest}"),
    };
    let axes: Vec<String> = shape.iter().map(usize::to_string).collect();
    let tuple = if axes.len() == 1 { format!("({},)", axes[0]) } else { format!("({})", axes.join(", ")) };
    let mut description = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple}, }}");
    let start = MAGIC.len() + 4;
    let padded = (start + description.len() + 1).next_multiple_of(ALIGNMENT);
    description += &" ".repeat(padded - start - description.len() - 1);
    description.push('\n');
    let mut header = MAGIC.to_vec();
    header.extend([1, 0]);
    header.extend((description.len() as u16).to_le_bytes());
    header.extend(description.as_bytes());
    header
}
