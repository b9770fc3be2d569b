//! Arrays in numpy's format. [`Npz`] reads files whoever wrote them, under bounds; [`write()`] writes the same arrays
//! as the same bytes.
//!
//! Headers are read here: they are three keys, and no library reads zip and arrays under limits of ours.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;

mod header;

pub use header::HeaderError;

/// Arrays in one file; a run has about ten.
const ARRAYS_MAX: usize = 1_000;
/// Bytes of one array: 64 passes over 5,000 images in 768 numbers are 0.9 GiB.
pub const ARRAY_BYTES_MAX: u64 = 2 << 30;
/// Bytes that are taken from an archive at a time; divisible by every size of a number.
const PIECE_BYTES: usize = 64 << 10;

/// Numbers or words in the order of numpy's `C`.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Lengths of its axes, the slowest first; none of a single value.
    pub shape: Vec<usize>,
    /// Its values.
    pub data: Data,
}

/// The values of an array.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// `<f4`
    F32(Vec<f32>),
    /// `<f8`
    F64(Vec<f64>),
    /// Integers and truth values of any width.
    Int(Vec<i64>),
    /// `<U..`, without the zeros behind each word.
    Text(Vec<String>),
}

impl Array {
    /// Numbers of f64.
    #[must_use]
    pub fn f64(shape: &[usize], values: Vec<f64>) -> Array {
        Array { shape: shape.to_vec(), data: Data::F64(values) }
    }

    /// Appends some of its numbers to `into`; nothing of words.
    pub fn extend_f64(&self, range: std::ops::Range<usize>, into: &mut Vec<f64>) {
        match &self.data {
            Data::F32(values) => into.extend(values[range].iter().map(|&value| f64::from(value))),
            Data::F64(values) => into.extend_from_slice(&values[range]),
            Data::Int(values) => into.extend(values[range].iter().map(|&value| value as f64)),
            Data::Text(_) => {}
        }
    }

    /// All of its numbers; none of words.
    #[must_use]
    pub fn to_f64(&self) -> Vec<f64> {
        let mut numbers = Vec::new();
        self.extend_f64(0..self.shape.iter().product(), &mut numbers);
        numbers
    }
}

/// An open file of arrays.
pub struct Npz {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
}

impl Npz {
    /// Reads the list of its arrays.
    pub fn open(path: &Path) -> Result<Npz, NpzError> {
        let file = File::open(path).map_err(|error| NpzError::Io { path: path.to_owned(), error })?;
        let archive = ZipArchive::new(BufReader::new(file))
            .map_err(|error| NpzError::NotAnArchive { path: path.to_owned(), error })?;
        if archive.len() > ARRAYS_MAX {
            return Err(NpzError::Arrays { path: path.to_owned(), arrays: archive.len() });
        }
        Ok(Npz { path: path.to_owned(), archive })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has an array of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.archive.index_for_name(&format!("{name}.npy")).is_some()
    }

    /// Names of its arrays, in the order of the file.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let names = self.archive.file_names().flatten();
        names.filter_map(|name| name.strip_suffix(".npy").map(str::to_owned)).collect()
    }

    /// One of its arrays.
    pub fn read(&mut self, name: &str) -> Result<Array, NpzError> {
        let of = (self.path.clone(), name.to_owned());
        let (path, array) = of.clone();
        let entry = match self.archive.by_name(&format!("{name}.npy")) {
            Ok(entry) => entry,
            Err(ZipError::FileNotFound) => return Err(NpzError::Missing { path, array }),
            Err(error) => return Err(NpzError::Damaged { path, array, why: error.to_string() }),
        };
        read_array(entry, of)
    }
}

/// `of`: the path of the file and the name of the array.
fn read_array(mut entry: impl Read, of: (PathBuf, String)) -> Result<Array, NpzError> {
    let (path, array) = of;
    let header = match header::read(&mut entry) {
        Ok(header) => header,
        Err(why) => return Err(NpzError::Header { path, array, why }),
    };
    let Some(bytes) = header.bytes().filter(|bytes| *bytes <= ARRAY_BYTES_MAX) else {
        return Err(NpzError::TooLarge { path, array, shape: header.shape, limit: ARRAY_BYTES_MAX });
    };
    match header.kind.values(&mut entry, bytes) {
        Ok(data) => Ok(Array { shape: header.shape, data }),
        Err(why) => Err(NpzError::Damaged { path, array, why }),
    }
}

/// Writes arrays in this order, with no time in them; the file is there whole or not at all.
///
/// # Errors
/// The disk's, with the path.
pub fn write(path: &Path, arrays: &[(&str, &Array)]) -> Result<(), NpzError> {
    let mut writer = Writer::create(path)?;
    for (name, array) in arrays {
        writer.array(name, array)?;
    }
    writer.finish()
}

/// A file of arrays whose numbers come by the piece, so that no array is ever held as a whole.
pub struct Writer {
    path: PathBuf,
    part: PathBuf,
    zip: zip::ZipWriter<Sink>,
}

/// A file that takes and forgets everything once it has failed: a `ZipWriter` that is dropped ends its archive, and would
/// print that this failed again.
struct Sink {
    file: BufWriter<File>,
    position: u64,
    has_failed: bool,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = if self.has_failed { Ok(bytes.len()) } else { self.file.write(bytes) };
        self.has_failed |= written.is_err();
        self.position += written.as_ref().map_or(0, |&count| count as u64);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = if self.has_failed { Ok(()) } else { self.file.flush() };
        self.has_failed |= flushed.is_err();
        flushed
    }
}

impl Seek for Sink {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let found = match to {
            _ if !self.has_failed => self.file.seek(to),
            SeekFrom::Start(position) => Ok(position),
            SeekFrom::Current(by) => Ok(self.position.saturating_add_signed(by)),
            SeekFrom::End(_) => Ok(self.position),
        };
        self.has_failed |= found.is_err();
        self.position = *found.as_ref().unwrap_or(&self.position);
        found
    }
}

impl Writer {
    /// Begins a file. It stands under its name when it is finished.
    ///
    /// # Errors
    /// The disk's, with the path.
    pub fn create(path: &Path) -> Result<Writer, NpzError> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(|error| NpzError::Io { path: path.to_owned(), error })?;
        let sink = Sink { file: BufWriter::new(file), position: 0, has_failed: false };
        Ok(Writer { path: path.to_owned(), part, zip: zip::ZipWriter::new(sink) })
    }

    /// Begins an array of f64; all of its numbers follow by [`Writer::push_f64`].
    ///
    /// # Errors
    /// The disk's, with the path.
    pub fn begin_f64(&mut self, name: &str, shape: &[usize]) -> Result<(), NpzError> {
        self.begin(name, &header::written(&Data::F64(vec![]), shape, 0))
    }

    /// Begins an array of f32; all of its numbers follow by [`Writer::push_f32`].
    ///
    /// # Errors
    /// The disk's, with the path.
    pub fn begin_f32(&mut self, name: &str, shape: &[usize]) -> Result<(), NpzError> {
        self.begin(name, &header::written(&Data::F32(vec![]), shape, 0))
    }

    /// The next numbers of the array that was begun last.
    ///
    /// # Errors
    /// The disk's, with the path.
    pub fn push_f64(&mut self, values: &[f64]) -> Result<(), NpzError> {
        self.push(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// The next numbers of the array that was begun last.
    ///
    /// # Errors
    /// The disk's, with the path.
    pub fn push_f32(&mut self, values: &[f32]) -> Result<(), NpzError> {
        self.push(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// A whole array.
    ///
    /// # Errors
    /// The disk's, with the path.
    pub fn array(&mut self, name: &str, array: &Array) -> Result<(), NpzError> {
        let longest = match &array.data {
            Data::Text(words) => words.iter().map(|word| word.chars().count()).max().unwrap_or(0).max(1),
            _ => 0,
        };
        self.begin(name, &header::written(&array.data, &array.shape, longest))?;
        match &array.data {
            Data::F32(values) => self.push_f32(values),
            Data::F64(values) => self.push_f64(values),
            Data::Int(values) => {
                self.push(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
            }
            Data::Text(words) => words.iter().try_for_each(|word| {
                let padded = word.chars().map(u32::from).chain(std::iter::repeat(0)).take(longest);
                self.push(&padded.flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
            }),
        }
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// The disk's, with the path.
    pub fn finish(self) -> Result<(), NpzError> {
        let failed = |error| NpzError::Io { path: self.path.clone(), error };
        let sink = self.zip.finish().map_err(|error| failed(error.into()))?;
        let file = sink.file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&self.part, &self.path).map_err(failed)
    }

    fn begin(&mut self, name: &str, header: &[u8]) -> Result<(), NpzError> {
        let options = SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .last_modified_time(zip::DateTime::default())
            .large_file(true);
        let begun = self.zip.start_file(format!("{name}.npy"), options);
        begun.map_err(|error| NpzError::Io { path: self.path.clone(), error: error.into() })?;
        self.push(header)
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), NpzError> {
        self.zip.write_all(bytes).map_err(|error| NpzError::Io { path: self.path.clone(), error })
    }
}

/// A file of arrays cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum NpzError {
    /// The disk's.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
    /// No zip archive.
    #[error("{}: not a file of numpy arrays: {error}", path.display())]
    NotAnArchive {
        /// The file.
        path: PathBuf,
        /// What its end says instead.
        #[source]
        error: ZipError,
    },
    /// More arrays than a run leaves.
    #[error("{}: {arrays} arrays, more than {ARRAYS_MAX}", path.display())]
    Arrays {
        /// The file.
        path: PathBuf,
        /// How many.
        arrays: usize,
    },
    /// No array of this name.
    #[error("{}: no array `{array}`", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The array.
        array: String,
    },
    /// What describes an array is not what numpy writes.
    #[error("{}: array `{array}`: {why}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The array.
        array: String,
        /// What stands there.
        #[source]
        why: HeaderError,
    },
    /// More numbers than are read.
    #[error("{}: array `{array}` of {shape:?} has more than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The array.
        array: String,
        /// Lengths of its axes.
        shape: Vec<usize>,
        /// The bound.
        limit: u64,
    },
    /// Fewer or more bytes than its header says, or bytes that are not what they should be.
    #[error("{}: array `{array}` is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The array.
        array: String,
        /// How.
        why: String,
    },
}
