// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Declarations of variables and parameters: sizes, alignments and initial bytes.

use super::cursor::{Cursor, Operand};
use super::error::ParseError;
use super::lexer::TokenKind;
use super::module::AddressWord;
use super::types::Type;

/// The largest variable.
const VARIABLE_BYTES_MAX: u64 = 1 << 40;
/// The largest alignment.
const ALIGN_MAX: u64 = 1 << 20;
/// How deep an initialiser's braces may nest.
const NESTING_MAX: u32 = 8;

/// A variable or parameter as declared.
#[derive(Clone, Debug)]
pub(super) struct Declaration<'a> {
    pub(super) name: &'a str,
    /// None for `name[]` without an initialiser.
    pub(super) bytes: Option<u64>,
    pub(super) align: u64,
    pub(super) initial: Vec<u8>,
    pub(super) addresses: Vec<AddressWord>,
}

/// What stands before the name.
struct Form {
    ty: Type,
    elements: u64,
    align: u64,
}

fn form(cursor: &mut Cursor<'_>) -> Result<Form, ParseError> {
    let mut align = None;
    let mut elements = 1;
    loop {
        match cursor.dotted("a type")? {
            "align" => align = Some(alignment(cursor)?),
            "v2" => elements = 2,
            "v4" => elements = 4,
            name => {
                let bits = match name {
                    "f16" | "bf16" => "b16",
                    "f16x2" | "bf16x2" => "b32",
                    other => other,
                };
                let Some(ty) = Type::parse(bits).filter(|ty| *ty != Type::PREDICATE) else {
                    return cursor.unsupported(format!("a variable of type .{name}"));
                };
                let natural = u64::from(ty.bytes()) * elements;
                return Ok(Form {
                    ty,
                    elements,
                    align: align.unwrap_or(natural),
                });
            }
        }
    }
}

fn alignment(cursor: &mut Cursor<'_>) -> Result<u64, ParseError> {
    let align = cursor.size("an alignment")?;
    if align.is_power_of_two() && align <= ALIGN_MAX {
        Ok(align)
    } else {
        cursor.invalid(format!("an alignment of {align}"))
    }
}

/// Reads the name and the dimensions behind it: how many elements, or none for `[]`.
fn named<'a>(cursor: &mut Cursor<'a>) -> Result<(&'a str, Option<u64>), ParseError> {
    let name = cursor.name("a name")?;
    let mut elements = Some(1_u64);
    while cursor.take_mark('[') {
        if cursor.take_mark(']') {
            elements = None;
            continue;
        }
        let count = cursor.size("a dimension")?;
        cursor.mark(']')?;
        elements = match elements {
            None => None,
            Some(elements) => match elements.checked_mul(count) {
                Some(elements) => Some(elements),
                None => return cursor.unsupported(format!("{name} is too large")),
            },
        };
    }
    Ok((name, elements))
}

fn sized(cursor: &Cursor<'_>, name: &str, elements: u64, form: &Form) -> Result<u64, ParseError> {
    elements
        .checked_mul(u64::from(form.ty.bytes()) * form.elements)
        .filter(|bytes| *bytes <= VARIABLE_BYTES_MAX)
        .map_or_else(|| cursor.unsupported(format!("{name} is too large")), Ok)
}

/// Reads `.align 4 .b8 a[16] = {..}, b;` behind the state space.
pub(super) fn variables<'a>(cursor: &mut Cursor<'a>) -> Result<Vec<Declaration<'a>>, ParseError> {
    if cursor.take_dotted("attribute") {
        return cursor.unsupported("attributes of variables are not simulated");
    }
    let form = form(cursor)?;
    let mut declarations = Vec::new();
    loop {
        let (name, elements) = named(cursor)?;
        let mut bytes = match elements {
            Some(elements) => Some(sized(cursor, name, elements, &form)?),
            None => None,
        };
        let mut contents = Contents::default();
        if cursor.take_mark('=') {
            contents.read(cursor, form.ty, 0)?;
            let length = contents.bytes.len() as u64;
            if length > *bytes.get_or_insert(length) {
                return cursor.invalid(format!("{name} has more initial values than elements"));
            }
        }
        declarations.push(Declaration {
            name,
            bytes,
            align: form.align,
            initial: contents.bytes,
            addresses: contents.addresses,
        });
        if cursor.take_mark(';') {
            return Ok(declarations);
        }
        cursor.mark(',')?;
    }
}

/// Reads `.u64 .ptr .align 4 name` behind `.param`.
pub(super) fn parameter<'a>(cursor: &mut Cursor<'a>) -> Result<Declaration<'a>, ParseError> {
    let form = form(cursor)?;
    if cursor.take_dotted("ptr") {
        // What it points to is a promise to optimisers.
        for space in ["global", "const", "shared", "local"] {
            cursor.take_dotted(space);
        }
        if cursor.take_dotted("align") {
            alignment(cursor)?;
        }
    }
    let (name, elements) = named(cursor)?;
    let bytes = match elements {
        Some(elements) => Some(sized(cursor, name, elements, &form)?),
        None => None,
    };
    Ok(Declaration {
        name,
        bytes,
        align: form.align,
        initial: Vec::new(),
        addresses: Vec::new(),
    })
}

/// The bytes of an initialiser so far.
#[derive(Default)]
struct Contents {
    bytes: Vec<u8>,
    addresses: Vec<AddressWord>,
}

impl Contents {
    /// Reads a value, or a list of them in braces.
    fn read(&mut self, cursor: &mut Cursor<'_>, ty: Type, depth: u32) -> Result<(), ParseError> {
        if depth > NESTING_MAX {
            return cursor.invalid("braces nested too deeply");
        }
        if cursor.take_mark('{') {
            if cursor.take_mark('}') {
                return Ok(());
            }
            loop {
                self.read(cursor, ty, depth + 1)?;
                if cursor.take_mark('}') {
                    return Ok(());
                }
                cursor.mark(',')?;
            }
        }
        if let Some(TokenKind::Name(_)) = cursor.peek() {
            return self.read_address(cursor, ty);
        }
        let value = match (cursor.number()?, ty.is_float(), ty.bits) {
            (Operand::Integer(value), false, _) => value,
            (Operand::Single(value), true, 32) => u64::from(value.to_bits()),
            (Operand::Double(value), true, 64) => value.to_bits(),
            (Operand::Double(value), true, _) => u64::from(super::float::narrow(value).to_bits()),
            _ => return cursor.invalid("an initial value of another type"),
        };
        self.push(value, ty);
        Ok(())
    }

    /// Reads `variable`, `variable+8` or `generic(variable)+8`.
    fn read_address(&mut self, cursor: &mut Cursor<'_>, ty: Type) -> Result<(), ParseError> {
        let mut name = cursor.name("a variable")?;
        if name == "generic" && cursor.take_mark('(') {
            name = cursor.name("a variable")?;
            cursor.mark(')')?;
        }
        if ty.bits != 64 || ty.is_float() {
            return cursor.unsupported("an address in fewer than 64 bits");
        }
        let mut offset = 0;
        if cursor.take_mark('+') {
            match cursor.number()? {
                Operand::Integer(value) => offset = value,
                _ => return cursor.expected("an offset"),
            }
        }
        self.addresses.push(AddressWord {
            offset: self.bytes.len(),
            name: name.to_owned(),
        });
        self.push(offset, ty);
        Ok(())
    }

    fn push(&mut self, value: u64, ty: Type) {
        let bytes = usize::from(ty.bytes());
        self.bytes.extend_from_slice(&value.to_le_bytes()[..bytes]);
    }
}
