// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Why a module was not loaded.

/// Whether the text is wrong, or merely more than this interpreter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseErrorKind {
    /// The text is not PTX (CUDA_ERROR_INVALID_PTX).
    Invalid,
    /// The text may be PTX, but asks for what is not simulated (CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    /// or CUDA_ERROR_NOT_SUPPORTED).
    Unsupported,
}

/// What was wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// Invalid or unsupported.
    pub kind: ParseErrorKind,
    /// The line of the text, from 1.
    pub line: u32,
    /// What was seen, with the instruction where there was one.
    pub message: String,
}

impl ParseError {
    pub(super) fn invalid(line: u32, message: impl Into<String>) -> Self {
        Self {
            kind: ParseErrorKind::Invalid,
            line,
            message: message.into(),
        }
    }

    pub(super) fn unsupported(line: u32, message: impl Into<String>) -> Self {
        Self {
            kind: ParseErrorKind::Unsupported,
            line,
            message: message.into(),
        }
    }
}

/// A variable whose address nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("undefined variable {name}")]
pub struct LinkError {
    /// The variable's name.
    pub name: String,
}
