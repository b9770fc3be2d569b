//! The pickle of a torch state dict: names, and where each tensor's numbers are.
//!
//! A pickle is a program for a stack machine that can call any function of any module. This machine has only the
//! opcodes that a state dict of protocol 2 needs, and "calls" only what makes dicts and tensors, by name. Everything
//! else is refused by name. Nothing recurses, and every count has a bound.

use std::collections::{HashMap, HashSet};

/// Every pickle that torch has written begins so: protocol 2.
pub(super) const MAGIC: &[u8] = b"\x80\x02";
/// Longer than any state dict's, which takes about 150 bytes a tensor.
const PICKLE_BYTES_MAX: usize = 16 << 20;
const VALUES_MAX: usize = 1 << 20;
const STACK_MAX: usize = 1 << 16;
const MARKS_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 1 << 10;

/// A tensor as the pickle describes it. Nothing is checked against the archive yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PickledTensor {
    pub(super) storage: Storage,
    /// The first element in the storage.
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    /// Elements from one index to the next, for each dimension.
    pub(super) strides: Vec<u64>,
}

/// A run of numbers in an entry of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    /// Name of the entry below `data/`.
    pub(super) key: String,
    /// As safetensors spells it.
    pub(super) dtype: &'static str,
    pub(super) elements: u64,
}

/// The tensors of a state dict, in its order, under distinct names.
pub(super) fn state_dict(pickle: &[u8]) -> Result<Vec<(String, PickledTensor)>, PickleError> {
    if pickle.len() > PICKLE_BYTES_MAX {
        return Err(PickleError { at: PICKLE_BYTES_MAX, fault: PickleFault::TooMany { what: "bytes" } });
    }
    let mut machine = Machine { rest: pickle, ..Machine::default() };
    let fail = |machine: &Machine<'_>, fault| PickleError { at: pickle.len() - machine.rest.len(), fault };
    if machine.take(2).ok() != Some(MAGIC) {
        return Err(PickleError { at: 0, fault: PickleFault::Protocol });
    }
    loop {
        match machine.step() {
            Ok(Step::On) => {}
            Ok(Step::Stop(result)) => {
                return machine.tensors_of(result).map_err(|fault| fail(&machine, fault));
            }
            Err(fault) => return Err(fail(&machine, fault)),
        }
    }
}

/// Index into [`Machine::values`].
type Id = u32;

#[derive(Debug)]
enum Value {
    /// None, true, false or a float: nothing here depends on them.
    Plain,
    Int(i64),
    Text(String),
    Global(Global),
    Tuple(Vec<Id>),
    List,
    Dict(Vec<(Id, Id)>),
    Storage(Storage),
    Tensor(PickledTensor),
}

/// All that a state dict may name.
#[derive(Debug, Clone, Copy)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    StorageOf(&'static str),
}

impl Global {
    fn named(module: &str, name: &str) -> Option<Global> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", storage) => Global::StorageOf(match storage {
                "DoubleStorage" => "F64",
                "FloatStorage" => "F32",
                "HalfStorage" => "F16",
                "BFloat16Storage" => "BF16",
                "LongStorage" => "I64",
                "IntStorage" => "I32",
                "ShortStorage" => "I16",
                "CharStorage" => "I8",
                "ByteStorage" => "U8",
                "BoolStorage" => "BOOL",
                _ => return None,
            }),
            _ => return None,
        })
    }
}

enum Step {
    On,
    Stop(Id),
}

#[derive(Default)]
struct Machine<'p> {
    rest: &'p [u8],
    /// All values ever made; stack, memo and containers hold indices, so that sharing and cycles cost nothing.
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'p> Machine<'p> {
    fn step(&mut self) -> Result<Step, PickleFault> {
        let opcode = self.byte()?;
        match opcode {
            b'.' => return self.pop().map(Step::Stop),
            b'(' => {
                if self.marks.len() == MARKS_MAX {
                    return Err(PickleFault::TooMany { what: "open marks" });
                }
                self.marks.push(self.stack.len());
            }
            b'N' | 0x88 | 0x89 => self.push(Value::Plain)?,
            b'G' => {
                self.take(8)?;
                self.push(Value::Plain)?;
            }
            b'J' => {
                let value = self.u32()?.cast_signed();
                self.push(Value::Int(i64::from(value)))?;
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Value::Int(i64::from(value)))?;
            }
            b'M' => {
                let bytes = self.take(2)?;
                self.push(Value::Int(i64::from(u16::from_le_bytes([bytes[0], bytes[1]]))))?;
            }
            0x8a => self.push_long()?,
            b'X' => {
                let length = self.u32()? as usize;
                let text = self.text(length)?;
                self.push(Value::Text(text.into()))?;
            }
            b'c' => self.push_global()?,
            b'q' => {
                let slot = self.byte()?;
                self.memoize(u32::from(slot))?;
            }
            b'r' => {
                let slot = self.u32()?;
                self.memoize(slot)?;
            }
            b'h' => {
                let slot = self.byte()?;
                self.recall(u32::from(slot))?;
            }
            b'j' => {
                let slot = self.u32()?;
                self.recall(slot)?;
            }
            b')' | b't' | 0x85..=0x87 => self.push_tuple(opcode)?,
            b']' => self.push(Value::List)?,
            b'}' => self.push(Value::Dict(vec![]))?,
            b's' | b'u' => self.set_items(opcode)?,
            b'Q' => self.push_storage()?,
            b'R' => self.call()?,
            // What `_metadata` of a state dict brings: versions of modules. Nothing here depends on it.
            b'b' => {
                self.pop()?;
            }
            other => return Err(PickleFault::Opcode { opcode: other }),
        }
        Ok(Step::On)
    }

    fn take(&mut self, bytes: usize) -> Result<&'p [u8], PickleFault> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(PickleFault::Cut)?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, PickleFault> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, PickleFault> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn text(&mut self, bytes: usize) -> Result<&'p str, PickleFault> {
        if bytes > TEXT_BYTES_MAX {
            return Err(PickleFault::TooMany { what: "bytes of a text" });
        }
        std::str::from_utf8(self.take(bytes)?).map_err(|_| PickleFault::Wrong { wanted: "UTF-8" })
    }

    /// Up to the end of the line.
    fn line(&mut self) -> Result<&'p str, PickleFault> {
        let end = self.rest.iter().take(TEXT_BYTES_MAX).position(|&byte| byte == b'\n');
        let line = self.text(end.ok_or(PickleFault::Cut)?)?;
        self.take(1)?;
        Ok(line)
    }

    fn push(&mut self, value: Value) -> Result<(), PickleFault> {
        if self.values.len() == VALUES_MAX {
            return Err(PickleFault::TooMany { what: "values" });
        }
        self.values.push(value);
        self.push_id((self.values.len() - 1) as Id)
    }

    fn push_id(&mut self, id: Id) -> Result<(), PickleFault> {
        if self.stack.len() == STACK_MAX {
            return Err(PickleFault::TooMany { what: "values on the stack" });
        }
        self.stack.push(id);
        Ok(())
    }

    /// The top of the stack; what lies below an open mark is out of reach.
    fn pop(&mut self) -> Result<Id, PickleFault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() > floor {
            self.stack.pop().ok_or(PickleFault::Empty)
        } else {
            Err(PickleFault::Empty)
        }
    }

    /// All that has been pushed since the last mark.
    fn pop_to_mark(&mut self) -> Result<Vec<Id>, PickleFault> {
        let mark = self.marks.pop().ok_or(PickleFault::Empty)?;
        Ok(self.stack.split_off(mark))
    }

    fn memoize(&mut self, slot: u32) -> Result<(), PickleFault> {
        let top = self.pop()?;
        self.memo.insert(slot, top);
        self.push_id(top)
    }

    fn recall(&mut self, slot: u32) -> Result<(), PickleFault> {
        let id = *self.memo.get(&slot).ok_or(PickleFault::Memo { slot })?;
        self.push_id(id)
    }

    /// A little-endian integer of up to 8 bytes, signed.
    fn push_long(&mut self) -> Result<(), PickleFault> {
        let length = usize::from(self.byte()?);
        let bytes = self.take(length)?;
        if length > 8 {
            return Err(PickleFault::TooMany { what: "bytes of an integer" });
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut whole = [if negative { 0xff } else { 0 }; 8];
        whole[..length].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(whole)))
    }

    fn push_global(&mut self) -> Result<(), PickleFault> {
        let (module, name) = (self.line()?, self.line()?);
        let global = Global::named(module, name)
            .ok_or_else(|| PickleFault::Global { module: module.into(), name: name.into() })?;
        self.push(Value::Global(global))
    }

    fn push_tuple(&mut self, opcode: u8) -> Result<(), PickleFault> {
        let items = match opcode {
            b')' => vec![],
            b't' => self.pop_to_mark()?,
            _ => {
                let mut items = (0x84..opcode).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
                items.reverse();
                items
            }
        };
        self.push(Value::Tuple(items))
    }

    /// Adds one key and value to the dict below them, or all since the mark.
    fn set_items(&mut self, opcode: u8) -> Result<(), PickleFault> {
        let items = if opcode == b's' {
            let value = self.pop()?;
            vec![self.pop()?, value]
        } else {
            self.pop_to_mark()?
        };
        let (pairs, rest) = items.as_chunks::<2>();
        let dict = self.pop()?;
        let Value::Dict(entries) = &mut self.values[dict as usize] else {
            return Err(PickleFault::Wrong { wanted: "a dict" });
        };
        if !rest.is_empty() {
            return Err(PickleFault::Wrong { wanted: "as many values as keys" });
        }
        entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
        self.push_id(dict)
    }

    /// `('storage', torch.FloatStorage, key, location, elements)`
    fn push_storage(&mut self) -> Result<(), PickleFault> {
        let id = self.pop()?;
        let wrong = PickleFault::Wrong { wanted: "a storage" };
        let Value::Tuple(parts) = &self.values[id as usize] else { return Err(wrong) };
        let &[kind, class, key, _location, elements] = &parts[..] else { return Err(wrong) };
        let [kind, class, key, elements] = [kind, class, key, elements].map(|id| &self.values[id as usize]);
        let (
            Value::Text(kind),
            Value::Global(Global::StorageOf(dtype)),
            Value::Text(key),
            Value::Int(elements),
        ) = (kind, class, key, elements)
        else {
            return Err(wrong);
        };
        if kind != "storage" {
            return Err(wrong);
        }
        let elements = u64::try_from(*elements).map_err(|_| wrong)?;
        let storage = Storage { key: key.clone(), dtype, elements };
        self.push(Value::Storage(storage))
    }

    /// Calls one of the three functions there are.
    fn call(&mut self) -> Result<(), PickleFault> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Global(function) = self.values[function as usize] else {
            return Err(PickleFault::Wrong { wanted: "a function" });
        };
        let Value::Tuple(arguments) = &self.values[arguments as usize] else {
            return Err(PickleFault::Wrong { wanted: "a tuple of arguments" });
        };
        match (function, &arguments[..]) {
            (Global::OrderedDict, []) => self.push(Value::Dict(vec![])),
            (Global::RebuildTensor, &[storage, offset, shape, strides, _grad, _hooks, ..]) => {
                let tensor = self.tensor([storage, offset, shape, strides])?;
                self.push(Value::Tensor(tensor))
            }
            (Global::RebuildParameter, &[tensor, _grad, _hooks]) => self.push_id(tensor),
            _ => Err(PickleFault::Wrong { wanted: "the arguments of a tensor" }),
        }
    }

    fn tensor(&self, arguments: [Id; 4]) -> Result<PickledTensor, PickleFault> {
        let [storage, offset, shape, strides] = arguments;
        let Value::Storage(storage) = &self.values[storage as usize] else {
            return Err(PickleFault::Wrong { wanted: "a storage" });
        };
        Ok(PickledTensor {
            storage: storage.clone(),
            offset: self.size(offset)?,
            shape: self.sizes(shape)?,
            strides: self.sizes(strides)?,
        })
    }

    fn size(&self, id: Id) -> Result<u64, PickleFault> {
        let Value::Int(size) = self.values[id as usize] else {
            return Err(PickleFault::Wrong { wanted: "a size" });
        };
        u64::try_from(size).map_err(|_| PickleFault::Wrong { wanted: "a size of zero or more" })
    }

    fn sizes(&self, id: Id) -> Result<Vec<u64>, PickleFault> {
        /// torch's own limit on dimensions.
        const DIMENSIONS_MAX: usize = 64;
        match &self.values[id as usize] {
            Value::Tuple(sizes) if sizes.len() <= DIMENSIONS_MAX => {
                sizes.iter().map(|&size| self.size(size)).collect()
            }
            _ => Err(PickleFault::Wrong { wanted: "a tuple of sizes" }),
        }
    }

    fn tensors_of(&self, state_dict: Id) -> Result<Vec<(String, PickledTensor)>, PickleFault> {
        let wrong = PickleFault::Wrong { wanted: "a dict of tensors by name" };
        let Value::Dict(entries) = &self.values[state_dict as usize] else { return Err(wrong) };
        if entries.len() > super::TENSORS_MAX {
            return Err(PickleFault::TooMany { what: "tensors" });
        }
        let mut names = HashSet::new();
        let mut tensors = vec![];
        for &(name, tensor) in entries {
            let (Value::Text(name), Value::Tensor(tensor)) =
                (&self.values[name as usize], &self.values[tensor as usize])
            else {
                return Err(wrong);
            };
            if !names.insert(name) {
                return Err(PickleFault::Twice { name: name.clone() });
            }
            tensors.push((name.clone(), tensor.clone()));
        }
        Ok(tensors)
    }
}

/// Why a pickle was refused, and where.
#[derive(Debug, thiserror::Error)]
#[error("the pickle, at byte {at}: {fault}")]
pub struct PickleError {
    /// Bytes read so far.
    pub at: usize,
    /// What was met there.
    pub fault: PickleFault,
}

/// What a state dict does not have.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum PickleFault {
    /// Something that is neither a dict nor a tensor.
    #[error("it names {module}.{name}, which no state dict needs")]
    Global { module: String, name: String },
    /// An instruction that a state dict does not need.
    #[error("opcode {opcode:#04x}, which no state dict needs")]
    Opcode { opcode: u8 },
    /// Another protocol.
    #[error("not of protocol 2")]
    Protocol,
    /// More of something than a state dict has.
    #[error("too many {what}")]
    TooMany { what: &'static str },
    /// The pickle ends too early.
    #[error("it is cut short")]
    Cut,
    /// The stack, or the part above the last mark, is empty.
    #[error("nothing is left on the stack")]
    Empty,
    /// A memo that was never written.
    #[error("memo {slot} was never written")]
    Memo { slot: u32 },
    /// A value of another kind.
    #[error("something else stands where {wanted} is wanted")]
    Wrong { wanted: &'static str },
    /// Two tensors of one name.
    #[error("tensor {name:?} stands there twice")]
    Twice { name: String },
}
