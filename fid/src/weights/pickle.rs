//! A pickle reader that builds data and runs nothing.
//!
//! Knows the opcodes that PyTorch writes for dictionaries of tensors, and five names: the tensor constructor,
//! `OrderedDict`, and the storage types. Any other name or opcode is refused. Values live in one arena and refer to
//! each other by index, so hostile nesting cannot exhaust the stack.

/// A result whose error is a reason for [`crate::Error::Weights`].
pub(super) type Parsed<T> = std::result::Result<T, String>;

/// Index of a value in the arena.
pub(super) type Id = usize;

/// A number of values that no weight file of this network comes near.
const MAX_VALUES: usize = 1 << 20;

/// What a pickle can make here.
#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i128),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A name from the list of permitted ones.
    Global(&'static str),
    /// A reference to data outside the pickle: the tuple that names it.
    Persistent(Id),
    /// `torch._utils._rebuild_tensor_v2` and its arguments.
    Tensor(Vec<Id>),
}

/// Arguments that a call is given at most: PyTorch's tensor constructor takes seven. They are copied for each call, and a
/// small file can name one long tuple many times.
const MAX_ARGUMENTS: usize = 16;

impl std::fmt::Display for Value {
    /// What it is, in a few words: a hostile value may be as long as its file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::None => f.write_str("nothing"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Text(text) => write!(f, "a text of {} bytes", text.len()),
            Value::Tuple(items) => write!(f, "a tuple of {}", items.len()),
            Value::List(items) => write!(f, "a list of {}", items.len()),
            Value::Dict(items) => write!(f, "a dictionary of {}", items.len()),
            Value::Global(name) => write!(f, "`{}`", name.replace(' ', ".")),
            Value::Persistent(_) => f.write_str("a storage"),
            Value::Tensor(_) => f.write_str("a tensor"),
        }
    }
}

const REBUILD_TENSOR: &str = "torch._utils _rebuild_tensor_v2";
const ORDERED_DICT: &str = "collections OrderedDict";
pub(super) const FLOAT_STORAGE: &str = "torch FloatStorage";
pub(super) const LONG_STORAGE: &str = "torch LongStorage";
const PERMITTED: [&str; 4] = [REBUILD_TENSOR, ORDERED_DICT, FLOAT_STORAGE, LONG_STORAGE];

/// Bytes with a position; every read is checked.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn take(&mut self, len: usize) -> Parsed<&'a [u8]> {
        let rest = self.rest();
        let taken = rest
            .get(..len)
            .ok_or_else(|| format!("cut off: {len} bytes expected at byte {}, {} left", self.at, rest.len()))?;
        self.at += len;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| "cut off".to_owned())
    }

    fn byte(&mut self) -> Parsed<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn line(&mut self) -> Parsed<&'a str> {
        let end = self.rest().iter().take(200).position(|&b| b == b'\n').ok_or("a name without end")?;
        let name = self.take(end)?;
        self.take(1)?;
        std::str::from_utf8(name).map_err(|_| "a name that is not UTF-8".to_owned())
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest().len()
    }
}

/// The values of one or more pickles.
#[derive(Default)]
pub(super) struct Pickles {
    values: Vec<Value>,
}

/// The stack machine of one pickle.
#[derive(Default)]
struct Machine {
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: std::collections::HashMap<u32, Id>,
}

impl Pickles {
    #[expect(
        clippy::indexing_slicing,
        reason = "an id is the place of a value that was pushed; none is removed"
    )]
    pub(super) fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }

    #[expect(clippy::indexing_slicing, reason = "as above")]
    fn get_mut(&mut self, id: Id) -> &mut Value {
        &mut self.values[id]
    }

    pub(super) fn text(&self, id: Id) -> Parsed<&str> {
        match self.get(id) {
            Value::Text(text) => Ok(text),
            other => Err(format!("expected text, found {other}")),
        }
    }

    pub(super) fn count(&self, id: Id) -> Parsed<usize> {
        match self.get(id) {
            Value::Int(n) => usize::try_from(*n).map_err(|_| format!("{n} is not a size")),
            other => Err(format!("expected a number, found {other}")),
        }
    }

    pub(super) fn tuple(&self, id: Id) -> Parsed<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) => Ok(items),
            other => Err(format!("expected a tuple, found {other}")),
        }
    }

    pub(super) fn dict(&self, id: Id) -> Parsed<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(items) => Ok(items),
            other => Err(format!("expected a dictionary of tensors, found {other}")),
        }
    }

    fn add(&mut self, value: Value) -> Parsed<Id> {
        if self.values.len() >= MAX_VALUES {
            return Err("more values than a weight file has".into());
        }
        self.values.push(value);
        Ok(self.values.len() - 1)
    }

    /// Reads one pickle, up to its STOP.
    pub(super) fn load(&mut self, reader: &mut Reader) -> Parsed<Id> {
        let mut machine = Machine::default();
        loop {
            let opcode = reader.byte()?;
            if opcode == b'.' {
                return machine.pop();
            }
            if !self.control(opcode, reader, &mut machine)? {
                let value = self.literal(opcode, reader, &mut machine)?;
                let id = self.add(value)?;
                machine.stack.push(id);
            }
        }
    }

    /// Opcodes that push no new value. False: not one of them.
    fn control(&mut self, opcode: u8, reader: &mut Reader, machine: &mut Machine) -> Parsed<bool> {
        match opcode {
            // PROTO
            0x80 => match reader.byte()? {
                2..=4 => {}
                version => return Err(format!("pickle protocol {version}")),
            },
            b'(' => machine.marks.push(machine.stack.len()),
            b'q' => machine.put(u32::from(reader.byte()?))?,
            b'r' => machine.put(u32::from_le_bytes(reader.array()?))?,
            b'h' => machine.get(u32::from(reader.byte()?))?,
            b'j' => machine.get(u32::from_le_bytes(reader.array()?))?,
            // APPEND, APPENDS, SETITEM, SETITEMS
            b'a' | b'e' => {
                let items = if opcode == b'a' { vec![machine.pop()?] } else { machine.since_mark()? };
                match self.get_mut(machine.top()?) {
                    Value::List(list) => list.extend(items),
                    _ => return Err("append to something that is not a list".into()),
                }
            }
            b's' | b'u' => {
                let items = if opcode == b's' { machine.pop_many(2)? } else { machine.since_mark()? };
                match self.get_mut(machine.top()?) {
                    Value::Dict(dict) if items.len() % 2 == 0 => {
                        dict.extend(items.as_chunks().0.iter().map(|&[key, value]| (key, value)));
                    }
                    _ => return Err("items set in something that is not a dictionary".into()),
                }
            }
            // BUILD sets attributes (a state dict's `_metadata`): nothing here needs them.
            b'b' => drop(machine.pop()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Opcodes that make a value.
    fn literal(&mut self, opcode: u8, reader: &mut Reader, machine: &mut Machine) -> Parsed<Value> {
        Ok(match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i32::from_le_bytes(reader.array()?).into()),
            b'K' => Value::Int(reader.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(reader.array()?).into()),
            // LONG1
            0x8a => {
                let len = usize::from(reader.byte()?);
                Value::Int(little_endian(reader.take(len)?)?)
            }
            b'X' => {
                let len = u32::from_le_bytes(reader.array()?) as usize;
                let text = std::str::from_utf8(reader.take(len)?).map_err(|_| "text that is not UTF-8")?;
                Value::Text(text.to_owned())
            }
            b')' => Value::Tuple(Vec::new()),
            b't' => Value::Tuple(machine.since_mark()?),
            0x85..=0x87 => Value::Tuple(machine.pop_many(usize::from(opcode - 0x84))?),
            b']' => Value::List(Vec::new()),
            b'}' => Value::Dict(Vec::new()),
            b'c' => {
                let (module, name) = (reader.line()?, reader.line()?);
                let permitted = PERMITTED.into_iter().find(|known| *known == format!("{module} {name}"));
                Value::Global(permitted.ok_or(format!("refused: the file wants to run `{module}.{name}`"))?)
            }
            b'Q' => Value::Persistent(machine.pop()?),
            b'R' => {
                let (arguments, callable) = (machine.pop()?, machine.pop()?);
                let arguments = self.tuple(arguments)?;
                if arguments.len() > MAX_ARGUMENTS {
                    return Err(format!("a call with {} arguments", arguments.len()));
                }
                match self.get(callable) {
                    Value::Global(REBUILD_TENSOR) => Value::Tensor(arguments.to_vec()),
                    Value::Global(ORDERED_DICT) if arguments.is_empty() => Value::Dict(Vec::new()),
                    other => return Err(format!("refused: a call of {other}")),
                }
            }
            other => return Err(format!("pickle opcode 0x{other:02x} is not one that weight files use")),
        })
    }
}

impl Machine {
    fn pop(&mut self) -> Parsed<Id> {
        self.stack.pop().ok_or_else(|| "an empty pickle stack".to_owned())
    }

    fn top(&self) -> Parsed<Id> {
        self.stack.last().copied().ok_or_else(|| "an empty pickle stack".to_owned())
    }

    fn pop_many(&mut self, count: usize) -> Parsed<Vec<Id>> {
        let start = self.stack.len().checked_sub(count).ok_or("an empty pickle stack")?;
        Ok(self.stack.split_off(start))
    }

    fn since_mark(&mut self) -> Parsed<Vec<Id>> {
        let mark =
            self.marks.pop().filter(|&mark| mark <= self.stack.len()).ok_or("a pickle without its mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn put(&mut self, slot: u32) -> Parsed<()> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn get(&mut self, slot: u32) -> Parsed<()> {
        let id = self.memo.get(&slot).ok_or_else(|| format!("pickle memo {slot} was never set"))?;
        self.stack.push(*id);
        Ok(())
    }
}

/// A signed little-endian number of up to 16 bytes.
fn little_endian(bytes: &[u8]) -> Parsed<i128> {
    if bytes.len() > 16 {
        return Err("a number too large for a size".into());
    }
    let negative = bytes.last().is_some_and(|&b| b & 0x80 != 0);
    let mut whole = [if negative { 0xff } else { 0 }; 16];
    whole.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
    Ok(i128::from_le_bytes(whole))
}
