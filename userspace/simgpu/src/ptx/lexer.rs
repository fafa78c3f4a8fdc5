// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From text to tokens. A token keeps the line it came from; nothing else of the layout matters.

use super::error::ParseError;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TokenKind<'a> {
    /// `add`, `%r1`, `$L__BB0_1`, `_`.
    Name(&'a str),
    /// `.u32`, `.shared::cta`; kept without the leading dot.
    Dotted(&'a str),
    /// An integer literal.
    Integer(u64),
    /// `0f3f800000`.
    Single(f32),
    /// `0d3ff0000000000000` or `1.0`.
    Double(f64),
    /// A string; only directives without effect have one.
    Text(&'a str),
    /// Any other character.
    Mark(char),
}

/// A token and where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Token<'a> {
    pub(super) kind: TokenKind<'a>,
    pub(super) line: u32,
}

fn starts_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | b'%')
}

fn continues_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')
}

/// Splits a module's text into tokens.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let mut lexer = Lexer {
        text,
        at: 0,
        line: 1,
    };
    let mut tokens = Vec::new();
    while let Some(token) = lexer.next()? {
        tokens.push(token);
    }
    Ok(tokens)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        *self.text.as_bytes().get(self.at + ahead).unwrap_or(&0)
    }

    fn next(&mut self) -> Result<Option<Token<'a>>, ParseError> {
        self.skip_blanks()?;
        let line = self.line;
        if self.at >= self.text.len() {
            return Ok(None);
        }
        let byte = self.peek(0);
        let kind = if starts_name(byte) {
            TokenKind::Name(self.take_while(1, continues_name))
        } else if byte == b'.' && (starts_name(self.peek(1)) || self.follows_name()) {
            self.at += 1;
            TokenKind::Dotted(self.take_while(1, |b| continues_name(b) || b == b':'))
        } else if byte.is_ascii_digit() || (byte == b'.' && self.peek(1).is_ascii_digit()) {
            self.number()?
        } else if byte == b'"' {
            self.string()?
        } else if byte.is_ascii_graphic() {
            self.at += 1;
            TokenKind::Mark(char::from(byte))
        } else {
            return Err(ParseError::invalid(line, "a character that PTX has not"));
        };
        Ok(Some(Token { kind, line }))
    }

    /// Whether the last byte belongs to a name: a dot there begins a modifier, as in `tex.2d`.
    fn follows_name(&self) -> bool {
        self.at > 0 && continues_name(self.peek_back()) && self.peek(1).is_ascii_digit()
    }

    /// Takes `first` bytes and those after them that fit. The bytes are ASCII, so the cut is at a
    /// character's boundary.
    fn take_while(&mut self, first: usize, fits: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        self.at += first;
        while self.at < self.text.len() && fits(self.peek(0)) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn skip_blanks(&mut self) -> Result<(), ParseError> {
        loop {
            match self.peek(0) {
                b'\n' => {
                    self.line = self.line.saturating_add(1);
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' => self.at += 1,
                // Drivers are handed text with its terminating zero.
                0 if self.at < self.text.len() => self.at = self.text.len(),
                b'/' if self.peek(1) == b'/' => {
                    while self.at < self.text.len() && self.peek(0) != b'\n' {
                        self.at += 1;
                    }
                }
                b'/' if self.peek(1) == b'*' => self.skip_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), ParseError> {
        let start = self.line;
        self.at += 2;
        while self.at < self.text.len() {
            if self.peek(0) == b'*' && self.peek(1) == b'/' {
                self.at += 2;
                return Ok(());
            }
            if self.peek(0) == b'\n' {
                self.line = self.line.saturating_add(1);
            }
            self.at += 1;
        }
        Err(ParseError::invalid(start, "a comment that does not end"))
    }

    fn string(&mut self) -> Result<TokenKind<'a>, ParseError> {
        let line = self.line;
        let start = self.at + 1;
        self.at += 1;
        while self.at < self.text.len() {
            match self.peek(0) {
                b'"' => {
                    self.at += 1;
                    return Ok(TokenKind::Text(&self.text[start..self.at - 1]));
                }
                b'\n' => break,
                _ => self.at += 1,
            }
        }
        Err(ParseError::invalid(line, "a string that does not end"))
    }

    fn number(&mut self) -> Result<TokenKind<'a>, ParseError> {
        let bad = |text: &str, line| ParseError::invalid(line, format!("{text} is not a number"));
        let line = self.line;
        if self.peek(0) == b'0' && matches!(self.peek(1), b'f' | b'F' | b'd' | b'D') {
            let text = self.take_while(2, |b| b.is_ascii_hexdigit());
            let digits = &text[2..];
            let bits = u64::from_str_radix(digits, 16).map_err(|_| bad(text, line))?;
            let single = matches!(text.as_bytes()[1], b'f' | b'F');
            return match (single, digits.len()) {
                (true, 8) => Ok(TokenKind::Single(f32::from_bits(
                    u32::try_from(bits).expect("eight hexadecimal digits fit"),
                ))),
                (false, 16) => Ok(TokenKind::Double(f64::from_bits(bits))),
                _ => Err(bad(text, line)),
            };
        }
        let start = self.at;
        let mut real = false;
        loop {
            match self.peek(0) {
                b'.' => real = true,
                // An exponent's sign; a hexadecimal integer has no exponent.
                b'+' | b'-' if real && matches!(self.peek_back(), b'e' | b'E') => {}
                b if b.is_ascii_alphanumeric() => {}
                _ => break,
            }
            self.at += 1;
        }
        let text = &self.text[start..self.at];
        if real {
            return text
                .parse()
                .map(TokenKind::Double)
                .map_err(|_| bad(text, line));
        }
        let digits = text.strip_suffix(['U', 'u']).unwrap_or(text);
        let lower = digits.to_ascii_lowercase();
        let value = if let Some(hex) = lower.strip_prefix("0x") {
            u64::from_str_radix(hex, 16)
        } else if let Some(binary) = lower.strip_prefix("0b") {
            u64::from_str_radix(binary, 2)
        } else if lower.len() > 1 && lower.starts_with('0') {
            u64::from_str_radix(&lower[1..], 8)
        } else {
            lower.parse()
        };
        value.map(TokenKind::Integer).map_err(|_| bad(text, line))
    }

    fn peek_back(&self) -> u8 {
        self.text.as_bytes()[self.at - 1]
    }
}
