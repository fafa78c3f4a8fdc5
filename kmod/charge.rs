// SPDX-License-Identifier: GPL-2.0
//! What each user has of tenants, channels and pinned pages, and the limits: a [`Charge`] is taken where
//! something is made and gives back what it took when it is dropped, on whatever path.

use kernel::{prelude::*, rbtree::RBTree};

use crate::account::{Account, Exceeded};

kernel::sync::global_lock! {
    // SAFETY: `init` is called when the module is inserted, before there is a device.
    unsafe(uninit) static ACCOUNTS: Mutex<Option<Accounts>> = None;
}

struct Accounts {
    users: RBTree<u32, Account>,
    total: Account,
    limits: Limits,
}

/// How much there may be.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) user: Account,
    pub(crate) total: Account,
}

/// Begins to count.
///
/// # Safety
///
/// Once, before anything else here.
pub(crate) unsafe fn init(limits: Limits) {
    // SAFETY: the caller's.
    unsafe { ACCOUNTS.init() };
    *ACCOUNTS.lock() = Some(Accounts {
        users: RBTree::new(),
        total: Account::default(),
        limits,
    });
}

/// Returns what all have together.
pub(crate) fn total() -> Account {
    ACCOUNTS
        .lock()
        .as_ref()
        .map_or_else(Account::default, |accounts| accounts.total)
}

/// Something that a user has.
pub(crate) struct Charge {
    uid: u32,
    amount: Account,
}

impl Charge {
    /// Takes it, if the limits allow.
    pub(crate) fn take(uid: u32, amount: Account) -> Result<Self> {
        crate::fault::may_fail()?;
        let mut accounts = ACCOUNTS.lock();
        let accounts = accounts.as_mut().ok_or(ENODEV)?;
        let Limits { user, total } = accounts.limits;
        if accounts.users.get(&uid).is_none() {
            let nothing = Account::default();
            accounts
                .users
                .try_create_and_insert(uid, nothing, GFP_KERNEL)?;
        }
        let own = accounts.users.get_mut(&uid).ok_or(ENOMEM)?;
        let charged = own.charge(amount, &user).and_then(|()| {
            let charged = accounts.total.charge(amount, &total);
            charged.inspect_err(|_| own.discharge(amount))
        });
        if own.is_empty() {
            accounts.users.remove(&uid);
        }
        match charged {
            Ok(()) => Ok(Self { uid, amount }),
            Err(Exceeded::Pinned) => Err(EDQUOT),
            Err(Exceeded::Tenants | Exceeded::Channels) => Err(EUSERS),
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut accounts = ACCOUNTS.lock();
        let Some(accounts) = accounts.as_mut() else {
            return;
        };
        accounts.total.discharge(self.amount);
        let Some(own) = accounts.users.get_mut(&self.uid) else {
            return;
        };
        own.discharge(self.amount);
        if own.is_empty() {
            accounts.users.remove(&self.uid);
        }
    }
}
