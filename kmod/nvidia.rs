// SPDX-License-Identifier: GPL-2.0
//! What of the NVIDIA driver's calls admission has to know: which commands of its `rm_ioctl` make and free
//! objects, and where in their parameters handles, class and status are.
//!
//! Facts of NVIDIA's published `nv_escape.h` and `nvos.h`; they have been the same from 535 to 595. An
//! object is named by its client (`root`) and a handle, and lives below its parent. All fields are 32 bits
//! wide but pointers:
//!
//! ```text
//!   make        0x2b   root parent handle class  pointer           size   STATUS         32 bytes
//!               0x2b   root parent handle class  pointer  pointer  size   flags STATUS   44, padded to 48
//!   make, old   0x28   root parent handle class  STATUS                                  20
//!   free        0x29   root parent handle STATUS                                         16
//! ```
//!
//! Older drivers have the status of 32 bytes elsewhere: they are not understood, and not told apart either.
//!
//! Pure arithmetic; tests/kmod compiles it a second time.

const MAKE: u32 = 0x2b;
const MAKE_OLD: u32 = 0x28;
const FREE: u32 = 0x29;
/// Carries any command, in a second structure.
const CARRY: u32 = 211;

/// "The requester does not have sufficient permissions".
pub(crate) const NOT_PERMITTED: u32 = 0x1b;
/// "Ran out of a critical resource, other than memory".
pub(crate) const NO_RESOURCES: u32 = 0x1a;

/// What is looked after. The first three are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Work is submitted through it.
    Channel = 0,
    /// Channels that are scheduled as one.
    Group = 1,
    /// The registers that tell the GPU of work; it is below a subdevice.
    Doorbell = 2,
    /// Known only to notice that the doorbells below it go.
    Subdevice = 3,
}

/// How many are counted.
pub(crate) const KINDS_COUNTED: usize = 3;

impl Kind {
    /// Returns what a class is, if it is looked after.
    pub(crate) fn of(class: u32) -> Option<Self> {
        match class {
            0xa06c => Some(Self::Group),
            // One for each generation since Volta.
            0xc361 | 0xc461 | 0xc561 | 0xc661 | 0xc761 => Some(Self::Doorbell),
            0x2080 => Some(Self::Subdevice),
            _ if class & 0xff == 0x6f => Some(Self::Channel),
            _ => None,
        }
    }

    /// Returns whether it is counted, and may be refused.
    pub(crate) fn is_counted(self) -> bool {
        (self as usize) < KINDS_COUNTED
    }
}

/// A call that matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Make {
        root: u32,
        parent: u32,
        class: u32,
        kind: Kind,
    },
    Free {
        root: u32,
        handle: u32,
    },
    /// It makes something that is counted, but its parameters have a size that is not known.
    Unclear {
        class: u32,
    },
}

/// Returns what a call does, if it matters.
pub(crate) fn parse(command: u32, parameters: &[u8]) -> Option<Call> {
    match command {
        MAKE | MAKE_OLD => {
            let class = word(parameters, 12)?;
            let kind = Kind::of(class)?;
            if status_at(command, parameters.len()).is_none() {
                return kind.is_counted().then_some(Call::Unclear { class });
            }
            Some(Call::Make {
                root: word(parameters, 0)?,
                parent: word(parameters, 4)?,
                class,
                kind,
            })
        }
        FREE if parameters.len() == 16 => Some(Call::Free {
            root: word(parameters, 0)?,
            handle: word(parameters, 8)?,
        }),
        _ => None,
    }
}

/// Returns whether a command, of which nothing but its number can be trusted, may make what is counted.
pub(crate) fn may_make(command: u32) -> bool {
    matches!(command, MAKE | MAKE_OLD | CARRY)
}

/// Returns the handle of what a call of [`parse`] was about, if it has done it: a handle of 0 asks the
/// driver for one, which is there then.
pub(crate) fn done(command: u32, parameters: &[u8]) -> Option<u32> {
    let status = word(parameters, status_at(command, parameters.len())?)?;
    if status != 0 {
        return None;
    }
    word(parameters, 8)
}

/// Writes what came of a call, if it is known where. Returns whether it is.
pub(crate) fn set_status(command: u32, parameters: &mut [u8], status: u32) -> bool {
    let field = status_at(command, parameters.len()).and_then(|at| parameters.get_mut(at..at + 4));
    if let Some(field) = field {
        field.copy_from_slice(&status.to_le_bytes());
        return true;
    }
    false
}

fn status_at(command: u32, bytes: usize) -> Option<usize> {
    match (command, bytes) {
        (MAKE, 32) => Some(28),
        (MAKE, 48) => Some(40),
        (MAKE_OLD, 20) => Some(16),
        (FREE, 16) => Some(12),
        _ => None,
    }
}

fn word(parameters: &[u8], at: usize) -> Option<u32> {
    let bytes = parameters.get(at..at + 4)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}
