// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Walks over tokens, and reads statements: an instruction's text with nothing resolved yet.

use std::rc::Rc;

use super::error::ParseError;
use super::lexer::{Token, TokenKind};

/// How deep braces may nest in an operand.
const NESTING_MAX: u32 = 4;

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand<'a> {
    /// A register, variable, label or special register.
    Name(&'a str),
    /// `%tid.x`.
    Component(&'a str, &'a str),
    /// `variable+8`.
    Offset(&'a str, i64),
    /// `!%p1`.
    Not(&'a str),
    /// `%p1|%p2`.
    Pair(&'a str, &'a str),
    Integer(u64),
    Single(f32),
    Double(f64),
    /// `[name+offset]`; no name for an absolute address.
    Address(Option<&'a str>, i64),
    /// `{a, b}`.
    Vector(Vec<Operand<'a>>),
}

/// An instruction as written.
#[derive(Clone, Debug)]
pub(super) struct Statement<'a> {
    /// The predicate's name, and whether its complement guards.
    pub(super) guard: Option<(&'a str, bool)>,
    pub(super) mnemonic: &'a str,
    pub(super) modifiers: Vec<&'a str>,
    pub(super) operands: Vec<Operand<'a>>,
    pub(super) line: u32,
}

impl Statement<'_> {
    /// The instruction's full name.
    pub(super) fn name(&self) -> String {
        let mut name = self.mnemonic.to_owned();
        for modifier in &self.modifiers {
            name.push('.');
            name.push_str(modifier);
        }
        name
    }
}

/// A place in the tokens.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    tokens: Rc<[Token<'a>]>,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(tokens: Vec<Token<'a>>) -> Self {
        Self {
            tokens: tokens.into(),
            at: 0,
        }
    }

    pub(super) fn peek(&self) -> Option<TokenKind<'a>> {
        self.tokens.get(self.at).map(|token| token.kind)
    }

    fn peek_second(&self) -> Option<TokenKind<'a>> {
        self.tokens.get(self.at + 1).map(|token| token.kind)
    }

    /// The line of the next token, or of the last one.
    pub(super) fn line(&self) -> u32 {
        let token = self.tokens.get(self.at).or(self.tokens.last());
        token.map_or(1, |token| token.line)
    }

    pub(super) fn invalid<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::invalid(self.line(), message))
    }

    pub(super) fn unsupported<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::unsupported(self.line(), message))
    }

    /// Says what was expected and what is there instead.
    pub(super) fn expected<T>(&self, what: &str) -> Result<T, ParseError> {
        let found = match self.peek() {
            None => "the end of the text".to_owned(),
            Some(TokenKind::Name(name)) => name.to_owned(),
            Some(TokenKind::Dotted(name)) => format!(".{name}"),
            Some(TokenKind::Mark(mark)) => format!("'{mark}'"),
            Some(TokenKind::Text(_)) => "a string".to_owned(),
            Some(_) => "a number".to_owned(),
        };
        self.invalid(format!("expected {what}, found {found}"))
    }

    pub(super) fn next(&mut self) -> Option<TokenKind<'a>> {
        let kind = self.peek();
        self.at += 1;
        kind
    }

    pub(super) fn take_mark(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(TokenKind::Mark(mark));
        self.at += usize::from(found);
        found
    }

    pub(super) fn mark(&mut self, mark: char) -> Result<(), ParseError> {
        if self.take_mark(mark) {
            Ok(())
        } else {
            self.expected(&format!("'{mark}'"))
        }
    }

    pub(super) fn take_dotted(&mut self, name: &str) -> bool {
        let found = self.peek() == Some(TokenKind::Dotted(name));
        self.at += usize::from(found);
        found
    }

    pub(super) fn dotted(&mut self, what: &str) -> Result<&'a str, ParseError> {
        if let Some(TokenKind::Dotted(name)) = self.peek() {
            self.at += 1;
            Ok(name)
        } else {
            self.expected(what)
        }
    }

    pub(super) fn name(&mut self, what: &str) -> Result<&'a str, ParseError> {
        if let Some(TokenKind::Name(name)) = self.peek() {
            self.at += 1;
            Ok(name)
        } else {
            self.expected(what)
        }
    }

    /// A label, if one is next: a name and a colon.
    pub(super) fn take_label(&mut self) -> Option<&'a str> {
        if let Some(TokenKind::Name(name)) = self.peek()
            && self.peek_second() == Some(TokenKind::Mark(':'))
        {
            self.at += 2;
            return Some(name);
        }
        None
    }

    /// An unsigned number that is a size, a count or an alignment.
    pub(super) fn size(&mut self, what: &str) -> Result<u64, ParseError> {
        if let Some(TokenKind::Integer(value)) = self.peek() {
            self.at += 1;
            Ok(value)
        } else {
            self.expected(what)
        }
    }

    /// One to three numbers; those not given are 1.
    pub(super) fn shape(&mut self) -> Result<[u32; 3], ParseError> {
        let mut shape = [1; 3];
        for (axis, side) in shape.iter_mut().enumerate() {
            if axis > 0 && !self.take_mark(',') {
                break;
            }
            let line = self.line();
            let value = self.size("a dimension")?;
            *side = u32::try_from(value)
                .ok()
                .filter(|side| (1..=65535).contains(side))
                .ok_or_else(|| {
                    ParseError::invalid(line, format!("{value} is no dimension of a block"))
                })?;
        }
        Ok(shape)
    }

    /// Skips the rest of the line: directives for debuggers end with it.
    pub(super) fn skip_line(&mut self) {
        let line = self.line();
        while self.tokens.get(self.at).is_some_and(|t| t.line == line) {
            self.at += 1;
        }
    }

    /// Skips to behind the next mark of this kind outside braces.
    pub(super) fn skip_past(&mut self, mark: char) -> Result<(), ParseError> {
        let mut depth = 0_u32;
        loop {
            match self.peek() {
                None => return self.expected(&format!("'{mark}'")),
                Some(TokenKind::Mark(found)) => {
                    if found == '{' {
                        depth += 1;
                    } else if found == '}' {
                        depth = depth.saturating_sub(1);
                    }
                    self.at += 1;
                    if found == mark && depth == 0 {
                        return Ok(());
                    }
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// Reads an instruction up to and with its semicolon. One that is not `known` is refused before its
    /// operands, which may look like nothing that is understood here.
    pub(super) fn statement(
        &mut self,
        known: impl Fn(&str) -> bool,
    ) -> Result<Statement<'a>, ParseError> {
        let mut guard = None;
        if self.take_mark('@') {
            let complement = self.take_mark('!');
            guard = Some((self.name("a predicate")?, complement));
        }
        let line = self.line();
        let mnemonic = self.name("an instruction")?;
        let mut modifiers = Vec::new();
        while let Some(TokenKind::Dotted(modifier)) = self.peek() {
            self.at += 1;
            modifiers.push(modifier);
        }
        let mut statement = Statement {
            guard,
            mnemonic,
            modifiers,
            operands: Vec::new(),
            line,
        };
        if !known(mnemonic) {
            let message = format!("{}: not simulated", statement.name());
            return Err(ParseError::unsupported(line, message));
        }
        if !self.take_mark(';') {
            loop {
                statement.operands.push(self.operand(0)?);
                if self.take_mark(';') {
                    break;
                }
                self.mark(',')?;
            }
        }
        Ok(statement)
    }

    fn operand(&mut self, depth: u32) -> Result<Operand<'a>, ParseError> {
        if depth > NESTING_MAX {
            return self.invalid("braces nested too deeply");
        }
        if self.take_mark('!') {
            return Ok(Operand::Not(self.name("a predicate")?));
        }
        if self.take_mark('{') {
            let mut elements = vec![self.operand(depth + 1)?];
            while self.take_mark(',') {
                elements.push(self.operand(depth + 1)?);
            }
            self.mark('}')?;
            return Ok(Operand::Vector(elements));
        }
        if self.take_mark('[') {
            let operand = self.address()?;
            self.mark(']')?;
            return Ok(operand);
        }
        if let Some(TokenKind::Name(name)) = self.peek() {
            self.at += 1;
            if let Some(TokenKind::Dotted(component)) = self.peek() {
                self.at += 1;
                return Ok(Operand::Component(name, component));
            }
            if self.take_mark('|') {
                return Ok(Operand::Pair(name, self.name("a predicate")?));
            }
            let offset = self.offset()?;
            return Ok(offset.map_or(Operand::Name(name), |by| Operand::Offset(name, by)));
        }
        self.number()
    }

    fn address(&mut self) -> Result<Operand<'a>, ParseError> {
        if let Some(TokenKind::Name(name)) = self.peek() {
            self.at += 1;
            let offset = self.offset()?.unwrap_or(0);
            return Ok(Operand::Address(Some(name), offset));
        }
        match self.number()? {
            Operand::Integer(value) => Ok(Operand::Address(None, value.cast_signed())),
            _ => self.expected("an address"),
        }
    }

    /// `+8`, `+-8` or `-8`, if there is one.
    fn offset(&mut self) -> Result<Option<i64>, ParseError> {
        if !self.take_mark('+') && self.peek() != Some(TokenKind::Mark('-')) {
            return Ok(None);
        }
        match self.number()? {
            Operand::Integer(value) => Ok(Some(value.cast_signed())),
            _ => self.expected("an offset"),
        }
    }

    /// A number with its sign.
    pub(super) fn number(&mut self) -> Result<Operand<'a>, ParseError> {
        let negative = self.take_mark('-');
        let operand = match self.peek() {
            Some(TokenKind::Integer(value)) if negative => Operand::Integer(value.wrapping_neg()),
            Some(TokenKind::Integer(value)) => Operand::Integer(value),
            Some(TokenKind::Single(value)) => {
                Operand::Single(if negative { -value } else { value })
            }
            Some(TokenKind::Double(value)) => {
                Operand::Double(if negative { -value } else { value })
            }
            _ => return self.expected("an operand"),
        };
        self.at += 1;
        Ok(operand)
    }
}
