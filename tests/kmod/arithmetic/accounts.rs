// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Limits.

use crate::account::{Account, Exceeded};

const LIMIT: Account = Account {
    tenants: 2,
    channels: 3,
    pinned_bytes: 100,
};

#[test]
fn nobody_has_more_than_the_limit_of_anything() {
    let mut account = Account::default();
    for _ in 0..2 {
        account
            .charge(Account::TENANT, &LIMIT)
            .expect("within the limit");
    }
    assert_eq!(
        account.charge(Account::TENANT, &LIMIT),
        Err(Exceeded::Tenants)
    );
    account
        .charge(Account::channel(99), &LIMIT)
        .expect("within the limit");
    assert_eq!(
        account.charge(Account::channel(2), &LIMIT),
        Err(Exceeded::Pinned)
    );
    account
        .charge(Account::channel(1), &LIMIT)
        .expect("within the limit");
    account
        .charge(Account::channel(0), &LIMIT)
        .expect("within the limit");
    assert_eq!(
        account.charge(Account::channel(0), &LIMIT),
        Err(Exceeded::Channels)
    );
    let full = Account {
        tenants: 2,
        channels: 3,
        pinned_bytes: 100,
    };
    assert_eq!(account, full);
}

#[test]
fn what_was_given_back_can_be_had_again() {
    let mut account = Account::default();
    account
        .charge(Account::channel(100), &LIMIT)
        .expect("within the limit");
    account.discharge(Account::channel(100));
    assert!(account.is_empty());
    assert_eq!(account.charge(Account::channel(100), &LIMIT), Ok(()));
}

#[test]
fn a_sum_that_is_no_number_is_over_the_limit() {
    let mut account = Account {
        pinned_bytes: u64::MAX,
        ..Account::default()
    };
    let limit = Account {
        pinned_bytes: u64::MAX - 1,
        ..LIMIT
    };
    assert_eq!(
        account.charge(Account::channel(u64::MAX), &limit),
        Err(Exceeded::Pinned)
    );
}

#[test]
fn a_limit_below_what_is_there_concerns_only_what_is_asked_for() {
    let mut account = Account {
        channels: 9,
        ..Account::default()
    };
    assert_eq!(account.charge(Account::TENANT, &LIMIT), Ok(()));
    assert_eq!(
        account.charge(Account::channel(0), &LIMIT),
        Err(Exceeded::Channels)
    );
}
