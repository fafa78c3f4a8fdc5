// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A kernel's body while it is read: scopes, registers, constants, labels, and the code so far.
//!
//! Registers get a row when they are first used, so a declaration of thousands costs nothing.

use std::collections::HashMap;

use super::code::{
    Code, Condition, Constant, FIXED_PREDICATES, Instruction, Operation, PredicateIndex, RowIndex,
    SINK_PREDICATE, SINK_ROW, Space, TRUE,
};
use super::cursor::Operand;
use super::error::ParseError;
use super::live::LiveRanges;
use super::special::{self, Clock, Meaning, Special};
use super::types::{Kind, Type};

/// The most rows of a warp, constants included.
const ROWS_MAX: usize = 16_384;
/// The most instructions of a kernel.
const INSTRUCTIONS_MAX: usize = 1 << 20;

/// A variable that a body can name.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) space: Space,
    pub(super) place: NamedPlace,
}

/// Where a named variable lies.
#[derive(Clone, Debug)]
pub(super) enum NamedPlace {
    /// At this address in its space.
    At(u64),
    /// At an address that is not known while the body is read.
    Linked,
}

#[derive(Clone, Copy, Debug)]
struct Register {
    ty: Type,
    /// A row or a predicate, once it is used.
    index: Option<u16>,
}

#[derive(Debug, Default)]
struct Scope<'a> {
    parent: Option<usize>,
    registers: HashMap<&'a str, Register>,
    /// `%r<10>` and the like: prefix, type, count.
    ranges: Vec<(&'a str, Type, u64)>,
    variables: HashMap<&'a str, Named>,
    labels: HashMap<&'a str, u32>,
    tables: HashMap<&'a str, Vec<&'a str>>,
}

/// A jump whose label is not resolved yet.
#[derive(Debug)]
struct Jump<'a> {
    instruction: usize,
    scope: usize,
    label: &'a str,
    line: u32,
}

/// A kernel's body in the making.
#[derive(Debug)]
pub(super) struct Body<'a> {
    scopes: Vec<Scope<'a>>,
    scope: usize,
    code: Code,
    constants: HashMap<(u64, Option<&'a str>), RowIndex>,
    specials: HashMap<Special, RowIndex>,
    jumps: Vec<Jump<'a>>,
    live: LiveRanges,
    /// The guard and the line of the instruction being read.
    pub(super) guard: Condition,
    pub(super) line: u32,
}

impl<'a> Body<'a> {
    pub(super) fn new() -> Self {
        Self {
            scopes: vec![Scope::default()],
            scope: 0,
            code: Code {
                rows: 1,
                predicates: FIXED_PREDICATES,
                ..Code::default()
            },
            constants: HashMap::new(),
            specials: HashMap::new(),
            jumps: Vec::new(),
            live: LiveRanges::default(),
            guard: Condition::ALWAYS,
            line: 0,
        }
    }

    pub(super) fn invalid<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::invalid(self.line, message))
    }

    pub(super) fn unsupported<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::unsupported(self.line, message))
    }

    pub(super) fn open_scope(&mut self) {
        self.scopes.push(Scope {
            parent: Some(self.scope),
            ..Scope::default()
        });
        self.scope = self.scopes.len() - 1;
    }

    /// Leaves a scope; false if it was the outermost.
    pub(super) fn close_scope(&mut self) -> bool {
        let parent = self.scopes[self.scope].parent;
        self.scope = parent.unwrap_or(self.scope);
        parent.is_some()
    }

    pub(super) fn declare_register(&mut self, name: &'a str, ty: Type) -> Result<(), ParseError> {
        let register = Register { ty, index: None };
        let scope = &mut self.scopes[self.scope];
        if scope.registers.insert(name, register).is_some() {
            return self.invalid(format!("{name} is declared twice"));
        }
        Ok(())
    }

    pub(super) fn declare_registers(&mut self, prefix: &'a str, ty: Type, count: u64) {
        self.scopes[self.scope].ranges.push((prefix, ty, count));
    }

    pub(super) fn declare_variable(&mut self, name: &'a str, variable: Named) {
        self.scopes[self.scope].variables.insert(name, variable);
    }

    pub(super) fn declare_label(&mut self, name: &'a str, line: u32) -> Result<(), ParseError> {
        let at = u32::try_from(self.code.instructions.len()).unwrap_or(u32::MAX);
        if self.scopes[self.scope].labels.insert(name, at).is_some() {
            return Err(ParseError::invalid(
                line,
                format!("{name} is defined twice"),
            ));
        }
        Ok(())
    }

    pub(super) fn declare_table(&mut self, name: &'a str, labels: Vec<&'a str>) {
        self.scopes[self.scope].tables.insert(name, labels);
    }

    /// The scopes from the innermost outwards.
    fn chain(&self, from: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(Some(from), |scope| self.scopes[*scope].parent)
    }

    pub(super) fn variable(&self, name: &str) -> Option<&Named> {
        self.chain(self.scope)
            .find_map(|scope| self.scopes[scope].variables.get(name))
    }

    fn register(&mut self, name: &'a str) -> Option<&mut Register> {
        let chain: Vec<usize> = self.chain(self.scope).collect();
        for scope in chain {
            if self.scopes[scope].registers.contains_key(name) {
                return self.scopes[scope].registers.get_mut(name);
            }
            let range = self.scopes[scope].ranges.iter().find(|range| {
                name.strip_prefix(range.0).is_some_and(|number| {
                    // `%r01` is not one of `%r<10>`, nor is `%r+1`.
                    let plain = number.bytes().all(|byte| byte.is_ascii_digit());
                    let whole = plain && (number == "0" || !number.starts_with('0'));
                    whole && number.parse().is_ok_and(|number: u64| number < range.2)
                })
            });
            if let Some((_, ty, _)) = range {
                let register = Register {
                    ty: *ty,
                    index: None,
                };
                return Some(self.scopes[scope].registers.entry(name).or_insert(register));
            }
        }
        None
    }

    /// The register's type, if the name is one.
    pub(super) fn register_type(&mut self, name: &'a str) -> Option<Type> {
        self.register(name).map(|register| register.ty)
    }

    fn new_row(&mut self) -> Result<RowIndex, ParseError> {
        if usize::from(self.code.rows) >= ROWS_MAX {
            return self.unsupported(format!("more than {ROWS_MAX} registers and constants"));
        }
        self.code.rows += 1;
        Ok(self.code.rows - 1)
    }

    /// A row for an intermediate value.
    pub(super) fn scratch_row(&mut self) -> Result<RowIndex, ParseError> {
        self.new_row()
    }

    /// A predicate for an intermediate value.
    pub(super) fn scratch_predicate(&mut self) -> Result<PredicateIndex, ParseError> {
        if usize::from(self.code.predicates) >= ROWS_MAX {
            return self.unsupported(format!("more than {ROWS_MAX} predicates"));
        }
        self.code.predicates += 1;
        Ok(self.code.predicates - 1)
    }

    /// The row of a constant.
    pub(super) fn constant(&mut self, value: u64) -> Result<RowIndex, ParseError> {
        self.pooled(value, None)
    }

    fn pooled(&mut self, value: u64, variable: Option<&'a str>) -> Result<RowIndex, ParseError> {
        if let Some(row) = self.constants.get(&(value, variable)) {
            return Ok(*row);
        }
        let row = self.new_row()?;
        self.constants.insert((value, variable), row);
        self.code.constants.push(Constant {
            row,
            value,
            variable: variable.map(str::to_owned),
        });
        Ok(row)
    }

    /// The row of a register whose type satisfies `fits`.
    fn register_row(
        &mut self,
        name: &'a str,
        fits: impl Fn(Type) -> bool,
    ) -> Result<RowIndex, ParseError> {
        let Some(register) = self.register(name).copied() else {
            return self.invalid(format!("{name} is not declared"));
        };
        if register.ty.kind == Kind::Predicate || !fits(register.ty) {
            let bits = register.ty.bits;
            return self.invalid(format!("{name} has {bits} bits, which does not fit here"));
        }
        let row = match register.index {
            Some(row) => row,
            None => {
                let row = self.new_row()?;
                if let Some(register) = self.register(name) {
                    register.index = Some(row);
                }
                row
            }
        };
        self.live
            .touch(row, self.code.instructions.len(), register.ty.bits);
        Ok(row)
    }

    /// The row that takes a result of this type.
    pub(super) fn target(
        &mut self,
        operand: &Operand<'a>,
        ty: Type,
    ) -> Result<RowIndex, ParseError> {
        match operand {
            Operand::Name("_") => Ok(SINK_ROW),
            Operand::Name(name) => self.register_row(name, |found| found.bits == ty.bits),
            _ => self.invalid("the destination is not a register"),
        }
    }

    /// The row that takes a result of this type and may be wider, and its width.
    pub(super) fn wide_target(
        &mut self,
        operand: &Operand<'a>,
        ty: Type,
    ) -> Result<(RowIndex, u8), ParseError> {
        match operand {
            Operand::Name("_") => Ok((SINK_ROW, 64)),
            Operand::Name(name) => {
                let row = self.register_row(name, |found| found.bits >= ty.bits)?;
                let bits = self.register_type(name).map_or(ty.bits, |ty| ty.bits);
                Ok((row, bits))
            }
            _ => self.invalid("the destination is not a register"),
        }
    }

    /// The row of a value of this type.
    pub(super) fn value(
        &mut self,
        operand: &Operand<'a>,
        ty: Type,
    ) -> Result<RowIndex, ParseError> {
        self.value_of(operand, ty, |found| found.bits == ty.bits)
    }

    /// The row of a value of this type, in a register that may be wider.
    pub(super) fn wide_value(
        &mut self,
        operand: &Operand<'a>,
        ty: Type,
    ) -> Result<RowIndex, ParseError> {
        self.value_of(operand, ty, |found| found.bits >= ty.bits)
    }

    fn value_of(
        &mut self,
        operand: &Operand<'a>,
        ty: Type,
        fits: impl Fn(Type) -> bool,
    ) -> Result<RowIndex, ParseError> {
        match operand {
            Operand::Integer(value) if ty.is_integer() => self.constant(value & ty.mask()),
            Operand::Single(value) if ty.bits == 32 && is_raw(ty) => {
                self.constant(u64::from(value.to_bits()))
            }
            Operand::Double(value) if ty.bits == 64 && is_raw(ty) => self.constant(value.to_bits()),
            Operand::Double(value) if ty.is_float() => {
                self.constant(u64::from(super::float::narrow(*value).to_bits()))
            }
            Operand::Name("WARP_SZ") if ty.is_integer() => self.constant(32),
            Operand::Name(name) if self.register_type(name).is_some() => {
                self.register_row(name, fits)
            }
            Operand::Name(name) => match special::find(name, None) {
                Some(Meaning::Kept(special, bits)) => self.special(special, bits, ty),
                Some(Meaning::Time(..)) => self.unsupported(format!("{name} is read only by mov")),
                None => self.invalid(format!("{name} is not declared")),
            },
            Operand::Component(name, component) => match special::find(name, Some(component)) {
                Some(Meaning::Kept(special, bits)) => self.special(special, bits, ty),
                _ => self.unsupported(format!("{name}.{component} is not simulated")),
            },
            _ => self.invalid(format!("an operand that is no value of {} bits", ty.bits)),
        }
    }

    /// The row of a special register. A narrower type would lose bits; a wider one finds zeroes.
    fn special(&mut self, special: Special, bits: u8, ty: Type) -> Result<RowIndex, ParseError> {
        let (special, bits) = match special {
            // The one that programs read in either width.
            Special::Grid if ty.bits == 32 => (Special::GridLow, 32),
            _ => (special, bits),
        };
        if ty.bits < bits {
            return self.invalid("the special register is wider than the instruction's type");
        }
        if let Some(row) = self.specials.get(&special) {
            return Ok(*row);
        }
        let row = self.new_row()?;
        self.specials.insert(special, row);
        self.code.specials.push((special, row));
        Ok(row)
    }

    /// The clock that an operand names, and its width.
    pub(super) fn clock(&self, operand: &Operand<'a>) -> Option<(Clock, u8)> {
        match operand {
            Operand::Name(name) => match special::find(name, None) {
                Some(Meaning::Time(clock, bits)) => Some((clock, bits)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The row of a variable's address in its own space, if the operand is one.
    pub(super) fn address_value(
        &mut self,
        operand: &Operand<'a>,
    ) -> Result<Option<RowIndex>, ParseError> {
        let (name, offset) = match operand {
            Operand::Name(name) => (*name, 0),
            Operand::Offset(name, offset) => (*name, *offset),
            _ => return Ok(None),
        };
        if self.register_type(name).is_some() {
            return Ok(None);
        }
        let Some(variable) = self.variable(name).cloned() else {
            return Ok(None);
        };
        self.variable_row(name, &variable, offset.cast_unsigned())
            .map(Some)
    }

    /// Whether the operand names a variable in device memory.
    pub(super) fn is_linked(&self, operand: &Operand<'a>) -> bool {
        match operand {
            Operand::Name(name) | Operand::Offset(name, _) => self
                .variable(name)
                .is_some_and(|variable| variable.space == Space::Global),
            _ => false,
        }
    }

    fn variable_row(
        &mut self,
        name: &'a str,
        variable: &Named,
        offset: u64,
    ) -> Result<RowIndex, ParseError> {
        match variable.place {
            NamedPlace::At(address) => self.pooled(address.wrapping_add(offset), None),
            NamedPlace::Linked => self.pooled(offset, Some(name)),
        }
    }

    /// The base row and offset of an address operand.
    pub(super) fn address(
        &mut self,
        operand: &Operand<'a>,
        space: Space,
    ) -> Result<(RowIndex, i32), ParseError> {
        let Operand::Address(name, offset) = operand else {
            return self.invalid("expected an address in brackets");
        };
        let Some(name) = name else {
            return Ok((self.constant(offset.cast_unsigned())?, 0));
        };
        if self.register_type(name).is_some() {
            let row = self.register_row(name, |found| found.bits >= 32)?;
            let offset = i32::try_from(*offset);
            return match offset {
                Ok(offset) => Ok((row, offset)),
                Err(_) => self.invalid("an offset of more than 32 bits"),
            };
        }
        let Some(variable) = self.variable(name).cloned() else {
            return self.invalid(format!("{name} is not declared"));
        };
        let fits = match space {
            // The generic address of a variable in device memory is its address.
            Space::Generic => variable.space == Space::Global,
            _ => variable.space == space,
        };
        if !fits {
            return self.invalid(format!("{name} lies in another state space"));
        }
        let row = self.variable_row(name, &variable, offset.cast_unsigned())?;
        Ok((row, 0))
    }

    fn predicate_index(&mut self, name: &'a str) -> Result<PredicateIndex, ParseError> {
        let Some(register) = self.register(name).copied() else {
            return self.invalid(format!("{name} is not declared"));
        };
        if register.ty.kind != Kind::Predicate {
            return self.invalid(format!("{name} is not a predicate"));
        }
        if let Some(index) = register.index {
            return Ok(index);
        }
        let index = self.scratch_predicate()?;
        if let Some(register) = self.register(name) {
            register.index = Some(index);
        }
        Ok(index)
    }

    /// The predicate that takes a result.
    pub(super) fn predicate_target(
        &mut self,
        operand: &Operand<'a>,
    ) -> Result<PredicateIndex, ParseError> {
        match operand {
            Operand::Name("_") => Ok(SINK_PREDICATE),
            Operand::Name(name) => self.predicate_index(name),
            _ => self.invalid("the destination is not a predicate"),
        }
    }

    /// The predicate named so, or none for `_`.
    pub(super) fn named_predicate(&mut self, name: &'a str) -> Result<PredicateIndex, ParseError> {
        self.predicate_target(&Operand::Name(name))
    }

    /// A predicate or its complement; a constant is allowed too.
    pub(super) fn condition(&mut self, operand: &Operand<'a>) -> Result<Condition, ParseError> {
        let (name, flip) = match operand {
            Operand::Name(name) => (*name, 0),
            Operand::Not(name) => (*name, u32::MAX),
            Operand::Integer(value) => {
                return Ok(Condition {
                    predicate: TRUE,
                    flip: if *value == 0 { u32::MAX } else { 0 },
                });
            }
            _ => return self.invalid("expected a predicate"),
        };
        let predicate = self.predicate_index(name)?;
        Ok(Condition { predicate, flip })
    }

    /// Appends an instruction under the current guard.
    pub(super) fn emit(&mut self, operation: Operation, cycles: u16) -> Result<(), ParseError> {
        if self.code.instructions.len() >= INSTRUCTIONS_MAX {
            return self.unsupported(format!("more than {INSTRUCTIONS_MAX} instructions"));
        }
        self.code.instructions.push(Instruction {
            operation,
            guard: self.guard,
            cycles,
            line: self.line,
        });
        Ok(())
    }

    /// Appends a branch to a label that may come later.
    pub(super) fn emit_branch(&mut self, label: &'a str) -> Result<(), ParseError> {
        self.note_jump(label);
        self.emit(Operation::Branch(0), 1)
    }

    /// Appends a branch through a table of labels, which may come later as well.
    pub(super) fn emit_branch_table(
        &mut self,
        index: RowIndex,
        table: &'a str,
    ) -> Result<(), ParseError> {
        self.note_jump(table);
        self.emit(Operation::BranchTable(index, Box::default()), 2)
    }

    fn note_jump(&mut self, label: &'a str) {
        self.jumps.push(Jump {
            instruction: self.code.instructions.len(),
            scope: self.scope,
            label,
            line: self.line,
        });
    }

    fn find_label(&self, scope: usize, label: &str, line: u32) -> Result<u32, ParseError> {
        self.chain(scope)
            .find_map(|scope| self.scopes[scope].labels.get(label).copied())
            .ok_or_else(|| ParseError::invalid(line, format!("there is no label {label}")))
    }

    /// Gives an address to a variable that had none while the body was read.
    pub(super) fn settle(&mut self, name: &str, address: u64) {
        for constant in &mut self.code.constants {
            if constant.variable.as_deref() == Some(name) {
                constant.variable = None;
                constant.value = constant.value.wrapping_add(address);
            }
        }
    }

    /// Resolves the labels and returns the code and the modelled number of registers.
    pub(super) fn finish(mut self) -> Result<(Code, u32), ParseError> {
        self.guard = Condition::ALWAYS;
        self.emit(Operation::Exit, 1)?;
        for jump in std::mem::take(&mut self.jumps) {
            let line = jump.line;
            let branch = |to: u32| (to as usize, jump.instruction);
            match self.code.instructions[jump.instruction].operation {
                Operation::BranchTable(index, _) => {
                    let table = self
                        .chain(jump.scope)
                        .find_map(|scope| self.scopes[scope].tables.get(jump.label));
                    let Some(table) = table.filter(|table| !table.is_empty()) else {
                        let message = format!("there is no branch table {}", jump.label);
                        return Err(ParseError::invalid(line, message));
                    };
                    let targets = table
                        .iter()
                        .map(|label| self.find_label(jump.scope, label, line))
                        .collect::<Result<Box<[u32]>, _>>()?;
                    for to in &targets {
                        let (to, from) = branch(*to);
                        self.live.loop_back(to, from);
                    }
                    self.code.instructions[jump.instruction].operation =
                        Operation::BranchTable(index, targets);
                }
                _ => {
                    let target = self.find_label(jump.scope, jump.label, line)?;
                    let (to, from) = branch(target);
                    self.live.loop_back(to, from);
                    self.code.instructions[jump.instruction].operation = Operation::Branch(target);
                }
            }
        }
        Ok((self.code, self.live.registers()))
    }
}

/// Whether a floating-point literal may stand for a value of this type.
fn is_raw(ty: Type) -> bool {
    matches!(ty.kind, Kind::Float | Kind::Bits)
}
