// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The modifiers of one instruction, taken off one by one. Whatever is left over at the end is not
//! simulated, so nothing that an instruction says is ever overlooked.

use super::cursor::Statement;
use super::error::ParseError;
use super::types::Type;

/// What is left of an instruction's modifiers.
#[derive(Clone, Debug)]
pub(super) struct Modifiers<'a> {
    rest: Vec<&'a str>,
    name: String,
    line: u32,
}

impl<'a> Modifiers<'a> {
    pub(super) fn new(statement: &Statement<'a>) -> Self {
        Self {
            rest: statement.modifiers.clone(),
            name: statement.name(),
            line: statement.line,
        }
    }

    /// Takes a modifier wherever it stands.
    pub(super) fn take(&mut self, modifier: &str) -> bool {
        self.take_any(&[modifier]).is_some()
    }

    /// Takes the first of the modifiers that is one of these.
    pub(super) fn take_any(&mut self, modifiers: &[&str]) -> Option<&'a str> {
        let at = self
            .rest
            .iter()
            .position(|found| modifiers.contains(found))?;
        Some(self.rest.remove(at))
    }

    /// Takes every modifier that is one of these.
    pub(super) fn take_all(&mut self, modifiers: &[&str]) {
        self.rest.retain(|found| !modifiers.contains(found));
    }

    /// Takes the next modifier, whatever it is.
    pub(super) fn next(&mut self) -> Option<&'a str> {
        (!self.rest.is_empty()).then(|| self.rest.remove(0))
    }

    /// Takes the last modifier, which must be a type.
    pub(super) fn ty(&mut self) -> Result<Type, ParseError> {
        match self.rest.last().and_then(|name| Type::parse(name)) {
            Some(ty) => {
                self.rest.pop();
                Ok(ty)
            }
            None => self.unsupported("its type is not simulated"),
        }
    }

    /// Checks that nothing is left.
    pub(super) fn finish(&self) -> Result<(), ParseError> {
        match self.rest.first() {
            None => Ok(()),
            Some(modifier) => self.unsupported(&format!(".{modifier} is not simulated here")),
        }
    }

    pub(super) fn unsupported<T>(&self, why: &str) -> Result<T, ParseError> {
        let message = format!("{}: {why}", self.name);
        Err(ParseError::unsupported(self.line, message))
    }
}
