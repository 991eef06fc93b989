//! Pickles (protocol 2) of what the CIFAR releases hold: dictionaries, lists, numbers, strings and NumPy arrays.
//!
//! A pickle is a program for a small machine with a stack. This one has the operations that occur in those files and
//! no other, and the few functions that they name are known here by their names; nothing is ever looked up or run.
//! The operations are described in Python's `pickletools`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::DataError;

/// Values that one file makes, those remembered for later use included.
const MAX_VALUES: usize = 1 << 20;
/// Lists within lists.
const MAX_NESTING: u8 = 8;

/// What a pickle may hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// Of Python 2 or 3, or its bytes.
    Text(Cow<'a, [u8]>),
    /// A list or a tuple.
    Sequence {
        items: Vec<Value<'a>>,
        nesting: u8,
    },
    Dict {
        entries: Vec<(Value<'a>, Value<'a>)>,
        nesting: u8,
    },
    Function(Function),
    /// An array's type of elements, as `u1`.
    Element(Cow<'a, [u8]>),
    /// An array that has yet to be filled.
    Unfilled,
    Array(Array<'a>),
}

/// A NumPy array.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array<'a> {
    pub shape: Vec<usize>,
    pub element: &'a [u8],
    /// Fortran's order instead of C's.
    pub columns_first: bool,
    pub data: Cow<'a, [u8]>,
}

/// What a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Reconstruct,
    Ndarray,
    Dtype,
    /// How Python 3 writes bytes in protocol 2: as text, to be encoded as Latin-1.
    Encode,
}

/// Module and name of all that a pickle may name.
const FUNCTIONS: [(&str, &str, Function); 5] = [
    ("numpy.core.multiarray", "_reconstruct", Function::Reconstruct),
    ("numpy._core.multiarray", "_reconstruct", Function::Reconstruct),
    ("numpy", "ndarray", Function::Ndarray),
    ("numpy", "dtype", Function::Dtype),
    ("_codecs", "encode", Function::Encode),
];

impl<'a> Value<'a> {
    /// A dictionary's value.
    pub(super) fn get(&self, key: &str) -> Option<&Value<'a>> {
        let Value::Dict { entries, .. } = self else { return None };
        let is_key = |found: &Value| matches!(found, Value::Text(text) if **text == *key.as_bytes());
        entries.iter().rev().find(|(found, _)| is_key(found)).map(|(_, value)| value)
    }

    fn nesting(&self) -> u8 {
        match self {
            Value::Sequence { nesting, .. } | Value::Dict { nesting, .. } => *nesting,
            _ => 0,
        }
    }
}

/// What an error calls a value.
pub(super) fn kind(value: Option<&Value>) -> String {
    let kind = match value {
        None => "nothing",
        Some(Value::None) => "none",
        Some(Value::Bool(_)) => "a truth value",
        Some(Value::Int(_)) => "an integer",
        Some(Value::Text(_)) => "a text",
        Some(Value::Sequence { .. }) => "a list",
        Some(Value::Dict { .. }) => "a dictionary",
        Some(Value::Function(_)) => "a function",
        Some(Value::Element(_)) => "a type of elements",
        Some(Value::Unfilled | Value::Array(_)) => "an array",
    };
    kind.to_owned()
}

/// Reads a whole pickle.
///
/// # Errors
/// [`DataError::Format`] with the place if it is cut short, goes on after its end, or holds what is not known here.
pub(super) fn read<'a>(bytes: &'a [u8], path: &Path) -> Result<Value<'a>, DataError> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        n_values: 0,
        n_encoded: 0,
    };
    machine.run().map_err(|Refused { expected, found }| {
        let place = machine.at;
        DataError::format(path, expected, format!("{found} before byte {place}"))
    })
}

/// Why a pickle is refused.
struct Refused {
    expected: &'static str,
    found: String,
}

fn refused<T>(expected: &'static str, found: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { expected, found: found.into() })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Value<'a>>,
    n_values: usize,
    n_encoded: usize,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value<'a>, Refused> {
        if self.array()? != [0x80, 2] {
            return refused("a pickle of protocol 2", "another beginning");
        }
        loop {
            let [operation] = self.array()?;
            match operation {
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'K' => {
                    let [n] = self.array()?;
                    self.push(Value::Int(n.into()))?;
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(n.into()))?;
                }
                b'J' => {
                    let n = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(n.into()))?;
                }
                b'U' => {
                    let [n] = self.array()?;
                    self.text(n.into())?;
                }
                b'T' | b'X' => {
                    let n = u32::from_le_bytes(self.array()?);
                    self.text(n as usize)?;
                }
                b']' | b')' => self.push(Value::Sequence { items: Vec::new(), nesting: 1 })?,
                b'}' => self.push(Value::Dict { entries: Vec::new(), nesting: 1 })?,
                b'(' => {
                    self.count()?;
                    self.marks.push(self.stack.len());
                }
                b't' => {
                    let items = self.since_mark()?;
                    self.tuple(items)?;
                }
                0x85..=0x87 => {
                    let items = self.pop_n(usize::from(operation - 0x84))?;
                    self.tuple(items)?;
                }
                b'a' => {
                    let items = self.pop_n(1)?;
                    self.append(items)?;
                }
                b'e' => {
                    let items = self.since_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let items = self.pop_n(2)?;
                    self.set(items)?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.set(items)?;
                }
                b'q' => {
                    let [key] = self.array()?;
                    self.remember(key.into())?;
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.remember(key)?;
                }
                b'h' => {
                    let [key] = self.array()?;
                    self.recall(key.into())?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.recall(key)?;
                }
                b'c' => self.function()?,
                b'R' => self.call()?,
                b'b' => self.build()?,
                b'.' => return self.stop(),
                other => return refused("operations of the CIFAR releases", format!("0x{other:02x}")),
            }
        }
    }

    fn stop(&mut self) -> Result<Value<'a>, Refused> {
        let value = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return refused("one value", "more");
        }
        match self.bytes.len() - self.at {
            0 => Ok(value),
            n => refused("the pickle's end", format!("{n} bytes after what comes")),
        }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Refused> {
        match self.bytes[self.at..].split_at_checked(n) {
            Some((taken, _)) => {
                self.at += n;
                Ok(taken)
            }
            None => refused("a whole pickle", "its end"),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("invariant: as many bytes as were taken"))
    }

    fn line(&mut self) -> Result<&'a [u8], Refused> {
        /// Of all names known here.
        const MAX_NAME_BYTES: usize = 64;
        let rest = &self.bytes[self.at..];
        let Some(n) = rest.iter().take(MAX_NAME_BYTES).position(|byte| *byte == b'\n') else {
            return refused("a short name", "none");
        };
        self.at += n + 1;
        Ok(&rest[..n])
    }

    fn count(&mut self) -> Result<(), Refused> {
        self.n_values += 1;
        if self.n_values > MAX_VALUES {
            return refused("at most 1048576 values", "more");
        }
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), Refused> {
        self.count()?;
        if value.nesting() > MAX_NESTING {
            return refused("at most 8 lists within lists", "more");
        }
        self.stack.push(value);
        Ok(())
    }

    fn text(&mut self, n: usize) -> Result<(), Refused> {
        let text = self.take(n)?;
        self.push(Value::Text(Cow::Borrowed(text)))
    }

    /// Takes from the stack, not beyond the last mark.
    fn pop(&mut self) -> Result<Value<'a>, Refused> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => Ok(self.stack.pop().expect("invariant: it is above the floor")),
            false => refused("a value for an operation", "none"),
        }
    }

    fn pop_n(&mut self, n: usize) -> Result<Vec<Value<'a>>, Refused> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn since_mark(&mut self) -> Result<Vec<Value<'a>>, Refused> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => refused("a mark for an operation", "none"),
        }
    }

    fn tuple(&mut self, items: Vec<Value<'a>>) -> Result<(), Refused> {
        let nesting = 1 + items.iter().map(Value::nesting).max().unwrap_or(0);
        self.push(Value::Sequence { items, nesting })
    }

    fn append(&mut self, new: Vec<Value<'a>>) -> Result<(), Refused> {
        let Value::Sequence { mut items, nesting } = self.pop()? else {
            return refused("a list to append to", "none");
        };
        let nesting = nesting.max(1 + new.iter().map(Value::nesting).max().unwrap_or(0));
        items.extend(new);
        self.push(Value::Sequence { items, nesting })
    }

    fn set(&mut self, new: Vec<Value<'a>>) -> Result<(), Refused> {
        let Value::Dict { mut entries, nesting } = self.pop()? else {
            return refused("a dictionary to put into", "none");
        };
        if !new.len().is_multiple_of(2) {
            return refused("keys and values", "a key without a value");
        }
        let nesting = nesting.max(1 + new.iter().map(Value::nesting).max().unwrap_or(0));
        let mut new = new.into_iter();
        while let (Some(key), Some(value)) = (new.next(), new.next()) {
            entries.push((key, value));
        }
        self.push(Value::Dict { entries, nesting })
    }

    /// Remembers texts and functions: nothing that could change later, or become large by being repeated.
    fn remember(&mut self, key: u32) -> Result<(), Refused> {
        self.count()?;
        let value = self.pop()?;
        match &value {
            Value::Text(Cow::Borrowed(_)) | Value::Function(_) | Value::Element(Cow::Borrowed(_)) => {
                _ = self.memo.insert(key, value.clone());
            }
            _ => _ = self.memo.remove(&key),
        }
        self.stack.push(value);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), Refused> {
        match self.memo.get(&key).cloned() {
            Some(value) => self.push(value),
            None => refused("only texts and functions to be used twice", format!("number {key}")),
        }
    }

    fn function(&mut self) -> Result<(), Refused> {
        let (module, name) = (self.line()?, self.line()?);
        let known = FUNCTIONS.iter().find(|(m, n, _)| m.as_bytes() == module && n.as_bytes() == name);
        match known {
            Some((_, _, function)) => self.push(Value::Function(*function)),
            None => {
                let [module, name] = [module, name].map(String::from_utf8_lossy);
                refused("names from NumPy alone", format!("`{module}.{name}`"))
            }
        }
    }

    fn call(&mut self) -> Result<(), Refused> {
        let Value::Sequence { mut items, .. } = self.pop()? else {
            return refused("a tuple of arguments", "none");
        };
        let value = match (self.pop()?, &mut items[..]) {
            (Value::Function(Function::Reconstruct), [Value::Function(Function::Ndarray), _, _]) => {
                Value::Unfilled
            }
            (Value::Function(Function::Dtype), [Value::Text(text), _, _]) => {
                Value::Element(std::mem::take(text))
            }
            (Value::Function(Function::Encode), [Value::Text(text), Value::Text(encoding)])
                if **encoding == *b"latin1" =>
            {
                Value::Text(Cow::Owned(self.encode(text)?))
            }
            _ => return refused("a call that makes an array", "another"),
        };
        self.push(value)
    }

    /// UTF-8 to Latin-1.
    fn encode(&mut self, text: &[u8]) -> Result<Vec<u8>, Refused> {
        // A text that is used again and again must not become larger than the file.
        self.n_encoded += text.len();
        let text = match str::from_utf8(text) {
            Ok(text) if self.n_encoded <= self.bytes.len() => text,
            _ => return refused("text in UTF-8, each used once", "another"),
        };
        let bytes: Result<Vec<u8>, _> = text.chars().map(|c| u8::try_from(u32::from(c))).collect();
        bytes.or_else(|_| refused("text that is Latin-1", "another"))
    }

    /// Sets the state of a type of elements or of an array.
    fn build(&mut self) -> Result<(), Refused> {
        let Value::Sequence { mut items, .. } = self.pop()? else {
            return refused("a tuple that is a state", "none");
        };
        let value = match (self.pop()?, &mut items[..]) {
            // Version, byte order, and what elements with fields would have.
            (
                Value::Element(element),
                [Value::Int(_), Value::Text(_), Value::None, Value::None, Value::None, ..],
            ) => Value::Element(element),
            (
                Value::Unfilled,
                [
                    Value::Int(_),
                    Value::Sequence { items: shape, .. },
                    Value::Element(Cow::Borrowed(element)),
                    Value::Bool(columns_first),
                    Value::Text(data),
                ],
            ) => {
                let size = |n: &Value| match n {
                    Value::Int(n) => usize::try_from(*n).ok(),
                    _ => None,
                };
                let Some(shape) = shape.iter().map(size).collect::<Option<Vec<usize>>>() else {
                    return refused("sizes of an array", "something else");
                };
                let n = shape.iter().try_fold(1_usize, |n, size| n.checked_mul(*size));
                // Other elements than bytes are refused where the array is used.
                if *element == b"u1" && n != Some(data.len()) {
                    return refused(
                        "as many bytes as the array's sizes say",
                        format!("{} bytes", data.len()),
                    );
                }
                Value::Array(Array {
                    shape,
                    element,
                    columns_first: *columns_first,
                    data: std::mem::take(data),
                })
            }
            _ => return refused("the state of an array", "another"),
        };
        self.push(value)
    }
}

#[cfg(test)]
mod tests;
