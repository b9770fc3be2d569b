//! Files that torch saved, and files that only look like it.

use std::path::Path;

use haul_encoder::weights::{PickleFault, TorchError, Weights, WeightsError};
use proptest::prelude::*;

use crate::common::golden_file;

fn real(name: &str) -> Vec<u8> {
    std::fs::read(golden_file("tiny-xlmr").join(name)).unwrap()
}

fn open(bytes: &[u8]) -> Result<Weights, WeightsError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.bin");
    std::fs::write(&path, bytes).unwrap();
    Weights::open(&path)
}

fn refusal(bytes: &[u8]) -> String {
    open(bytes).map(|_| ()).unwrap_err().to_string()
}

/// Reads every tensor that can be read.
fn read_all(weights: &Weights) -> usize {
    let shape =
        |name: &str| -> Vec<usize> { weights.shape(name).unwrap().iter().map(|&n| n as usize).collect() };
    weights.names().filter(|name| weights.read(name, &shape(name)).is_ok()).count()
}

#[test]
fn both_formats_hold_the_same_numbers() {
    let safetensors = Weights::open(&golden_file("tiny-xlmr").join("model.safetensors")).unwrap();
    let torch = Weights::open(&golden_file("tiny-xlmr").join("pytorch_model.bin")).unwrap();
    assert!(safetensors.names().count() > 30);
    for name in safetensors.names() {
        let shape: Vec<usize> = safetensors.shape(name).unwrap().iter().map(|&n| n as usize).collect();
        assert_eq!(torch.read(name, &shape).unwrap(), safetensors.read(name, &shape).unwrap(), "{name}");
    }
    assert!(matches!(
        torch.read("embeddings.position_ids", &[1, 66]),
        Err(WeightsError::Dtype { dtype, .. }) if dtype == "I64"
    ));
}

#[test]
fn files_side_by_side_keep_their_names_apart() {
    let dir = golden_file("tiny-xlmr");
    let mut weights = Weights::open(&dir.join("model.safetensors")).unwrap();
    weights.add(&dir.join("sparse_linear.pt"), "sparse_linear.").unwrap();
    weights.add(&dir.join("colbert_linear.pt"), "colbert_linear.").unwrap();
    assert_eq!(weights.shape("sparse_linear.weight").unwrap(), [1, 32]);
    // Saved as float16.
    assert_eq!(weights.read("colbert_linear.bias", &[24]).unwrap().len(), 24);
    let twice = weights.add(&dir.join("sparse_linear.pt"), "sparse_linear.").unwrap_err();
    assert!(matches!(twice, WeightsError::Twice { tensor, .. } if tensor.starts_with("sparse_linear.")));
}

#[test]
fn the_old_format_is_named() {
    // The magic number and the protocol version, as `_use_new_zipfile_serialization=False` writes them.
    let legacy = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    let error = open(legacy).unwrap_err();
    assert!(matches!(error, WeightsError::LegacyTorch { .. }), "{error}");
    assert!(error.hint().unwrap().contains("save it again"));
}

#[test]
fn every_cut_of_a_real_file_is_an_error() {
    for name in ["pytorch_model.bin", "sparse_linear.pt"] {
        let bytes = real(name);
        for kept in (0..bytes.len()).step_by(bytes.len() / 150).chain([bytes.len() - 1]) {
            assert!(open(&bytes[..kept]).is_err(), "{kept} of {} bytes were taken for whole", bytes.len());
        }
        // And with something after the end.
        assert!(refusal(&[&bytes[..], b"x"].concat()).contains("no end of the directory"));
    }
}

proptest! {
    /// Whatever a byte becomes, opening and reading end in values or an error.
    #[test]
    fn no_changed_byte_is_fatal(at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = real("sparse_linear.pt");
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(weights) = open(&bytes) {
            prop_assert!(read_all(&weights) <= 2);
        }
    }
}

/// An archive in the making: what the directory says can be made to differ from what is there.
struct Archive {
    entries: Vec<Made>,
    zip64: bool,
    count: Option<u64>,
}

struct Made {
    name: String,
    data: Vec<u8>,
    method: u16,
    flags: u16,
    local_name: String,
    size: Option<u64>,
    /// The data of this entry of the archive instead of its own.
    shares: Option<usize>,
}

impl Archive {
    fn of(pickle: &[u8], storages: &[(&str, &[u8])]) -> Archive {
        let mut archive = Archive { entries: vec![], zip64: false, count: None };
        archive.push("m/data.pkl", pickle);
        archive.push("m/byteorder", b"little");
        for (key, data) in storages {
            archive.push(&format!("m/data/{key}"), data);
        }
        archive
    }

    fn push(&mut self, name: &str, data: &[u8]) -> &mut Made {
        self.entries.push(Made {
            name: name.into(),
            data: data.into(),
            method: 0,
            flags: 0,
            local_name: name.into(),
            size: None,
            shares: None,
        });
        self.entries.last_mut().unwrap()
    }

    fn last(&mut self) -> &mut Made {
        self.entries.last_mut().unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        let (mut file, mut directory, mut headers) = (vec![], vec![], vec![]);
        for made in &self.entries {
            let header = made.shares.map_or(file.len(), |other| headers[other]);
            headers.push(header);
            if made.shares.is_none() {
                file.extend(b"PK\x03\x04\x14\x00");
                file.extend([0; 20]);
                file.extend((made.local_name.len() as u16).to_le_bytes());
                // An extra field, as torch pads with it.
                file.extend(5u16.to_le_bytes());
                file.extend(made.local_name.as_bytes());
                file.extend(b"FB\x01\x00Z");
                file.extend(&made.data);
            }
            let size = made.size.unwrap_or(made.data.len() as u64);
            directory.extend(b"PK\x01\x02\x00\x00\x00\x00");
            directory.extend([made.flags, made.method].map(u16::to_le_bytes).concat());
            directory.extend([0; 8]);
            let fields = [size, size, header as u64];
            let small = fields.map(|v| if self.zip64 { u32::MAX } else { v as u32 });
            directory.extend([small[0], small[1]].map(u32::to_le_bytes).concat());
            directory.extend((made.name.len() as u16).to_le_bytes());
            directory.extend(if self.zip64 { 33u16 } else { 0 }.to_le_bytes());
            directory.extend([0; 10]);
            directory.extend(small[2].to_le_bytes());
            directory.extend(made.name.as_bytes());
            if self.zip64 {
                directory.extend(b"UT\x01\x00x\x01\x00\x18\x00");
                directory.extend(fields.map(u64::to_le_bytes).concat());
            }
        }
        let start = file.len() as u64;
        let size = directory.len() as u64;
        let count = self.count.unwrap_or(self.entries.len() as u64);
        file.extend(directory);
        if self.zip64 {
            let record = file.len() as u64;
            file.extend(b"PK\x06\x06");
            file.extend(44u64.to_le_bytes());
            file.extend([0; 12]);
            file.extend([count, count, size, start].map(u64::to_le_bytes).concat());
            file.extend(b"PK\x06\x07\x00\x00\x00\x00");
            file.extend(record.to_le_bytes());
            file.extend(1u32.to_le_bytes());
        }
        file.extend(b"PK\x05\x06\x00\x00\x00\x00");
        let (count, size, start) = if self.zip64 {
            (u16::MAX, u32::MAX, u32::MAX)
        } else {
            (count as u16, size as u32, start as u32)
        };
        file.extend([count, count].map(u16::to_le_bytes).concat());
        file.extend([size, start].map(u32::to_le_bytes).concat());
        file.extend([0; 2]);
        file
    }
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &items.concat()[..], b"t"].concat()
}

fn int(value: i64) -> Vec<u8> {
    [b"\x8a\x08", &value.to_le_bytes()[..]].concat()
}

/// What a state dict of one tensor `w` is pickled as.
#[derive(Clone)]
struct Tensor {
    key: &'static str,
    class: &'static str,
    elements: i64,
    offset: i64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

impl Tensor {
    fn pickle(&self) -> Vec<u8> {
        [b"\x80\x02}".to_vec(), text("w"), self.value(), b"s.".to_vec()].concat()
    }

    fn value(&self) -> Vec<u8> {
        let class = format!("c{}\n", self.class).into_bytes();
        let storage = tuple(&[text("storage"), class, text(self.key), text("cpu"), int(self.elements)]);
        let sizes = |sizes: &[i64]| tuple(&sizes.iter().map(|&size| int(size)).collect::<Vec<_>>());
        let arguments = tuple(&[
            [&storage[..], b"Q"].concat(),
            int(self.offset),
            sizes(&self.shape),
            sizes(&self.strides),
            b"\x89".to_vec(),
            b"ccollections\nOrderedDict\n)R".to_vec(),
        ]);
        [b"ctorch._utils\n_rebuild_tensor_v2\n", &arguments[..], b"R"].concat()
    }
}

fn tensor() -> Tensor {
    Tensor {
        key: "0",
        class: "torch\nFloatStorage",
        elements: 6,
        offset: 2,
        shape: vec![2, 2],
        strides: vec![2, 1],
    }
}

fn numbers() -> Vec<u8> {
    (0..6).flat_map(|n| (n as f32).to_le_bytes()).collect()
}

fn archive_of(tensor: &Tensor) -> Vec<u8> {
    Archive::of(&tensor.pickle(), &[("0", &numbers())]).bytes()
}

#[test]
fn small_and_large_archives_read_alike() {
    for zip64 in [false, true] {
        let archive = Archive { zip64, ..Archive::of(&tensor().pickle(), &[("0", &numbers())]) };
        let weights = open(&archive.bytes()).unwrap();
        assert_eq!(weights.read("w", &[2, 2]).unwrap(), [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(weights.read_rows("w", &[2, 2], 1..2).unwrap(), [4.0, 5.0]);
    }
    // A dimension of one has no stride, a parameter is its tensor, no dimension is one number.
    let flat = Tensor { shape: vec![1, 4], strides: vec![77, 1], ..tensor() };
    assert_eq!(open(&archive_of(&flat)).unwrap().read("w", &[1, 4]).unwrap(), [2.0, 3.0, 4.0, 5.0]);
    let scalar = Tensor { shape: vec![], strides: vec![], ..tensor() };
    assert_eq!(open(&archive_of(&scalar)).unwrap().read("w", &[]).unwrap(), [2.0]);
    let parameter = [
        b"\x80\x02}".to_vec(),
        text("w"),
        b"ctorch._utils\n_rebuild_parameter\n(".to_vec(),
        tensor().value(),
        b"\x88}tRs.".to_vec(),
    ]
    .concat();
    let archive = Archive::of(&parameter, &[("0", &numbers())]);
    assert!(open(&archive.bytes()).unwrap().contains("w"));
}

#[test]
fn archives_that_contradict_themselves() {
    let case = |spoil: &dyn Fn(&mut Archive), expected: &str| {
        for zip64 in [false, true] {
            let mut archive = Archive { zip64, ..Archive::of(&tensor().pickle(), &[("0", &numbers())]) };
            spoil(&mut archive);
            let message = refusal(&archive.bytes());
            assert!(message.contains(expected), "zip64 {zip64}, wanted {expected:?}: {message}");
        }
    };
    case(&|archive| archive.last().method = 8, "compressed");
    case(&|archive| archive.last().flags = 1, "encrypted");
    case(&|archive| archive.last().local_name = "m/data/1".into(), "another name");
    case(&|archive| archive.last().size = Some(1 << 20), "beyond the file");
    case(&|archive| archive.last().data.truncate(20), "another length than the pickle says");
    case(&|archive| archive.last().name = "m/data.pkl".into(), "another name");
    case(&|archive| drop(archive.entries.remove(0)), "no data.pkl");
    case(&|archive| drop(archive.entries.remove(2)), "storage is missing");
    case(&|archive| archive.entries[1].data = b"big".to_vec(), "not little-endian");
    case(&|archive| archive.push("other/data.pkl", b"").flags = 0, "more than one data.pkl");
    case(&|archive| archive.push("m/data/0", &numbers()).flags = 0, "twice");
    case(
        &|archive| {
            let data = numbers();
            let made = archive.push("m/data/0", &data);
            made.shares = Some(2);
        },
        "overlap",
    );
    case(&|archive| archive.count = Some(2), "longer than its entries");
    case(&|archive| archive.count = Some(4), "cut short");
    let many = Archive { zip64: true, count: Some(u64::MAX), ..Archive::of(b"", &[]) };
    assert!(refusal(&many.bytes()).contains("more entries than any model has"));
}

#[test]
fn end_records_that_lie() {
    let patched = |zip64: bool, from_end: usize, bytes: &[u8]| {
        let archive = Archive { zip64, ..Archive::of(&tensor().pickle(), &[("0", &numbers())]) };
        let mut file = archive.bytes();
        let at = file.len() - from_end;
        file[at..at + bytes.len()].copy_from_slice(bytes);
        refusal(&file)
    };
    // Offset and size of the directory, then those of the zip64 record, then where that record is.
    assert!(patched(false, 6, &[0xff; 4]).contains("does not end where"));
    assert!(patched(false, 10, &[0xff; 4]).contains("does not end where"));
    assert!(patched(true, 22 + 20 + 8, &[0xff; 8]).contains("does not end where"));
    assert!(patched(true, 22 + 20 + 16, &[0xff; 8]).contains("does not end where"));
    assert!(patched(true, 22 + 12, &[0xff; 8]).contains("not before its locator"));
    // A comment that would lie behind the end.
    assert!(patched(false, 2, &[1, 0]).contains("no end of the directory"));
    // A damaged signature of the zip64 record, and of its locator.
    assert!(patched(true, 22 + 20 + 56, b"X").contains("zip64 end record has no signature"));
    assert!(patched(true, 22 + 20, b"X").contains("does not end where"));
}

#[test]
fn tensors_that_reach_beyond_their_storage() {
    let case = |tensor: Tensor, expected: &str| {
        let message = refusal(&archive_of(&tensor));
        assert!(message.contains(expected), "wanted {expected:?}: {message}");
    };
    case(Tensor { offset: 3, ..tensor() }, "beyond its storage");
    case(Tensor { offset: i64::MAX, ..tensor() }, "beyond its storage");
    case(Tensor { offset: -1, ..tensor() }, "a size of zero or more");
    case(Tensor { shape: vec![3, 2], ..tensor() }, "beyond its storage");
    case(
        Tensor { shape: vec![1 << 40, 1 << 40], strides: vec![1 << 40, 1], ..tensor() },
        "beyond its storage",
    );
    case(Tensor { strides: vec![1, 2], ..tensor() }, "not in order");
    case(Tensor { strides: vec![0, 0], ..tensor() }, "not in order");
    case(Tensor { strides: vec![1], ..tensor() }, "not in order");
    case(Tensor { elements: 7, ..tensor() }, "another length");
    case(Tensor { elements: i64::MAX, ..tensor() }, "another length");
    case(Tensor { class: "torch\nHalfStorage", ..tensor() }, "another length");
    case(Tensor { key: "../0", ..tensor() }, "storage is missing");
    case(Tensor { shape: vec![1; 65], strides: vec![1; 65], ..tensor() }, "a tuple of sizes");
}

fn fault(pickle: &[u8]) -> PickleFault {
    match open(&Archive::of(pickle, &[("0", &numbers())]).bytes()) {
        Err(WeightsError::Torch { source: TorchError::Pickle(error), .. }) => error.fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_state_dict_does_not_need_is_refused_by_name() {
    let run = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.";
    let message = refusal(&Archive::of(run, &[]).bytes());
    assert!(message.contains("it names os.system, which no state dict needs"), "{message}");
    for global in
        ["builtins\neval", "torch\nload", "torch._utils\n_rebuild_qtensor", "torch\nComplexFloatStorage"]
    {
        let pickle = format!("\u{0}\u{2}c{global}\n.").replace('\u{0}', "");
        let pickle = [b"\x80".as_slice(), pickle.as_bytes()].concat();
        assert!(matches!(fault(&pickle), PickleFault::Global { .. }), "{global}");
    }
    // Those that make objects, call by stack, or reach other registries: i o 0x81 0x82 0x93 P 0x94 I S.
    for opcode in [b'i', b'o', 0x81, 0x82, 0x93, b'P', 0x94, b'I', b'S', 0xff] {
        let found = fault(&[0x80, 2, b'(', opcode, b'\n', b'\n', b'.']);
        assert!(matches!(found, PickleFault::Opcode { opcode: o } if o == opcode), "{found}");
    }
    assert!(matches!(fault(b"\x80\x04}."), PickleFault::Protocol));
    assert!(matches!(fault(b""), PickleFault::Protocol));
}

#[test]
fn pickles_that_want_too_much() {
    let after_protocol = |part: &[u8], times: usize| [b"\x80\x02", &part.repeat(times)[..], b"."].concat();
    let too_many = |pickle: Vec<u8>| match fault(&pickle) {
        PickleFault::TooMany { what } => what,
        other => panic!("{other}"),
    };
    assert_eq!(too_many(after_protocol(b"(", 100)), "open marks");
    assert_eq!(too_many(after_protocol(b"N", 100_000)), "values on the stack");
    assert_eq!(too_many(after_protocol(b"N\x85\x85\x85", 1 << 19)), "values on the stack");
    assert_eq!(too_many(after_protocol(b"}Nb", 2_000_000)), "values on the stack");
    assert_eq!(too_many(after_protocol(b"N", 17 << 20)), "bytes");
    assert_eq!(too_many(after_protocol(b"X\xff\xff\xff\xff", 1)), "bytes of a text");
    assert_eq!(too_many(after_protocol(&[b"\x8a\xff", &[1u8; 255][..]].concat(), 1)), "bytes of an integer");
    // A dict that takes all it is given never grows the stack; the values themselves are counted.
    let pickle = [b"\x80\x02}", &b"NNs".repeat(600_000)[..], b"."].concat();
    assert_eq!(too_many(pickle), "values");
}

#[test]
fn pickles_that_make_no_sense() {
    let cases: [(&[u8], &str); 17] = [
        (b"\x80\x02.", "nothing is left"),
        (b"\x80\x02t", "nothing is left"),
        (b"\x80\x02N(\x85.", "nothing is left"),
        (b"\x80\x02h\x07.", "memo 7 was never written"),
        (b"\x80\x02}NNs", "cut short"),
        (b"\x80\x02ccollections", "cut short"),
        (b"\x80\x02J\x01", "cut short"),
        (b"\x80\x02NNNs.", "a dict"),
        (b"\x80\x02}(Nu.", "as many values as keys"),
        (b"\x80\x02NQ.", "a storage"),
        (b"\x80\x02)Q.", "a storage"),
        (b"\x80\x02N)R.", "a function"),
        (b"\x80\x02ccollections\nOrderedDict\nNR.", "a tuple of arguments"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "the arguments of a tensor"),
        (b"\x80\x02N.", "a dict of tensors by name"),
        (b"\x80\x02}NNs.", "a dict of tensors by name"),
        (b"\x80\x02X\x01\x00\x00\x00\xff.", "UTF-8"),
    ];
    for (pickle, expected) in cases {
        let message = fault(pickle).to_string();
        assert!(message.contains(expected), "{pickle:?}: wanted {expected:?}: {message}");
    }
    let entry = [text("w"), tensor().value()].concat();
    let twice = [b"\x80\x02}(", &entry[..], &entry, b"u."].concat();
    assert!(matches!(fault(&twice), PickleFault::Twice { name } if name == "w"));
    // A dict that holds itself is no trap: nothing here walks into values.
    let cycle = b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.";
    assert!(fault(cycle).to_string().contains("a dict of tensors by name"));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    assert!(matches!(Weights::open(Path::new("/no/such/pytorch_model.bin")), Err(WeightsError::Open { .. })));
}
