// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What an epoll event is about: a kind of descriptor and a number that is never used again, so that
//! an event that is late names nobody else.

/// What kind of descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Signals.
    Signals,
    /// The timer.
    Timer,
    /// The socket that tenants connect to.
    TenantListener,
    /// The socket that the command connects to.
    ClientListener,
    /// A tenant's connection.
    Tenant,
    /// A tenant's process.
    TenantProcess,
    /// A command's connection.
    Client,
    /// A process that a partition was made for.
    RunOwner,
    /// A process that was a tenant of the daemon before and has not come back.
    Absent,
    /// The kernel's broker.
    Kernel,
}

const KINDS: [Kind; 10] = [
    Kind::Signals,
    Kind::Timer,
    Kind::TenantListener,
    Kind::ClientListener,
    Kind::Tenant,
    Kind::TenantProcess,
    Kind::Client,
    Kind::RunOwner,
    Kind::Absent,
    Kind::Kernel,
];
const KIND_BITS: u32 = 4;

/// A descriptor in the epoll set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) number: u64,
}

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        token.number << KIND_BITS | token.kind as Self
    }
}

impl From<u64> for Token {
    fn from(data: u64) -> Self {
        let kind = usize::try_from(data & ((1 << KIND_BITS) - 1)).unwrap_or(0);
        Self {
            // Only tokens that were made here come back.
            kind: KINDS[kind.min(KINDS.len() - 1)],
            number: data >> KIND_BITS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_epoll() {
        for kind in KINDS {
            let token = Token { kind, number: 77 };
            assert_eq!(Token::from(u64::from(token)), token);
        }
    }
}
