// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A PTX interpreter: the simulated GPU's SMs.
//!
//! The idea: [`Module::parse`] turns text into rows of function pointers once; a [`Block`] then runs its
//! warps, one instruction over 32 lanes at a time, in the order of their modelled time. Whatever cannot
//! be run is refused when the module is loaded, with its line; nothing is guessed.
//!
//! ```text
//!  text - lexer - cursor - parser, declare -> Module - link -> Image of Kernels
//!                            `- body, assemble*: statements to rows of function pointers (code)
//!  Kernel + BlockEnvironment -> Block - run -> Turn
//!                                 `- Warp - execute - integer, float, convert, collective, access
//! ```
//!
//! The time model is plain: every warp has a clock of its own, an instruction takes a fixed number of
//! cycles (1 for most; see the assemblers), `nanosleep` what it says, and a barrier ends when
//! its last warp arrives. Warps do not slow one another down, and memory is always near. Instructions
//! take effect in the order of their warps' time, so whoever waits for another is not waiting in vain.
//!
//! Not simulated, and refused: calls, textures, half precision, tensor cores, asynchronous copies,
//! memory of other blocks of a cluster, rounding of arithmetic other than to nearest.
//!
//! Units: time is in modelled cycles of the SM's clock inside a block and in nanoseconds outside;
//! sizes are bytes. The caller decides *when* a block runs and what global memory is
//! ([`Memory`]); this module decides what the block does there.

mod access;
mod assemble;
mod assemble_arithmetic;
mod assemble_memory;
mod assemble_move;
mod assemble_sync;
mod atomic;
mod block;
mod body;
mod code;
mod collective;
mod convert;
mod cursor;
mod declare;
mod error;
mod execute;
mod float;
mod integer;
mod lanes;
mod lexer;
mod live;
mod memory;
mod modifiers;
mod module;
mod parser;
mod special;
mod time;
mod types;
mod warp;

pub use atomic::{Atomic, AtomicOperation, AtomicType};
pub use block::{Block, BlockEnvironment, BlockError, Outcome, Turn};
pub use error::{LinkError, ParseError, ParseErrorKind};
pub use memory::{
    Access, Fault, LOCAL_WINDOW, Memory, PARAMETER_WINDOW, SHARED_WINDOW, WINDOW_BYTES,
};
pub use module::{Image, Kernel, Module, Parameter, Variable, VariableSpace};

#[cfg(test)]
mod tests;
